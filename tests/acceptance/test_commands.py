"""The command line as a person and a script meet it: what it prints, where, and how it exits."""

import json
import os
import pty
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import psycopg
import pytest
from typer.main import get_command

import flows
import main
from models.errors import TidegateError
from services.ledger import inbound as ledger
from tests.support.sites import ROOT, Site, running
from tests.support.waiting import eventually

T1, T2 = "2022-05-05T22:02:34Z", "2022-05-05T23:02:34Z"
NOWHERE = "postgresql://anna:s3cret@127.0.0.1:1/tidegate"
FLOWS = flows.discover()
KEYS = ["file", "flow", "status", "records", "inserted", "updated", "unchanged", "stale", "rejected"]


@pytest.fixture(scope="session")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The samples of what comes in, without what is expected to go out."""
    ignore = shutil.ignore_patterns("expected")
    return Path(
        shutil.copytree(ROOT / "sample_files", tmp_path_factory.mktemp("samples") / "sample_files", ignore=ignore)
    )


def report(vehicle: str, time: str = T1, status: str = "driving") -> dict[str, str]:
    return {"vehicle_id": vehicle, "report_time": time, "status": status}


def write(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def lines(done: "subprocess.CompletedProcess[str]") -> list[Any]:
    return [json.loads(line) for line in done.stdout.splitlines()]


def sentence(done: "subprocess.CompletedProcess[str]") -> str:
    """What stands on standard error: one sentence for a person."""
    assert "Traceback" not in done.stderr
    (line,) = done.stderr.splitlines()
    return line


# help


def commands() -> Iterator[tuple[str, Any]]:
    group: Any = get_command(main.app)
    for name, command in group.commands.items():
        inner = getattr(command, "commands", None)
        yield from ((f"{name} {each}", below) for each, below in inner.items()) if inner else [(name, command)]


def test_every_command_of_the_design_is_there() -> None:
    names = {name for name, _ in commands()}
    wanted = {"run", "ingest", "status", "files", "retry", "trace", "flows", "check", "db uri", "db upgrade"}
    assert wanted <= names


@pytest.mark.parametrize("name", [name for name, _ in commands()])
def test_help_has_an_example_and_a_sentence_for_each_option(name: str, site: Site) -> None:
    shown = site.call(*name.split(), "--help").stdout
    assert f"python main.py {name}" in shown
    command = dict(commands())[name]
    for parameter in command.params:
        if parameter.name != "context":
            assert parameter.help, f"{name}: {parameter.name} says nothing"


def test_the_main_help_tells_the_exit_codes(site: Site) -> None:
    shown = " ".join(site.call("--help").stdout.split())
    assert "0 all well, 1 something was rejected, 2 wrong usage or configuration" in shown


# wrong usage and configuration


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["status", "--nonsense"],
        ["ingest"],
        ["files", "--limit", "0"],
        ["files", "--limit", "many"],
        ["files", "--status", "odd"],
        ["retry"],
        ["retry", "seven"],
        ["retry", "1", "--all-rejected"],
        ["retry", "1", "--flow", "work_orders"],
        ["trace", "work_orders"],
        ["db", "nonsense"],
    ],
    ids=" ".join,
)
def test_wrong_usage_exits_2(arguments: list[str], site: Site) -> None:
    done = site.call(*arguments, expect=2)
    assert done.stdout == ""
    assert "Usage" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["files", "--since", "nonsense"], "--since 'nonsense' is no time (2026-01-31,"),
        (["files", "--since", "99999999999d"], "is no time"),
        (["files", "--flow", "odd"], f"there is no flow 'odd' (there are {', '.join(FLOWS)})"),
        (["ingest", "--flow", "odd", "x.json"], "there is no flow 'odd'"),
        (["ingest", "missing.json"], "missing.json does not exist"),
        (["trace", "odd", "1"], "there is no flow 'odd'"),
        (["trace", "work_orders", "99"], "work_orders has no row with number 99"),
        (["trace", "work_orders", "abc"], "number abc is no key of work_orders"),
        (["trace", "detection_events", "a"], "is vehicle_id, detection_time, object_type: 3 values, not 1"),
        (["trace", "detection_events", "a", "soon", "cars"], "detection_time (timestamp with time zone)"),
        (["retry", "99"], "there is no #99 in the ledger (`files` lists them)"),
        (["retry", "--all-rejected", "--flow", "odd"], "there is no flow 'odd'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_is_said_in_a_sentence(arguments: list[str], says: str, site: Site) -> None:
    done = site.call(*arguments, expect=2)
    assert says in sentence(done)
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({"WORKERS": "many"}, "WORKERS='many' is not valid"),
        ({"LOG_LEVEL": "loud"}, "LOG_LEVEL='LOUD' is not valid"),
        ({"DATABASE_URL": "mysql://anna:s3cret@host/db"}, "DATABASE_URL is not a PostgreSQL URI (postgresql://USER"),
        ({"DATABASE_URL": NOWHERE}, "Connection refused"),
        ({"FLOWS_DIR": "nowhere"}, "FLOWS_DIR nowhere is not a folder"),
        ({"LOG_FILE": "/dev/null/app.log"}, "LOG_FILE /dev/null/app.log cannot be written: "),
    ],
    ids=lambda value: "".join(value) if isinstance(value, dict) else "",
)
def test_wrong_configuration_is_said_in_a_sentence(
    environment: dict[str, str], says: str, site: Site, samples: Path
) -> None:
    done = site.call("ingest", str(samples), expect=2, **environment)
    assert says in sentence(done)
    assert "s3cret" not in done.stdout + done.stderr + site.log()


def test_an_unknown_setting_in_env_stops_with_a_sentence(site: Site) -> None:
    write(site.input.parent / ".env", "WORKRES=3\n")
    assert "unknown setting WORKRES in .env, did you mean WORKERS?" in sentence(site.call("flows", expect=2))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("FLOW = 1 +\n", "line 1"),
        ("\n\nimport nothing_of_that_name\n", "broken.py, line 3, does not import: ModuleNotFoundError"),
        ("FLOW = 1\n", "broken.py declares no flow (a flow's file ends with FLOW = Flow(...))"),
    ],
)
def test_a_broken_flow_file_is_named_with_its_line(text: str, says: str, site: Site, tmp_path: Path) -> None:
    write(tmp_path / "more" / "broken.py", text)
    done = site.call("run", expect=2, FLOWS_DIR=str(tmp_path / "more"))
    assert says in sentence(done)


def test_a_process_says_it_as_well_without_a_traceback(site: Site, samples: Path) -> None:
    done = site.cli("ingest", "--flow", "odd", str(samples), expect=2)
    assert "there is no flow 'odd'" in sentence(done)


# ingest


def test_ingest_loads_folders_at_any_depth_and_leaves_the_originals(site: Site, tmp_path: Path, samples: Path) -> None:
    shutil.copytree(samples, tmp_path / "mine" / "deep")
    write(tmp_path / "mine" / ".hidden" / "x.json", [])
    write(tmp_path / "mine" / "x.json.part", [])
    before = sorted(tmp_path.rglob("mine/**/*"))
    done = site.call("ingest", "--json", "mine", expect=1)
    files = [path for path in before if path.is_file() and ".hidden" not in path.parts and path.suffix != ".part"]
    assert sorted(line["file"] for line in lines(done)) == sorted(str(path.relative_to(tmp_path)) for path in files)
    assert sorted(tmp_path.rglob("mine/**/*")) == before
    statuses = {Path(line["file"]).name: line["status"] for line in lines(done)}
    assert statuses["nobodys_file.json"] == "rejected"
    assert statuses["vehicle_status_partly_bad.json"] == "partial"
    assert statuses["work_order_10.json"] == "loaded"
    assert all(line["filed_at"] and line["filed_as"] is None for line in site.ledger())


def test_json_lines_have_exactly_the_promised_keys(site: Site, tmp_path: Path) -> None:
    good = write(tmp_path / "vehicle_status_1.json", [report("a"), report("b")])
    bad = write(tmp_path / "vehicle_status_2.json", "[")
    done = site.call("ingest", "--json", str(good), str(bad), expect=1)
    first, second = lines(done)
    assert [*first] == [*second] == [*KEYS, "ledger_id", "error"]
    assert first == {
        "file": str(good),
        "flow": "vehicle_status",
        "status": "loaded",
        "records": 2,
        "inserted": 2,
        "updated": 0,
        "unchanged": 0,
        "stale": 0,
        "rejected": 0,
        "ledger_id": 1,
        "error": None,
    }
    assert second["status"] == "rejected"
    assert second["error"].startswith("the JSON is cut off")
    assert done.stderr == ""


def test_ingest_exits_0_when_everything_is_loaded_even_twice(site: Site, samples: Path) -> None:
    for status in ("loaded", "duplicate"):
        done = site.call("ingest", str(samples / "work_orders"))
        assert [line.split()[0] for line in done.stdout.splitlines()[:-1]] == [status] * 3
        assert done.stdout.splitlines()[-1] == f"3 files: 3 {status}"


@pytest.mark.parametrize(("name", "status"), [("nobodys_file", "rejected"), ("vehicle_status_partly_bad", "partial")])
def test_ingest_exits_1_when_something_is_refused(name: str, status: str, site: Site, samples: Path) -> None:
    done = site.call("ingest", str(samples / "bad" / f"{name}.json"), expect=1)
    assert done.stdout.startswith(status)


def test_a_named_flow_wins_over_the_folder(site: Site, tmp_path: Path) -> None:
    path = write(tmp_path / "vehicle_status" / "1.json", {"orderNo": 1, "summary": "x"})
    (line,) = lines(site.call("ingest", "--json", "--flow", "work_orders", str(path), expect=1))
    assert (line["flow"], line["status"]) == ("work_orders", "rejected")


def test_a_folder_far_above_says_nothing_of_the_flow(site: Site, tmp_path: Path) -> None:
    order = {"orderNo": 1, "summary": "x", "creationDate": T1, "lastUpdateDate": T1}
    path = write(tmp_path / "vehicle_status" / "a" / "b" / "work_order_1.json", order)
    (line,) = lines(site.call("ingest", "--json", str(path)))
    assert (line["flow"], line["status"]) == ("work_orders", "loaded")


def test_a_day_of_the_archive_is_ingested_by_the_flow_above_it(site: Site, tmp_path: Path, samples: Path) -> None:
    day = tmp_path / "work_orders" / "2026-01-31"
    shutil.copytree(samples / "work_orders", day)
    assert {line["flow"] for line in lines(site.call("ingest", "--json", str(day)))} == {"work_orders"}


def test_ingest_of_an_empty_folder_says_so(site: Site, tmp_path: Path) -> None:
    assert "no file in there" in site.call("ingest", str(tmp_path / "input")).stdout


def test_ingest_names_what_it_loaded_before_the_database_went(site: Site, tmp_path: Path, samples: Path) -> None:
    """A fault in the middle must not hide what is done."""
    for name in ("detection_events", "work_orders"):
        shutil.copytree(samples / name, tmp_path / "mine" / name)
    site.execute(
        "create function down() returns trigger language plpgsql as "
        "$$begin raise exception 'gone' using errcode = '57P01'; end$$"
    )
    site.execute("create trigger down before insert on work_orders for each row execute function down()")
    done = site.call("ingest", "mine", expect=2)
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["loaded", "loaded"]
    assert "gone" in sentence(done)


def test_ingest_waits_for_a_daemon_that_loads_files_of_the_same_flow(site: Site, samples: Path) -> None:
    with psycopg.connect(site.url) as daemon, mock.patch.object(ledger, "_FLOW_WAIT_SECONDS", 0.05):
        ledger.lock_flow(daemon, "work_orders")

        def finish() -> None:
            eventually(lambda: "waiting for another process that loads files of work_orders" in site.log())
            daemon.rollback()

        thread = threading.Thread(target=finish)
        thread.start()
        done = site.call("ingest", str(samples / "work_orders"))
        thread.join()
    assert "3 files: 3 loaded" in done.stdout


def on_a_terminal(site: Site, *arguments: str) -> str:
    """What a person at a terminal sees."""
    parent, child = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "main.py"), *arguments],
        env=site.environment | {"TERM": "xterm", "COLUMNS": "80"},
        stdin=child,
        stdout=child,
        stderr=child,
    )
    os.close(child)
    shown = b""
    try:
        while chunk := os.read(parent, 65536):
            shown += chunk
    except OSError:
        pass  # how Linux says that the other end is closed
    os.close(parent)
    process.wait(30)
    return shown.decode()


def test_a_progress_bar_is_shown_on_a_terminal_only(site: Site, tmp_path: Path) -> None:
    many = write(tmp_path / "vehicle_status_1.json", [report(str(n)) for n in range(30_000)])
    shown = on_a_terminal(site, "ingest", str(many))
    assert "━" in shown
    assert "30000 inserted" in shown
    many.write_text(json.dumps([report(str(n), T2) for n in range(3)]))
    piped = site.call("ingest", str(many))
    assert "━" not in piped.stdout + piped.stderr
    assert piped.stderr == ""


def test_a_reader_that_leaves_early_sees_no_traceback(site: Site, samples: Path) -> None:
    site.call("ingest", str(samples), expect=1)
    command = f"{sys.executable} {ROOT / 'main.py'} files --json | head -n 1"
    done = subprocess.run(command, shell=True, env=site.environment, capture_output=True, text=True, check=False)
    assert len(done.stdout.splitlines()) == 1
    assert "Traceback" not in done.stderr


# status


def test_status_with_a_daemon(live: Site) -> None:
    live.drop("vehicle_status_1.json", [report("a")])
    live.drop("vehicle_status_2.json", "[")
    live.settled(2)
    eventually(lambda: "daemon    watching" in live.call("status", "--alive").stdout)
    eventually(lambda: all(row["is_synced"] for row in live.rows("vehicles_status")))
    shown = live.call("status").stdout.splitlines()
    assert re.fullmatch(r"daemon    watching as test since \d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ", shown[0])
    assert shown[1].startswith("database  PostgreSQL ")
    header, row = (next(line for line in shown if line.startswith(name)) for name in ("flow ", "vehicle_status "))
    assert header.split() == ["flow", "waiting", "loaded", "partial", "rejected", "duplicate", "rows", "unsynced"]
    assert row.split() == ["vehicle_status", "0", "1", "0", "1", "0", "1", "0"]
    assert "vehicle_status_2.json, rejected" in next(line for line in shown if "last file" in line)
    assert "the JSON is cut off" in next(line for line in shown if "last error" in line)


def test_status_fits_80_columns_but_for_names_and_errors(site: Site, samples: Path) -> None:
    site.call("ingest", str(samples), expect=1)
    shown = site.call("status").stdout.splitlines()
    assert [line for line in shown if len(line) > 80 and "last" not in line] == []


def test_status_without_a_daemon_says_how_to_start_one(site: Site) -> None:
    assert "none runs here: python main.py run" in site.call("status").stdout
    site.call("status", "--alive", expect=2)


def test_status_counts_what_waits(site: Site) -> None:
    site.drop("a.json", [], flow="vehicle_status")
    site.drop("b.json", [], flow="vehicle_status")
    site.drop("work_order_1.json", [])
    (body,) = lines(site.call("status", "--json"))
    counts = {flow["flow"]: flow["waiting"] for flow in body["flows"]}
    assert counts == {**dict.fromkeys(FLOWS, 0), "vehicle_status": 2, "(no flow)": 1}
    assert body["database"]["up"] is True
    assert body["daemons"] == []


def test_status_answers_while_the_database_is_down(site: Site) -> None:
    site.drop("a.json", [], flow="vehicle_status")
    done = site.call("status", expect=2, DATABASE_URL=NOWHERE)
    assert "database  does not answer: " in done.stdout
    assert "waiting   1 file: 1 vehicle_status" in done.stdout
    (body,) = lines(site.call("status", "--json", expect=2, DATABASE_URL=NOWHERE))
    assert body["database"]["up"] is False
    assert body["waiting"] == {"vehicle_status": 1}
    assert "s3cret" not in str(body) + done.stdout + done.stderr


def test_status_of_a_database_without_schema_says_what_to_run(site: Site, empty_database_url: str) -> None:
    done = site.call("status", expect=2, DATABASE_URL=empty_database_url)
    assert 'run "python main.py db upgrade"' in done.stdout
    site.call("db", "upgrade", DATABASE_URL=empty_database_url)
    site.call("status", DATABASE_URL=empty_database_url)


def test_status_before_the_folders_are_made(site: Site) -> None:
    site.call("status", INPUT_DIR="not/yet")


def test_status_shows_why_a_daemon_waits(site: Site) -> None:
    down = Site(site.settings)
    process = down.start(DATABASE_URL=NOWHERE)
    eventually(lambda: "daemon    waiting for database" in site.call("status").stdout, timeout=20)
    assert "Connection refused" in site.call("status").stdout
    assert down.stop(process) == 0


# files


@pytest.fixture
def ingested(site: Site, tmp_path: Path) -> Site:
    """A site that knows a loaded, a rejected and a duplicate file."""
    write(tmp_path / "vehicle_status_1.json", [report("a")])
    write(tmp_path / "vehicle_status_2.json", "[")
    write(tmp_path / "work_order_1.json", [])
    names = ["vehicle_status_1.json", "vehicle_status_2.json", "work_order_1.json"]
    site.call("ingest", *names, expect=1)
    site.call("ingest", names[0])
    return site


def ids(done: "subprocess.CompletedProcess[str]") -> list[int]:
    return [line["id"] for line in lines(done)]


def test_files_lists_the_newest_first(ingested: Site) -> None:
    assert ids(ingested.call("files", "--json")) == [4, 3, 2, 1]
    newest, _, bad, _ = ingested.call("files").stdout.splitlines()
    assert newest.startswith("#4")
    assert "duplicate" in newest
    assert "the same content as #1" in newest
    assert "the JSON is cut off" in bad


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        (["--flow", "work_orders"], [3]),
        (["--status", "rejected"], [2]),
        (["--status", "loaded", "--flow", "vehicle_status"], [1]),
        (["--limit", "2"], [4, 3]),
        (["--since", "2020-01-31"], [4, 3, 2, 1]),
        (["--since", "10m", "--limit", "1"], [4]),
        (["--since", "24h"], [4, 3, 2, 1]),
        (["--since", "7d"], [4, 3, 2, 1]),
        (["--since", "2999-01-31T12:00Z"], []),
    ],
    ids=lambda value: " ".join(map(str, value)),
)
def test_files_filters(filters: list[str], found: list[int], ingested: Site) -> None:
    assert ids(ingested.call("files", "--json", *filters)) == found


def test_files_says_when_there_is_none(site: Site) -> None:
    assert site.call("files").stdout == "no such file in the ledger\n"


def test_the_ledger_is_readable_while_a_declaration_does_not_fit(ingested: Site, samples: Path) -> None:
    ingested.execute("alter table vehicles_status drop column status cascade")
    assert "no longer fits" in sentence(ingested.call("ingest", str(samples), expect=2))
    ingested.call("files")
    ingested.call("status")


# retry


def test_a_rejected_file_is_mended_and_retried(site: Site) -> None:
    site.drop("vehicle_status_1.json", "[")
    with running(site):
        site.settled(1)
    kept = site.rejected / "vehicle_status" / "vehicle_status_1.json"
    kept.write_text(json.dumps([report("a")]))
    done = site.call("retry", "1")
    assert "#1 put back as " in done.stdout
    assert "No daemon runs here: 1 file will load when one starts" in done.stdout
    assert not kept.exists()
    assert not [*site.rejected.rglob("*.json")]
    with running(site):
        site.settled(2)
    assert [line["status"] for line in site.ledger()] == ["rejected", "loaded"]
    assert len(site.rows("vehicles_status")) == 1
    assert "no copy of #1" in sentence(site.call("retry", "1", expect=2))


def test_a_running_daemon_takes_what_is_put_back_at_once(live: Site) -> None:
    live.drop("vehicle_status_1.json", "[")
    live.settled(1)
    (live.rejected / "vehicle_status" / "vehicle_status_1.json").write_text(json.dumps([report("a")]))
    assert "No daemon" not in live.call("retry", "1").stdout
    assert [line["status"] for line in live.settled(2)] == ["rejected", "loaded"]


def test_what_is_loaded_is_loaded_again_by_force_only(live: Site) -> None:
    live.drop("vehicle_status_1.json", [report("a")])
    live.settled(1)
    live.query("delete from vehicles_status returning 1")
    assert sentence(live.call("retry", "1", expect=2)) == "#1 is loaded (--force loads it once more)"
    live.call("retry", "1", "--force")
    first, second = live.settled(2)
    assert (first["superseded_by"], second["status"], second["inserted"]) == (second["id"], "loaded", 1)
    assert len(live.rows("vehicles_status")) == 1
    assert "#1 was loaded again as #2 (retry that one)" in sentence(live.call("retry", "1", "--force", expect=2))
    assert f"loaded again as #{second['id']}" in live.call("files").stdout


def test_a_partial_file_is_retried_whole(live: Site) -> None:
    live.drop("vehicle_status_1.json", [report("a"), report("b", "yesterday")])
    live.settled(1)
    live.call("retry", "1")
    first, second = live.settled(2)
    assert (first["status"], first["superseded_by"]) == ("partial", second["id"])
    assert (second["status"], second["unchanged"], second["rejected"]) == ("partial", 1, 1)


def test_a_duplicate_is_not_retried_but_its_original(site: Site, samples: Path) -> None:
    for _ in range(2):
        site.call("ingest", str(samples / "work_orders" / "work_order_10.json"))
    assert sentence(site.call("retry", "2", expect=2)) == "#2 is a duplicate (retry the original: #1)"


def test_all_rejected_takes_those_that_are_kept(site: Site) -> None:
    for flow in ("vehicle_status", "work_orders"):
        site.drop("a.json", "[", flow=flow)
    site.drop("c.json", "[]", flow="work_orders")
    with running(site):
        site.settled(3)
    site.call("ingest", "--flow", "vehicle_status", "/dev/null", expect=1)
    done = site.call("retry", "--all-rejected", "--flow", "work_orders")
    assert [path.relative_to(site.input).as_posix() for path in site.waiting()] == ["work_orders/a.json"]
    assert len(done.stdout.splitlines()) == 2
    site.call("retry", "--all-rejected")
    assert sorted(path.name for path in site.waiting()) == ["a.json", "a.json"]
    assert site.call("retry", "--all-rejected").stdout == "no rejected file is kept\n"


def test_an_earlier_rejection_does_not_take_a_later_ones_file(site: Site) -> None:
    for content in ("[", "{"):
        site.drop("a.json", content, flow="vehicle_status")
        with running(site):
            site.settled(len(site.ledger()) + 1)
        if content == "[":
            site.call("retry", "1")
            (site.input / "vehicle_status" / "a.json").unlink()
    assert "no copy of #1" in sentence(site.call("retry", "1", expect=2))
    site.call("retry", "2")


def test_a_file_put_back_does_not_replace_one_that_waits(site: Site) -> None:
    site.drop("a.json", "[", flow="vehicle_status")
    with running(site):
        site.settled(1)
    site.drop("a.json", [report("a")], flow="vehicle_status")
    site.call("retry", "1")
    assert sorted(path.name for path in site.waiting()) == ["a.1.json", "a.json"]
    assert json.loads((site.input / "vehicle_status" / "a.json").read_text()) == [report("a")]


def test_a_file_that_is_gone_is_said_so_and_the_others_are_put_back(site: Site) -> None:
    for name in ("a.json", "b.json"):
        site.drop(name, "[" if name == "a.json" else "{", flow="vehicle_status")
    with running(site):
        site.settled(2)
    kept = {line["name"]: line["id"] for line in site.ledger()}
    (site.rejected / "vehicle_status" / "a.json").unlink()
    done = site.call("retry", str(kept["a.json"]), str(kept["b.json"]), expect=2)
    assert "is no longer there" in sentence(done)
    assert [path.name for path in site.waiting()] == ["b.json"]


# trace


def test_trace_tells_file_record_times_and_what_it_replaced(site: Site, tmp_path: Path) -> None:
    for number, time in enumerate((T1, T2)):
        write(tmp_path / f"vehicle_status_{number}.json", [report("x", T1), report("a b", time)])
        site.call("ingest", f"vehicle_status_{number}.json")
    told = dict(
        re.split(r"  +", line, maxsplit=1) for line in site.call("trace", "vehicle_status", "a b").stdout.splitlines()
    )
    assert told["report_time"] == "2022-05-05T23:02:34+00:00"
    assert told["came from"].startswith("record 1 of #2 vehicle_status_1.json, loaded 20")
    assert told["replaced"].startswith("record 1 of #1 vehicle_status_0.json, loaded 20")
    assert told["changed at"] >= told["inserted at"]
    (body,) = lines(site.call("trace", "vehicle_status", "a b", "--json"))
    assert (body["came_from"]["name"], body["replaced"]["id"]) == ("vehicle_status_1.json", 1)


def test_trace_takes_a_value_for_each_column_of_a_key(site: Site, samples: Path) -> None:
    site.call("ingest", str(samples / "detection_events"))
    shown = site.call("trace", "detection_events", "van-17", "2022-06-05T23:12:03.771+02:00", "bicycles").stdout
    assert "2022-06-05T21:12:03.771000+00:00" in shown
    assert "record 2 of #" in shown


def test_trace_of_a_row_of_another_application(site: Site) -> None:
    site.query("insert into vehicles_status (vehicle_id, report_time, status) values ('a', now(), 's') returning 1")
    assert "no file: inserted by another application" in site.call("trace", "vehicle_status", "a").stdout


# flows, db, check


def test_flows_tells_each_declaration(site: Site) -> None:
    shown = site.call("flows").stdout
    assert re.search(r"^detection_events\n  folder +\S+/input/detection_events\n", shown, re.MULTILINE)
    assert re.search(r"\n  key +vehicle_id, detection_time, object_type\n  newest by +append only\n", shown)
    (body,) = lines(site.call("flows", "--json"))
    assert [*body[0]] == ["name", "folder", "envelope", "file_prefixes", "table", "key", "newest_by", "partly_bad"]


def test_db_uri_has_no_password(site: Site) -> None:
    uri = site.call("db", "uri", DATABASE_URL="postgresql+psycopg://anna:p%40ss@db.example:6000/t?password=x").stdout
    assert uri == "postgresql://anna@db.example:6000/t\n"


def test_db_psql_is_on_the_database_of_the_settings(site: Site, samples: Path) -> None:
    site.call("ingest", str(samples / "work_orders"))
    done = site.cli("db", "psql", "-Atc", "select number from work_orders order by 1 limit 2")
    assert done.stdout == "10\n11\n"
    assert "nonsense" in site.cli("db", "psql", "-c", "nonsense", expect=2).stderr


def test_db_upgrade_makes_the_schema_of_an_empty_database(site: Site, empty_database_url: str, samples: Path) -> None:
    for _ in range(2):
        assert "is up to date" in site.call("db", "upgrade", DATABASE_URL=empty_database_url).stdout
    site.call("ingest", str(samples / "work_orders"), DATABASE_URL=empty_database_url)


def test_check_with_everything_right(site: Site) -> None:
    shown = site.call("check").stdout.splitlines()
    assert len(shown) == 8
    assert all(line.startswith("ok    ") for line in shown)
    assert "on one file system" in shown[5]
    assert not [*site.input.parent.rglob(".tidegate-check*")]


def test_check_goes_on_after_a_folder_that_cannot_be_written(site: Site) -> None:
    # Not even root may put a file there.
    done = site.call("check", expect=2, REJECTED_DIR="/proc", OUTPUT_DIR="/dev/null/x")
    bad = [line for line in done.stdout.splitlines() if line.startswith("BAD")]
    assert len(bad) == 2
    assert "OUTPUT_DIR /dev/null/x" in bad[0]
    assert "REJECTED_DIR /proc: no file can be written there" in bad[1]
    assert "ok    the schema is up to date" in done.stdout


def test_check_with_the_database_down(site: Site) -> None:
    done = site.call("check", expect=2, DATABASE_URL=NOWHERE)
    (bad,) = [line for line in done.stdout.splitlines() if line.startswith("BAD")]
    assert "Connection refused" in bad
    assert "s3cret" not in done.stdout


def test_check_warns_of_different_file_systems(site: Site, open_folder: Path, tmp_path: Path) -> None:
    other = open_folder / "archive"
    assert other.parent.stat().st_dev != tmp_path.stat().st_dev, "the tests need two file systems, as /tmp and /dev/shm"
    done = site.call("check", ARCHIVE_DIR=str(other))
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("warn")]
    assert "on different file systems: moving a file copies it" in line


# run


def test_run_says_where_it_watches_and_what_it_says_to_try_works(site: Site) -> None:
    process = site.start(INPUT_DIR="inbox")
    log = site.input.parent / "daemon-0.log"
    eventually(lambda: "watching " in log.read_text(), timeout=20)
    told = dict(line.split(maxsplit=1) for line in log.read_text().splitlines()[:4])
    inbox = site.input.parent / "inbox"
    assert told["Watching"] == f"{inbox}/ and its folders: {', '.join(FLOWS)}"
    assert told["Database"] == site.url
    subprocess.run(shlex.split(told["Try"]), cwd=inbox.parent, check=True)
    eventually(lambda: [line["status"] for line in site.ledger()] == ["loaded"], timeout=20)
    command = told["Then"].partition("(")[0]
    shown = subprocess.run(
        shlex.split(command), cwd=inbox.parent, env=site.environment, capture_output=True, check=True
    )
    assert shown.stdout.startswith(b"#1")
    assert site.stop(process, signal.SIGINT) == 0


def test_errors_have_a_sentence_and_a_hint() -> None:
    assert str(TidegateError("it is so", hint="do this")) == "it is so (do this)"
