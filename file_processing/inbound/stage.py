"""Staging: rows into a temporary table by binary COPY."""

import hashlib
from collections.abc import Iterable, Sequence

from psycopg import Connection, Cursor, sql
from sqlalchemy import Table

from file_processing.inbound.encode import HEADER, TRAILER
from services.db import types
from services.db.identifiers import names

_CREATE = """
create temporary table if not exists {stage} on commit delete rows as
select {columns}, 0::bigint as source_file_id, 0 as record_position from {table} with no data
"""

_COPY = "copy {stage} ({columns}, source_file_id, record_position) from stdin (format binary)"


class Stage:
    """A temporary table that takes rows for some columns of a table."""

    def __init__(self, table: Table, columns: Sequence[str]) -> None:
        # A pooler may hand on a session in which another release left a stage of other columns.
        shape = ", ".join(f"{column} {types.full_name(table.columns[column])}" for column in columns)
        self.name = sql.Identifier(f"stage_{hashlib.sha256(f'{table.name} {shape}'.encode()).hexdigest()[:16]}")
        parts: dict[str, sql.Composable] = {
            "stage": self.name,
            "table": sql.Identifier(table.name),
            "columns": names(columns),
        }
        self._create = sql.SQL(_CREATE).format(**parts)
        self._copy = sql.SQL(_COPY).format(**parts).as_bytes(None)
        self._empty = sql.SQL("truncate {stage}").format(**parts)

    def create(self, connection: Connection) -> None:
        """Make sure that it is there."""
        connection.execute(self._create)

    def fill(self, cursor: Cursor, rows: Iterable[bytes]) -> None:
        """rows: encoded, each with where it comes from."""
        copy_rows(cursor, self._copy, rows)

    def empty(self, cursor: Cursor) -> None:
        cursor.execute(self._empty)


def copy_rows(cursor: Cursor, statement: bytes, rows: Iterable[bytes]) -> None:
    """Send encoded rows by binary COPY."""
    with cursor.copy(statement) as copy:
        copy.write(b"".join((HEADER, *rows, TRAILER)))
