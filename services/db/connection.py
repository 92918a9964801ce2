"""A connection to the database: what holds in each of its transactions, whatever server, role or pooler say."""

import select
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

_SETTINGS = {
    # What is archived must not be gone after a crash; who asks for more than that keeps it.
    "synchronous_commit": "case current_setting('synchronous_commit') when 'remote_apply' then 'remote_apply' "
    "else 'on' end",
    "statement_timeout": f"'{_STATEMENT_MINUTES}min'",
    "idle_in_transaction_session_timeout": "'0'",  # a long file is read while its transaction is open
    "timezone": "'UTC'",
}
_SINCE_17 = {"transaction_timeout": "'0'"}

# Back to what the server, the database or the role says: a pooler's other clients may have left another one.
_DEFAULT_PATH = "set local search_path to default"


def settings(server_version: int, *, local: bool) -> str:
    """The statement that makes them hold for a transaction, or for a session.

    server_version: as libpq tells it, 140005 for 14.5.
    """
    wanted = _SETTINGS | {"lock_timeout": f"'{LOCK_WAIT_SECONDS}s'"} | (_SINCE_17 if server_version >= 170000 else {})
    return "select " + ", ".join(f"set_config('{name}', {value}, {local})" for name, value in wanted.items())


class DatabaseConnection(psycopg.Connection[Any]):
    """Makes its settings hold in each transaction, and closes when its server has become a standby."""

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
            return super().wait(gen, *arguments, **options)
        except errors.ReadOnlySqlTransaction:
            self.close()
            raise
