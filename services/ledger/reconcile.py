"""What differs between the ledger and the folders: found by the server, which is told all that lies in them.

Everything here is of one session, which keeps what it was told in temporary tables.
"""

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

from psycopg import Connection
from psycopg.rows import class_row

from services.ledger.statements import statement

PAGE_FILES = 500
"""So many files of which the ledger has no place are looked at at once."""


class Kept(StrEnum):
    """The folder in which a file lies."""

    ARCHIVE = "archive"
    REJECTED = "rejected"
    OUTPUT = "output"


class FoundFile(NamedTuple):
    """A file in one of the folders.

    place: its path. name: its own; in the output folder its path below the flow's.
    day, came: when it got there: the folder of its day, and the moment within it, in nanoseconds.
    """

    kind: Kept
    flow: str | None
    place: str
    name: str
    bytes: int
    day: str
    came: int


class UnknownFile(NamedTuple):
    """A file of whose place the ledger knows nothing. number: by which they are in the order in which they came."""

    number: int
    kind: Kept
    flow: str | None
    place: str
    name: str
    day: str
    came: int


class MissingFiles(NamedTuple):
    """Files that the ledger has in a folder of ours, and that are no longer there."""

    flow: str | None
    files: int
    first: datetime
    last: datetime


_BEGIN = """
create temporary table found_file (kind text, flow text, place text, name text, bytes int8, day text, came int8)
"""
_COPY = "copy found_file from stdin (format binary)"

# No line has the file at this place. A rejected one may be mended where it lies, so its size says nothing.
_UNKNOWN = """
create temporary table unknown_file as
select row_number() over (order by flow, day, came, place) as number, *
from (
    select * from found_file f
    where f.kind <> 'output' and not exists (
        select from tidegate.inbound_file l
        where l.filed_as = f.place and (l.bytes = f.bytes or f.kind = 'rejected'))
    union all
    select * from found_file f
    where f.kind = 'output'
      and not exists (
        select from tidegate.outbound_file o where o.flow = f.flow and o.name = f.name and o.bytes = f.bytes)
      and not exists (select from tidegate.outbound_file o where o.filed_as = f.place)
) unknown
"""


def tell(connection: Connection, files: Iterable[FoundFile]) -> datetime:
    """Tell the server what lies in the folders; the moment, by its clock, before it was looked for.

    files: taken one by one.
    """
    (since,) = connection.execute("select now()").fetchone() or (None,)
    assert isinstance(since, datetime)
    connection.execute("set statement_timeout = 0")  # a million files take their time
    connection.execute(_BEGIN)
    with connection.cursor() as cursor, cursor.copy(_COPY) as copy:
        copy.set_types(["text", "text", "text", "text", "int8", "text", "int8"])
        for file in files:
            copy.write_row(file)
    for done in ("analyze found_file", _UNKNOWN, "create unique index on unknown_file (number)"):
        connection.execute(done.encode())
    return since


_PAGE = """
select number, kind, flow, place, name, day, came from unknown_file
where number > %s order by number limit %s
"""


def unknown(connection: Connection) -> Iterator[list[UnknownFile]]:
    """The files of which the ledger has no place, by flow and in the order in which they came, page by page."""
    last = 0
    with connection.cursor(row_factory=class_row(UnknownFile)) as cursor:
        while page := cursor.execute(_PAGE, [last, PAGE_FILES]).fetchall():
            yield [file._replace(kind=Kept(file.kind)) for file in page]
            last = page[-1].number


_NAMES = """
select w.number, l.id, l.name
from unnest(%s::int8[], %s::text[], %s::bytea[]) w (number, flow, sha256)
join tidegate.inbound_file l on l.sha256 = w.sha256 and l.flow is not distinct from w.flow
"""


def lines_of(connection: Connection, contents: Mapping[int, tuple[str | None, bytes]]) -> list[tuple[int, int, str]]:
    """The lines that hold a content, wherever its file lay: the content's number, and the line's id and file name.

    contents: flow and SHA-256 by a number of the caller's.
    """
    flows, digests = [flow for flow, _ in contents.values()], [digest for _, digest in contents.values()]
    return connection.execute(_NAMES, [list(contents), flows, digests]).fetchall()


_LOADED_SINCE = statement("""
select exists (
    select from found_file f join tidegate.inbound_file l on l.filed_as = f.place and l.bytes = f.bytes
    where f.kind = 'archive' and f.flow = %s and l.status in {in_table} and (f.day, f.came) > (%s, %s))
""")


def is_behind(connection: Connection, file: UnknownFile) -> bool:
    """Whether a file of its flow that came after it is loaded."""
    found = connection.execute(_LOADED_SINCE, [file.flow, file.day, file.came]).fetchone()
    return bool(found and found[0])


_MISSING = """
select l.flow, count(*) as files, min(l.loaded_at) as first, max(l.loaded_at) as last
from tidegate.inbound_file l
where (starts_with(l.filed_as, %(archive)s) or starts_with(l.filed_as, %(rejected)s)) and l.filed_at < %(since)s
  and (%(flow)s::text is null or l.flow = %(flow)s)
  and not exists (select from found_file f where f.place = l.filed_as)
group by l.flow order by l.flow
"""


def missing(
    connection: Connection, *, archive: str, rejected: str, since: datetime, flow: str | None
) -> list[MissingFiles]:
    """How many lines have a file in one of these folders that is not there, by flow.

    since: the moment at which the looking began; what was filed later is left out.
    """
    values = {"archive": f"{archive}/", "rejected": f"{rejected}/", "since": since, "flow": flow}
    with connection.cursor(row_factory=class_row(MissingFiles)) as cursor:
        return cursor.execute(_MISSING, values).fetchall()
