"""`ingest`: what it prints, where, and how it exits."""

import gzip
import json
import os
import pty
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from unittest import mock

import psycopg
import pytest

from services.ledger import locks
from tests.support.command_line import T1, T2, lines, report, sentence, write
from tests.support.processes import ROOT
from tests.support.sites import Site
from tests.support.waiting import eventually

KEYS = ["file", "flow", "status", "records", "inserted", "updated", "unchanged", "stale", "rejected"]


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
def test_ingest_exits_1_when_something_is_rejected(name: str, status: str, site: Site, samples: Path) -> None:
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
    with psycopg.connect(site.url) as daemon, mock.patch.object(locks, "_FLOW_WAIT_SECONDS", 0.05):
        locks.lock_flow(daemon, "work_orders")

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


def test_the_progress_bar_ends_where_it_should(site: Site, tmp_path: Path) -> None:
    """A packed file counts as it lies there, and one that is loaded a second time only once."""
    records = [report(str(n)) for n in range(30_000)]
    (tmp_path / "vehicle_status_1.json.gz").write_bytes(gzip.compress(json.dumps(records).encode()))
    write(tmp_path / "vehicle_status_2.json", [report("a")])
    write(tmp_path / "vehicle_status_3.json", [report("b"), {"vehicle_id": 1}])
    (tmp_path / "vehicle_status_4.json").write_text("[{")
    shown = re.findall(r"([\d.]+)/([\d.]+) (?:bytes|[kM]B)", on_a_terminal(site, "ingest", str(tmp_path)))
    assert all(float(done) <= float(total) for done, total in shown)
    assert shown[-1][0] == shown[-1][1]


def test_a_reader_that_leaves_early_sees_no_traceback(site: Site, samples: Path) -> None:
    site.call("ingest", str(samples), expect=1)
    command = f"{sys.executable} {ROOT / 'main.py'} files --json | head -n 1"
    done = subprocess.run(command, shell=True, env=site.environment, capture_output=True, text=True, check=False)
    assert len(done.stdout.splitlines()) == 1
    assert "Traceback" not in done.stderr
