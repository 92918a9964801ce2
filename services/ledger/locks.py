"""Who may do what alone: the advisory locks of loaders, writers, connectors and requests.

`try_…` never waits. What is entered by `with` is the session's until it is left; the others are the transaction's.
Two more guard the schema: the one around migrations (`services.db.schema`), and the one around the building of indexes
(`services.db.indexes`).
"""

import hashlib
import zlib
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager

from psycopg import Connection
from psycopg.errors import LockNotAvailable

from models.errors import Contention, RetryLater
from services.db import connection as connections, sqlstate
from services.db.engine import Connect
from services.ledger.statements import array
from services.runtime.blocking import in_thread

# The first key of a lock; the second is a hash of the name of a flow, or of a connector or what it takes turns at.
_LOADERS = 0x7469_6465
_WRITERS = 0x7469_646F
_CONNECTORS = 0x7469_636F
_NUMBERS = 0x7469_6E75
_CONTENTS = 0x7469_6373
_SENDERS = 0x7469_7365

_BUCKETS = 1 << 14
"""Contents and senders share so many locks: one group of files takes 512 of them at most, and all loaders together no
more than the server has room for."""

_FLOW_WAIT_SECONDS = 1.0
"""How long a loader waits for its turn before it rests."""

# One after the other, as they stand.
_LOCK_FLOW = """
select set_config('lock_timeout', %s, true), pg_advisory_xact_lock(%s, hashtext(%s)),
    set_config('lock_timeout', %s, true)
"""
_LOCK_FLOW_SHARED = _LOCK_FLOW.replace("xact_lock", "xact_lock_shared")

# In the order of the list, which is the same for all: so none waits for another in a ring.
_LOCK_EACH = "select pg_advisory_xact_lock(%s, number) from unnest(%s::int[]) number"
_TRY_EACH = "select number from unnest(%s::int[]) number where not pg_try_advisory_xact_lock(%s, number)"


class FlowBusy(Contention):
    """Another loader has this flow, or the same content, in hand."""


class AnotherWriter(RetryLater):
    """Another process writes the files of this flow."""


def lock_flow(connection: Connection, flow: str | None, *, alone: bool = True) -> None:
    """Make this transaction one of those that load files of `flow`, or `alone` the only one, in this database.

    Raises FlowBusy when another transaction keeps it for long.
    """
    waits = f"{_FLOW_WAIT_SECONDS}s", f"{connections.LOCK_WAIT_SECONDS}s"
    try:
        connection.execute(_LOCK_FLOW if alone else _LOCK_FLOW_SHARED, [waits[0], _LOADERS, flow or "", waits[1]])
    except LockNotAvailable as error:
        raise FlowBusy("another loader has files of this flow in hand") from error


def try_lock_flow(connection: Connection, flow: str | None) -> bool:
    """Make this transaction the only one that loads files of the flow, unless there is another; never waits."""
    row = connection.execute("select pg_try_advisory_xact_lock(%s, hashtext(%s))", [_LOADERS, flow or ""]).fetchone()
    return row is not None and bool(row[0])


def try_lock_contents(connection: Connection, flow: str | None, contents: Iterable[bytes]) -> set[bytes]:
    """Make this transaction the only one that decides about these contents of the flow's files, and never wait.

    So two loaders never load one content twice. Gives back those that others have in hand.
    contents: SHA-256 digests, or whatever tells files without one.
    """
    buckets = {content: _bucket(flow, content) for content in contents}
    rows = connection.execute(_TRY_EACH, [array(sorted({*buckets.values()})), _CONTENTS]).fetchall()
    taken = {number for (number,) in rows}
    return {content for content, number in buckets.items() if number in taken} if taken else set()


def lock_contents(connection: Connection, flow: str | None, contents: Iterable[bytes]) -> None:
    """The same, waiting for others. Raises FlowBusy when they keep one for long."""
    _lock_each(connection, _CONTENTS, {_bucket(flow, content) for content in contents})


def lock_senders(connection: Connection, flow: str, senders: Iterable[str]) -> None:
    """Make this transaction the only one that loads interchanges of these senders, for the flow.

    Raises FlowBusy when another transaction keeps one for long.
    """
    _lock_each(connection, _SENDERS, {_bucket(flow, sender.encode()) for sender in senders})


def _bucket(flow: str | None, key: bytes) -> int:
    return zlib.crc32(key, zlib.crc32((flow or "").encode())) % _BUCKETS


def _lock_each(connection: Connection, space: int, numbers: Iterable[int]) -> None:
    try:
        connection.execute(_LOCK_EACH, [space, array(sorted(numbers))])
    except LockNotAvailable as error:
        raise FlowBusy("another loader has files of this flow in hand") from error


@contextmanager
def try_writer(connection: Connection, flow: str) -> Iterator[None]:
    """Make this session the only one that seals files of `flow`; raises AnotherWriter, and never waits."""
    if not _try_lock(connection, _WRITERS, flow):
        raise AnotherWriter(f"another process is writing files of {flow}")
    try:
        yield
    finally:
        if not connection.closed:
            connection.execute("select pg_advisory_unlock(%s, hashtext(%s))", [_WRITERS, flow])


def lock_numbers(connection: Connection) -> None:
    """Make this transaction the only one that sets how outbound files are numbered."""
    connection.execute("select pg_advisory_xact_lock(%s, 0)", [_NUMBERS])


def try_lock_key(connection: Connection, flow: str, key: str) -> bool:
    """Lock an idempotency key of a flow for this transaction; false when another one has it."""
    number = int.from_bytes(hashlib.sha256(f"{flow}\0{key}".encode()).digest()[:8], signed=True)
    (taken,) = connection.execute("select pg_try_advisory_xact_lock(%s)", [number]).fetchone() or (False,)
    return bool(taken)


@asynccontextmanager
async def try_connector(connect: Connect, name: str) -> AsyncIterator[Connection | None]:
    """A connection that holds the lock of the connector `name`, None where another daemon has it.

    The lock goes with the connection, so whoever writes through it knows that it still has the
    lock. Errors of the database come out as ours.
    """
    with sqlstate.translated(), ExitStack() as stack:
        connection = await in_thread(stack.enter_context, _try_connector(connect, name))
        yield connection


@asynccontextmanager
async def wait_for_turn(connection: Connection, name: str) -> AsyncIterator[None]:
    """Wait for the turn at what `name` says and hold it; whoever came first gets it first."""
    while not await in_thread(_wait_for_lock, connection, name):
        pass
    try:
        yield
    finally:
        await in_thread(connection.execute, "select pg_advisory_unlock(%s, hashtext(%s))", [_CONNECTORS, name])


def _wait_for_lock(connection: Connection, name: str) -> bool:
    """False after the connection's lock_timeout: a thread that waits for ever could not be stopped."""
    try:
        connection.execute("select pg_advisory_lock(%s, hashtext(%s))", [_CONNECTORS, name])
    except LockNotAvailable:
        return False
    return True


def _try_lock(connection: Connection, space: int, name: str) -> bool:
    (taken,) = connection.execute("select pg_try_advisory_lock(%s, hashtext(%s))", [space, name]).fetchone() or (False,)
    return bool(taken)


@contextmanager
def _try_connector(connect: Connect, name: str) -> Iterator[Connection | None]:
    with sqlstate.translated(), connect() as connection:
        yield connection if _try_lock(connection, _CONNECTORS, name) else None
