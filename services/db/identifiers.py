"""Lists of columns as parts of SQL statements."""

from collections.abc import Iterable

from psycopg import sql


def names(columns: Iterable[str], table: str | None = None) -> sql.Composed:
    """Columns, of a table where one is named, separated by commas."""
    return sql.SQL(", ").join(name(column, table) for column in columns)


def name(column: str, table: str | None = None) -> sql.Composable:
    """One of them."""
    return sql.Identifier(*filter(None, (table, column)))


def equal(columns: Iterable[str], left: str, right: str) -> sql.Composed:
    """That two tables agree in these columns."""
    return sql.SQL(" and ").join(
        sql.SQL("{} = {}").format(sql.Identifier(left, column), sql.Identifier(right, column)) for column in columns
    )
