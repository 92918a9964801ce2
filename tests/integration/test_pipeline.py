"""Groups of files in one transaction: which loads, which is rejected, which waits, and that none harms another."""

import gzip
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from file_processing.inbound import error_report, intake
from file_processing.inbound.archive import FileResult
from file_processing.inbound.error_report import PendingReport
from file_processing.inbound.load import Loader
from file_processing.inbound.open_file import OpenFile
from models.errors import RetryLater
from services.db import engine as databases, schema
from services.files import move
from services.files.directory import Entry
from services.files.move import Identity
from services.ledger import inbound as ledger
from tests.support.flow_files import flow_files
from tests.support.sites import Site, running
from tests.support.waiting import eventually

T1, T2 = "2022-05-05T22:02:34Z", "2022-05-05T23:02:34Z"

ALL_OR_NOTHING = '''
"""Meters: a file loads whole or not at all."""

from sqlalchemy import CheckConstraint, Text
from sqlalchemy.orm import Mapped, mapped_column
from typing_extensions import TypedDict

from models.flow import Flow, PartlyBad
from models.tables import LoadedRow


class Meter(TypedDict):
    meter: str
    value: int


class MeterRow(LoadedRow):
    __tablename__ = "meters"
    __table_args__ = (CheckConstraint("value >= 0", name="positive"),)

    meter: Mapped[str] = mapped_column(Text, primary_key=True)
    value: Mapped[int]


FLOW = Flow(record=Meter, table=MeterRow, partly_bad=PartlyBad.ALL_OR_NOTHING)
'''


def reports(*vehicles: str, time: str = T1, status: object = "driving") -> list[dict[str, object]]:
    return [{"vehicle_id": v, "report_time": time, "status": status} for v in vehicles]


def drop(site: Site, name: str, content: object) -> Path:
    return site.drop(name, content, flow="vehicle_status")


def vehicles(site: Site) -> list[str]:
    return [row["vehicle_id"] for row in site.rows("vehicles_status")]


def statuses(site: Site) -> dict[str, str]:
    return {line["name"]: line["status"] for line in site.ledger()}


def waits(results: list[FileResult]) -> dict[str, str]:
    """Why files wait, by name."""
    return {result.dropped.path.name: str(result.wait) for result in results if result.wait is not None}


# One group


def test_files_of_a_group_share_a_transaction(site: Site) -> None:
    for n in range(20):
        drop(site, f"{n}.json", reports(f"v{n}"))
    site.load()
    assert len({line["loaded_at"] for line in site.ledger()}) == 1
    assert len(site.query("select distinct xmin::text from vehicles_status")) == 1


def test_a_content_twice_in_a_group_loads_once(site: Site) -> None:
    for name in ("a.json", "b.json", "c.json"):
        drop(site, name, reports("a"))
    site.load()
    first, *others = site.ledger()
    assert first["status"] == "loaded"
    assert [(line["status"], line["duplicate_of"]) for line in others] == [("duplicate", first["id"])] * 2


def test_a_rejected_content_twice_in_a_group_is_rejected_twice(site: Site) -> None:
    for name in ("a.json", "b.json"):
        drop(site, name, "[{")
    site.load()
    assert statuses(site) == {"a.json": "rejected", "b.json": "rejected"}
    assert {path.name for path in (site.rejected / "vehicle_status").iterdir()} == {
        *("a.json", "a.json.errors.json"),
        *("b.json", "b.json.errors.json"),
    }


def test_a_content_to_be_loaded_again_twice_at_once_is_loaded_again_once(site: Site) -> None:
    drop(site, "a.json", reports("a"))
    site.load()
    for name in ("b.json", "c.json"):
        drop(site, name, reports("a"))
    identity = Identity.of((site.input / "vehicle_status" / "b.json").lstat()).key
    site.execute(
        f"insert into tidegate.placed_file (flow, identity, again) values ('vehicle_status', '{identity}', true)"
    )
    site.load()
    first, second, third = site.ledger()
    assert first["superseded_by"] == second["id"]
    assert site.query("select from tidegate.placed_file") == []
    assert (second["status"], third["status"], third["duplicate_of"]) == ("loaded", "duplicate", second["id"])


