"""Long files, each read in a process of its own: what comes of them, and of those whose process ends."""

import gzip
import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from file_processing.inbound import batches, intake, load as loading
from file_processing.inbound.encode import Encoder
from file_processing.inbound.formats.base import Batch, Reading
from services.db import engine as databases, schema
from tests.support import edi_samples
from tests.support.flow_files import flow_files
from tests.support.sites import Site, running
from tests.support.waiting import eventually

STATUS = "vehicle_status"
LONG = 15_000

COUNTERS = '''
"""Counters, whose numbers have to fit their columns."""

from loguru import logger
from sqlalchemy import CheckConstraint, SmallInteger, Text
from sqlalchemy.orm import Mapped, mapped_column
from typing_extensions import TypedDict

from models.flow import Flow
from models.tables import LoadedRow


class Counter(TypedDict):
    counter: str
    small: int
    number: int


class CounterRow(LoadedRow):
    __tablename__ = "counters"
    __table_args__ = (CheckConstraint("number <> 13", name="superstition"),)

    counter: Mapped[str] = mapped_column(Text, primary_key=True)
    small: Mapped[int] = mapped_column(SmallInteger)
    number: Mapped[int]


def to_rows(record):
    if record["number"] == 77:
        logger.warning("a counter says {}", 77)
    return [record]


FLOW = Flow(record=Counter, table=CounterRow, to_rows=to_rows)
'''


@pytest.fixture
def counting(site: Site, tmp_path: Path) -> Iterator[Site]:
    with flow_files(tmp_path / "further flows", counters=COUNTERS) as folder:
        site.settings = site.settings.model_copy(update={"flows_dir": folder, "max_rejects": 50})
        with databases.open_database(site.settings) as database:
            schema.prepare(database.engine, site.flows())
        yield site


def counters(**numbers: tuple[int, int]) -> str:
    """More than 1 MB of them, these among them: by name, what they say for `small` and `number`."""
    named = {f"c{at:05}": (1, at + 1000) for at in range(LONG)} | numbers
    records = [
        {"counter": name, "small": small, "number": number, "note": "x" * 40} for name, (small, number) in named.items()
    ]
    text = json.dumps(records)
    assert len(text) > 1 << 20
    return text


def reports(count: int = LONG, status: str = "driving") -> str:
    records = [
        {"vehicle_id": f"long {n:05}", "report_time": "2022-05-05T22:02:34Z", "status": f"{status} {n}"}
        for n in range(count)
    ]
    return json.dumps(records)


def in_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "Reading", partial(Reading, batch_bytes=100_000))
    monkeypatch.setattr(loading, "ROWS_AS_READ", 2_000)


def line_of(site: Site, name: str, content: object, flow: str = STATUS) -> dict[str, Any]:
    site.drop(name, content, flow=flow)
    site.load()
    return site.ledger()[-1]


def readers() -> list[int]:
    """The processes that read files for this one."""
    return [reader for nursery in children(os.getpid()) for reader in children(nursery)]


def children(pid: int) -> list[int]:
    """The processes of Python that it started."""
    found: list[int] = []
    with suppress(OSError):  # one has ended meanwhile
        for task in Path("/proc", str(pid), "task").iterdir():
            for child in (task / "children").read_text().split():
                found += [int(child)] if "postgres" not in Path("/proc", child, "comm").read_text() else []
    return found


# What comes of them


@pytest.mark.parametrize("portions", [True, False], ids=["portions", "one"])
def test_records_that_database_or_column_refuse_are_told_with_their_text(
    counting: Site, monkeypatch: pytest.MonkeyPatch, portions: bool
) -> None:
    if portions:
        in_portions(monkeypatch)
    wrong = {"c00007": (1, 13), "c00008": (2**15, 1), "c08000": (1, 2**32 + 7), "c14999": (1, 13)}
    line = line_of(counting, "x.json", counters(**wrong), "counters")
    assert (line["status"], line["records"], line["inserted"], line["rejected"]) == ("partial", LONG, LONG - 4, 4)
    told = {error["record"]: error["reason"] for error in counting.report("x.json", "counters")["errors"]}
    assert told == {
        7: 'the database rejects it: new row for relation "counters" violates check constraint '
        '"counters_superstition_check"',
        8: "small: 32768 does not fit smallint, which holds -32768 to 32767",
        8000: "number: 4294967303 does not fit integer, which holds -2147483648 to 2147483647",
        14_999: told[7],
    }
    kept = json.loads((counting.rejected / "counters" / "x.json.rejected.json").read_text())
    assert {record["counter"]: (record["small"], record["number"]) for record in kept} == wrong
    there = {row["counter"]: row["record_position"] for row in counting.rows("counters")}
    assert there == {f"c{at:05}": at for at in range(LONG) if at not in told}


def test_too_many_numbers_that_do_not_fit_reject_the_file(counting: Site) -> None:
    line = line_of(counting, "x.json", counters(**{f"c{at:05}": (2**15, 1) for at in range(2_000)}), "counters")
    assert (line["status"], line["inserted"]) == ("rejected", 0)
    assert "are rejected: more than MAX_REJECTS (50)" in line["error"]
    assert counting.rows("counters") == []


