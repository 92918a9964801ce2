"""The schema: the ledger by migrations, each flow's table by its declaration, and whether both still fit."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from loguru import logger
from sqlalchemy import Connection, Engine, text
from sqlalchemy.schema import sort_tables

from models.errors import StopDaemon
from models.flow import Flow
from models.ledger import SCHEMA
from models.tables import Base
from services.db import indexes, migrate, misfits, own_columns, partitions, sqlstate, triggers
from services.db.connection import DatabaseConnection

_ADVISORY_LOCK = int.from_bytes(b"tidegate")
# A change of a large table takes its time, and waits for who is writing to it.
_UNHURRIED = (
    "select set_config('lock_timeout', '0', true), set_config('statement_timeout', '0', true), "
    "set_config('idle_in_transaction_session_timeout', '0', true)"
)
_MIGRATE = 'python main.py db revision "what changed", then python main.py db upgrade'
_LEDGER_DIFFERS = (
    "undo what changed Tidegate's own tables; if you changed models/ledger.py: "
    'python main.py db revision --ledger "what changed"'
)


def prepare(engine: Engine, flows: Mapping[str, Flow], migrations: Sequence[Path] = ()) -> list[str]:
    """Bring the database to the schema of this program, or leave it as it is; then build missing indexes.

    Gives the processes that run an older version where it had to upgrade: see `migrate.upgrade`.

    Processes that start together wait for each other. Raises StopDaemon when the database is newer than this
    program, a migration fails, or a table does not fit its declaration.

    migrations: the folders of the site's own.
    """
    partitions.declare(flows.values())
    with _transaction(engine) as connection:
        older = migrate.upgrade(connection, migrations)
        _check_ledger(connection)
        tables = misfits.by_name(connection, [table for flow in flows.values() for table in flow.sql_tables])
        there = misfits.columns(connection, tables)
        made = [table for name, table in tables.items() if name not in there]
        for table in sort_tables(made):
            table.create(connection, checkfirst=True)
            logger.info("created the table {}", table.fullname)
        own_columns.ensure(connection, {name: tables[name] for name in there}, there)
        if wrong := misfits.found(connection, {name: tables[name] for name in there}):
            raise StopDaemon("; ".join(wrong), hint=_MIGRATE)
        for flow in flows.values():
            if flow.sql_table in made:
                indexes.create(connection, indexes.of_flow(flow))
            partitions.begin(connection, flow, made)
            if triggers.ensure(connection, flow):
                logger.debug("created the triggers of {}", flow.name)
    indexes.ensure(engine, flows)
    return older


def revision(engine: Engine, flows: Mapping[str, Flow], message: str, migrations: Sequence[Path]) -> Path | None:
    """Write the site's migration from the flows' tables as they are to their declarations; None when they fit.

    migrations: the folders of the site's own; the new one goes into the last.
    """
    from services.db import revisions

    with _transaction(engine) as connection:
        migrate.upgrade(connection, migrations)
        _check_ledger(connection)
        tables = misfits.by_name(connection, [each for flow in flows.values() for each in flow.sql_tables])
        there = misfits.columns(connection, tables)
        existing = {name: tables[name] for name in there}
        own_columns.ensure(connection, existing, there)
        path = revisions.write_of_site(connection, existing.values(), message, migrations[-1])
        connection.rollback()  # what the migrations before it did was only to compare with
        return path


def own_revision(engine: Engine, message: str) -> Path | None:
    """The same for Tidegate's own tables, in its own line: for who changes their declarations."""
    from services.db import revisions

    with _transaction(engine) as connection:
        migrate.upgrade(connection, ())
        path = revisions.write_own(connection, message)
        connection.rollback()
        return path


def _check_ledger(connection: Connection) -> None:
    tables = [table for table in Base.metadata.tables.values() if table.schema == SCHEMA]
    if wrong := misfits.found(connection, misfits.by_name(connection, tables)):
        raise StopDaemon("; ".join(wrong), hint=_LEDGER_DIFFERS)


@contextmanager
def _transaction(engine: Engine) -> Iterator[Connection]:
    """One transaction, alone among all that change the schema."""
    with sqlstate.translated(), engine.begin() as connection:
        driver = connection.connection.driver_connection
        assert isinstance(driver, DatabaseConnection)
        driver.prepare_transaction()
        connection.exec_driver_sql(_UNHURRIED)
        connection.execute(text("select pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK})
        yield connection
