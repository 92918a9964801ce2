"""Inbound files: what the ledger knows of a content, and a line for each file in the transaction that loads it."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, NamedTuple

from psycopg import Connection, sql
from psycopg.errors import UniqueViolation

from models.errors import RetryLater
from models.ledger import IN_TABLE, FileStatus, RecordError
from services import text
from services.ledger.arrival import Arrival
from services.ledger.statements import array, file_row, statement


class KnownFile(NamedTuple):
    """A line that holds some content, or of a file without content that is not archived yet.

    filed: whether its file is known to be out of the input folder. identity: of the file; lines of earlier
        releases have none. arrived_at: in nanoseconds; 0 in lines of earlier releases.
    """

    id: int
    path: str | None
    sha256: bytes | None
    status: FileStatus
    filed: bool
    identity: str | None
    name: str
    arrived_at: int

    @property
    def loaded(self) -> bool:
        return self.status in IN_TABLE

    @property
    def arrival(self) -> Arrival:
        return Arrival(self.arrived_at, self.name, self.sha256 or b"")


COUNTS = ("records", "inserted", "updated", "unchanged", "stale", "rejected")
"""What is counted of a file, in the order in which it is told."""


class LedgerEntry(NamedTuple):
    """One file's line in the ledger, as it is written; the counts are of records sent and of rows upserted."""

    id: int
    flow: str | None
    name: str
    path: str
    sha256: bytes | None
    bytes: int
    status: FileStatus
    seen_at: datetime
    node: str
    identity: str | None = None
    arrival: int = 0
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


@dataclass(frozen=True, slots=True)
class Look:
    """What the ledger says of a group of files before they are loaded.

    ids: new ones, ascending in the order of arrival. revision: of the schema.
    known: lines of their contents, loaded before or committed and not yet archived, and of files without content.
    placed: of files by their identity, whether who placed them wants them loaded again.
    alone: no other daemon is at work. last_id: of the flow's lines, 0 where none is.
    """

    ids: list[int]
    revision: str | None
    known: list[KnownFile]
    placed: dict[str, bool]
    alone: bool
    last_id: int


_SILENT_SECONDS = 30
"""A daemon of which nothing was heard for so long has no file in hand."""

# All in one round trip.
_LOOK = statement(
    """
with placed as (
    delete from tidegate.placed_file where flow = %(flow)s and identity = any(%(identities)s::text[])
    returning identity, again
),
known as (
    select id, path, sha256, status, filed_at is not null as filed, identity,
        name, coalesce(arrival, 0) as arrived_at
    from tidegate.inbound_file where flow = %(flow)s and sha256 = any(%(contents)s::bytea[]) and {current}
    union all
    select id, path, sha256, status, false as filed, identity, name, coalesce(arrival, 0)
    from tidegate.inbound_file
    where flow is not distinct from %(flow)s and filed_at is null and {not_current}
      and (sha256 = any(%(contents)s::bytea[]) or sha256 is null and path = any(%(paths)s::text[]))
)
select array(select nextval('tidegate.inbound_file_id_seq') from generate_series(1, %(new_ids)s)),
    (select version_num from tidegate.alembic_version),
    (select json_agg(known order by id) from known),
    (select json_object_agg(identity, again) from placed),
    (select max(id) from tidegate.inbound_file where flow = %(flow)s),
    not exists (select from tidegate.daemon where node <> %(node)s and last_seen_at > now() - {silent} * interval '1 s')
""",
    silent=sql.Literal(_SILENT_SECONDS),
)


def look(
    connection: Connection,
    flow: str | None,
    node: str,
    *,
    new_ids: int,
    contents: Collection[bytes],
    paths: Collection[str],
    identities: Collection[str],
) -> Look:
    """Ask the ledger of the files of a group; what was placed to be loaded again goes with this transaction.

    node: who asks. contents: SHA-256 digests. paths: of files that have none, such as pipes.
    """
    values = {
        "flow": flow,
        "node": node,
        "new_ids": new_ids,
        "contents": array(rf"\x{each.hex()}" for each in contents),
        "paths": array(paths),
        "identities": array(identities),
    }
    found = connection.execute(_LOOK, values).fetchone()
    assert found is not None
    ids, revision, known, placed, last_id, alone = found
    return Look(sorted(ids), revision, [_known(**line) for line in known or ()], placed or {}, alone, last_id or 0)


def _known(*, sha256: str | None, status: str, **others: Any) -> KnownFile:
    content = None if sha256 is None else bytes.fromhex(sha256.removeprefix("\\x"))
    return KnownFile(sha256=content, status=FileStatus(status), **others)


_CONFIRM = "select from tidegate.inbound_file where id = any(%s) for key share"


