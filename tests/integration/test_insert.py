"""New rows straight into the table: what comes of it is what staging them and an upsert would have made of it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

import psycopg
import pytest
from hypothesis import given, settings, strategies as st
from psycopg import Connection, sql
from psycopg.rows import dict_row
from sqlalchemy import (
    ARRAY,
    BigInteger,
    Double,
    Engine,
    Float,
    ForeignKeyConstraint,
    Integer,
    SmallInteger,
    String,
    Text,
)
from sqlalchemy.orm import Mapped, mapped_column
from typing_extensions import TypedDict

from file_processing.inbound import insert
from file_processing.inbound.insert import Insert
from models.errors import RestFlow
from models.flow import Flow
from models.tables import ChildRow, LoadedRow, ParentRow
from services.db import sqlstate
from tests.support.rows import Row, RowUpsert


class Anything(TypedDict):
    pass


class Thing(LoadedRow):
    __tablename__ = "insert_things"

    key: Mapped[str] = mapped_column(Text, primary_key=True)
    at: Mapped[int]
    word: Mapped[str | None] = mapped_column(String(5))


class Tag(LoadedRow):
    __tablename__ = "insert_tags"

    key: Mapped[str] = mapped_column(Text, primary_key=True)


class Parent(ParentRow):
    __tablename__ = "insert_parents"

    key: Mapped[str] = mapped_column(Text, primary_key=True)
    at: Mapped[int]


class Child(ChildRow):
    __tablename__ = "insert_children"
    __table_args__ = (ForeignKeyConstraint(["key"], ["insert_parents.key"], ondelete="CASCADE"),)

    key: Mapped[str] = mapped_column(Text, primary_key=True)
    number: Mapped[int] = mapped_column(SmallInteger, primary_key=True)


class Number(LoadedRow):
    __tablename__ = "insert_numbers"

    key: Mapped[int] = mapped_column(primary_key=True)
    small: Mapped[int | None] = mapped_column(SmallInteger)
    whole: Mapped[int | None] = mapped_column(Integer)
    big: Mapped[int | None] = mapped_column(BigInteger)
    single: Mapped[float | None] = mapped_column(Float(24))
    double: Mapped[float | None] = mapped_column(Double)
    smalls: Mapped[list[int] | None] = mapped_column(ARRAY(SmallInteger))
    wholes: Mapped[list[int] | None] = mapped_column(ARRAY(Integer))
    singles: Mapped[list[float] | None] = mapped_column(ARRAY(Float(24)))


NEWEST = Flow(record=Anything, table=Thing, name="newest", newest_by="at")
LAST = Flow(record=Anything, table=Thing, name="last")
FIRST = Flow(record=Anything, table=Thing, name="first", append_only=True)
TAGS = Flow(record=Anything, table=Tag, name="tags")
PARENTS = Flow(record=Anything, table=Parent, name="parents", newest_by="at", children=(Child,))
NUMBERS = Flow(record=Anything, table=Number, name="numbers")

Happened = tuple[object, ...]
TIMES = {"inserted_at", "changed_at"}


@pytest.fixture
def connection(engine: Engine) -> Iterator[Connection]:
    for table in (Thing, Tag, Parent, Child, Number):
        table.__table__.create(engine)  # type: ignore[attr-defined]
    with engine.connect() as pooled:
        made = pooled.connection.driver_connection
        assert isinstance(made, Connection)
        yield made


def rows(connection: Connection, flow: Flow) -> list[list[dict[str, Any]]]:
    """What stands in each of the flow's tables, but for the time at which it came there."""
    with connection.cursor(row_factory=dict_row) as cursor:
        return [
            [
                {name: value for name, value in row.items() if name not in TIMES}
                for row in cursor.execute(sql.SQL("select * from {} order by 1, 2").format(sql.Identifier(table.name)))
            ]
            for table in flow.sql_tables
        ]


@contextmanager
def only_staged() -> Iterator[None]:
    with mock.patch.object(Insert, "insert", return_value=False):
        yield


def happened(connection: Connection, flow: Flow, portions: Sequence[Sequence[Row]]) -> list[Happened]:
    """What came of each portion: the counts, the rejected records, the tables."""
    with connection.transaction(force_rollback=True):
        upsert = RowUpsert(flow)
        return [(*upsert.upsert(connection, portion), rows(connection, flow)) for portion in portions]


