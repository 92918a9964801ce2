"""How each flow stands: what the ledger and the tables hold, and what waits in the folder."""

from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg import Connection, sql
from psycopg.rows import dict_row

from flows import Flows
from models.errors import RestFlow
from models.flow import Flow
from models.ledger import NO_FLOW, FileStatus
from services.db import sqlstate
from services.ledger.statements import statement


@dataclass(frozen=True, slots=True)
class FlowOverview:
    """Counts of files by what became of them, and of the rows in the flow's table.

    table_error: why its rows cannot be counted.
    last_error: of the last file that was rejected, whole or in part.
    unsynced: rows that have to go out. quarantined: rows that cannot, with the reason of one.
    outbound_file: the newest one. writing_held: files that cannot be written, writing_error: why the oldest cannot.
    undelivered: files that wait for their destination. dead_letters: files that a partner turned down for
        good, with the newest one's id and reason.
    """

    flow: str
    waiting: int = 0
    loaded: int = 0
    partial: int = 0
    rejected: int = 0
    duplicate: int = 0
    rows: int = 0
    table_error: str | None = None
    last_file: str | None = None
    last_status: FileStatus | None = None
    last_at: datetime | None = None
    last_error: str | None = None
    last_error_id: int | None = None
    last_error_at: datetime | None = None
    unsynced: int = 0
    quarantined: int = 0
    quarantined_error: str | None = None
    outbound_file: str | None = None
    outbound_at: datetime | None = None
    writing_held: int = 0
    writing_error: str | None = None
    undelivered: int = 0
    dead_letters: int = 0
    dead_letter_id: int | None = None
    dead_letter_error: str | None = None


_FILES = """
select c.*, last.name as last_file, last.status as last_status, last.loaded_at as last_at,
    bad.error as last_error, bad.id as last_error_id, bad.loaded_at as last_error_at
from (
    select coalesce(sum(files) filter (where status = {loaded}), 0)::bigint as loaded,
        coalesce(sum(files) filter (where status = {partial}), 0)::bigint as partial,
        coalesce(sum(files) filter (where status = {rejected}), 0)::bigint as rejected,
        coalesce(sum(files) filter (where status = {duplicate}), 0)::bigint as duplicate
    from tidegate.file_count where flow = coalesce({flow}, '')
) c
left join lateral (
    select name, status, loaded_at from tidegate.inbound_file where {of_flow} order by id desc limit 1
) last on true
left join lateral (
    select id, error, loaded_at from tidegate.inbound_file
    where {of_flow} and error is not null order by id desc limit 1
) bad on true
"""


def overview(connection: Connection, flows: Flows, folders: Counter[str]) -> list[FlowOverview]:
    """One line per flow, and one for the files that belong to none.

    folders: how many files wait in the input folder, by the folder that they lie in; those in the input root
        itself count as of no flow until they are routed.
    """
    lines = [
        FlowOverview(flow=name, waiting=folders[name], **_files(connection, name), **_of_table(connection, flow))
        for name, flow in flows.items()
    ]
    strangers = sum(count for folder, count in folders.items() if folder not in flows)
    return [*lines, FlowOverview(flow=NO_FLOW, waiting=strangers, **_files(connection, None))]


def _files(connection: Connection, flow: str | None) -> dict[str, Any]:
    """What became of the flow's files, or of those of none."""
    of_flow = sql.SQL("flow is null") if flow is None else sql.SQL("flow = {}").format(sql.Literal(flow))
    query = statement(_FILES, flow=sql.Literal(flow), of_flow=of_flow)
    with connection.cursor(row_factory=dict_row) as cursor:
        found = cursor.execute(query).fetchone() or {}
    return found | {"last_status": FileStatus(found["last_status"]) if found["last_status"] else None}


def _of_table(connection: Connection, flow: Flow) -> dict[str, Any]:
    """What the flow's table says; one that is not as it should be says nothing against the others."""
    try:
        with sqlstate.of_a_flow(), connection.transaction():
            return {**_rows(connection, flow), **_outbound(connection, flow)}
    except RestFlow as error:
        return {"table_error": str(error)}


_OUTBOUND = """
select
    (select count(*) from {table} where not is_synced and outbound_error is null) as unsynced,
    last.name as outbound_file, last.written_at as outbound_at,
    (select count(*) from tidegate.outbound_file
     where flow = {flow} and status = {writing} and last_error is not null) as writing_held,
    (select last_error from tidegate.outbound_file
     where flow = {flow} and status = {writing} and last_error is not null order by id limit 1) as writing_error,
    (select count(*) from tidegate.outbound_file
     where {delivers} and flow = {flow} and status = {written}) as undelivered,
    (select count(*) from tidegate.outbound_file where flow = {flow} and status = {failed}) as dead_letters,
    dead.id as dead_letter_id, dead.last_error as dead_letter_error
from (select 1) one
left join lateral (
    select name, written_at from tidegate.outbound_file
    where flow = {flow} and status <> {writing} order by id desc limit 1
) last on true
left join lateral (
    select id, last_error from tidegate.outbound_file
    where flow = {flow} and status = {failed} order by id desc limit 1
) dead on true
"""


def _outbound(connection: Connection, flow: Flow) -> dict[str, Any]:
    if not flow.outbound:
        return {}
    query = statement(
        _OUTBOUND,
        table=sql.Identifier(flow.sql_table.name),
        flow=sql.Literal(flow.name),
        delivers=sql.Literal(bool(flow.destinations)),
    )
    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(query).fetchone() or {}


# All of a table in one pass.
_ROWS = "select count(*) as rows from {table}"
_ROWS_THAT_SEND = """
select count(*) as rows, count(outbound_error) as quarantined, max(outbound_error) as quarantined_error from {table}
"""


def _rows(connection: Connection, flow: Flow) -> dict[str, Any]:
    query = sql.SQL(_ROWS_THAT_SEND if flow.outbound else _ROWS).format(table=sql.Identifier(flow.sql_table.name))
    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(query).fetchone() or {}
