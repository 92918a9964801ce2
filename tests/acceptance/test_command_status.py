"""`status` and `files`: what they tell, and that they tell it whatever is down."""

import re
import subprocess
from pathlib import Path

import pytest

import flows
from tests.support.command_line import NOWHERE, lines, report, sentence, write
from tests.support.sites import Site
from tests.support.waiting import eventually

FLOWS = flows.discover()


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
