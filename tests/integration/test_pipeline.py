"""Groups of files in one transaction: which loads, which is refused, which waits, and that none harms another."""

import gzip
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from loguru import logger

from file_processing.inbound import intake as opening
from file_processing.inbound.error_report import Reports
from file_processing.inbound.load import Loader
from file_processing.inbound.pipeline import Handler
from models.errors import RetryLater
from services.files import filing
from services.ledger import inbound as ledger
from tests.support import sites
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


def statuses(site: Site, files: int) -> dict[str, str]:
    return {line["name"]: line["status"] for line in site.settled(files)}


@pytest.fixture
def logged() -> Iterator[list[str]]:
    lines: list[str] = []
    number = logger.add(lambda line: lines.append(str(line).rstrip()), format="{level} {message}", level="DEBUG")
    yield lines
    logger.remove(number)


def waits(logged: list[str], name: str) -> str:
    """What the log says of a file that waits; it says so once."""
    eventually(lambda: [line for line in logged if f"{name} waits" in line], what=f"a word on why {name} waits")
    (line,) = [line for line in logged if f"{name} waits" in line]
    return line


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits is tried again at once."""
    monkeypatch.setattr("file_processing.daemon.LONGEST_PAUSE_SECONDS", 0.1)


# One group


def test_files_of_a_group_share_a_transaction(site: Site) -> None:
    for n in range(20):
        drop(site, f"{n}.json", reports(f"v{n}"))
    with running(site):
        site.settled(20)
    assert len({line["loaded_at"] for line in site.ledger()}) == 1
    assert len(site.query("select distinct xmin::text from vehicles_status")) == 1


def test_a_content_twice_in_a_group_loads_once(site: Site) -> None:
    for name in ("a.json", "b.json", "c.json"):
        drop(site, name, reports("a"))
    with running(site):
        lines = site.settled(3)
    first, *others = lines
    assert first["status"] == "loaded"
    assert [(line["status"], line["duplicate_of"]) for line in others] == [("duplicate", first["id"])] * 2


def test_a_refused_content_twice_in_a_group_is_refused_twice(site: Site) -> None:
    for name in ("a.json", "b.json"):
        drop(site, name, "[{")
    with running(site):
        assert statuses(site, 2) == {"a.json": "rejected", "b.json": "rejected"}
    assert {path.name for path in (site.rejected / "vehicle_status").iterdir()} == {
        *("a.json", "a.json.errors.json"),
        *("b.json", "b.json.errors.json"),
    }


def test_a_content_to_be_loaded_again_twice_at_once_is_loaded_again_once(site: Site) -> None:
    drop(site, "a.json", reports("a"))
    with running(site):
        site.settled(1)
    site.execute("update tidegate.inbound_file set reload = true")
    for name in ("b.json", "c.json"):
        drop(site, name, reports("a"))
    with running(site):
        first, second, third = site.settled(3)
    assert (first["superseded_by"], first["reload"]) == (second["id"], False)
    assert (second["status"], third["status"], third["duplicate_of"]) == ("loaded", "duplicate", second["id"])


@pytest.fixture
def meters(site: Site, tmp_path: Path) -> Iterator[Site]:
    """A site with a flow whose files load whole or not at all."""
    with flow_files(tmp_path / "flows", meters=ALL_OR_NOTHING) as folder:
        yield replace(site, settings=site.settings.model_copy(update={"flows_dir": folder}))


def test_what_the_database_refuses_spoils_whole_files_and_no_others(meters: Site, monkeypatch: Any) -> None:
    plan = mock.create_autospec(Loader._plan, side_effect=Loader._plan)
    monkeypatch.setattr(Loader, "_plan", plan)
    for n in range(20):
        records = [{"meter": f"{n}-{m}", "value": -1 if n % 4 == m == 3 else m} for m in range(5)]
        meters.drop(f"{n}.json", records, flow="meters")
    with running(meters):
        lines = meters.settled(20)
    spoiled = {f"{n}.json" for n in (3, 7, 11, 15, 19)}
    assert {line["name"] for line in lines if line["status"] == "rejected"} == spoiled
    assert {(line["status"], line["inserted"]) for line in lines} == {("loaded", 5), ("rejected", 0)}
    assert len(meters.rows("meters")) == 75
    report = meters.report("3.json", "meters")
    assert [(e["record"], e["pointer"]) for e in report["errors"]] == [(3, "/3")]
    assert plan.call_count == 2, "all that is spoiled is found in one go"


# Files that wait, and hold up no other


@pytest.mark.usefixtures("quick")
def test_a_report_that_cannot_be_written_makes_its_file_wait(site: Site, logged: list[str]) -> None:
    shutil.rmtree(site.rejected)
    site.rejected.write_text("a file in the place of the folder")
    drop(site, "bad.json", "[{")
    drop(site, "worse.json", reports("a", status=5))
    drop(site, "good.json", reports("b"))
    with running_on_broken_folders(site):
        assert statuses(site, 1) == {"good.json": "loaded"}
        assert "its report cannot be written" in waits(logged, "bad.json")
        drop(site, "later.json", reports("c"))
        site.settled(2)
        site.rejected.unlink()
        site.rejected.mkdir()
        assert statuses(site, 4) == {
            "good.json": "loaded",
            "later.json": "loaded",
            "bad.json": "rejected",
            "worse.json": "rejected",
        }
    assert site.waiting() == []
    assert list(site.rejected.rglob(".*")) == []


@contextmanager
def running_on_broken_folders(site: Site) -> Iterator[None]:
    """As `running`, which would stumble over the folders."""
    (site.input / "vehicle_status").mkdir(exist_ok=True)
    with mock.patch.object(sites, "make_folders"), running(site):
        yield


@pytest.mark.usefixtures("quick")
def test_an_archive_that_takes_nothing_delays_the_move_and_not_the_rows(site: Site, logged: list[str]) -> None:
    shutil.rmtree(site.archive)
    site.archive.write_text("a file in the place of the folder")
    drop(site, "a.json", reports("a"))
    os.mkfifo(site.input / "vehicle_status" / "pipe.json")
    with running_on_broken_folders(site):
        assert "cannot be moved" in waits(logged, "a.json")
        drop(site, "b.json", reports("b"))
        assert "cannot be moved" in waits(logged, "b.json")
        assert [row["vehicle_id"] for row in site.rows("vehicles_status")] == ["a", "b"]
        site.archive.unlink()
        assert statuses(site, 3) == {"a.json": "loaded", "b.json": "loaded", "pipe.json": "rejected"}
        eventually(lambda: site.waiting() == [])
    assert len(site.ledger()) == 3


@pytest.mark.usefixtures("quick")
def test_a_pipe_that_cannot_be_moved_is_recorded_once(site: Site, logged: list[str], monkeypatch: Any) -> None:
    tries: list[Path] = []
    original = filing.move

    def move(source: Path, *rest: Any) -> Path:
        tries.append(source)
        if len(tries) < 4:
            raise RetryLater("no room")
        return original(source, *rest)

    monkeypatch.setattr(filing, "move", move)
    os.mkfifo(site.input / "pipe.json")
    with running(site):
        (line,) = site.settled(1)
    assert (line["status"], line["error"]) == ("rejected", "not a regular file")
    assert len(tries) == 4
    assert sum("#1" in line for line in logged if "filed now" in line) == 1
    assert site.report("pipe.json", "_unrouted")["ledger_id"] == line["id"]


LONG = 15_000


@pytest.mark.usefixtures("quick")
def test_a_long_file_that_changes_while_it_is_read_waits_and_the_others_load(
    site: Site, logged: list[str], monkeypatch: Any
) -> None:
    changes: list[int] = []
    original = opening.OpenFile.check_unchanged

    def check(source: opening.OpenFile) -> None:
        if source.path.name == "long.json" and len(changes) < 3:
            changes.append(1)
            os.utime(source.path, ns=(1, len(changes)))
        original(source)

    monkeypatch.setattr(opening.OpenFile, "check_unchanged", check)
    drop(site, "long.json", reports(*(f"long {n}" for n in range(LONG))))
    for n in range(5):
        drop(site, f"{n}.json", reports(f"v{n}"))
    with running(site):
        assert "changed while it was read" in waits(logged, "long.json")
        lines = site.settled(6)
    assert {line["status"] for line in lines} == {"loaded"}
    assert lines[-1]["name"] == "long.json"
    assert lines[-1]["inserted"] == LONG
    assert len(site.rows("vehicles_status")) == LONG + 5


def test_a_file_that_grows_large_in_a_group_waits_to_be_alone(site: Site, monkeypatch: Any) -> None:
    big = json.dumps(reports(*(f"long {n}" for n in range(LONG))))
    original = Handler._prepare

    def prepare(self: Handler, room: Any, dropped: Any, *rest: Any, **options: Any) -> Any:
        if dropped.path.name == "grows.json" and dropped.path.stat().st_size < 1000:
            dropped.path.write_text(big)
        return original(self, room, dropped, *rest, **options)

    monkeypatch.setattr(Handler, "_prepare", prepare)
    monkeypatch.setattr("file_processing.daemon.LONGEST_PAUSE_SECONDS", 0.1)
    drop(site, "grows.json", reports("a"))
    drop(site, "b.json", reports("b"))
    with running(site):
        assert statuses(site, 2) == {"b.json": "loaded", "grows.json": "loaded"}
    assert len(site.rows("vehicles_status")) == LONG + 1


def test_a_packed_file_that_breaks_off_loads_nothing(site: Site) -> None:
    packed = gzip.compress(json.dumps(reports(*(f"{n} {os.urandom(20).hex()}" for n in range(LONG)))).encode())
    drop(site, "cut.json.gz", packed[:-100])
    drop(site, "a.json", reports("a"))
    with running(site):
        assert statuses(site, 2) == {"cut.json.gz": "rejected", "a.json": "loaded"}
    assert len(site.rows("vehicles_status")) == 1


# Files that are not what they were


def while_it_is_loaded(monkeypatch: pytest.MonkeyPatch, happens: Callable[[], object]) -> None:
    """After a file was read and committed, before it is moved; once."""
    original, left = filing.move, [happens]

    def move(*arguments: Any) -> Path:
        if left:
            left.pop()()
        return original(*arguments)

    monkeypatch.setattr(filing, "move", move)


def test_a_file_that_is_replaced_before_it_is_moved_is_loaded_too(site: Site, monkeypatch: Any) -> None:
    while_it_is_loaded(monkeypatch, lambda: drop(site, "a.json", reports("a", time=T2)))
    drop(site, "a.json", reports("a"))
    with running(site):
        first, second = site.settled(2)
        eventually(lambda: site.waiting() == [])
    assert (first["status"], first["filed_as"]) == ("loaded", None)
    assert (second["status"], second["updated"]) == ("loaded", 1)
    assert [path.name for path in site.archive.rglob("*.json")] == ["a.json"]


def test_a_file_that_is_appended_to_before_it_is_moved_is_loaded_too(site: Site, monkeypatch: Any) -> None:
    def append() -> None:
        with (site.input / "vehicle_status" / "a.jsonl").open("a") as file:
            file.write(json.dumps(reports("b")[0]) + "\n")

    while_it_is_loaded(monkeypatch, append)
    drop(site, "a.jsonl", json.dumps(reports("a")[0]) + "\n")
    with running(site):
        first, second = site.settled(2)
        eventually(lambda: site.waiting() == [])
    assert (first["records"], first["filed_as"]) == (1, None)
    assert (second["records"], second["inserted"], second["unchanged"]) == (2, 1, 1)
    assert second["filed_as"] is not None


def test_a_file_that_is_replaced_before_it_is_loaded_is_not_loaded_as_it_was(site: Site, monkeypatch: Any) -> None:
    original, left = Loader.load, [1]

    def load(*arguments: Any, **options: Any) -> Any:
        if left:
            left.pop()
            drop(site, "a.json", reports("new"))
        return original(*arguments, **options)

    monkeypatch.setattr(Loader, "load", load)
    monkeypatch.setattr("file_processing.daemon.LONGEST_PAUSE_SECONDS", 0.1)
    drop(site, "a.json", reports("old"))
    with running(site):
        (line,) = site.settled(1)
        eventually(lambda: site.waiting() == [])
    assert [row["vehicle_id"] for row in site.rows("vehicles_status")] == ["new"]
    assert (line["status"], line["filed_as"] is not None) == ("loaded", True)


def test_a_file_that_is_taken_away_before_it_is_moved_keeps_its_report(site: Site, monkeypatch: Any) -> None:
    path = drop(site, "a.json", reports("a", status=5))
    while_it_is_loaded(monkeypatch, path.unlink)
    with running(site):
        (line,) = site.settled(1)
    assert (line["status"], line["filed_as"]) == ("rejected", None)
    assert site.report("a.json", "vehicle_status")["ledger_id"] == line["id"]


def test_a_name_that_is_no_utf8_is_filed_under_one_that_the_ledger_can_hold(site: Site) -> None:
    drop(site, os.fsdecode(b"\xff\xfe.json"), reports("a"))
    with running(site):
        (line,) = site.settled(1)
        eventually(lambda: site.waiting() == [])
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


def test_reports_that_were_not_published_are_by_the_next_start(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    drop(site, "a.json", reports("a", status=5))
    with monkeypatch.context() as patch:
        patch.setattr(Reports, "publish", mock.Mock(side_effect=PermissionError()))
        with running(site):
            (line,) = site.settled(1)
    folder = site.rejected / "vehicle_status"
    assert {path.name for path in folder.iterdir()} == {"a.json", f".{line['id']}.errors.tmp"}
    (folder / ".99.errors.tmp").write_text("of a load that never committed")
    with running(site):
        eventually(lambda: {path.name for path in folder.iterdir()} == {"a.json", "a.json.errors.json"})