@pytest.fixture
def meters(site: Site, tmp_path: Path) -> Iterator[Site]:
    """A site with a flow whose files load whole or not at all."""
    with flow_files(tmp_path / "flows", meters=ALL_OR_NOTHING) as folder:
        made = replace(site, settings=site.settings.model_copy(update={"flows_dir": folder}))
        with databases.open_database(made.settings) as database:
            schema.prepare(database.engine, made.flows())
        yield made


def test_what_the_database_rejects_spoils_whole_files_and_no_others(
    meters: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    decide = mock.create_autospec(Loader._decide, side_effect=Loader._decide)
    monkeypatch.setattr(Loader, "_decide", decide)
    for n in range(20):
        records = [{"meter": f"{n}-{m}", "value": -1 if n % 4 == m == 3 else m} for m in range(5)]
        meters.drop(f"{n}.json", records, flow="meters")
    meters.load()
    lines = meters.ledger()
    spoiled = {f"{n}.json" for n in (3, 7, 11, 15, 19)}
    assert {line["name"] for line in lines if line["status"] == "rejected"} == spoiled
    assert {(line["status"], line["inserted"]) for line in lines} == {("loaded", 5), ("rejected", 0)}
    assert len(meters.rows("meters")) == 75
    report = meters.report("3.json", "meters")
    assert [(e["record"], e["pointer"]) for e in report["errors"]] == [(3, "/3")]
    assert decide.call_count == 2, "all that is spoiled is found in one go"


# Files that wait, and hold up no other


def test_a_report_that_cannot_be_written_makes_its_file_wait(site: Site) -> None:
    shutil.rmtree(site.rejected)
    site.rejected.write_text("a file in the place of the folder")
    drop(site, "bad.json", "[{")
    drop(site, "worse.json", reports("a", status=5))
    drop(site, "good.json", reports("b"))
    found = waits(site.load())
    assert {*found} == {"bad.json", "worse.json"}
    assert "its report cannot be written" in found["bad.json"]
    assert statuses(site) == {"good.json": "loaded"}
    drop(site, "later.json", reports("c"))
    site.load()
    assert statuses(site) == {"good.json": "loaded", "later.json": "loaded"}
    site.rejected.unlink()
    site.rejected.mkdir()
    assert waits(site.load()) == {}
    assert statuses(site) == {
        "good.json": "loaded",
        "later.json": "loaded",
        "bad.json": "rejected",
        "worse.json": "rejected",
    }
    assert site.waiting() == []
    assert list(site.rejected.rglob(".*")) == []


def test_a_group_that_starts_over_leaves_no_report_of_the_first_try(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = error_report.write

    def write(folder: Any, entry: Any, *rest: Any) -> PendingReport:
        if entry.name == "bad.json":
            raise PermissionError("rejected/")
        return original(folder, entry, *rest)

    monkeypatch.setattr(error_report, "write", write)
    drop(site, "bad.json", "[{")
    drop(site, "also.json", "[[")
    assert {*waits(site.load())} == {"bad.json"}
    assert statuses(site) == {"also.json": "rejected"}
    assert {path.name for path in site.rejected.rglob("*.*")} == {"also.json", "also.json.errors.json"}


def test_a_report_waits_for_its_file(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """It bears the name that its file gets, which is not known before."""
    drop(site, "a.json", "[{")
    with monkeypatch.context() as patch:
        patch.setattr(move, "move", mock.Mock(side_effect=RetryLater("no room")))
        assert {*waits(site.load())} == {"a.json"}
    folder = site.rejected / "vehicle_status"
    assert [path.name for path in folder.iterdir() if not path.name.startswith(".")] == []
    (folder / "a.json").write_text("another file of this name came first")
    assert waits(site.load()) == {}
    (line,) = site.ledger()
    kept = Path(line["filed_as"]).name
    assert kept != "a.json"
    assert {path.name for path in folder.iterdir()} == {"a.json", kept, f"{kept}.errors.json"}


def test_a_rejected_file_that_was_taken_away_is_not_found_in_another_of_the_same_content(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    drop(site, "a.json", "[{")
    site.load()
    second = drop(site, "a.json", "[{")
    with monkeypatch.context() as patch:
        patch.setattr(move, "move", mock.Mock(side_effect=RetryLater("no room")))
        site.load()
    second.unlink()
    with running(site):
        drop(site, "good.json", reports("a"))
        eventually(lambda: "good.json" in statuses(site))
    first, taken_away, _ = site.ledger()
    assert Path(first["filed_as"]) == site.rejected / "vehicle_status" / "a.json"
    assert taken_away["filed_as"] is None


def test_an_archive_that_takes_nothing_delays_the_move_and_not_the_rows(site: Site) -> None:
    shutil.rmtree(site.archive)
    site.archive.write_text("a file in the place of the folder")
    drop(site, "a.json", reports("a"))
    os.mkfifo(site.input / "vehicle_status" / "pipe.json")
    found = waits(site.load())
    assert {*found} == {"a.json"}
    assert "cannot be moved" in found["a.json"]
    drop(site, "b.json", reports("b"))
    assert {*waits(site.load())} == {"a.json", "b.json"}
    assert vehicles(site) == ["a", "b"]
    site.archive.unlink()
    assert waits(site.load()) == {}
    assert statuses(site) == {"a.json": "loaded", "b.json": "loaded", "pipe.json": "rejected"}
    assert all(line["filed_at"] for line in site.ledger())
    assert site.waiting() == []
    assert len(site.ledger()) == 3


def test_a_pipe_that_cannot_be_moved_is_recorded_once(
    site: Site, logged: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[Entry] = []
    original = move.move

    def moved(source: Entry, *rest: Any) -> Entry:
        tries.append(source)
        if len(tries) < 4:
            raise RetryLater("no room")
        return original(source, *rest)

    monkeypatch.setattr(move, "move", moved)
    os.mkfifo(site.input / "pipe.json")
    for _ in range(3):
        assert waits(site.load()) == {"pipe.json": "no room"}
    assert waits(site.load()) == {}
    (line,) = site.ledger()
    assert (line["status"], line["error"]) == ("rejected", "not a regular file")
    assert len(tries) == 4
    assert sum("#1" in line for line in logged if "archived now" in line) == 1
    assert site.report("pipe.json", "_unrouted")["ledger_id"] == line["id"]


LONG = 15_000


@pytest.mark.usefixtures("impatient")
def test_a_long_file_that_changes_while_it_is_read_waits_and_the_others_load(
    site: Site, logged: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    changes: list[int] = []
    original = OpenFile.check_unchanged

    def check(source: OpenFile) -> None:
        if source.name == "long.json" and len(changes) < 3:
            changes.append(1)
            os.utime(source.descriptor, ns=(1, len(changes)))
        original(source)

    monkeypatch.setattr(OpenFile, "check_unchanged", check)
    drop(site, "long.json", reports(*(f"long {n}" for n in range(LONG))))
    for n in range(5):
        drop(site, f"{n}.json", reports(f"v{n}"))
    with running(site):
        lines = site.settled(6)
    (told,) = [line for line in logged if "long.json waits" in line]
    assert "changed while it was read" in told
    assert len(changes) == 3
    assert {line["status"] for line in lines} == {"loaded"}
    assert lines[-1]["name"] == "long.json"
    assert lines[-1]["inserted"] == LONG
    assert len(site.rows("vehicles_status")) == LONG + 5


def test_a_file_that_grows_large_in_a_group_waits_to_be_alone(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    big = json.dumps(reports(*(f"long {n}" for n in range(LONG))))
    original = intake._take_in

    def take_in(routed: Any, *rest: Any, **options: Any) -> Any:
        path = routed.dropped.path
        if path.name == "grows.json" and path.stat().st_size < 1000:
            path.write_text(big)
        return original(routed, *rest, **options)

    monkeypatch.setattr(intake, "_take_in", take_in)
    drop(site, "grows.json", reports("a"))
    drop(site, "b.json", reports("b"))
    assert "the file grew since it was seen" in waits(site.load())["grows.json"]
    assert statuses(site) == {"b.json": "loaded"}
    assert waits(site.load()) == {}
    assert statuses(site) == {"b.json": "loaded", "grows.json": "loaded"}
    assert len(site.rows("vehicles_status")) == LONG + 1


def test_a_compressed_file_that_breaks_off_loads_nothing(site: Site) -> None:
    compressed = gzip.compress(json.dumps(reports(*(f"{n} {os.urandom(20).hex()}" for n in range(LONG)))).encode())
    drop(site, "cut.json.gz", compressed[:-100])
    drop(site, "a.json", reports("a"))
    site.load()
    assert statuses(site) == {"cut.json.gz": "rejected", "a.json": "loaded"}
    assert len(site.rows("vehicles_status")) == 1


# Groups, one of which is read while the database is at the one before


@pytest.fixture
def one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each small file is a group of its own."""
    monkeypatch.setattr(intake, "GROUP_FILES", 1)


@pytest.fixture
def read_ahead(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], object]:
    """Waits until the file of this name is taken in."""
    taken: set[str] = set()
    original = intake._take_in

    def take_in(routed: Any, *rest: Any, **options: Any) -> Any:
        try:
            return original(routed, *rest, **options)
        finally:
            taken.add(routed.dropped.path.name)

    monkeypatch.setattr(intake, "_take_in", take_in)
    return lambda name: eventually(lambda: name in taken, what=f"{name} taken in")


def while_it_loads(monkeypatch: pytest.MonkeyPatch, name: str, happens: Callable[[], object]) -> None:
    """Before the transaction of the file of this name."""
    load = Loader.load

    def instead(loader: Loader, connection: Any, reads: Any, **options: Any) -> Any:
        if reads[0].file.name == name:
            happens()
        return load(loader, connection, reads, **options)

    monkeypatch.setattr(Loader, "load", instead)


@pytest.mark.usefixtures("one_by_one")
def test_a_file_that_was_read_ahead_and_is_another_by_its_turn_waits(
    site: Site, monkeypatch: pytest.MonkeyPatch, read_ahead: Callable[[str], object]
) -> None:
    paths = {name: drop(site, f"{name}.json", reports(name)) for name in "abc"}

    def change() -> None:
        read_ahead("b.json")
        paths["b"].write_text(json.dumps(reports("b", "new")))

    while_it_loads(monkeypatch, "a.json", change)
    assert "changed after it was read" in waits(site.load())["b.json"]
    assert [line["name"] for line in site.ledger()] == ["a.json", "c.json"]
    site.load()
    assert vehicles(site) == ["a", "b", "c", "new"]


@pytest.mark.usefixtures("one_by_one")
def test_nothing_of_what_was_read_ahead_stays_open_when_the_database_is_gone(
    site: Site, monkeypatch: pytest.MonkeyPatch, read_ahead: Callable[[str], object]
) -> None:
    for name in "abc":
        drop(site, f"{name}.json", reports(name))
    site.load()
    for name in "def":
        drop(site, f"{name}.json", reports(name))

    def fail() -> None:
        read_ahead("f.json")
        raise RetryLater("the server is gone")

    while_it_loads(monkeypatch, "e.json", fail)
    before = open_input_folders(site)
    with pytest.raises(RetryLater, match="the server is gone"):
        site.load()
    assert open_input_folders(site) == before == []
    assert [line["name"] for line in site.ledger()] == ["a.json", "b.json", "c.json", "d.json"]
    monkeypatch.undo()
    site.load()
    assert vehicles(site) == [*"abcdef"]


def open_input_folders(site: Site) -> list[str]:
    """The open descriptors of this process that lead to what is below the input folder."""
    links = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):
            links.append(str(descriptor.readlink()))
    return [link for link in links if link.startswith(str(site.input))]


# Files that are not what they were


def before_it_is_moved(monkeypatch: pytest.MonkeyPatch, happens: Callable[[], object]) -> None:
    """After a file was read and committed; once."""
    original, left = move.move, [happens]

    def moved(*arguments: Any) -> Entry:
        if left:
            left.pop()()
        return original(*arguments)

    monkeypatch.setattr(move, "move", moved)


def test_a_file_that_is_replaced_before_it_is_moved_is_loaded_too(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    before_it_is_moved(monkeypatch, lambda: drop(site, "a.json", reports("a", time=T2)))
    drop(site, "a.json", reports("a"))
    with running(site):
        first, second = site.settled(2)
        eventually(lambda: site.waiting() == [])
    assert (first["status"], first["filed_as"]) == ("loaded", None)
    assert (second["status"], second["updated"]) == ("loaded", 1)
    assert [path.name for path in site.archive.rglob("*.json")] == ["a.json"]


def test_a_file_that_is_appended_to_before_it_is_moved_is_loaded_too(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def append() -> None:
        with (site.input / "vehicle_status" / "a.jsonl").open("a") as file:
            file.write(json.dumps(reports("b")[0]) + "\n")

    before_it_is_moved(monkeypatch, append)
    drop(site, "a.jsonl", json.dumps(reports("a")[0]) + "\n")
    with running(site):
        first, second = site.settled(2)
        eventually(lambda: site.waiting() == [])
    assert (first["records"], first["filed_as"]) == (1, None)
    assert (second["records"], second["inserted"], second["unchanged"]) == (2, 1, 1)
    assert second["filed_as"] is not None


@pytest.mark.usefixtures("impatient")
def test_a_file_that_is_replaced_before_it_is_loaded_is_not_loaded_as_it_was(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, left = Loader.load, [1]

    def load(*arguments: Any, **options: Any) -> Any:
        if left:
            left.pop()
            drop(site, "a.json", reports("new"))
        return original(*arguments, **options)

    monkeypatch.setattr(Loader, "load", load)
    drop(site, "a.json", reports("old"))
    with running(site):
        (line,) = site.settled(1)
        eventually(lambda: site.waiting() == [])
    assert vehicles(site) == ["new"]
    assert (line["status"], line["filed_as"] is not None) == ("loaded", True)


def test_a_file_that_is_taken_away_before_it_is_moved_keeps_its_report(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = drop(site, "a.json", reports("a", status=5))
    before_it_is_moved(monkeypatch, path.unlink)
    site.load()
    (line,) = site.ledger()
    assert (line["status"], line["filed_as"]) == ("rejected", None)
    assert line["filed_at"] is not None
    assert site.report("a.json", "vehicle_status")["ledger_id"] == line["id"]


def test_a_name_that_is_no_utf8_is_archived_under_one_that_the_ledger_can_hold(site: Site) -> None:
    drop(site, os.fsdecode(b"\xff\xfe.json"), reports("a"))
    site.load()
    (line,) = site.ledger()
    assert site.waiting() == []
    assert Path(line["filed_as"]).name == line["name"] == r"\xff\xfe.json"
    assert Path(line["filed_as"]).exists()


# Marks and reports that come later


def test_a_mark_that_fails_is_made_up_for_with_the_next_file(live: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(ledger, "mark_filed", mock.Mock(side_effect=RetryLater("the server is gone")))
        drop(live, "a.json", reports("a"))
        eventually(lambda: live.ledger() and live.waiting() == [])
        assert live.ledger()[0]["filed_at"] is None
    drop(live, "b.json", reports("b"))
    assert all(line["filed_as"] for line in live.settled(2))


@pytest.mark.parametrize(
    ("name", "rejected"),
    [
        ("a.json", "a.json.rejected.json"),
        ("a.ndjson.gz", "a.ndjson.gz.rejected.ndjson.gz"),
        ("a.txt", "a.txt.rejected.json"),
    ],
)
def test_reports_that_the_first_release_did_not_publish_are_as_well(site: Site, name: str, rejected: str) -> None:
    """Their hidden names leave the end of the visible one to the name of the file."""
    (record,) = reports("a")
    drop(site, name, gzip.compress(json.dumps(record).encode()) if name.endswith(".gz") else [record])
    site.load()
    folder = site.rejected / "vehicle_status"
    folder.mkdir(exist_ok=True)
    for number in (1, 99):
        (folder / f".{number}.errors.tmp").write_text(f"errors of {number}")
        (folder / f".{number}.rejected.tmp").write_text(f"records of {number}")
    with running(site):
        eventually(lambda: {path.name for path in folder.iterdir()} == {f"{name}.errors.json", rejected})
    assert (folder / f"{name}.errors.json").read_text() == "errors of 1"
    assert (folder / rejected).read_text() == "records of 1"


def test_reports_that_were_not_published_are_by_the_next_start(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    drop(site, "a.json", reports("a", status=5))
    with monkeypatch.context() as patch:
        patch.setattr(PendingReport, "publish", mock.Mock(side_effect=PermissionError()))
        site.load()
    (line,) = site.ledger()
    folder = site.rejected / "vehicle_status"
    (hidden,) = (path.name for path in folder.iterdir() if path.name != "a.json")
    assert hidden.startswith(f".{line['id']}.")
    (folder / hidden.replace(f".{line['id']}.", ".99.")).write_text("of a load that never committed")
    with running(site):
        eventually(lambda: {path.name for path in folder.iterdir()} == {"a.json", "a.json.errors.json"})