def confirm(connection: Connection, ids: Sequence[int]) -> None:
    """Have this transaction wait for the standbys that the lines' own has to wait for, of which nobody had an answer.

    A transaction that only reads commits without them; a lock is something to commit.
    """
    connection.execute(_CONFIRM, [list(ids)])


_COLUMNS = {
    "id": "int8", "flow": "text", "name": "text", "path": "text", "sha256": "bytea", "bytes": "int8",
    "status": "text", "seen_at": "timestamptz", "node": "text", "identity": "text", "arrival": "int8",
    "records": "int8",
    "inserted": "int8", "updated": "int8", "unchanged": "int8", "stale": "int8", "rejected": "int8",
    "error": "text", "drift": "jsonb", "duplicate_of": "int8", "filed_at": "timestamptz", "superseded_by": "int8",
}  # fmt: skip

_COPY_FILES = (
    sql.SQL("copy tidegate.inbound_file ({}) from stdin (format binary)")
    .format(sql.SQL(", ").join(map(sql.Identifier, _COLUMNS)))
    .as_bytes(None)
)


_SUPERSEDE = """
update tidegate.inbound_file f set superseded_by = s.by
from unnest(%s::bigint[], %s::bigint[]) as s (id, by) where f.id = s.id
"""


def write(connection: Connection, entries: Sequence[LedgerEntry]) -> None:
    """Write the lines of a group of files.

    A line that supersedes another one, of before or of this group, takes its place as the loaded one.

    Raises RetryLater when somebody who does not ask for the flow's lock was faster.
    """
    superseded = {entry.supersedes: entry.id for entry in entries if entry.supersedes is not None}
    with connection.cursor() as cursor:
        if superseded:
            cursor.execute(_SUPERSEDE, [list(superseded), list(superseded.values())])
        try:
            with cursor.copy(_COPY_FILES) as copy:
                copy.set_types([*_COLUMNS.values()])
                for entry in entries:
                    copy.write_row((*entry[:-1], superseded.get(entry.id)))
        except UniqueViolation as error:
            raise RetryLater(f"the ledger has this line already: {error.diag.message_primary}") from error


_COPY_REJECTED = """
copy tidegate.rejected_record (inbound_file_id, position, pointer, line, "column", value, reason)
from stdin (format binary)
"""


def write_rejected(connection: Connection, errors: Iterable[tuple[int, RecordError]]) -> None:
    """Write why records were rejected, each with the id of its file."""
    with connection.cursor() as cursor, cursor.copy(_COPY_REJECTED) as copy:
        copy.set_types(["int8", "int4", "text", "int4", "int4", "text", "text"])
        for file_id, error in errors:
            value = error.get("value")
            copy.write_row(
                (
                    file_id,
                    error["record"],
                    error["pointer"],
                    error["line"],
                    error["column"],
                    value and text.storable(value),
                    text.storable(error["reason"]),
                )
            )


_MARK_FILED = """
update tidegate.inbound_file f
set filed_at = coalesce(f.filed_at, now()), filed_as = coalesce(p.place, f.filed_as)
from unnest(%s::bigint[], %s::text[]) as p (id, place)
where f.id = p.id
"""


def mark_filed(connection: Connection, places: Sequence[tuple[int, str | None]]) -> None:
    """Remember that files are out of the input folder, and where; `None` when somebody else moved them.

    Losing this is harmless (the next start finds the file where it is), so it waits for no disk.
    """
    connection.execute("set local synchronous_commit = off")
    ids, names = array(file_id for file_id, _ in places), array(place for _, place in places)
    connection.execute(_MARK_FILED, [ids, names])


class UnfiledFile(NamedTuple):
    """A line whose file is not yet known to be out of the input folder."""

    id: int
    name: str
    path: str
    sha256: bytes | None
    bytes: int
    status: FileStatus
    loaded_on: date
    identity: str | None


_UNFILED = """
select id, name, coalesce(path, name) as path, sha256, bytes, status,
    (loaded_at at time zone 'UTC')::date as loaded_on, identity
from tidegate.inbound_file where filed_at is null and flow is not distinct from %s order by id
"""


def unfiled(connection: Connection, flow: str | None) -> list[UnfiledFile]:
    """The lines of the flow whose files are not known to be filed, oldest first."""
    with connection.cursor(row_factory=file_row(UnfiledFile)) as cursor:
        return cursor.execute(_UNFILED, [flow]).fetchall()


def taken_places(connection: Connection, places: Iterable[str]) -> set[str]:
    """Those of the places where the file of some line already lies."""
    query = "select filed_as from tidegate.inbound_file where filed_as = any(%s)"
    return {row[0] for row in connection.execute(query, [list(places)]).fetchall()}
