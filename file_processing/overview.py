"""How each flow stands: what waits in the folder, what the ledger and the tables hold."""

from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePath
from typing import Any

from psycopg import Connection, sql
from psycopg.rows import dict_row

from flows import Flows
from models.flow import Flow
from services.observer.scan import scan

ROOT = "(by content)"
"""Stands for the flow of files that lie in the input root itself."""

NO_FLOW = "(no flow)"


@dataclass(frozen=True, slots=True)
class FlowOverview:
    """Counts of files by what became of them, and of the rows in the flow's table.

    last_error: of the last file that was refused, whole or in part.
    unsynced: rows that have to go out. set_aside: rows that cannot, with the reason of one.
    outbound_file: the newest one. outbound_error: why the oldest unwritten one is not on disk.
    undelivered: files that wait for their destination. refused: files that a partner refuses, with the
        newest one's id and reason.
    """

    flow: str
    waiting: int = 0
    loaded: int = 0
    partial: int = 0
    rejected: int = 0
    duplicate: int = 0
    rows: int = 0
    last_file: str | None = None
    last_status: str | None = None
    last_at: datetime | None = None
    last_error: str | None = None
    last_error_id: int | None = None
    last_error_at: datetime | None = None
    unsynced: int = 0
    set_aside: int = 0
    set_aside_error: str | None = None
    outbound_file: str | None = None
    outbound_at: datetime | None = None
    outbound_error: str | None = None
    undelivered: int = 0
    refused: int = 0
    refused_id: int | None = None
    refused_error: str | None = None


def waiting(input_dir: Path) -> Counter[str]:
    """The files in the input folder by the flow's folder that they lie in."""
    counts: Counter[str] = Counter()
    for entry in scan(str(input_dir), enter=lambda _folder: None, failed=lambda _folder, _error: None):
        parts = PurePath(entry.path).relative_to(input_dir).parts
        counts[parts[0] if len(parts) > 1 else ROOT] += 1
    return counts


# One pass over the ledger; then the two lines of each flow by their ids.
_FILES = """
select c.flow, c.loaded, c.partial, c.rejected, c.duplicate,
    last.name as last_file, last.status as last_status, last.loaded_at as last_at,
    bad.error as last_error, bad.id as last_error_id, bad.loaded_at as last_error_at
from (
    select flow,
        count(*) filter (where status = 'loaded') as loaded,
        count(*) filter (where status = 'partial') as partial,
        count(*) filter (where status = 'rejected') as rejected,
        count(*) filter (where status = 'duplicate') as duplicate,
        max(id) as last_id,
        max(id) filter (where error is not null) as bad_id
    from tidegate.inbound_file group by flow
) c
join tidegate.inbound_file last on last.id = c.last_id
left join tidegate.inbound_file bad on bad.id = c.bad_id
"""


def overview(connection: Connection, flows: Flows, folders: Counter[str]) -> list[FlowOverview]:
    """One line per flow, and one for the files that belong to none.

    folders: what `waiting` found. Files in the input root count as of no flow until they are routed.
    """
    with connection.cursor(row_factory=dict_row) as cursor:
        files = {row.pop("flow"): row for row in cursor.execute(_FILES).fetchall()}
    lines = [
        FlowOverview(
            flow=name,
            waiting=folders[name],
            rows=_rows(connection, flow.sql_table.name),
            **files.get(name, {}),
            **_outbound(connection, flow),
        )
        for name, flow in flows.items()
    ]
    strangers = sum(count for folder, count in folders.items() if folder not in flows)
    return [*lines, FlowOverview(flow=NO_FLOW, waiting=strangers, **files.get(None, {}))]


_OUTBOUND = """
select
    (select count(*) from {table} where not is_synced and outbound_error is null) as unsynced,
    (select count(*) from {table} where outbound_error is not null) as set_aside,
    (select max(outbound_error) from {table} where outbound_error is not null) as set_aside_error,
    last.name as outbound_file, last.written_at as outbound_at,
    (select last_error from tidegate.outbound_file
     where flow = {flow} and status = 'writing' order by id limit 1) as outbound_error,
    (select count(*) from tidegate.outbound_file
     where {delivers} and flow = {flow} and status = 'written') as undelivered,
    (select count(*) from tidegate.outbound_file where flow = {flow} and status = 'failed') as refused,
    no.id as refused_id, no.last_error as refused_error
from (select 1) one
left join lateral (
    select name, written_at from tidegate.outbound_file
    where flow = {flow} and status <> 'writing' order by id desc limit 1
) last on true
left join lateral (
    select id, last_error from tidegate.outbound_file
    where flow = {flow} and status = 'failed' order by id desc limit 1
) no on true
"""


def _outbound(connection: Connection, flow: Flow) -> dict[str, Any]:
    if not flow.outbound:
        return {}
    query = sql.SQL(_OUTBOUND).format(
        table=sql.Identifier(flow.sql_table.name),
        flow=sql.Literal(flow.name),
        delivers=sql.Literal(bool(flow.destinations)),
    )
    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(query).fetchone() or {}


def _rows(connection: Connection, table: str) -> int:
    count = connection.execute(sql.SQL("select count(*) from {}").format(sql.Identifier(table))).fetchone()
    assert count is not None
    return int(count[0])
