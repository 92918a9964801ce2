"""A connection to the database: what holds in each of its transactions, whatever server, role or pooler say."""

import select
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import psycopg
from psycopg import Transaction, errors, sql
from psycopg.pq import TransactionStatus

Answer = TypeVar("Answer")

LOCK_WAIT_SECONDS = 5.0
"""For rows and tables that another application has locked, and for a lock of ours that one may wait for."""

_STATEMENT_MINUTES = 10  # no statement of ours takes so long, but for changes of the schema

_IDLE_SECONDS = 60.0
"""So long, at most, a transaction is open in which its process does nothing: a frozen one keeps no lock longer."""

# What makes the server notice within seconds that our machine is gone, and give back what its sessions have locked.
# Over a local socket they have no effect. The last one ends what is computed for nobody; servers on Linux all have it.
_SESSION = """
select pg_backend_pid(), set_config('timezone', 'UTC', false), set_config('tcp_keepalives_idle', '3', false),
    set_config('tcp_keepalives_interval', '2', false), set_config('tcp_keepalives_count', '3', false),
    set_config('tcp_user_timeout', '6s', false),
    set_config('client_connection_check_interval', case when version() like '%linux%' then '2s' else '0' end, false)
"""

_SETTINGS = {
    # What is archived must not be gone after a crash; who asks for more than that keeps it.
    "synchronous_commit": "case current_setting('synchronous_commit') when 'remote_apply' then 'remote_apply' "
    "else 'on' end",
    "statement_timeout": f"'{_STATEMENT_MINUTES}min'",
    "idle_in_transaction_session_timeout": f"'{_IDLE_SECONDS:.0f}s'",
    "timezone": "'UTC'",
    "client_min_messages": "'warning'",  # see _NOT_CONFIRMED
}
_SINCE_17 = {"transaction_timeout": "'0'"}

# The function of the server that warns when it gives up waiting for standbys: it has committed, and they may not have.
_NOT_CONFIRMED = "SyncRepWaitForLSN"

# Back to what the server, the database or the role says: a pooler's other clients may have left another one.
_DEFAULT_PATH = "set local search_path to default"


def settings(server_version: int, *, local: bool) -> str:
    """The statement that makes them hold for a transaction, or for a session.

    server_version: as libpq tells it, 140005 for 14.5.
    """
    wanted = _SETTINGS | {"lock_timeout": f"'{LOCK_WAIT_SECONDS}s'"} | (_SINCE_17 if server_version >= 170000 else {})
    return "select " + ", ".join(f"set_config('{name}', {value}, {local})" for name, value in wanted.items())


def begin_session(connection: psycopg.Connection[Any]) -> int:
    """Set what holds for a session of its own, whatever role, database and PGTZ say; the server's process."""
    answer = connection.execute(_SESSION.encode()).fetchone()
    assert answer is not None
    return int(answer[0])


def may_be_idle(connection: psycopg.Connection[Any]) -> None:
    """What this transaction does between its statements takes as long as it takes."""
    connection.execute("set local idle_in_transaction_session_timeout = 0")


class KeepAlive:
    """Shows the server that a transaction is at work which reads much between its statements."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection
        self._due_at = time.monotonic() + _IDLE_SECONDS / 4

    def show(self) -> None:
        """Call it again and again; it seldom asks the server anything."""
        if time.monotonic() >= self._due_at:
            self._connection.execute("select")
            self._due_at = time.monotonic() + _IDLE_SECONDS / 4


class NotConfirmed(psycopg.OperationalError):
    """The transaction is committed where it was made, and not on the standbys that the server is to wait for."""


class DatabaseConnection(psycopg.Connection[Any]):
    """Makes its settings hold in each transaction, and closes when its server has become a standby.

    A commit that no standby has confirmed is one of which nobody knows: it raises NotConfirmed, and is found in the
    database when its work is tried again.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._not_confirmed = False
        self.add_notice_handler(self._notice)

    def _notice(self, diagnostic: errors.Diagnostic) -> None:
        if diagnostic.source_function == _NOT_CONFIRMED:
            self._not_confirmed = True

    @contextmanager
    def transaction(self, savepoint_name: str | None = None, force_rollback: bool = False) -> Iterator[Transaction]:
        outermost = self.info.transaction_status == TransactionStatus.IDLE
        with super().transaction(savepoint_name, force_rollback) as transaction:
            if outermost:
                self.prepare_transaction()
            yield transaction

    def prepare_transaction(self) -> None:
        """Make the settings hold until the transaction ends."""
        # Without parameters both go in one round trip.
        statement = f"{_DEFAULT_PATH}; {settings(self.info.server_version, local=True)}"
        self.execute(sql.SQL(statement), prepare=False)

    def is_lost(self) -> bool:
        """Whether the server has hung up, as far as is known here without asking it.

        It says nothing by itself but notices, and that it ends.
        """
        socket = select.poll()
        try:
            socket.register(self.fileno(), select.POLLIN)
            while socket.poll(0):
                self.pgconn.consume_input()
        except psycopg.OperationalError:
            return True
        return False

    def wait(self, gen: Generator[Any, Any, Answer], *arguments: Any, **options: Any) -> Answer:
        """Where a server takes no writes any longer, another one does: the next connection looks for it."""
        try:
            answer = super().wait(gen, *arguments, **options)
        except errors.ReadOnlySqlTransaction:
            self.close()
            raise
        if self._not_confirmed:
            self.close()
            raise NotConfirmed("what was committed is confirmed by no standby yet (synchronous_standby_names)")
        return answer
