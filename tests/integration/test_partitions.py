"""Partitioned tables: their partitions are there when rows come, and all else is as with any other table."""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest

from models.errors import StopDaemon
from models.flow import Flow
from models.partitions import Every
from services.db import engine as databases, partitions, schema
from tests.support.flow_files import flow_files
from tests.support.processes import ROOT
from tests.support.rows import Row, RowUpsert
from tests.support.sites import Site, running
from tests.support.waiting import eventually

METERS = '''"""The readings of every meter, by month."""

from datetime import date, datetime

from pydantic import BaseModel
from sqlalchemy import ForeignKeyConstraint
from sqlalchemy.orm import Mapped, mapped_column

from models.field_types import Instant, Text
from models.flow import Flow
from models.outbound import Form, Outbound
from models.partitions import ByHash, ByTime, Every
from models.tables import ChildRow, ParentRow


class Reading(BaseModel):
    meter: Text
    read_at: Instant
    value: int
    notes: list[Text] = []


class MeterRow(ParentRow):
    __tablename__ = "meters"

    meter: Mapped[str] = mapped_column(primary_key=True)
    read_at: Mapped[datetime] = mapped_column(primary_key=True)
    value: Mapped[int]
    # more


class NoteRow(ChildRow):
    __tablename__ = "meter_notes"
    __table_args__ = (
        ForeignKeyConstraint(["meter", "read_at"], ["meters.meter", "meters.read_at"], ondelete="CASCADE"),
    )

    meter: Mapped[str] = mapped_column(primary_key=True)
    read_at: Mapped[datetime] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    note: Mapped[str]


def to_rows(reading):
    notes = [{"number": number, "note": note} for number, note in enumerate(reading.notes)]
    yield {"meter": reading.meter, "read_at": reading.read_at, "value": reading.value, "meter_notes": notes}


def to_document(row):
    notes = [note["note"] for note in row["meter_notes"]]
    return {"meter": row["meter"], "read_at": row["read_at"].isoformat(), "value": row["value"], "notes": notes}


FLOW = Flow(
    record=Reading,
    table=MeterRow,
    children=(NoteRow,),
    to_rows=to_rows,
    partitions=PARTITIONS,
    outbound=(OUTBOUND),
)
'''
BY_MONTH = 'ByTime("read_at", every=Every.MONTH, since=date(2020, 1, 1))'
OUTBOUND = 'Outbound("meters-{file_id}.json", form=Form.ARRAY, document=Reading, to_document=to_document),'
THIS_MONTH = Every.MONTH.start(datetime.now(UTC))
AHEAD = [f"meters_p{start:%Y_%m}" for start in (THIS_MONTH, Every.MONTH.after(THIS_MONTH))]


@contextmanager
def with_meters(
    site: Site, folder: Path, by: str = BY_MONTH, *, outbound: str = OUTBOUND, more: str = ""
) -> Iterator[Site]:
    code = METERS.replace("PARTITIONS", by).replace("OUTBOUND", outbound).replace("# more", more)
    with flow_files(folder, meters=code) as flows_dir:
        made = Site(site.settings.model_copy(update={"flows_dir": flows_dir}))
        yield made


@pytest.fixture
def metering(site: Site, tmp_path: Path) -> Iterator[Site]:
    with with_meters(site, tmp_path / "flows") as made:
        prepare(made)
        yield made


def prepare(site: Site) -> None:
    with databases.open_database(site.settings) as database:
        schema.prepare(database.engine, site.flows(), [site.input.parent / "migrations"])


def reading(meter: str = "M1", at: str = "2022-05-05T22:02:34Z", value: int = 1, *notes: str) -> dict[str, Any]:
    return {"meter": meter, "read_at": at, "value": value, "notes": list(notes)}


def load(site: Site, name: str, *records: dict[str, Any]) -> dict[str, Any]:
    """The file's line in the ledger."""
    site.drop(name, list(records), flow="meters")
    (result,) = site.load()
    assert result.wait is None, result.wait
    return site.ledger()[-1]


def partitions_of(site: Site, table: str = "meters") -> list[str]:
    query = "select inhrelid::regclass::text as name from pg_inherits where inhparent = %s::regclass order by 1"
    return [row["name"] for row in site.query(query, table)]


