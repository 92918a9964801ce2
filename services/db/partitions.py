"""Partitions of flows' tables: those that a table begins with, and those that rows on their way need.

A new one is a table of its own until it is attached, so that whoever reads and writes the others goes on.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any

import psycopg
from loguru import logger
from psycopg import sql
from sqlalchemy import Connection, Table

from models.errors import RejectFile
from models.flow import Flow
from models.partitions import ByHash, ByTime
from services.db import types

MOST_AT_ONCE = 200
"""So many one transaction makes of a table; each takes locks, of which a server has some thousands."""

FIND_BY_KEY = "set local enable_hashjoin = off; set local enable_mergejoin = off"
"""Have a transaction find staged rows by their keys.

By a key only one partition is looked at. But the planner takes it for a look at each of them, and would read the whole
table instead: of 10,000,000 rows by month, 82,000 unchanged ones took ten times as long.
"""

# Those that were made here tell their period by their name: to read the bounds of all takes twenty times as long.
_NAMED = """
select count(*) from unnest(%s::text[]) n join pg_inherits i on i.inhrelid = to_regclass(n) where not i.inhdetachpending
"""

# A bound that is none (MINVALUE, MAXVALUE) is without end, and so is a default partition, which takes what is left.
_MISSING = """
with there as (
    select parent,
        coalesce((regexp_match(bound, 'FROM \\(''([^'']*)''\\)'))[1]::{type}, '-infinity') as low,
        coalesce((regexp_match(bound, 'TO \\(''([^'']*)''\\)'))[1]::{type}, 'infinity') as high
    from (select i.inhparent as parent, pg_get_expr(c.relpartbound, c.oid) as bound
          from pg_inherits i join pg_class c on c.oid = i.inhrelid
          where i.inhparent = any(%(tables)s::text[]::regclass[])) b
)
select wanted.place, n.nspname, p.relname, w.high,
    greatest(w.low, (select max(t.high) from there t
                     where t.parent = p.oid and t.low < w.high and t.high > w.low and t.high < w.high)) as low
