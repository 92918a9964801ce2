"""`trace`, `flows`, `db`, `check`, `run`: what they tell of the database and of the site."""

import re
import shlex
import signal
import subprocess
from pathlib import Path

import flows
from models.errors import TidegateError
from tests.support.command_line import NOWHERE, T1, T2, lines, report, write
from tests.support.sites import Site
from tests.support.waiting import eventually

FLOWS = flows.discover()


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
    assert site.fork("db", "psql", "-Atc", "select number from work_orders order by 1 limit 2") == "10\n11\n"
    assert "nonsense" in site.fork("db", "psql", "-c", "nonsense", expect=2)


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


def test_run_says_where_it_watches_and_what_it_says_to_try_works(site: Site) -> None:
    process = site.start(INPUT_DIR="inbox")
    eventually(lambda: "watching " in process.log.read_text(), timeout=20)
    told = dict(line.split(maxsplit=1) for line in process.log.read_text().splitlines()[:4])
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