KEY = st.sampled_from("abcdefgh")
AT = st.integers(1, 3)
VALUES: dict[str, tuple[Flow, st.SearchStrategy[tuple[object, ...]], st.SearchStrategy[object]]] = {
    "newest": (NEWEST, st.tuples(KEY, AT, st.sampled_from([None, "x", "too long"])), st.none()),
    "last": (LAST, st.tuples(KEY, AT, st.sampled_from([None, "x", "nul\0"])), st.none()),
    "first": (FIRST, st.tuples(KEY, AT, st.sampled_from([None, "x"])), st.none()),
    "tags": (TAGS, st.tuples(KEY), st.none()),
    "parents": (
        PARENTS,
        st.tuples(KEY, AT, st.just(b"digest")),
        st.none() | st.tuples(st.lists(st.tuples(st.sampled_from([1, 2, 3, 40_000])), max_size=3)),
    ),
}


@pytest.mark.parametrize("name", VALUES)
def test_tables_and_counts_are_those_of_the_upsert(connection: Connection, name: str) -> None:
    flow, values, children = VALUES[name]
    record = st.lists(st.tuples(values, children), min_size=1, max_size=2)
    file = st.lists(record, max_size=3)

    @settings(max_examples=60)
    @given(st.lists(st.lists(file, max_size=2), max_size=4))
    def check(portions: list[list[list[list[tuple[tuple[object, ...], Any]]]]]) -> None:
        staged = [
            [
                Row(of_row[:-1] if flow.children and own is None else of_row, 10 * number + file_number, at, own)
                for file_number, of_file in enumerate(portion)
                for at, of_record in enumerate(of_file)
                for of_row, own in of_record
            ]
            for number, portion in enumerate(portions)
        ]
        staged = [[_with_digest(flow, row) for row in portion] for portion in staged]
        with mock.patch.object(insert, "PROBE_ROWS", 1):
            found = happened(connection, flow, staged)
        with only_staged():
            assert found == happened(connection, flow, staged)

    check()


def _with_digest(flow: Flow, row: Row) -> Row:
    """A record that says nothing of the children has no digest of them."""
    if not flow.children:
        return row
    return row._replace(values=(*row.values[:2], None if row.children is None else repr(row.children).encode()))