from unnest(%(tables)s::text[]::regclass[]) with ordinality as wanted(parent, place)
join pg_class p on p.oid = wanted.parent
join pg_namespace n on n.oid = p.relnamespace
cross join unnest(%(lows)s::date[]::{type}[], %(highs)s::date[]::{type}[]) as w(low, high)
where not exists (select from there t where t.parent = p.oid and t.low <= w.low and t.high >= w.high)
order by wanted.place, w.low
"""

_LOCK = "lock table {tables} in share update exclusive mode"

_MAKE = """
create table {partition} (like {table} including all);
alter table {table} attach partition {partition} for values from ({low}) to ({high})
"""

_MAKE_END = "create table {partition} partition of {table} for values from ({low}) to ({high})"
_MAKE_HASH = "create table {partition} partition of {table} for values with (modulus {parts}, remainder {part})"


def declare(flows: Iterable[Flow]) -> None:
    """Have the tables of flows made as partitioned ones, by who makes them."""
    for flow in flows:
        if flow.partitions is not None:
            strategy = "HASH" if isinstance(flow.partitions, ByHash) else "RANGE"
            for table in flow.sql_tables:
                column = types.quoted(flow.partitions.column)
                table.dialect_options["postgresql"]["partition_by"] = f"{strategy} ({column})"


def begin(connection: Connection, flow: Flow, made: Sequence[Table]) -> None:
    """Make the partitions that tables begin with, and those of this period and the next.

    made: the tables that are new. Rows of other applications come in by the next period's partition, even where
    no file needed it before.
    """
    driver = connection.connection.driver_connection
    assert isinstance(driver, psycopg.Connection)
    for table in flow.sql_tables if flow.partitions else ():
        if table in made:
            for statement in _first(flow, table):
                driver.execute(statement)
    if isinstance(flow.partitions, ByTime):
        now = flow.partitions.every.start(datetime.now(UTC))
        PartitionsByTime(flow, flow.partitions).make(driver, {now, flow.partitions.every.after(now)})


def _first(flow: Flow, table: Table) -> list[sql.Composed]:
    """The statements that make the partitions with which a table begins."""
    name = sql.Identifier(table.name)
    if isinstance(flow.partitions, ByHash):
        parts = flow.partitions.parts
        return [
            sql.SQL(_MAKE_HASH).format(
                table=name, partition=sql.Identifier(f"{table.name}_p{part:03}"), parts=parts, part=part
            )
            for part in range(parts)
        ]
    assert flow.partitions is not None
    first, last = map(sql.Literal, flow.partitions.ends)
    bounds = {"earlier": (sql.SQL("minvalue"), first), "later": (last, sql.SQL("maxvalue"))}
    return [
        sql.SQL(_MAKE_END).format(table=name, partition=sql.Identifier(f"{table.name}_{end}"), low=low, high=high)
        for end, (low, high) in bounds.items()
    ]


class PartitionsByTime:
    """Makes the partitions of one flow's tables. The statements are made once from its declaration."""

    def __init__(self, flow: Flow, partitions: ByTime) -> None:
        self._partitions = partitions
        self._column = flow.key.index(partitions.column)
        self._names = [table.name for table in flow.sql_tables]
        self._tables = [sql.Identifier(name) for name in self._names]
        kind = types.full_name(flow.sql_table.columns[partitions.column])
        self._missing = sql.SQL(_MISSING).format(type=sql.SQL(kind))
        self._lock = sql.SQL(_LOCK).format(tables=sql.SQL(", ").join(self._tables))

    def make_for(self, connection: psycopg.Connection, keys: Iterable[Sequence[object]]) -> None:
        """Make what rows with these keys need, within the transaction that loads them.

        Raises RejectFile when they are of very many periods that no row was of before.
        """
        moments = [moment for key in keys if isinstance(moment := key[self._column], date)]
        self.make(connection, self._partitions.periods(moments))

    def make(self, connection: psycopg.Connection, starts: set[date]) -> None:
        """Make what is missing of the periods that begin on these days."""
        if self._are_there(connection, starts) or not self._find(connection, starts):
            return
        # Whoever makes partitions waits here for who does so already, and looks again.
        connection.execute(self._lock)
        missing = self._find(connection, starts)
        if len(missing) > MOST_AT_ONCE * len(self._tables):
            raise RejectFile(
                f"records of {len(missing) // len(self._tables)} times by {self._partitions.every}, for each of which "
                f"the table needs a new partition; {MOST_AT_ONCE} are made at once",
                hint="load it in parts, or have the flow's partitions hold more each",
            )
        for _, schema, table, high, low in missing:
            day = low.astimezone(UTC).date() if isinstance(low, datetime) else low
            partition = self._name(table, day)
            parts: Mapping[str, sql.Composable] = {
                "partition": sql.Identifier(schema, partition),
                "table": sql.Identifier(schema, table),
                "low": sql.Literal(low),
                "high": sql.Literal(high),
            }
            connection.execute(sql.SQL(_MAKE).format(**parts))
            logger.info("made the partition {}", partition)

    def _name(self, table: str, start: date) -> str:
        return f"{table}_p{self._partitions.every.label(start)}"

    def _are_there(self, connection: psycopg.Connection, starts: set[date]) -> bool:
        """Whether there is no need to look any further."""
        wanted = [types.quoted(self._name(table, start)) for table in self._names for start in starts]
        (found,) = connection.execute(_NAMED, [wanted]).fetchone() or (0,)
        return bool(found == len(wanted))

    def _find(self, connection: psycopg.Connection, starts: set[date]) -> list[tuple[Any, ...]]:
        lows = sorted(starts)
        values = {
            "tables": [table.as_string(None) for table in self._tables],
            "lows": lows,
            "highs": [self._partitions.every.after(low) for low in lows],
        }
        return connection.execute(self._missing, values).fetchall() if lows else []