def placed(site: Site, table: str = "meters") -> dict[str, int]:
    """How many rows each partition holds."""
    rows = site.query(f"select tableoid::regclass::text as name, count(*) as n from {table} group by 1 order by 1")
    return {row["name"]: row["n"] for row in rows}


def test_a_table_begins_with_this_period_the_next_and_both_ends(metering: Site) -> None:
    assert partitions_of(metering) == ["meters_earlier", "meters_later", *AHEAD]
    assert len(partitions_of(metering, "meter_notes")) == 4


def test_rows_find_their_partition_whenever_they_are_of(metering: Site) -> None:
    moments = [
        *("1000-01-01T00:00:00Z", "2019-12-31T23:59:59Z"),
        *("2020-01-01T00:00:00+00:00", "2020-02-01T00:30:00+01:00"),
        *("2022-05-05T22:02:34Z", "2099-12-31T23:59:59Z"),
        *("2100-01-01T00:00:00Z", "9000-12-31T23:59:59Z"),
    ]
    line = load(metering, "a.json", *(reading("M1", at, 1, "note") for at in moments))
    assert (line["status"], line["inserted"], line["error"]) == ("loaded", 8, None)
    expected = {"earlier": 2, "later": 2, "p2020_01": 2, "p2022_05": 1, "p2099_12": 1}
    assert placed(metering) == {f"meters_{end}": count for end, count in expected.items()}
    assert placed(metering, "meter_notes") == {f"meter_notes_{end}": count for end, count in expected.items()}


def test_rows_are_inserted_updated_left_and_counted_as_ever(metering: Site) -> None:
    both = [reading("M1", value=1), reading("M2", "2023-01-01T00:00:00Z")]
    assert load(metering, "1.json", *both)["inserted"] == 2
    again = load(metering, "2.json", both[0] | {"value": 2}, both[1], reading("M3"))
    assert (again["inserted"], again["updated"], again["unchanged"]) == (1, 1, 1)
    metering.execute("insert into meters (meter, read_at, value) values ('M4', '2022-05-05T22:02:34Z', 1)")
    by_hand = load(metering, "3.json", reading("M4", value=2), reading("M5"), reading("M5", value=3))
    assert (by_hand["inserted"], by_hand["updated"], by_hand["unchanged"]) == (1, 1, 0)
    assert [row["value"] for row in metering.rows("meters")] == [2, 1, 1, 2, 3]


def test_what_one_transaction_inserts_and_then_updates_is_counted_right(metering: Site) -> None:
    flow = metering.flows()["meters"]
    at = datetime(2022, 5, 5, tzinfo=UTC)
    with databases.open_database(metering.settings) as database, database.connect() as connection:
        upsert = RowUpsert(flow)
        with connection.transaction():
            counts = [upsert.upsert(connection, [staged(flow, at, value)])[0] for value in (1, 2, 2)]
    assert [(sum(c.inserted.values()), sum(c.updated.values())) for c in counts] == [(1, 0), (0, 1), (0, 0)]


def staged(flow: Flow, at: datetime, value: int) -> Row:
    values = {"meter": "M1", "read_at": at, "value": value, "children_digest": b""}
    return Row(tuple(values[column] for column in flow.columns), value, 0, ([],))


def test_children_are_replaced_and_go_with_their_parent(metering: Site) -> None:
    load(metering, "1.json", reading("M1", "2022-05-05T22:02:34Z", 1, "a", "b"))
    assert load(metering, "2.json", reading("M1", "2022-05-05T22:02:34Z", 1, "c"))["updated"] == 1
    assert [row["note"] for row in metering.rows("meter_notes")] == ["c"]
    metering.execute("delete from meters")
    assert metering.rows("meter_notes") == []
    assert load(metering, "3.json", reading("M1", "2022-05-05T22:02:34Z", 5, "d"))["inserted"] == 1


