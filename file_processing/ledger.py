"""What the ledger is asked and told, within the transaction that loads."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

from psycopg import Connection, sql
from psycopg.errors import LockNotAvailable, UniqueViolation
from psycopg.rows import args_row, class_row

from file_processing.refusal import Problem
from models.errors import RetryLater
from models.ledger import FileStatus

_LOCK_SPACE = 0x7469_6465
"""The first key of our advisory locks; the second is a hash of the flow's name."""


class FlowBusy(RetryLater):
    """Another process is loading files of this flow."""


class Known(NamedTuple):
    """A ledger row that holds some content, or a file without content that is not filed yet."""

    id: int
    path: str | None
    sha256: bytes | None
    status: FileStatus
    filed: bool
    reload: bool

    @property
    def loaded(self) -> bool:
        return self.status in (FileStatus.LOADED, FileStatus.PARTIAL)


@dataclass(frozen=True, slots=True)
class Entry:
    """One file's line in the ledger; the counts are of records sent and of rows landed."""

    id: int
    flow: str | None
    name: str
    path: str
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


_FLOW_WAIT_SECONDS = 1.0
_LOCK_WAIT_SECONDS = 5.0
"""For rows and tables that another application has locked."""


def lock_flow(connection: Connection, flow: str | None) -> None:
    """Make this transaction the only one that loads files of `flow`, in this database.

    So two daemons never load one file twice, and files of one flow load in order.

    Raises FlowBusy when another transaction keeps it for long.
    """
    timeout = "select set_config('lock_timeout', %s, true)"
    connection.execute(timeout, [f"{_FLOW_WAIT_SECONDS}s"])
    try:
        connection.execute("select pg_advisory_xact_lock(%s, hashtext(%s))", [_LOCK_SPACE, flow or ""])
    except LockNotAvailable as error:
        raise FlowBusy("another process is loading files of this flow") from error
    connection.execute(timeout, [f"{_LOCK_WAIT_SECONDS}s"])


def next_ids(connection: Connection, count: int) -> list[int]:
    """Ids for `count` files, ascending in the order of arrival."""
    rows = connection.execute(
        "select nextval('tidegate.inbound_file_id_seq') from generate_series(1, %s)", [count]
    ).fetchall()
    return sorted(row[0] for row in rows)


_KNOWN = """
select id, path, sha256, status, filed_at is not null, reload
from tidegate.inbound_file
where sha256 = any(%s) and flow is not distinct from %s
  and (status in ('loaded', 'partial') and superseded_by is null or filed_at is null)
order by id
"""

_KNOWN_WITHOUT_CONTENT = """
select id, path, sha256, status, false, reload
from tidegate.inbound_file
where filed_at is null and sha256 is null and path = any(%s) and flow is not distinct from %s
order by id
"""


def known(connection: Connection, flow: str | None, contents: Iterable[bytes], paths: Iterable[str]) -> list[Known]:
    """What the ledger knows of some files: content loaded before, or committed and not yet filed.

    contents: SHA-256 digests. paths: of files that have none, such as pipes.
    """
    rows = []
    for statement, keys in ((_KNOWN, list(contents)), (_KNOWN_WITHOUT_CONTENT, list(paths))):
        if keys:
            rows += connection.execute(statement, [keys, flow]).fetchall()
    return [Known(row[0], row[1], row[2], FileStatus(row[3]), row[4], row[5]) for row in rows]


_COLUMNS = {
    "id": "int8", "flow": "text", "name": "text", "path": "text", "sha256": "bytea", "bytes": "int8",
    "status": "text", "seen_at": "timestamptz", "node": "text", "records": "int8", "inserted": "int8",
    "updated": "int8", "unchanged": "int8", "stale": "int8", "rejected": "int8", "drift": "jsonb",
    "duplicate_of": "int8", "filed_at": "timestamptz",
}  # fmt: skip

_values = attrgetter(*_COLUMNS)

_COPY_FILES = sql.SQL("copy tidegate.inbound_file ({}, error) from stdin (format binary)").format(
    sql.SQL(", ").join(map(sql.Identifier, _COLUMNS))
)


def write(connection: Connection, entries: Sequence[Entry]) -> None:
    """Write the lines of a group of files.

    A line that supersedes another one takes its place as the loaded one.

    Raises RetryLater when somebody who does not ask for the flow's lock was faster.
    """
    superseded = [(entry.id, entry.supersedes) for entry in entries if entry.supersedes is not None]
    with connection.cursor() as cursor:
        if superseded:
            cursor.executemany(
                "update tidegate.inbound_file set superseded_by = %s, reload = false where id = %s", superseded
            )
        try:
            with cursor.copy(_COPY_FILES) as copy:
                copy.set_types([*_COLUMNS.values(), "text"])
                for entry in entries:
                    copy.write_row((*_values(entry), _without_nul(entry.error)))
        except UniqueViolation as error:
            raise RetryLater(f"the ledger has this line already: {error.diag.message_primary}") from error


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
    """Remember that files are out of the input folder, and where; `None` when somebody else moved them.

    Losing this is harmless (the next start finds the file filed), so it waits for no disk.
    """
    connection.execute("set local synchronous_commit = off")
    connection.execute(
        """
        update tidegate.inbound_file f
        set filed_at = coalesce(f.filed_at, now()), filed_as = coalesce(p.place, f.filed_as)
        from unnest(%s::bigint[], %s::text[]) as p (id, place)
        where f.id = p.id
        """,
        [[file_id for file_id, _ in places], [place for _, place in places]],
    )


class Unfiled(NamedTuple):
    """A line whose file was not yet told to be out of the input folder."""

    id: int
    name: str
    path: str
    sha256: bytes | None
    bytes: int
    status: str
    loaded_on: date


def unfiled(connection: Connection, flow: str | None) -> list[Unfiled]:
    """The lines of the flow that are committed and not filed, oldest first."""
    with connection.cursor(row_factory=args_row(Unfiled)) as cursor:
        return cursor.execute(
            """
            select id, name, coalesce(path, name), sha256, bytes, status, (loaded_at at time zone 'UTC')::date
            from tidegate.inbound_file where filed_at is null and flow is not distinct from %s order by id
            """,
            [flow],
        ).fetchall()


def claimed(connection: Connection, places: Iterable[str]) -> set[str]:
    """Those of the places where the file of some line already lies."""
    rows = connection.execute(
        "select filed_as from tidegate.inbound_file where filed_as = any(%s)", [list(places)]
    ).fetchall()
    return {row[0] for row in rows}


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
