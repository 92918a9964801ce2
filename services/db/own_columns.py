"""Tidegate's own columns of a flow's table: added where an earlier release made the table without them."""

from collections.abc import Mapping, Sequence

from loguru import logger
from sqlalchemy import Connection, Table
from sqlalchemy.schema import CreateColumn

from models.tables import OWN_COLUMNS
from services.db.misfits import Column


def ensure(connection: Connection, tables: Mapping[str, Table], existing: Mapping[str, Sequence[Column]]) -> None:
    """Add what is missing. Each may be null or has a default, so that no row has to be written.

    tables: by their names, as a statement has them; existing: the columns that they have.
    """
    for name, table in tables.items():
        there = {column.name for column in existing[name]}
        for column in table.columns:
            if column.name in OWN_COLUMNS and column.name not in there:
                definition = CreateColumn(column).compile(dialect=connection.dialect)
                connection.exec_driver_sql(f"alter table {name} add column {definition}")
                logger.info("added the column {} to {}", column.name, name)
