"""Lists of columns as parts of SQL statements."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from psycopg import sql


def names(
    columns: Iterable[str], table: str | None = None, cast: Mapping[str, str] = MappingProxyType({})
) -> sql.Composed:
    """Columns, of a table where one is named, separated by commas; those in `cast` as that type."""
    return sql.SQL(", ").join(name(column, table, cast) for column in columns)


def name(column: str, table: str | None = None, cast: Mapping[str, str] = MappingProxyType({})) -> sql.Composable:
    """One of them."""
    identifier = sql.Identifier(*filter(None, (table, column)))
    return sql.SQL("{}::{}").format(identifier, sql.SQL(cast[column])) if column in cast else identifier


def equal(columns: Iterable[str], left: str, right: str) -> sql.Composed:
    """That two tables agree in these columns."""
    return sql.SQL(" and ").join(
        sql.SQL("{} = {}").format(sql.Identifier(left, column), sql.Identifier(right, column)) for column in columns
    )
