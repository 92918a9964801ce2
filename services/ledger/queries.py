"""What the ledger says of files, for those who look: commands, API, connectors."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from psycopg import Connection

from models.ledger import FileStatus
from services.ledger.statements import file_row, statement


@dataclass(frozen=True, slots=True)
class LedgerLine:
    """A file's line in the ledger, as it is shown."""

    id: int
    flow: str | None
    name: str
    status: FileStatus
    bytes: int
    records: int
    inserted: int
    updated: int
    unchanged: int
    stale: int
    rejected: int
    seen_at: datetime
    loaded_at: datetime
    filed_at: datetime | None
    filed_as: str | None
    node: str
    error: str | None
    drift: dict[str, int] | None
    duplicate_of: int | None
    superseded_by: int | None
    sha256: str | None


_LINES = """
select id, flow, name, status, bytes, records, inserted, updated, unchanged, stale, rejected, seen_at,
    loaded_at, filed_at, filed_as, node, error, drift, duplicate_of, superseded_by, encode(sha256, 'hex') as sha256
from tidegate.inbound_file
"""

_FILES = (
    _LINES
    + """
where (%(flow)s::text is null or flow = %(flow)s)
  and (%(status)s::text is null or status = %(status)s)
  and (%(since)s::timestamptz is null or loaded_at >= %(since)s)
order by id desc limit %(limit)s
"""
)


def files(
    connection: Connection,
    *,
    flow: str | None = None,
    status: str | None = None,
    since: datetime | None = None,
    limit: int = 20,
) -> list[LedgerLine]:
    """The newest files first."""
    values = {"flow": flow, "status": status, "since": since, "limit": limit}
    with connection.cursor(row_factory=file_row(LedgerLine)) as cursor:
        return cursor.execute(_FILES, values).fetchall()


def by_id(connection: Connection, ids: Sequence[int]) -> list[LedgerLine]:
    """The lines with these ids, those that exist."""
    with connection.cursor(row_factory=file_row(LedgerLine)) as cursor:
        return cursor.execute(_LINES + " where id = any(%s) order by id", [list(ids)]).fetchall()


_REJECTED = statement(
    _LINES
    + """
where status = {rejected} and filed_as is not null and (%(flow)s::text is null or flow = %(flow)s)
order by id
"""
)


def rejected(connection: Connection, flow: str | None) -> list[LedgerLine]:
    """The rejected files of which the ledger knows where they are kept, oldest first."""
    with connection.cursor(row_factory=file_row(LedgerLine)) as cursor:
        return cursor.execute(_REJECTED, {"flow": flow}).fetchall()


_STATUS_OF = statement("""
select status from tidegate.inbound_file
where sha256 = %s and flow = %s and name = %s and ({current} or {not_current}) order by id desc limit 1
""")


def status_of(connection: Connection, flow: str, name: str, sha256: bytes) -> FileStatus | None:
    """What became of a file with this name and content, `None` before there is a line of it."""
    found = connection.execute(_STATUS_OF, [sha256, flow, name]).fetchone()
    return FileStatus(found[0]) if found else None


_HAD_REJECTIONS = statement("""
select exists (select from tidegate.inbound_file
               where sha256 = %s and flow = %s and status in ({rejected}, {partial}) and ({current} or {not_current}))
""")


def had_rejections(connection: Connection, flow: str, sha256: bytes) -> bool:
    """Whether a file with just this content was rejected before, wholly or in part."""
    (found,) = connection.execute(_HAD_REJECTIONS, [sha256, flow]).fetchone() or (False,)
    return bool(found)


def outbound_flow(connection: Connection, file_id: int) -> str | None:
    """The flow of an outbound file, `None` when there is no such file."""
    found = connection.execute("select flow from tidegate.outbound_file where id = %s", [file_id]).fetchone()
    return str(found[0]) if found else None
