"""Indexes of the ledger and of what has to go out: made where they are missing, without holding up who writes.

An index that a migration makes locks its table until it is there. So no migration makes one that is not
unique: it is declared, and built here, concurrently, when the migrations are done.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import psycopg
from loguru import logger
from psycopg import sql
from sqlalchemy import Connection, Engine, text
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateIndex

from models.flow import Flow
from models.ledger import SCHEMA
from models.tables import Base
from services.db import sqlstate
from services.db.identifiers import names

_ADVISORY_LOCK = int.from_bytes(b"tideindx")

_EXISTING = text("""
    select wanted.name, i.indisvalid
      from unnest(cast(:names as text[])) as wanted(name)
      join pg_index i on i.indexrelid = to_regclass(wanted.name)
""")

_UNSYNCED = "{index} on {table} ({order}) where not is_synced and outbound_error is null"


class WantedIndex(NamedTuple):
    """An index that is to be there; name: as a statement has it. definition: what stands behind `create index`."""

    name: str
    definition: str


def of_ledger() -> Iterator[WantedIndex]:
    """The ledger's indexes that are not unique."""
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    for table in Base.metadata.tables.values():
        for index in table.indexes if table.schema == SCHEMA else ():
            if not index.unique:
                made = str(CreateIndex(index).compile(dialect=dialect))
                yield WantedIndex(f"{SCHEMA}.{index.name}", made.removeprefix("CREATE INDEX "))


def of_flow(flow: Flow) -> Iterator[WantedIndex]:
    """For a flow that sends, the index of the rows that have to go out, in the order in which they do."""
    if flow.outbound:
        table = flow.sql_table.name
        index = sql.Identifier(f"{table}_unsynced_idx")
        made = sql.SQL(_UNSYNCED).format(index=index, table=sql.Identifier(table), order=names(flow.outbound_order))
        yield WantedIndex(index.as_string(None), made.as_string(None))


def create(connection: Connection, indexes: Iterable[WantedIndex]) -> None:
    """Make the indexes of tables that were just made, within the transaction."""
    for index in indexes:
        connection.exec_driver_sql(f"create index {index.definition}")


def ensure(engine: Engine, flows: Mapping[str, Flow]) -> None:
    """Build what is missing, and anew what a crash left half-built. Processes that start together wait in line."""
    wanted = [*of_ledger(), *(index for flow in flows.values() for index in of_flow(flow))]
    with sqlstate.translated(), engine.connect() as connection:
        rows = connection.execute(_EXISTING, {"names": [index.name for index in wanted]}).all()
        valid = {name for name, is_valid in rows if is_valid}
        connection.rollback()
        missing = [index for index in wanted if index.name not in valid]
        if not missing:
            return
        driver = connection.connection.driver_connection
        assert isinstance(driver, psycopg.Connection)
        driver.autocommit = True
        try:
            driver.execute("select pg_advisory_lock(%s)", [_ADVISORY_LOCK])
            for index in missing:
                _build(driver, index)
            driver.execute("select pg_advisory_unlock(%s)", [_ADVISORY_LOCK])
        finally:
            driver.autocommit = False


def _build(driver: psycopg.Connection, index: WantedIndex) -> None:
    found = driver.execute(
        "select indisvalid from pg_index where indexrelid = to_regclass(%s)", [index.name]
    ).fetchone()
    if found == (True,):
        return  # somebody was faster
    if found is not None:
        driver.execute(f"drop index concurrently {index.name}".encode())
    logger.info("building the index {}", index.name)
    driver.execute(f"create index concurrently {index.definition}".encode())
