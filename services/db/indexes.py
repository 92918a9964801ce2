"""Indexes of the ledger and of what has to go out: made where they are missing, without holding up who writes.

An index that a migration makes locks its table until it is there. So no migration makes one of the ledger that is
not unique: it is declared, and built here, concurrently, when the migrations are done. An index that a flow declares
comes with its table, or by the flow's migration.
"""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

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

# To build one waits for whoever is writing; a timeout would leave it half-built.
_UNHURRIED = "select set_config('lock_timeout', '0', false), set_config('statement_timeout', '0', false)"

LOOK_SECONDS = 0.2
"""How often a process looks whether another one has built them."""

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
    with sqlstate.translated(), engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        if _missing(connection, wanted):
            connection.detach()  # closed at the end, however it comes: the lock goes with it
            connection.exec_driver_sql(_UNHURRIED)
            # To wait in the server would hold a snapshot, for which whoever builds waits in turn.
            while not connection.scalar(text("select pg_try_advisory_lock(:key)"), {"key": _ADVISORY_LOCK}):
                time.sleep(LOOK_SECONDS)
            for index, is_broken in _missing(connection, wanted):
                if is_broken:
                    connection.exec_driver_sql(f"drop index concurrently {index.name}")
                logger.info("building the index {}", index.name)
                connection.exec_driver_sql(f"create index concurrently {index.definition}")


def _missing(connection: Connection, wanted: Sequence[WantedIndex]) -> list[tuple[WantedIndex, bool]]:
    """The indexes that nobody has built yet, and whether there is one that a crash left half-built."""
    rows = connection.execute(_EXISTING, {"names": [index.name for index in wanted]}).all()
    valid = {row.name: row.indisvalid for row in rows}
    return [(index, index.name in valid) for index in wanted if not valid.get(index.name)]
