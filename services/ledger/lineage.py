"""Where a row came from: which file and record, when, and what it replaced."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg import Connection, sql
from psycopg.rows import dict_row

from models.errors import RejectFile, TidegateError
from models.flow import Flow
from models.tables import OWN_COLUMNS
from services.db import sqlstate, types
from services.ledger import queries
from services.ledger.queries import LedgerLine


@dataclass(frozen=True, slots=True)
class CarryingFile:
    """The outbound file that carried a row."""

    id: int
    name: str
    written_at: datetime | None
    delivered_at: datetime | None
    delivered_as: Any


@dataclass(frozen=True, slots=True)
class Trace:
    """A row with the files behind it; a row that no file wrote has none."""

    row: dict[str, Any]
    own: dict[str, Any]
    came_from: LedgerLine | None
    replaced: LedgerLine | None
    carried_by: CarryingFile | None


def trace(connection: Connection, flow: Flow, key: Sequence[str]) -> Trace | None:
    """The row with this key; `None` when there is none.

    key: a value for each column of the flow's key, as text.
    Raises TidegateError when the number of values, or one of them, does not fit the key.
    """
    if len(key) != len(flow.key):
        values = "one value" if len(flow.key) == 1 else f"{len(flow.key)} values"
        raise TidegateError(f"the key of {flow.name} is {', '.join(flow.key)}: {values}, not {len(key)}")
    table = flow.sql_table
    type_names = [types.base_name(table.columns[column]) for column in flow.key]
    matches = sql.SQL(" and ").join(
        sql.SQL("{} = cast(%s as {})").format(sql.Identifier(column), sql.SQL(name))
        for column, name in zip(flow.key, type_names, strict=True)
    )
    query = sql.SQL("select * from {} where {}").format(sql.Identifier(table.name), matches)
    try:
        with sqlstate.translated(), connection.cursor(row_factory=dict_row) as cursor:
            row = cursor.execute(query, list(key)).fetchone()
    except RejectFile as error:
        wanted = ", ".join(f"{column} ({name})" for column, name in zip(flow.key, type_names, strict=True))
        raise TidegateError(
            f"{key_in_words(flow, key)} is no key of {flow.name}: {error.reason}", hint=wanted
        ) from None
    if row is None:
        return None
    own = {name: row.pop(name) for name in [*row] if name in OWN_COLUMNS}
    ids = [own["source_file_id"], own["replaced_file_id"]]
    lines = {line.id: line for line in queries.by_id(connection, [i for i in ids if i is not None])}
    return Trace(row, own, lines.get(ids[0]), lines.get(ids[1]), _carrying(connection, own["outbound_file_id"]))


def _carrying(connection: Connection, file_id: int | None) -> CarryingFile | None:
    query = "select id, name, written_at, delivered_at, delivered_as from tidegate.outbound_file where id = %s"
    row = connection.execute(query, [file_id]).fetchone()
    return CarryingFile(*row) if row else None


def key_in_words(flow: Flow, key: Sequence[str]) -> str:
    """The key as a person reads it."""
    return ", ".join(f"{column} {value}" for column, value in zip(flow.key, key, strict=True))
