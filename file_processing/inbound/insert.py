"""New rows straight into their tables: half the work that staging them and one upsert is for the server.

It goes well where all of them are new and the database takes each. Else nothing is inserted, and the upsert judges.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice

import psycopg
from psycopg import Connection, Cursor, sql
from psycopg.postgres import types
from sqlalchemy import Table

from file_processing.inbound.stage import StagedRow, copy_rows
from file_processing.inbound.validate import RowValues
from models.errors import RetryLater
from models.flow import Flow
from services.db import sqlstate
from services.db.identifiers import names

PROBE_ROWS = 1_000
"""Of many rows the first so many go alone: where rows are known one is mostly among them, and little was in vain."""

_DESCRIBE = "select {columns} from {table} limit 0"

_COPY = "copy {table} ({columns}) from stdin (format binary)"

# Without such an index an upsert fails, while COPY would insert a key twice. Nothing is executed.
_KEY_IS_UNIQUE = (
    "explain insert into {table} ({key}) select {key} from {table} where false on conflict ({key}) do nothing"
)


def _integers(bits: int) -> Callable[[Iterable[object]], bool]:
    """Whether all values are integers of so many bits, or null."""
    least, end = -(2 ** (bits - 1)), 2 ** (bits - 1)
    return lambda values: all(value is None or (isinstance(value, int) and least <= value < end) for value in values)


def _single(values: Iterable[object]) -> bool:
    """Whether all values are zero, null, or within what `real` can tell from zero and infinity."""
    least, most = 2.0**-126, 2.0**128 - 2.0**104
    return all(not value or (isinstance(value, float) and least <= abs(value) <= most) for value in values)


# psycopg sends these as they are or not at all. Others it may cut down to the column's width without a word; of the
# narrow ones it is easily said what fits.
_WHOLE = ("bool", "bytea", "date", "float8", "int8", "json", "jsonb", "numeric", "text", "time", "uuid", "varchar")
_SENT_WHOLE = {
    oid for name in (*_WHOLE, "timestamp", "timestamptz") for oid in (types[name].oid, types[name].array_oid)
}
_NARROW = {types["int2"].oid: _integers(16), types["int4"].oid: _integers(32), types["float4"].oid: _single}


class Insert:
    """Inserts rows of one flow, and their children. The statements are made once from its declaration."""

    def __init__(self, flow: Flow) -> None:
        table, *children = flow.sql_tables
        self._table = _Table(table, flow.columns, with_source=True)
        self._children = [
            _Table(child, [*flow.key, *flow.child_columns(number)], with_source=False)
            for number, child in enumerate(children)
        ]
        # Else there may be children of a parent that is not there yet, which it must not find.
        self._possible = all(_refers(child, table) for child in children)
        self._key_is_unique = sql.SQL(_KEY_IS_UNIQUE).format(table=sql.Identifier(table.name), key=names(flow.key))

    def insert(
        self, connection: Connection, rows: Sequence[StagedRow], children: Sequence[Sequence[StagedRow]]
    ) -> bool:
        """Insert all rows and their children, or none, within the connection's transaction; whether they are in.

        children: for each table of children, with the key of their parents.
        Raises psycopg.Error where the database can do nothing now.
        """
        if not self._possible:
            return False
        try:
            with connection.transaction(), connection.cursor() as cursor:
                cursor.execute(self._key_is_unique)
                both = zip([self._table, *self._children], [rows, *children], strict=True)
                if not all(table.insert(cursor, its_rows) for table, its_rows in both):
                    raise psycopg.Rollback
                return True
        except Exception as error:
            fault = sqlstate.translate(error)
            if fault is None or isinstance(fault, RetryLater):
                raise
        return False


class _Table:
    """A table that takes rows for some of its columns.

    with_source: it also takes the file and the record that a row comes from.
    """

    def __init__(self, table: Table, columns: Sequence[str], *, with_source: bool) -> None:
        source = ["source_file_id", "record_position"] if with_source else []
        parts = {"table": sql.Identifier(table.name), "columns": names([*columns, *source])}
        self._describe = sql.SQL(_DESCRIBE).format(**parts)
        self._copy = sql.SQL(_COPY).format(**parts)
        self._with_source = with_source
        self._checked = range(len(columns))

    def insert(self, cursor: Cursor, rows: Sequence[StagedRow]) -> bool:
        """Whether all are in the table then: a value may not fit, and a trigger of its own may leave some out."""
        oids = [column.type_code for column in cursor.execute(self._describe).description or ()]
        if not all(_can_be_sent(rows, index, oids[index]) for index in self._checked):
            return False
        values = self._values(rows)
        inserted = 0
        for most in (PROBE_ROWS, None) if len(rows) > 2 * PROBE_ROWS else (None,):
            copy_rows(cursor, self._copy, oids, islice(values, most))
            inserted += cursor.rowcount
        return inserted == len(rows)

    def _values(self, rows: Sequence[StagedRow]) -> Iterator[RowValues]:
        if self._with_source:
            return ((*row.values, row.file_id, row.position) for row in rows)
        return (row.values for row in rows)


def _can_be_sent(rows: Sequence[StagedRow], index: int, oid: int) -> bool:
    """Whether the values of a column reach the server as they are, or fail to."""
    if oid in _NARROW:
        return _NARROW[oid](row.values[index] for row in rows)
    return oid in _SENT_WHOLE


def _refers(child: Table, parent: Table) -> bool:
    return any(constraint.referred_table is parent for constraint in child.foreign_key_constraints)
