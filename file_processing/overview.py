"""How each flow stands: what waits in the folder, what the ledger and the tables hold."""

from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePath

from psycopg import Connection, sql
from psycopg.rows import dict_row

from flows import Flows
from services.observer.scan import scan

ROOT = "(by content)"
"""Stands for the flow of files that lie in the input root itself."""


@dataclass(frozen=True, slots=True)
class FlowOverview:
    """Counts of files by what became of them, and of the rows in the flow's table."""

    flow: str
    waiting: int
    loaded: int
    partial: int
    rejected: int
    duplicate: int
    rows: int
    last_file: str | None
    last_at: datetime | None
    last_error: str | None
    last_error_at: datetime | None


def waiting(input_dir: Path) -> Counter[str]:
    """The files in the input folder by the flow's folder that they lie in."""
    counts: Counter[str] = Counter()
    for entry in scan(str(input_dir), enter=lambda _folder: None, failed=lambda _folder, _error: None):
        parts = PurePath(entry.path).relative_to(input_dir).parts
        counts[parts[0] if len(parts) > 1 else ROOT] += 1
    return counts


_FILES = """
select f.flow, c.loaded, c.partial, c.rejected, c.duplicate,
    last.name as last_file, last.loaded_at as last_at, bad.error as last_error, bad.loaded_at as last_error_at
from unnest(%s::text[]) as f (flow)
cross join lateral (
    select count(*) filter (where status = 'loaded') as loaded,
        count(*) filter (where status = 'partial') as partial,
        count(*) filter (where status = 'rejected') as rejected,
        count(*) filter (where status = 'duplicate') as duplicate
    from tidegate.inbound_file i where i.flow is not distinct from f.flow
) c
left join lateral (
    select name, loaded_at from tidegate.inbound_file i
    where i.flow is not distinct from f.flow order by id desc limit 1
) last on true
left join lateral (
    select error, loaded_at from tidegate.inbound_file i
    where i.flow is not distinct from f.flow and error is not null order by id desc limit 1
) bad on true
"""


def overview(connection: Connection, flows: Flows, folders: Counter[str]) -> list[FlowOverview]:
    """One line per flow, and one for the files that belong to none."""
    with connection.cursor(row_factory=dict_row) as cursor:
        rows = {row["flow"]: row for row in cursor.execute(_FILES, [[*flows, None]]).fetchall()}
    lines = [
        FlowOverview(**row, waiting=folders[name], rows=_rows(connection, flows[name].sql_table.name))
        for name, row in ((name, rows[name]) for name in flows)
    ]
    strangers = sum(count for folder, count in folders.items() if folder not in flows)
    return [*lines, FlowOverview(**rows[None] | {"flow": "(no flow)"}, waiting=strangers, rows=0)]


def _rows(connection: Connection, table: str) -> int:
    count = connection.execute(sql.SQL("select count(*) from {}").format(sql.Identifier(table))).fetchone()
    assert count is not None
    return int(count[0])
