"""The declaration of an integration flow: a value, made in the flow's own file."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pydantic import BaseModel
from sqlalchemy import Table

from models.tables import OWN_COLUMNS, LandedRow

RecordType = type[BaseModel] | type[Mapping[str, Any]]

RowFunction = Callable[[Any], Iterable[Mapping[str, object]]]
"""From one validated record to its rows, each keyed by column name. `Any` because
each flow annotates its own record type, and a callable's parameter is contravariant."""


class PartlyBad(StrEnum):
    """What becomes of the good records of a file that also holds bad ones."""

    KEEP_VALID = "keep_valid"
    ALL_OR_NOTHING = "all_or_nothing"


@dataclass(frozen=True, slots=True)
class Flow:
    """What comes in, where it lands, and how one becomes the other.

    name: the file name of the declaration; `flows.discover` sets it.
    record: one record as the partner sends it: a Pydantic model or a TypedDict
        (`typing_extensions`), the latter validated about twice as fast.
    table: where rows land; its primary key is the upsert's key.
    envelope: the key that holds the records, `{"<envelope>": [...]}`; without one the
        file is a bare array or a single record.
    file_prefixes: names that route a file dropped straight into `input/`.
    newest_by: the column that says which of two records with one key is newer. Without
        one the last to arrive wins, or, `append_only`, the first one stays.
    local: columns that belong to this side of the integration: no file ever writes them.
    to_rows: one record to its rows; without it the record's fields are the columns.
    partly_bad: the policy for a file with good and bad records.
    """

    record: RecordType
    table: type[LandedRow]
    name: str = ""
    envelope: str | None = None
    file_prefixes: tuple[str, ...] = ()
    newest_by: str | None = None
    append_only: bool = False
    local: tuple[str, ...] = ()
    to_rows: RowFunction | None = None
    partly_bad: PartlyBad = PartlyBad.KEEP_VALID

    def __post_init__(self) -> None:
        if not self.key:
            raise ValueError(f"table {self.sql_table.name} needs a primary key: it is the upsert's key")
        if self.newest_by is not None:
            if self.newest_by not in self.columns:
                raise ValueError(f"newest_by names {self.newest_by!r}, not a column of {self.sql_table.name}")
            if self.sql_table.columns[self.newest_by].nullable:
                raise ValueError(f"newest_by column {self.newest_by!r} must not be nullable")
            if self.append_only:
                raise ValueError("an append_only flow keeps the first record: it has no newest_by")

    @property
    def sql_table(self) -> Table:
        table = self.table.__table__
        assert isinstance(table, Table)
        return table

    @property
    def key(self) -> tuple[str, ...]:
        """The columns of the primary key."""
        return tuple(column.name for column in self.sql_table.primary_key.columns)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that a record fills, in the table's order."""
        return tuple(c.name for c in self.sql_table.columns if c.name not in OWN_COLUMNS.union(self.local))
