"""New rows straight into their tables: half the work that staging them and one upsert is for the server.

It goes well where all of them are new and the database takes each. Else nothing is inserted, and the upsert judges.
"""

from collections.abc import Sequence

import psycopg
from psycopg import Connection, Cursor, sql
from sqlalchemy import Table

from file_processing.inbound import key_order
from file_processing.inbound.encode import SOURCE, EncodedRows
from file_processing.inbound.stage import copy_rows
from models.errors import RetryLater
from models.flow import Flow
from services.db import sqlstate
from services.db.identifiers import names

PROBE_ROWS = 1_000
"""Of many rows the first so many go alone: where rows are known one is mostly among them, and little was in vain."""

_COPY = "copy {table} ({columns}) from stdin (format binary)"

# Without such an index an upsert fails, while COPY would insert a key twice.
KEY_IS_UNIQUE = """
select from pg_catalog.pg_index i
where indrelid = {table}::regclass and indisunique and indisvalid and indimmediate
  and indpred is null and indexprs is null
  and {key} = (
      select array_agg(attname::text order by attname::text collate "C") from pg_catalog.pg_attribute
      where attrelid = indrelid and attnum = any(indkey[0:indnkeyatts - 1])
  )
limit 1
"""


class Insert:
    """Inserts rows of one flow, and their children. The statements are made once from its declaration.

    key_is_unique: the statement that gives a row where an index keeps the key unique; else nothing may be inserted.
    """

    def __init__(self, flow: Flow) -> None:
        table, *children = flow.sql_tables
        self._copy = _copy(table, [*flow.columns, *SOURCE])
        self._copy_children = [
            _copy(child, [*flow.key, *flow.child_columns(number)]) for number, child in enumerate(children)
        ]
        # Else there may be children of a parent that is not there yet, which it must not find.
        self._possible = all(_refers(child, table) for child in children)
        quoted = sql.Literal(sql.Identifier(table.name).as_string(None))
        self.key_is_unique = sql.SQL(KEY_IS_UNIQUE).format(table=quoted, key=sql.Literal(sorted(flow.key)))

    def insert(self, connection: Connection, blocks: Sequence[EncodedRows]) -> bool:
        """Insert all rows and their children, or none, within the connection's transaction; whether they are in.

        Raises psycopg.Error where the database can do nothing now.
        """
        if not self._possible:
            return False
        try:
            with connection.transaction(), connection.cursor() as cursor:
                if not (self._insert(cursor, blocks) and self._insert_children(cursor, blocks)):
                    raise psycopg.Rollback
                return True
        except Exception as error:
            fault = sqlstate.translate(error)
            if fault is None or isinstance(fault, RetryLater):
                raise
        return False

    def _insert(self, cursor: Cursor, blocks: Sequence[EncodedRows]) -> bool:
        """Whether all are in the table then: a trigger of its own may leave some out."""
        inserted, rows = 0, key_order.of_blocks(blocks)
        first = PROBE_ROWS if len(rows) > 2 * PROBE_ROWS else 0
        for some in (rows[:first], rows[first:]):
            if some:
                copy_rows(cursor, self._copy, some)
                inserted += cursor.rowcount
        return inserted == len(rows)

    def _insert_children(self, cursor: Cursor, blocks: Sequence[EncodedRows]) -> bool:
        for number, statement in enumerate(self._copy_children):
            own = [block.children[number] for block in blocks]
            if count := sum(len(children.ends) for children in own):
                copy_rows(cursor, statement, [children.data for children in own])
                if cursor.rowcount != count:
                    return False
        return True


def _copy(table: Table, columns: Sequence[str]) -> bytes:
    return sql.SQL(_COPY).format(table=sql.Identifier(table.name), columns=names(columns)).as_bytes(None)


def _refers(child: Table, parent: Table) -> bool:
    return any(constraint.referred_table is parent for constraint in child.foreign_key_constraints)