def test_rows_go_out_and_again_when_they_are_changed_by_hand(metering: Site) -> None:
    def sent() -> list[str]:
        return sorted(metering.out("meters").values())

    with running(metering):
        metering.drop(
            "a.json",
            [reading("M1", "2022-05-05T22:02:34Z", 1, "a"), reading("M2", "2024-01-01T00:00:00Z")],
            flow="meters",
        )
        metering.settled(1)
        eventually(lambda: all(row["is_synced"] for row in metering.rows("meters")), what="both rows out")
        metering.execute("update meters set value = 7 where meter = 'M1'")
        eventually(lambda: '"value":7' in "".join(sent()), what="the change by hand out")
        metering.execute("update meter_notes set note = 'by hand'")
        eventually(lambda: '"by hand"' in "".join(sent()), what="the change of a child out")
        eventually(lambda: all(row["is_synced"] for row in metering.rows("meters")), what="all of it marked")
    assert "files of" not in metering.log()


def test_trace_and_status_know_its_rows(metering: Site) -> None:
    load(metering, "1.json", reading("M1"), reading("M2", "2024-01-01T00:00:00Z"))
    assert "1.json" in metering.call("trace", "meters", "M1", "2022-05-05T22:02:34Z").stdout
    line = next(line for line in metering.call("status").stdout.splitlines() if line.startswith("meters "))
    assert line.split()[2] == "1"
    assert line.split()[6:8] == ["2", "2"]


def test_a_bad_record_alone_is_rejected(metering: Site) -> None:
    metering.execute("alter table meters add constraint small check (value < 100)")
    line = load(
        metering,
        "1.json",
        reading("M1"),
        reading("M2", "2024-01-01T00:00:00Z", 100),
        reading("M3", "2025-01-01T00:00:00Z"),
    )
    assert (line["status"], line["inserted"], line["rejected"]) == ("partial", 2, 1)
    assert "meters_p2024_01" in partitions_of(metering)


def test_nobody_who_reads_or_writes_waits_for_a_new_partition(metering: Site) -> None:
    """Where no table of children refers to it: attaching a part of theirs locks what they refer to against writers."""
    load(metering, "1.json", reading("M1"))
    metering.execute("alter table meter_notes drop constraint meter_notes_meter_read_at_fkey")
    with psycopg.connect(metering.url) as loading, psycopg.connect(metering.url, options="-c lock_timeout=2s") as other:
        flow = metering.flows()["meters"]
        assert flow.partitions is not None
        made = partitions.PartitionsByTime(flow, flow.partitions)  # type: ignore[arg-type]
        made.make(loading, {date(2021, 3, 1)})
        assert other.execute("select count(*) from meters").fetchone() == (1,)
        other.execute("update meters set outbound_file_id = 1")
        other.execute("insert into meters (meter, read_at, value) values ('M2', '2022-05-05T22:02:34Z', 1)")


def test_loaders_that_need_the_same_partition_make_it_once(metering: Site) -> None:
    flow = metering.flows()["meters"]
    assert flow.partitions is not None
    made = partitions.PartitionsByTime(flow, flow.partitions)  # type: ignore[arg-type]

    def make(_: int) -> None:
        with psycopg.connect(metering.url) as connection:
            made.make(connection, {date(2021, month, 1) for month in range(1, 13)})

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(make, range(4)))
    assert [name for name in partitions_of(metering) if "_p2021" in name] == [
        f"meters_p2021_{n:02}" for n in range(1, 13)
    ]


def test_a_load_that_is_taken_back_takes_its_partitions_with_it(metering: Site) -> None:
    flow = metering.flows()["meters"]
    upsert = RowUpsert(flow)
    at = datetime(2021, 5, 5, tzinfo=UTC)
    with databases.open_database(metering.settings) as database, database.connect() as connection:
        with connection.transaction(force_rollback=True):
            upsert.upsert(connection, [staged(flow, at, 1)])
        assert "meters_p2021_05" not in partitions_of(metering)
        with connection.transaction():
            upsert.upsert(connection, [staged(flow, at, 1)])
    assert placed(metering) == {"meters_p2021_05": 1}


