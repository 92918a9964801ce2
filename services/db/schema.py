"""The schema: the ledger by migrations, each flow's table by its declaration, and whether both still fit."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from loguru import logger
from sqlalchemy import Connection, Engine, text
from sqlalchemy.schema import sort_tables

from models.errors import RejectFile, StopDaemon
from models.flow import Flow
from models.ledger import SCHEMA
from models.tables import Base
from services.db import indexes, misfits, own_columns, sqlstate, triggers
from services.db.connection import DatabaseConnection

if TYPE_CHECKING:
    from alembic.config import Config

MIGRATIONS = Path(__file__).parent / "migrations"
VERSIONS = MIGRATIONS / "versions"
_ADVISORY_LOCK = int.from_bytes(b"tidegate")
# A change of a large table takes its time, and waits for who is writing to it.
_UNHURRIED = "select set_config('lock_timeout', '0', true), set_config('statement_timeout', '0', true)"
_MIGRATE = 'python main.py db revision "what changed", then python main.py db upgrade'
_LEDGER_DIFFERS = f"undo what changed Tidegate's own tables; if you changed models/ledger.py: {_MIGRATE}"


def prepare(engine: Engine, flows: Mapping[str, Flow], *, versions: Path = VERSIONS) -> None:
    """Bring the database to the schema of this program, or leave it as it is; then build missing indexes.

    Processes that start together wait for each other. Raises StopDaemon when the database is newer than this
    program, or a table does not fit its declaration.
    """
    with _transaction(engine) as connection:
        _upgrade(connection, flows, versions)
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
            if triggers.ensure(connection, flow):
                logger.debug("created the triggers of {}", flow.name)
    indexes.ensure(engine, flows)


def revision(engine: Engine, flows: Mapping[str, Flow], message: str, *, versions: Path = VERSIONS) -> Path | None:
    """Write the migration from the tables as they are to their declarations; None when they fit."""
    from services.db import revisions

    with _transaction(engine) as connection:
        _upgrade(connection, flows, versions)
        tables = misfits.by_name(connection, [each for flow in flows.values() for each in flow.sql_tables])
        existing = [tables[name] for name in misfits.columns(connection, tables)]
        number = f"{int(_revisions(versions)[-1]) + 1:04d}"
        path = revisions.write(config(connection, flows, versions), existing, number, message)
        connection.rollback()  # what the migrations before it did was only to compare with
        return path


def _check_ledger(connection: Connection) -> None:
    tables = [table for table in Base.metadata.tables.values() if table.schema == SCHEMA]
    if wrong := misfits.found(connection, misfits.by_name(connection, tables)):
        raise StopDaemon("; ".join(wrong), hint=_LEDGER_DIFFERS)


def config(connection: Connection, flows: Mapping[str, Flow], versions: Path = VERSIONS) -> "Config":
    """Alembic's configuration; there is no alembic.ini."""
    from alembic.config import Config

    made = Config()
    for option, value in {
        "script_location": MIGRATIONS,
        "version_locations": versions,
        "path_separator": "newline",
    }.items():
        made.set_main_option(option, str(value).replace("%", "%%"))
    made.attributes["flows"] = flows  # what a migration of data has to know
    made.attributes["configure"] = {"connection": connection, "version_table_schema": SCHEMA}
    return made


@contextmanager
def _transaction(engine: Engine) -> Iterator[Connection]:
    """One transaction, alone among all that change the schema."""
    try:
        with sqlstate.translated(), engine.begin() as connection:
            driver = connection.connection.driver_connection
            assert isinstance(driver, DatabaseConnection)
            driver.prepare_transaction()
            connection.exec_driver_sql(_UNHURRIED)
            connection.execute(text("select pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK})
            yield connection
    except RejectFile as error:
        raise StopDaemon(
            f"a migration does not suit the rows that are there: {error.reason}",
            hint=f"mend the newest file in {VERSIONS}: fill the column first, or give it a server_default",
        ) from error


def _upgrade(connection: Connection, flows: Mapping[str, Flow], versions: Path) -> None:
    current, known = _version(connection), _revisions(versions)
    if current == known[-1]:
        return  # without importing Alembic, which takes longer than all the rest
    if current is not None and current not in known:
        raise StopDaemon(
            f"the database is at schema revision {current}, this program knows up to {known[-1]}",
            hint="start the newer version of Tidegate",
        )
    from alembic import command

    connection.execute(text(f"create schema if not exists {SCHEMA}"))
    triggers.drop(connection)
    command.upgrade(config(connection, flows, versions), "head")
    logger.info("upgraded the schema from {} to {}", current or "nothing", known[-1])


def _version(connection: Connection) -> str | None:
    table = f"{SCHEMA}.alembic_version"
    if connection.execute(text("select to_regclass(:table)"), {"table": table}).scalar_one() is None:
        return None
    return connection.execute(text(f"select version_num from {table}")).scalar_one_or_none()  # noqa: S608


def _revisions(versions: Path) -> list[str]:
    """The revisions by their files' names, `0001_what.py`, oldest first: they form one line."""
    return sorted(path.name.partition("_")[0] for path in versions.glob("[0-9]*_*.py"))
