"""What only one daemon of those on a database does at a time, and how far it has got: locks and bookmarks."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from typing import Any

from psycopg import Connection
from psycopg.errors import LockNotAvailable
from psycopg.types.json import Jsonb

from services.db import sqlstate
from services.supervisor import in_thread

Connect = Callable[[], Connection]
"""Makes a connection of one's own, in autocommit mode."""

_LOCK_SPACE = 0x7469_636F
"""The first key of the connectors' advisory locks; the second is a hash of the connector's name."""


@contextmanager
def sole(connect: Connect, name: str) -> Iterator[Connection | None]:
    """A connection that holds the lock of the connector `name`, None where another daemon has it.

    The lock goes with the connection, so whoever writes through it knows that it still has the
    lock. Errors of the database come out as ours.
    """
    with sqlstate.translated(), connect() as connection:
        taken = connection.execute("select pg_try_advisory_lock(%s, hashtext(%s))", [_LOCK_SPACE, name]).fetchone()
        yield connection if taken is not None and taken[0] else None


@asynccontextmanager
async def held(connect: Connect, name: str) -> AsyncIterator[Connection | None]:
    """The same for the event loop."""
    with sqlstate.translated(), ExitStack() as stack:
        connection = await in_thread(stack.enter_context, sole(connect, name))
        yield connection


@asynccontextmanager
async def alone(connection: Connection, name: str) -> AsyncIterator[None]:
    """Wait for the lock `name` and hold it; whoever came first gets it first."""
    while not await in_thread(_lock, connection, name):
        pass
    try:
        yield
    finally:
        await in_thread(connection.execute, "select pg_advisory_unlock(%s, hashtext(%s))", [_LOCK_SPACE, name])


def _lock(connection: Connection, name: str) -> bool:
    """False after the connection's lock_timeout: a thread that waits for ever could not be stopped."""
    try:
        connection.execute("select pg_advisory_lock(%s, hashtext(%s))", [_LOCK_SPACE, name])
    except LockNotAvailable:
        return False
    return True


def bookmark(connection: Connection, flow: str, source: str) -> dict[str, Any]:
    """How far a source has got; empty when it never ran."""
    found = connection.execute(
        "select state from tidegate.cursor where flow = %s and source = %s", [flow, source]
    ).fetchone()
    return dict(found[0]) if found else {}


def move_bookmark(connection: Connection, flow: str, source: str, state: dict[str, Any]) -> None:
    """Call it when what lies before the bookmark is on disk."""
    connection.execute(
        """
        insert into tidegate.cursor as c (flow, source, state) values (%s, %s, %s)
        on conflict (flow, source) do update set state = excluded.state, updated_at = now()
        where c.state is distinct from excluded.state
        """,
        [flow, source, Jsonb(state)],
    )


def let_load_again(connection: Connection, flow: str, sha256: bytes) -> None:
    """A source that went back to an earlier state sends content that was loaded before, and means it."""
    connection.execute(
        """
        update tidegate.inbound_file set reload = true
        where flow = %s and sha256 = %s and status in ('loaded', 'partial') and superseded_by is null
        """,
        [flow, sha256],
    )
