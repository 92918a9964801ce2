"""What the ledger is asked and told, within the transaction that loads."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from psycopg import Connection, sql
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from file_processing.validation import Problem
from models.ledger import FileStatus

_LOCK_SPACE = 0x7469_6465
"""The first key of our advisory locks; the second is a hash of the flow's name."""


class Known(NamedTuple):
    """A ledger row that holds some content."""

    id: int
    name: str
    sha256: bytes
    status: FileStatus
    filed: bool
    reload: bool


@dataclass(frozen=True, slots=True)
class Entry:
    """One file's line in the ledger; the counts are of records sent and of rows landed."""

    id: int
    flow: str | None
    name: str
    sha256: bytes | None
    bytes: int
    status: FileStatus
    seen_at: datetime
    node: str
    records: int = 0
    inserted: int = 0
    updated: int = 0
    unchanged: int = 0
    stale: int = 0
    rejected: int = 0
    error: str | None = None
    drift: Mapping[str, int] | None = None
    duplicate_of: int | None = None
    filed_at: datetime | None = None
    supersedes: int | None = None


def lock_flow(connection: Connection, flow: str, *, wait_seconds: float) -> None:
    """Make this transaction the only one that loads files of `flow`, in this database.

    So two daemons never load one file twice, and files of one flow load in order.
    Raises psycopg.errors.LockNotAvailable when another holds it for `wait_seconds`.
    """
    connection.execute("select set_config('lock_timeout', %s, true)", [str(int(wait_seconds * 1000))])
    connection.execute("select pg_advisory_xact_lock(%s, hashtext(%s))", [_LOCK_SPACE, flow])


def next_ids(connection: Connection, count: int) -> list[int]:
    """Ids for `count` files, ascending in the order of arrival."""
    rows = connection.execute(
        "select nextval('tidegate.inbound_file_id_seq') from generate_series(1, %s)", [count]
    ).fetchall()
    return sorted(row[0] for row in rows)


_KNOWN = """
select id, name, sha256, status, filed_at is not null, reload
from tidegate.inbound_file
where sha256 = any(%s) and flow is not distinct from %s
  and (status in ('loaded', 'partial') and superseded_by is null or filed_at is null)
order by id
"""


def known(connection: Connection, flow: str | None, contents: Iterable[bytes]) -> dict[bytes, list[Known]]:
    """What the ledger knows of these contents: loaded before, or committed and not yet filed."""
    found: dict[bytes, list[Known]] = {}
    for row in connection.execute(_KNOWN, [list(contents), flow]).fetchall():
        line = Known(row[0], row[1], row[2], FileStatus(row[3]), row[4], row[5])
        found.setdefault(line.sha256, []).append(line)
    return found


_COLUMNS = (
    "id", "flow", "name", "sha256", "bytes", "status", "seen_at", "node", "records", "inserted", "updated",
    "unchanged", "stale", "rejected", "error", "drift", "duplicate_of", "filed_at",
)  # fmt: skip
_TYPES = (
    "int8", "text", "text", "bytea", "int8", "text", "timestamptz", "text", "int8", "int8", "int8",
    "int8", "int8", "int8", "text", "jsonb", "int8", "timestamptz",
)  # fmt: skip

_COPY_FILES = sql.SQL("copy tidegate.inbound_file ({}) from stdin (format binary)").format(
    sql.SQL(", ").join(map(sql.Identifier, _COLUMNS))
)


def write(connection: Connection, entries: Sequence[Entry]) -> None:
    """Write the lines of a group of files.

    A line that supersedes another one takes its place as the loaded one.
    """
    superseded = [(entry.id, entry.supersedes) for entry in entries if entry.supersedes is not None]
    with connection.cursor() as cursor:
        if superseded:
            cursor.executemany(
                "update tidegate.inbound_file set superseded_by = %s, reload = false where id = %s", superseded
            )
        with cursor.copy(_COPY_FILES) as copy:
            copy.set_types(_TYPES)
            for entry in entries:
                row = [getattr(entry, column) for column in _COLUMNS]
                row[_COLUMNS.index("drift")] = Jsonb(dict(entry.drift)) if entry.drift else None
                row[_COLUMNS.index("status")] = entry.status.value
                row[_COLUMNS.index("error")] = _without_nul(entry.error)
                copy.write_row(row)


_COPY_REJECTED = """
copy tidegate.rejected_record (inbound_file_id, position, pointer, line, "column", value, reason)
from stdin (format binary)
"""


def write_rejected(connection: Connection, problems: Iterable[tuple[int, Problem]]) -> None:
    """Write why records were refused, each with the id of its file."""
    with connection.cursor() as cursor, cursor.copy(_COPY_REJECTED) as copy:
        copy.set_types(["int8", "int4", "text", "int4", "int4", "text", "text"])
        for file_id, problem in problems:
            copy.write_row(
                (
                    file_id,
                    problem["record"],
                    problem["pointer"],
                    problem["line"],
                    problem["column"],
                    _without_nul(problem.get("value")),
                    _without_nul(problem["reason"]),
                )
            )


def _without_nul(text: str | None) -> str | None:
    """PostgreSQL's text cannot hold NUL; JSON shows it escaped."""
    return text if text is None else text.replace("\0", "\\u0000")


def mark_filed(connection: Connection, places: Sequence[tuple[int, str | None]]) -> None:
    """Remember that files were moved out of the input folder, and to where.

    Losing this is harmless (the next start finds the file filed), so it waits for no disk.
    """
    connection.execute("set local synchronous_commit = off")
    connection.execute(
        """
        update tidegate.inbound_file f set filed_at = now(), filed_as = p.place
        from unnest(%s::bigint[], %s::text[]) as p (id, place)
        where f.id = p.id
        """,
        [[file_id for file_id, _ in places], [place for _, place in places]],
    )


@dataclass(frozen=True, slots=True)
class Line:
    """A ledger row as it is shown."""

    id: int
    flow: str | None
    name: str
    status: str
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


def lines(
    connection: Connection,
    *,
    flow: str | None = None,
    status: str | None = None,
    since: datetime | None = None,
    limit: int = 20,
) -> list[Line]:
    """The newest lines of the ledger first."""
    wanted = """
    where (%(flow)s::text is null or flow = %(flow)s)
      and (%(status)s::text is null or status = %(status)s)
      and (%(since)s::timestamptz is null or loaded_at >= %(since)s)
    order by id desc limit %(limit)s
    """
    with connection.cursor(row_factory=class_row(Line)) as cursor:
        values = {"flow": flow, "status": status, "since": since, "limit": limit}
        return cursor.execute(_LINES + wanted, values).fetchall()


def by_id(connection: Connection, ids: Sequence[int]) -> list[Line]:
    """The lines with these ids, those that exist."""
    with connection.cursor(row_factory=class_row(Line)) as cursor:
        return cursor.execute(_LINES + " where id = any(%s) order by id", [list(ids)]).fetchall()


def kept_rejected(connection: Connection, flow: str | None) -> list[Line]:
    """The refused files that still lie in the folder for them."""
    with connection.cursor(row_factory=class_row(Line)) as cursor:
        wanted = """
        where status = 'rejected' and filed_as is not null and (%(flow)s::text is null or flow = %(flow)s)
        order by id
        """
        found = cursor.execute(_LINES + wanted, {"flow": flow}).fetchall()
    return [line for line in found if line.filed_as and Path(line.filed_as).exists()]
