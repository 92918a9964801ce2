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

# Of a partitioned table: each partition that has no part of the index, and the name of that part.
_PARTITIONS = text("""
    select format('%I.%I', n.nspname, c.relname) as partition,
           quote_ident(c.relname || substr(x.relname, length(p.relname) + 1)) as part,
           format('%I.%I', n.nspname, c.relname || substr(x.relname, length(p.relname) + 1)) as full_part
      from pg_class p
      join pg_class x on x.oid = to_regclass(:index)
      join pg_inherits i on i.inhparent = p.oid
      join pg_class c on c.oid = i.inhrelid
      join pg_namespace n on n.oid = c.relnamespace
     where p.oid = to_regclass(:table)
       and not exists (select from pg_index o join pg_inherits oi on oi.inhrelid = o.indexrelid
                        where o.indrelid = c.oid and oi.inhparent = x.oid)
""")

_IS_PARTITIONED = text("select relkind = 'p' from pg_class where oid = to_regclass(:table)")

_UNSYNCED = "({order}) where not is_synced and outbound_error is null"


class WantedIndex(NamedTuple):
    """An index that is to be there.

    name, bare_name: with its schema, where that is the ledger's, and without. what: stands behind the table's name.
    """

    name: str
    bare_name: str
    table: str
    what: str


def of_ledger() -> Iterator[WantedIndex]:
    """The ledger's indexes that are not unique."""
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    for table in Base.metadata.tables.values():
        for index in table.indexes if table.schema == SCHEMA else ():
            if not index.unique:
                made = str(CreateIndex(index).compile(dialect=dialect))
                what = made.partition(f" ON {table.fullname} ")[2]
                yield WantedIndex(f"{SCHEMA}.{index.name}", str(index.name), table.fullname, what)


def of_flow(flow: Flow) -> Iterator[WantedIndex]:
    """For a flow that sends, the index of the rows that have to go out, in the order in which they do."""
    if flow.outbound:
        table = flow.sql_table.name
        index = sql.Identifier(f"{table}_unsynced_idx").as_string(None)
        what = sql.SQL(_UNSYNCED).format(order=names(flow.outbound_order)).as_string(None)
        yield WantedIndex(index, index, sql.Identifier(table).as_string(None), what)


def create(connection: Connection, indexes: Iterable[WantedIndex]) -> None:
    """Make the indexes of tables that were just made, within the transaction."""
    for index in indexes:
        connection.exec_driver_sql(f"create index {index.bare_name} on {index.table} {index.what}")


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
                logger.info("building the index {}", index.name)
                if connection.scalar(_IS_PARTITIONED, {"table": index.table}):
                    _build_by_partitions(connection, index)
                else:
                    _build(connection, index, is_broken=is_broken)


def _build(connection: Connection, index: WantedIndex, *, is_broken: bool) -> None:
    if is_broken:
        connection.exec_driver_sql(f"drop index concurrently {index.name}")
    connection.exec_driver_sql(f"create index concurrently {index.bare_name} on {index.table} {index.what}")


def _build_by_partitions(connection: Connection, index: WantedIndex) -> None:
    """A partitioned table's index is nothing by itself: it becomes valid with the last partition's part of it."""
    connection.exec_driver_sql(f"create index if not exists {index.bare_name} on only {index.table} {index.what}")
    for partition, part, full_part in connection.execute(
        _PARTITIONS, {"table": index.table, "index": index.name}
    ).all():
        connection.exec_driver_sql(f"drop index concurrently if exists {full_part}")
        _build(connection, WantedIndex(full_part, part, partition, index.what), is_broken=False)
        connection.exec_driver_sql(f"alter index {index.name} attach partition {full_part}")


def _missing(connection: Connection, wanted: Sequence[WantedIndex]) -> list[tuple[WantedIndex, bool]]:
    """The indexes that nobody has built yet, and whether there is one that a crash left half-built."""
    rows = connection.execute(_EXISTING, {"names": [index.name for index in wanted]}).all()
    valid = {row.name: row.indisvalid for row in rows}
    return [(index, index.name in valid) for index in wanted if not valid.get(index.name)]