@pytest.mark.parametrize("known", [False, True], ids=["new", "known"])
@pytest.mark.parametrize(
    ("name", "made"),
    [
        ("x.json", lambda text: text),
        ("x.json.gz", lambda text: gzip.compress(text.encode(), 1)),
        ("x.jsonl", lambda text: "\n".join(map(json.dumps, json.loads(text)))),
    ],
    ids=["json", "packed", "lines"],
)
def test_every_form_of_a_long_file_loads(site: Site, name: str, made: Callable[[str], object], known: bool) -> None:
    if known:
        line_of(site, "first.json", reports(status="parking"))
    line = line_of(site, name, made(reports()))
    assert (line["records"], line["updated" if known else "inserted"]) == (LONG, LONG)
    rows = site.rows("vehicles_status")
    assert [(row["vehicle_id"], row["record_position"]) for row in rows] == [(f"long {n:05}", n) for n in range(LONG)]
    assert {row["source_file_id"] for row in rows} == {line["id"]}
    assert {row["status"].split()[0] for row in rows} == {"driving"}


@pytest.mark.parametrize("is_long", [False, True], ids=["short", "long"])
def test_an_interchange_is_answered_whoever_reads_it(
    site: Site, monkeypatch: pytest.MonkeyPatch, is_long: bool
) -> None:
    if is_long:
        monkeypatch.setattr(intake, "SMALL_BYTES", 100)
    two = edi_samples.replaced(edi_samples.ORDER, "BGM", "BGM+220+PO-2+9")
    bad = edi_samples.replaced(edi_samples.ORDER, "QTY", "QTY+21:many:PCE")
    site.drop("a.edi", edi_samples.edifact(edi_samples.ORDER, two, bad), flow="orders")
    site.drop("again.edi", edi_samples.edifact(), flow="orders")
    site.drop("cut.edi", edi_samples.edifact(unb="UNOC:3+BUYER:ZZ+SELLER:ZZ+260131:0900+REF2")[:-30], flow="orders")
    site.load()
    site.call("emit")
    assert [(line["name"], line["status"], line["inserted"], line["rejected"]) for line in site.ledger()] == [
        ("a.edi", "partial", 2, 1),
        ("again.edi", "rejected", 0, 0),
        ("cut.edi", "rejected", 0, 0),
    ]
    assert "used the control reference REF1 before" in site.ledger()[1]["error"]
    answers = {path.read_text("latin-1") for path in (site.settings.output_dir / "orders" / "contrl").rglob("*.edi")}
    about_the_first = next(text for text in answers if "UCI+REF1+BUYER:ZZ+SELLER:ZZ+7" in text)
    assert [message.split("+")[3][0] for message in about_the_first.split("'") if "UCM+" in message] == ["7", "7", "4"]


def test_what_a_flow_logs_while_it_is_read_stands_in_the_log(counting: Site, logged: list[str]) -> None:
    line_of(counting, "x.json", counters(c00005=(1, 77)), "counters")
    assert any("a counter says 77" in line for line in logged)


# Its process


def die_at(monkeypatch: pytest.MonkeyPatch, marker: Path, batch: int, times: int) -> None:
    """Who encodes that batch of a file is killed, the first times that this happens."""
    ours, original, seen = os.getpid(), Encoder.encode, 0

    def encode(encoder: Encoder, checked: Any, file_id: int) -> Any:
        nonlocal seen
        seen += os.getpid() != ours
        if os.getpid() != ours and seen == batch:
            with marker.open("a") as file:
                file.write("x")
            if marker.stat().st_size <= times:
                os.kill(os.getpid(), signal.SIGKILL)
        return original(encoder, checked, file_id)

    monkeypatch.setattr(Encoder, "encode", encode)


@pytest.mark.parametrize("batch", [1, 5])
def test_a_file_whose_reader_is_killed_waits_and_then_loads_once(
    site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, batch: int
) -> None:
    in_portions(monkeypatch)
    die_at(monkeypatch, tmp_path / "killed", batch, times=2)
    site.drop("long.json", reports(), flow=STATUS)
    site.drop("small.json", reports(2), flow=STATUS)
    for _ in range(2):
        results = {result.dropped.path.name: result for result in site.load()}
        wait = results["long.json"].wait
        assert wait is not None
        assert wait.reason == "the process that read it has ended"
        assert wait.seconds is None, "it is not tried again at once"
        assert [line["name"] for line in site.ledger()] == ["small.json"]
        assert len(site.rows("vehicles_status")) == 2
    site.load()
    line = site.ledger()[-1]
    assert (line["name"], line["status"], line["inserted"], line["rejected"]) == ("long.json", "loaded", LONG - 2, 0)
    assert len(site.rows("vehicles_status")) == LONG


def test_whoever_stops_leaves_no_process_behind(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    original = batches.read
    stuck = threading.Event()

    def read(*arguments: Any) -> Iterator[Batch]:
        for number, batch in enumerate(original(*arguments)):
            yield batch
            if number == 1 and os.getpid() != ours:
                stuck.wait()

    ours = os.getpid()
    monkeypatch.setattr(batches, "read", read)
    in_portions(monkeypatch)
    site.drop("long.json", reports(), flow=STATUS)
    with running(site):
        eventually(readers, what="a process that reads")
    eventually(lambda: not readers(), what="its end")
    assert site.ledger() == []
    assert [path.name for path in site.waiting()] == ["long.json"]


def test_a_duplicate_is_not_read_to_its_end(site: Site) -> None:
    for name in ("a.json", "b.json"):
        line_of(site, name, reports())
    assert [line["status"] for line in site.ledger()] == ["loaded", "duplicate"]
    eventually(lambda: not readers(), what="the end of all that read")
