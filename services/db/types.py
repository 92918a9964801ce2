"""Columns' types and names in PostgreSQL's own words."""

import re
from typing import Any

from sqlalchemy import Column, Dialect
from sqlalchemy.dialects import postgresql

_POSTGRESQL: Dialect = postgresql.dialect()  # type: ignore[no-untyped-call]


def full_name(column: Column[Any]) -> str:
    """The type with its modifiers: `character varying(50)` as VARCHAR(50)."""
    return column.type.compile(dialect=_POSTGRESQL)


def quoted(name: str) -> str:
    """A column's name as PostgreSQL writes it, quoted only where it must be."""
    return str(_POSTGRESQL.identifier_preparer.quote(name))


def base_name(column: Column[Any]) -> str:
    """The type without modifiers, in lower case: `varchar`."""
    return re.sub(r"\(.*?\)", "", full_name(column)).lower()