# Which way they went


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Of each try to insert, whether it went well."""
    results: list[bool] = []
    original: Callable[..., bool] = Insert.insert

    def told(*arguments: Any) -> bool:
        results.append(original(*arguments))
        return results[-1]

    monkeypatch.setattr(Insert, "insert", told)
    return results


def things(*keys: str) -> list[Row]:
    return [Row((key, 1, "x"), 1, position) for position, key in enumerate(keys)]


def test_new_rows_are_inserted_until_one_is_not_new_and_again_when_all_were(
    connection: Connection, tried: list[bool]
) -> None:
    upsert = RowUpsert(LAST)
    for keys, so_far in [
        ("ab", [True]),
        ("cd", [True, True]),
        ("de", [True, True, False]),
        ("ef", [True, True, False]),  # staged without a try
        ("gh", [True, True, False]),  # all new
        ("ij", [True, True, False, True]),
    ]:
        upsert.upsert(connection, things(*keys))
        assert tried == so_far
    assert len(rows(connection, LAST)[0]) == 10


def test_parents_are_inserted_with_their_children(connection: Connection, tried: list[bool]) -> None:
    given_rows = [Row(("a", 1, b"1"), 1, 0, ([(1,), (2,)],)), Row(("b", 1, None), 1, 1)]
    counts, _ = RowUpsert(PARENTS).upsert(connection, given_rows)
    assert (tried, counts.inserted) == ([True], {1: 2})
    assert rows(connection, PARENTS)[1] == [{"key": "a", "number": 1}, {"key": "a", "number": 2}]


def test_a_key_without_its_index_is_the_tables_fault(connection: Connection) -> None:
    connection.execute("alter table insert_things drop constraint insert_things_pkey")
    with pytest.raises(RestFlow, match="no unique or exclusion constraint"), sqlstate.of_a_flow():
        RowUpsert(LAST).upsert(connection, things("a"))


def test_a_row_that_a_trigger_leaves_out_is_not_counted_as_inserted(connection: Connection, tried: list[bool]) -> None:
    connection.execute("""
        create function pg_temp.not_b() returns trigger language plpgsql as
        $$ begin return case when new.key <> 'b' then new end; end $$;
        create trigger not_b before insert on insert_things for each row execute function pg_temp.not_b();
    """)
    counts, rejected = RowUpsert(LAST).upsert(connection, things("a", "b"))
    assert (tried, counts.inserted, counts.stale, rejected) == ([False], {1: 1}, {1: 1}, [])
    assert [row["key"] for row in rows(connection, LAST)[0]] == ["a"]


def test_what_the_server_cannot_do_now_is_no_reason_to_stage(connection: Connection, engine: Engine) -> None:
    connection.commit()
    with engine.connect() as other:
        other.exec_driver_sql("insert into insert_things (key, at) values ('a', 1)")
        connection.execute("set lock_timeout = '50ms'")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            RowUpsert(LAST).upsert(connection, things("a"))
    connection.rollback()


# No value is cut down to the width of its column

INTEGER = st.integers() | st.integers(-40_000, 40_000) | st.integers(-(2**33), 2**33)
FLOAT = st.floats(width=32) | st.floats()
BITS = {"small": 16, "whole": 32, "big": 64}


def numbers(**values: object) -> Row:
    return Row((1, *(values.get(column) for column in NUMBERS.columns[1:])), 1, 0)


def came_to(connection: Connection, column: str, value: object) -> list[Any]:
    """What stands in the column; nothing where the record is rejected."""
    with connection.transaction(force_rollback=True):
        _, rejected = RowUpsert(NUMBERS).upsert(connection, [numbers(**{column: value})])
        found = [row[column] for row in rows(connection, NUMBERS)[0]]
    assert len(found) + len(rejected) == 1
    return found


@pytest.mark.parametrize("column", BITS)
def test_an_integer_arrives_as_it_is_or_is_rejected(connection: Connection, column: str) -> None:
    fits = range(-(2 ** (BITS[column] - 1)), 2 ** (BITS[column] - 1))

    @settings(max_examples=50)
    @given(INTEGER | st.sampled_from([fits[0], fits[0] - 1, fits[-1], fits[-1] + 1]))
    def check(value: int) -> None:
        assert came_to(connection, column, value) == ([value] if value in fits else [])
        if column != "big":
            found = came_to(connection, f"{column}s", [0, value])
            assert found == ([[0, value]] if value in fits else [])

    check()


def test_a_float_arrives_as_near_as_its_column_tells_or_is_rejected(connection: Connection) -> None:
    @settings(max_examples=50)
    @given(FLOAT | st.sampled_from([3.4028235e38, 3.5e38, 1e-50, 1.2e-38, float("inf")]))
    def check(value: float) -> None:
        assert came_to(connection, "double", value) == [pytest.approx(value, rel=0, abs=0, nan_ok=True)]
        single = came_to(connection, "single", value)
        assert single in ([], [pytest.approx(value, rel=1e-6, abs=1e-44, nan_ok=True)])
        found = came_to(connection, "singles", [value])
        assert found in ([], [[pytest.approx(value, rel=1e-6, abs=1e-44, nan_ok=True)]])
        assert len(found) == len(single)
        with only_staged():
            assert len(came_to(connection, "single", value)) == len(single)

    check()


def test_real_takes_what_the_server_would_take(connection: Connection) -> None:
    edges = [2.0**-149, 2.0**-150, 2.0**-150 * 1.01, 2.0**128 - 2.0**103, 2.0**128 - 2.0**103 * 1.01, 1e-320, -0.0]

    @settings(max_examples=80)
    @given(FLOAT | st.sampled_from([sign * edge for edge in edges for sign in (1, -1)]))
    def check(value: float) -> None:
        try:
            with connection.transaction():
                expected = connection.execute("select %s::float8::real", [value]).fetchall()[0]
        except psycopg.errors.NumericValueOutOfRange:
            expected = ()
        found = came_to(connection, "single", value)
        assert found == [pytest.approx(each, rel=0, abs=0, nan_ok=True) for each in expected]

    check()


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("small", 2**15, "small: 32768 does not fit smallint, which holds -32768 to 32767"),
        ("whole", 2**32 + 7, "whole: 4294967303 does not fit integer, which holds -2147483648 to 2147483647"),
        ("big", 2**63, "big: "),
        ("wholes", [[1, 2], [3, 2**31]], "wholes: 2147483648 does not fit integer"),
        ("single", 1e39, "single: 1e+39 does not fit real, which holds 1.4e-45 to 3.4e+38"),
        ("smalls", [None, -(2**15) - 1], "smalls: -32769 does not fit smallint"),
        ("whole", "7", "whole: a value is not of its column's type: "),
        ("double", [], "double: a value is not of its column's type: "),
        ("wholes", [1, "x"], "wholes: a value is not of its column's type: "),
    ],
)
def test_a_value_that_does_not_fit_is_told_by_the_name_of_its_column(
    connection: Connection, column: str, value: object, reason: str
) -> None:
    good = numbers()._replace(position=1)
    counts, (rejected,) = RowUpsert(NUMBERS).upsert(connection, [numbers(**{column: value}), good])
    assert (rejected.position, rejected.reason[: len(reason)]) == (0, reason)
    assert counts.inserted == {1: 1}
