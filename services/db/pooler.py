"""Poolers such as PgBouncer: one that hands sessions around takes from us the locks and LISTEN that live in them."""

from psycopg import Connection

from models.errors import StopDaemon

_LOOKS = 10  # what others do at the same time may hide it from one look


def refuse_shared_sessions(one: Connection, another: Connection, setting: str) -> None:
    """Raises StopDaemon where the two connections, in autocommit mode, do not keep a session each.

    setting: the one that named the server.
    """
    process = _process(one)
    for _ in range(_LOOKS):
        if _process(another) == process or _process(one) != process:
            raise StopDaemon(
                f"{setting} leads to a pooler that hands sessions around, as PgBouncer does with "
                "pool_mode = transaction: locks and LISTEN need a session of their own",
                hint="set DATABASE_DIRECT_URL to the server itself, beside DATABASE_URL",
            )


def _process(connection: Connection) -> int:
    """The server's process that answers."""
    answer = connection.execute("select pg_backend_pid()").fetchone()
    assert answer is not None
    return int(answer[0])