def test_a_file_that_needs_very_many_partitions_is_rejected(metering: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partitions, "MOST_AT_ONCE", 3)
    before = partitions_of(metering)
    metering.drop("1.json", [reading("M1", f"2021-{month:02}-01T00:00:00Z") for month in range(1, 6)], flow="meters")
    metering.drop("2.json", [reading("M2")], flow="meters")
    metering.load()
    bad, good = sorted(metering.ledger(), key=lambda line: str(line["name"]))
    assert (bad["status"], good["status"], good["inserted"]) == ("rejected", "loaded", 1)
    assert bad["error"].startswith("records of 5 times by month, for each of which the table needs a new partition")
    assert partitions_of(metering) == [*before[:2], "meters_p2022_05", *before[2:]]


def test_a_partition_that_was_detached_is_not_missed(metering: Site) -> None:
    load(metering, "1.json", reading("M1"), reading("M2", "2023-01-01T00:00:00Z", 1, "a"))
    metering.execute("alter table meter_notes detach partition meter_notes_p2022_05; drop table meter_notes_p2022_05")
    metering.execute("alter table meters detach partition meters_p2022_05; drop table meters_p2022_05")
    assert load(metering, "2.json", reading("M3"))["inserted"] == 1
    assert placed(metering) == {"meters_p2022_05": 1, "meters_p2023_01": 1}


def test_partitions_of_others_are_used_as_they_are(metering: Site) -> None:
    metering.execute("create table of_2021 partition of meters for values from ('2021-01-01') to ('2022-01-01')")
    metering.execute("create table n_2021 partition of meter_notes for values from ('2021-01-01') to ('2022-01-01')")
    load(metering, "1.json", reading("M1", "2021-05-05T00:00:00Z"), reading("M1", "2021-07-05T00:00:00Z"))
    assert placed(metering) == {"of_2021": 2}
    metering.execute(
        "create table rest partition of meters default; create table n_rest partition of meter_notes default"
    )
    load(metering, "2.json", reading("M1", "2023-05-05T00:00:00Z"))
    assert placed(metering) == {"of_2021": 2, "rest": 1}


def test_the_migration_of_a_changed_flow_suits_its_partitions(site: Site, tmp_path: Path) -> None:
    with with_meters(site, tmp_path / "before") as first:
        prepare(first)
        load(first, "1.json", reading("M1"), reading("M2", "2024-01-01T00:00:00Z"))
    with with_meters(site, tmp_path / "after", more="unit: Mapped[str | None]") as changed:
        with pytest.raises(StopDaemon, match=r"column unit \(text\) is missing"):
            prepare(changed)
        folder = changed.input.parent / "migrations"
        with databases.open_database(changed.settings) as database:
            assert schema.revision(database.engine, changed.flows(), "units", [folder]) is not None
        prepare(changed)
        assert load(changed, "2.json", reading("M1", value=2), reading("M3", "2025-01-01T00:00:00Z"))["updated"] == 1
        changed.execute("update meters set is_synced = true; update meters set unit = 'kWh'")
        assert [row["is_synced"] for row in changed.rows("meters")] == [False] * 3
        with databases.open_database(changed.settings) as database:
            assert schema.revision(database.engine, changed.flows(), "nothing", [folder]) is None


def test_an_index_that_came_later_is_built_partition_by_partition(site: Site, tmp_path: Path) -> None:
    with with_meters(site, tmp_path / "before", outbound="") as silent:
        prepare(silent)
        load(silent, "1.json", reading("M1"), reading("M2", "2024-01-01T00:00:00Z"))
    with with_meters(site, tmp_path / "after") as sending:
        # As a crash left it: the table's own part, one partition's, and one that is half-built.
        site.execute("create index meters_unsynced_idx on only meters (changed_at, meter, read_at) "
                     "where not is_synced and outbound_error is null")  # fmt: skip
        site.execute("create index meters_p2022_05_unsynced_idx on meters_p2022_05 (value)")
        prepare(sending)
        query = "select indisvalid as valid from pg_index where indexrelid = 'meters_unsynced_idx'::regclass"
        assert site.query(query) == [{"valid": True}]
        load(sending, "2.json", reading("M1", "2021-01-01T00:00:00Z"))
        assert site.query(query) == [{"valid": True}]
        parts = site.query("select from pg_inherits where inhparent = 'meters_unsynced_idx'::regclass")
        assert len(parts) == len(partitions_of(site))


