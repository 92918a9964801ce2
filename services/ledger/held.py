"""Sealed files that are not on disk: to be written now, or held for a while because they could not be."""

from collections.abc import Iterable, Mapping

from psycopg import Connection

from services.ledger.outbound import SealedFile
from services.ledger.statements import statement

OPEN_FILES = 1000
"""Sealed files that are read at once: their content lies in memory."""

_ARE_OPEN = statement("select exists (select from tidegate.outbound_file where flow = %s and status = {writing})")

# A lock is something to commit: so it waits for standbys, of which who sealed the files may not have had an answer.
_DUE = statement("""
select id, document, name, content, records, attempts from tidegate.outbound_file
where flow = %(flow)s and status = {writing} and ({rests}) is not true
order by id limit %(limit)s for key share
""")

_HOLD = """
update tidegate.outbound_file
set attempts = attempts + 1, last_error = %s, next_attempt_at = now() + %s * interval '1 second' where id = %s
"""

_HELD = statement("""
select count(*), (array_agg(last_error order by id))[1] from tidegate.outbound_file
where flow = %s and status = {writing} and last_error is not null
""")

_OURS = """
select w.name from unnest(%s::text[], %s::bytea[]) w (name, sha256)
where exists (select from tidegate.outbound_file f where f.flow = %s and f.name = w.name and f.sha256 = w.sha256)
"""


def are_open(connection: Connection, flow: str) -> bool:
    """Whether there are any, to be written now or later."""
    (some,) = connection.execute(_ARE_OPEN, [flow]).fetchone() or (False,)
    return bool(some)


def due(connection: Connection, flow: str, longest_seconds: float) -> list[SealedFile]:
    """Those to be written now, oldest first: what a crash left sealed, and what was held so long as was said.

    longest_seconds: none is held for longer, see `STATES`.
    """
    values = {"flow": flow, "limit": OPEN_FILES, "longest": longest_seconds}
    rows = connection.execute(_DUE, values, binary=True).fetchall()
    return [SealedFile(*row) for row in rows]


def hold(connection: Connection, files: Iterable[tuple[str, float, int]]) -> None:
    """These could not be written: why, after how many seconds to try again, and which."""
    with connection.cursor() as cursor:
        cursor.executemany(_HOLD, files)


def count(connection: Connection, flow: str) -> tuple[int, str | None]:
    """How many files could not be written so far, and why the oldest of them could not."""
    found, error = connection.execute(_HELD, [flow]).fetchone() or (0, None)
    return found, error


def ours(connection: Connection, flow: str, states: Mapping[str, bytes]) -> set[str]:
    """Those of the names under which a file of the flow once had just this content, told by its SHA-256."""
    rows = connection.execute(_OURS, [[*states], [*states.values()], flow]).fetchall() if states else []
    return {name for (name,) in rows}
