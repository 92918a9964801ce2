"""Staging: rows into a temporary table by binary COPY."""

import hashlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import psycopg
from psycopg import Connection, Cursor, sql
from sqlalchemy import Table

from file_processing.inbound.validate import ChildRows, RowValues
from services.db import types
from services.db.identifiers import names

# psycopg cuts a number down to the width of such a column without a word, so it is sent in
# a wider one: then the server rejects what does not fit.
_WIDE = {"smallint": "bigint", "integer": "bigint", "real": "double precision", "float": "double precision"}
_WIDE |= {f"{narrow}[]": f"{wide}[]" for narrow, wide in _WIDE.items()}

_CREATE = """
create temporary table if not exists {stage} on commit delete rows as
select {wide}, 0::bigint as source_file_id, 0 as record_position from {table} with no data
"""

_DESCRIBE = "select {columns}, source_file_id, record_position from {stage} limit 0"

_COPY = "copy {stage} ({columns}, source_file_id, record_position) from stdin (format binary)"


class StagedRow(NamedTuple):
    """One row on its way into the table: its values, and the file and record it comes from.

    children: its rows for each table of children; `None` leaves what is there.
    """

    values: RowValues
    file_id: int
    position: int
    children: ChildRows | None = None


class Stage:
    """A temporary table that takes rows for some columns of a table.

    narrow: the columns that are wider here than there, each with its type there.
    """

    def __init__(self, table: Table, columns: Sequence[str]) -> None:
        known = {column: types.base_name(table.columns[column]) for column in columns}
        wide = {column: _WIDE[name] for column, name in known.items() if name in _WIDE}
        there = {column: types.full_name(table.columns[column]) for column in columns}
        self.narrow = {column: there[column] for column in wide}
        # A pooler may hand on a session in which another release left a stage of other columns.
        shape = ", ".join(f"{column} {name}" for column, name in (there | wide).items())
        self.name = sql.Identifier(f"stage_{hashlib.sha256(f'{table.name} {shape}'.encode()).hexdigest()[:16]}")
        parts: dict[str, sql.Composable] = {
            "stage": self.name,
            "table": sql.Identifier(table.name),
            "columns": names(columns),
            "wide": names(columns, cast=wide),
        }
        self._create = sql.SQL(_CREATE).format(**parts)
        self._describe = sql.SQL(_DESCRIBE).format(**parts)
        self._copy = sql.SQL(_COPY).format(**parts)
        self._empty = sql.SQL("truncate {stage}").format(**parts)

    def create(self, connection: Connection) -> list[int]:
        """Make sure that it is there; the types of its columns, by their OID."""
        connection.execute(self._create)
        return [column.type_code for column in connection.execute(self._describe).description or ()]

    def fill(self, cursor: Cursor, type_oids: Sequence[int], rows: Iterable[StagedRow]) -> None:
        copy_rows(cursor, self._copy, type_oids, ((*row.values, row.file_id, row.position) for row in rows))

    def empty(self, cursor: Cursor) -> None:
        cursor.execute(self._empty)


def copy_rows(cursor: Cursor, statement: sql.Composed, type_oids: Sequence[int], rows: Iterable[RowValues]) -> None:
    """Send rows by binary COPY. Raises psycopg.Error, DataError also for a value that cannot be sent as its type."""
    try:
        with cursor.copy(statement) as copy:
            copy.set_types(type_oids)
            for row in rows:
                copy.write_row(row)
    except (TypeError, AttributeError) as error:  # what psycopg raises of a value of another type
        raise psycopg.DataError(f"a value is not of its column's type: {error}") from error