def test_partitions_by_hash_are_made_with_the_table(site: Site, tmp_path: Path) -> None:
    with with_meters(site, tmp_path / "flows", 'ByHash("meter", parts=4)') as made:
        prepare(made)
        assert partitions_of(made) == [f"meters_p00{n}" for n in range(4)]
        line = load(made, "1.json", *(reading(f"M{n}", "2022-05-05T22:02:34Z", 1, "a") for n in range(50)))
        assert line["inserted"] == 50
        assert len(placed(made)) == len(placed(made, "meter_notes")) == 4
        assert load(made, "2.json", reading("M7", value=2), reading("M99"))["updated"] == 1


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("None", BY_MONTH, "table meters is partitioned by nothing, in the declaration by RANGE (read_at)"),
        (BY_MONTH, 'ByHash("meter", parts=4)', "partitioned by RANGE (read_at), in the declaration by HASH (meter)"),
    ],
)
def test_a_table_that_is_partitioned_otherwise_stops_the_start(
    before: str, after: str, said: str, site: Site, tmp_path: Path
) -> None:
    with with_meters(site, tmp_path / "before", before) as made:
        prepare(made)
    with with_meters(site, tmp_path / "after", after) as made, pytest.raises(StopDaemon) as caught:
        prepare(made)
    assert said in caught.value.reason


@pytest.mark.parametrize(
    ("by", "said"),
    [
        ('ByTime("value")', "partitions are by a column of the key"),
        ('ByTime("meter")', "partitions by time are by a timestamptz or a date"),
        ('ByHash("meter", parts=1)', "2 to 1000 partitions by hash"),
    ],
)
def test_a_declaration_that_cannot_be_is_refused(by: str, said: str, site: Site, tmp_path: Path) -> None:
    with with_meters(site, tmp_path / "flows", by) as made, pytest.raises(StopDaemon, match=said):
        made.flows()


def test_a_period_may_become_shorter_and_longer_again(site: Site, tmp_path: Path) -> None:
    with with_meters(site, tmp_path / "months") as made:
        prepare(made)
        load(made, "1.json", reading("M1"))
    with with_meters(site, tmp_path / "days", BY_MONTH.replace("MONTH", "DAY")) as made:
        prepare(made)
        load(made, "2.json", reading("M2"), reading("M3", "2021-03-04T00:00:00Z"))
        assert placed(made) == {"meters_p2021_03_04": 1, "meters_p2022_05": 2}
    with with_meters(site, tmp_path / "months again") as made:
        prepare(made)
        load(made, "3.json", reading("M4", "2021-03-31T00:00:00Z"))
        assert placed(made)["meters_p2021_03_05"] == 1


def test_rows_of_a_table_that_was_none_come_along_as_the_docs_say(site: Site, tmp_path: Path) -> None:
    _, _, section = (ROOT / "docs" / "flows.md").read_text().partition("## Partitioned tables")
    rename, copy = re.findall(r"```sql\n(.*?)```", section, re.DOTALL)
    with with_meters(site, tmp_path / "before", "None") as plain:
        prepare(plain)
        load(plain, "1.json", reading("M1", "2019-01-01T00:00:00Z"), reading("M2", "2022-05-31T23:59:59Z", 1, "a", "b"))
        plain.execute("update meters set is_synced = true")
        before = {table: plain.rows(table) for table in ("meters", "meter_notes")}
        for table in before:
            plain.execute(rename.replace("meters", table))
    with with_meters(site, tmp_path / "after") as made:
        prepare(made)
        for table in before:
            made.execute(copy.replace("meters", table).replace(f"loading = '{table}'", "loading = 'meters'"))
        assert {table: made.rows(table) for table in before} == before
        assert placed(made) == {"meters_earlier": 1, "meters_p2022_05": 1}
        again = load(made, "2.json", reading("M2", "2022-05-31T23:59:59Z", 1, "a", "b"), reading("M3"))
        assert (again["unchanged"], again["inserted"]) == (1, 1)
        made.execute("drop table meter_notes_before, meters_before")
        prepare(made)
