"""Rows into a table: what is inserted, updated, unchanged and stale, and which rows the database rejects."""

import uuid
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import example, given, settings, strategies as st
from psycopg import Connection, sql
from psycopg.rows import dict_row
from sqlalchemy import (
    ARRAY,
    CheckConstraint,
    Date,
    Double,
    Engine,
    Float,
    Integer,
    LargeBinary,
    Numeric,
    SmallInteger,
    String,
    Text,
    Time,
    Uuid,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column
from typing_extensions import TypedDict

from file_processing.inbound.upsert import UpsertCounts
from models.flow import Flow
from models.tables import LoadedRow
from tests.support.rows import Row, RowUpsert


class Anything(TypedDict):
    pass


class Thing(LoadedRow):
    __tablename__ = "upsert_things"

    key: Mapped[str] = mapped_column(Text, primary_key=True)
    at: Mapped[int]
    word: Mapped[str | None] = mapped_column(String(5))


class Tag(LoadedRow):
    __tablename__ = "upsert_tags"

    key: Mapped[str] = mapped_column(Text, primary_key=True)
    tag: Mapped[str] = mapped_column(Text, primary_key=True)


class Everything(LoadedRow):
    __tablename__ = "upsert_everything"
    __table_args__ = (CheckConstraint("small <> 13", name="superstition"),)

    key: Mapped[uuid.UUID] = mapped_column(Uuid, primary_key=True)
    small: Mapped[int | None] = mapped_column(SmallInteger)
    whole: Mapped[int | None] = mapped_column(Integer)
    price: Mapped[Decimal | None] = mapped_column(Numeric(10, 2))
    exact: Mapped[Decimal | None] = mapped_column(Numeric)
    double: Mapped[float | None] = mapped_column(Double)
    single: Mapped[float | None] = mapped_column(Float(24))
    yes: Mapped[bool | None]
    day: Mapped[date | None] = mapped_column(Date)
    at: Mapped[datetime | None]
    hour: Mapped[time | None] = mapped_column(Time)
    raw: Mapped[bytes | None] = mapped_column(LargeBinary)
    tree: Mapped[Any | None] = mapped_column(JSONB)
    words: Mapped[list[str] | None] = mapped_column(ARRAY(Text))
    numbers: Mapped[list[int] | None] = mapped_column(ARRAY(Integer))


NEWEST = Flow(record=Anything, table=Thing, name="newest", newest_by="at")
LAST = Flow(record=Anything, table=Thing, name="last")
FIRST = Flow(record=Anything, table=Thing, name="first", append_only=True)
KEYS = Flow(record=Anything, table=Tag, name="keys")
ALL_TYPES = Flow(record=Anything, table=Everything, name="all_types")


@pytest.fixture
def connection(engine: Engine) -> Iterator[Connection]:
    for table in (Thing, Tag, Everything):
        table.__table__.create(engine)  # type: ignore[attr-defined]
    with engine.connect() as pooled:
        made = pooled.connection.driver_connection
        assert isinstance(made, Connection)
        yield made


def rows(connection: Connection, flow: Flow) -> list[dict[str, Any]]:
    query = sql.SQL("select * from {} order by 1, 2").format(sql.Identifier(flow.sql_table.name))
    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(query).fetchall()


def empty(connection: Connection, flow: Flow) -> None:
    connection.execute(sql.SQL("truncate {}").format(sql.Identifier(flow.sql_table.name)))


# The same in plain Python


@dataclass
class Model:
    """What a table of this flow holds, by key: the data, and file and record that they come from."""

    flow: Flow
    table: dict[tuple[object, ...], tuple[tuple[object, ...], tuple[int, int]]] = field(default_factory=dict)

    def upsert(self, rows: Sequence[Row]) -> UpsertCounts:
        counts = UpsertCounts(Counter(), Counter(), Counter(), Counter())
        written = set()
        for key, candidates in self.by_key(rows).items():
            winner = (min if self.flow.append_only else max)(candidates, key=self.rank)
            origin = (winner.file_id, winner.position)
            if key not in self.table:
                counts.inserted[winner.file_id] += 1
            elif self.replaces(self.table[key][0], winner):
                counts.updated[winner.file_id] += 1
            else:
                continue
            self.table[key] = (self.data(winner), origin)
            written.add(origin)
        for row in rows:
            if (row.file_id, row.position) not in written:
                same = self.table[self.key(row)][0] == self.data(row)
                (counts.unchanged if same else counts.stale)[row.file_id] += 1
        return counts

    def by_key(self, rows: Sequence[Row]) -> dict[tuple[object, ...], list[Row]]:
        grouped = defaultdict(list)
        for row in rows:
            grouped[self.key(row)].append(row)
        return grouped

    def key(self, row: Row) -> tuple[object, ...]:
        return row.values[: len(self.flow.key)]

    def data(self, row: Row) -> tuple[object, ...]:
        return row.values[len(self.flow.key) :]

    def rank(self, row: Row) -> tuple[Any, ...]:
        time = (row.values[1],) if self.flow.newest_by else ()
        return (*time, row.file_id, row.position)

    def replaces(self, old: tuple[object, ...], new: Row) -> bool:
        if self.flow.append_only or self.data(new) == old:
            return False
        return not self.flow.newest_by or old[0] <= self.data(new)[0]  # type: ignore[operator]


KEY = st.sampled_from("abc")
FILE = st.lists(st.tuples(KEY, st.integers(1, 3), st.none() | st.sampled_from(["x", "y"])), min_size=1, max_size=5)
BATCHES = st.lists(st.lists(FILE, min_size=1, max_size=3), min_size=1, max_size=3)


def staged(batches: Sequence[Sequence[Sequence[tuple[object, ...]]]]) -> Iterator[list[Row]]:
    """Files in batches; the ids of files rise in the order of their arrival."""
    file_id = 0
    for batch in batches:
        of_batch = []
        for file in batch:
            file_id += 1
            of_batch += [Row(values, file_id, position) for position, values in enumerate(file)]
        yield of_batch


def equals_model(connection: Connection, flow: Flow, batches: Sequence[Sequence[Sequence[tuple[object, ...]]]]) -> None:
    empty(connection, flow)
    model, upsert = Model(flow), RowUpsert(flow)
    for batch in staged(batches):
        counts, rejected = upsert.upsert(connection, batch)
        expected = model.upsert(batch)
        assert rejected == []
        for name in ("inserted", "updated", "unchanged", "stale"):
            assert +getattr(counts, name) == +getattr(expected, name), name
        assert sum((counts.inserted + counts.updated + counts.unchanged + counts.stale).values()) == len(batch)
        there = {
            tuple(row[c] for c in flow.key): (
                tuple(row[c] for c in flow.columns if c not in flow.key),
                (row["source_file_id"], row["record_position"]),
            )
            for row in rows(connection, flow)
        }
        assert there == model.table
    connection.commit()


@pytest.mark.parametrize("flow", [NEWEST, LAST, FIRST], ids=lambda flow: flow.name)
def test_rows_and_counts_are_those_of_the_rule(connection: Connection, flow: Flow) -> None:
    @settings(max_examples=60)
    @given(BATCHES)
    @example([[[("a", 1, "x"), ("a", 1, "y")]], [[("a", 1, "x")], [("a", 1, "x")]]])
    def check(batches: list[list[list[tuple[object, ...]]]]) -> None:
        equals_model(connection, flow, batches)

    check()


# In the order of the key


def test_rows_reach_the_table_in_the_order_of_their_key(connection: Connection) -> None:
    upsert = RowUpsert(NEWEST)
    query = "select key from upsert_things order by ctid"
    for at, keys in [(1, "dbeac"), (2, "baced")]:  # inserted, and then updated
        rows = [Row((key, at, "x"), 10 * at + number % 2, number) for number, key in enumerate(keys)]
        upsert.upsert(connection, sorted(rows, key=lambda row: row.file_id))
        assert "".join(key for (key,) in connection.execute(query)) == "abcde"


def test_keys_that_cannot_be_compared_are_the_databases_to_judge(connection: Connection) -> None:
    given_rows = [Row((key, 1, "x"), 1, position) for position, key in enumerate(["b", None, "a"])]
    counts, rejected = RowUpsert(LAST).upsert(connection, given_rows)
    assert (counts.inserted, [bad.position for bad in rejected]) == ({1: 2}, [1])


def test_a_table_of_keys_alone_only_grows(connection: Connection) -> None:
    @settings(max_examples=30)
    @given(st.lists(st.lists(st.lists(st.tuples(KEY, KEY), min_size=1), min_size=1, max_size=2), max_size=3))
    def check(batches: list[list[list[tuple[object, ...]]]]) -> None:
        equals_model(connection, KEYS, batches)

    check()


def test_a_row_tells_what_it_replaced(connection: Connection) -> None:
    upsert = RowUpsert(NEWEST)
    upsert.upsert(connection, [Row(("a", 1, "x"), 1, 7)])
    upsert.upsert(connection, [Row(("a", 2, "y"), 2, 3)])
    (row,) = rows(connection, NEWEST)
    assert (row["source_file_id"], row["record_position"]) == (2, 3)
    assert (row["replaced_file_id"], row["replaced_position"]) == (1, 7)


@pytest.mark.parametrize(("flow", "winner"), [(LAST, "y"), (FIRST, "x")], ids=["last", "first"])
def test_rows_of_one_record_with_one_key_keep_their_order(connection: Connection, flow: Flow, winner: str) -> None:
    for n in range(20):
        RowUpsert(flow).upsert(connection, [Row((f"k{n}", 1, word), 1, n) for word in "xzzzzzzy"])
    assert {row["word"] for row in rows(connection, flow)} == {winner}


def test_bad_rows_are_found_among_good_ones_and_take_their_record_along(connection: Connection) -> None:
    """A record is one key or several; a word of more than five characters does not fit."""
    record = st.lists(st.tuples(st.sampled_from("abcdefgh"), st.sampled_from(["x", "too long"])), max_size=3)

    @settings(max_examples=60)
    @given(st.lists(st.lists(record, max_size=6), max_size=4))
    def check(files: list[list[list[tuple[str, str]]]]) -> None:
        empty(connection, LAST)
        given_rows = [
            Row((key, 1, word), file_id, position)
            for file_id, file in enumerate(files)
            for position, of_record in enumerate(file)
            for key, word in of_record
        ]
        counts, rejected = RowUpsert(LAST).upsert(connection, given_rows)
        bad = {(row.file_id, row.position) for row in given_rows if row.values[2] == "too long"}
        assert sorted((r.file_id, r.position) for r in rejected) == sorted(bad)
        assert all("too long for type character varying(5)" in r.reason for r in rejected)
        good = [row for row in given_rows if (row.file_id, row.position) not in bad]
        assert {row["key"] for row in rows(connection, LAST)} == {row.values[0] for row in good}
        counted = counts.inserted + counts.updated + counts.unchanged + counts.stale
        assert counted == Counter(row.file_id for row in good)
        connection.commit()

    check()


def test_nothing_of_a_rejected_row_stays_in_the_way(connection: Connection) -> None:
    upsert = RowUpsert(LAST)
    _, rejected = upsert.upsert(connection, [Row(("a", 1, "too long"), 1, 0)])
    assert len(rejected) == 1
    counts, rejected = upsert.upsert(connection, [Row(("b", 1, "x"), 2, 0)])
    assert (counts.inserted, rejected) == (Counter({2: 1}), [])
    assert [row["key"] for row in rows(connection, LAST)] == ["b"]


FULL = {
    "small": -32_768,
    "whole": 2**31 - 1,
    "price": Decimal("12345678.90"),
    "exact": Decimal("1e-30"),
    "double": 1e300,
    "single": 0.5,
    "yes": True,
    "day": date(2026, 1, 31),
    "at": datetime(2026, 1, 31, 12, 0, 0, 1, tzinfo=UTC),
    "hour": time(23, 59, 59, 999_999),
    "raw": b"\0\xff",
    "tree": {"a": [1, None, {"b": "ü"}]},
    "words": ["a", "", "ü,\"'"],
    "numbers": [1, -2, 3],
}


def everything(**values: object) -> tuple[object, ...]:
    return (uuid.uuid5(uuid.NAMESPACE_DNS, "a"), *(values.get(name) for name in FULL))


def test_every_type_is_upserted_as_it_is(connection: Connection) -> None:
    upsert = RowUpsert(ALL_TYPES)
    assert upsert.upsert(connection, [Row(everything(**FULL), 1, 0)])[0].inserted == {1: 1}
    (row,) = rows(connection, ALL_TYPES)
    assert {name: row[name] for name in FULL} == FULL
    assert upsert.upsert(connection, [Row(everything(**FULL), 2, 0)])[0].unchanged == {2: 1}
    assert upsert.upsert(connection, [Row(everything(), 3, 0)])[0].updated == {3: 1}
    (row,) = rows(connection, ALL_TYPES)
    assert {row[name] for name in FULL} == {None}


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("exact", 3),
        ("exact", 10**400),
        ("price", 1),
        ("double", 1),
        ("tree", []),
        ("tree", "text"),
        ("tree", 1.5),
        ("tree", False),
        ("words", []),
        ("numbers", [None, 1]),
        ("at", datetime(2026, 1, 31, tzinfo=UTC) - timedelta(days=365 * 2025)),
    ],
)
def test_further_values_are_upserted(connection: Connection, column: str, value: object) -> None:
    upsert = RowUpsert(ALL_TYPES)
    assert upsert.upsert(connection, [Row(everything(**{column: value}), 1, 0)])[1] == []
    assert rows(connection, ALL_TYPES)[0][column] == value


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("small", 13),
        ("small", 40_000),
        ("whole", 2**31),
        ("price", Decimal(100000000)),
        ("double", "text"),
        ("words", ["nul \0"]),
        ("tree", {"nul": "\0"}),
        ("tree", {"nan": float("nan")}),
    ],
)
def test_a_value_that_does_not_fit_is_rejected_and_not_mended(
    connection: Connection, column: str, value: object
) -> None:
    _, rejected = RowUpsert(ALL_TYPES).upsert(connection, [Row(everything(**{column: value}), 1, 0)])
    assert [(r.file_id, r.position) for r in rejected] == [(1, 0)]
    assert rows(connection, ALL_TYPES) == []
