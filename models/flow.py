"""The declaration of an integration flow: a value, made in the flow's own file."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import PurePath
from typing import Any

from pydantic import BaseModel
from sqlalchemy import TIMESTAMP, Date, Table

from models.connector import Connector, Destination, RestMaster, Setting
from models.edi.message import MessageFunction
from models.outbound import Form, Outbound, RowOrder
from models.partitions import ByTime, Partitions
from models.tables import OWN_COLUMNS, ChildRow, LoadedRow, ParentRow

RecordType = type[BaseModel] | type[Mapping[str, Any]]

RowFunction = Callable[[Any], Iterable[Mapping[str, object]]]
"""From one validated record to its rows, each keyed by column name. `Any` because
each flow annotates its own record type, and a callable's parameter is contravariant."""


_ACKNOWLEDGEMENTS = {"contrl": ".edi", "997": ".x12"}

_PARTITIONED_NAME_BYTES = 63 - len("_p2026_01_31_unsynced_idx")
"""PostgreSQL's longest name, less what tells an index of a partition."""

CHILDREN_DIGEST = "children_digest"
"""The column of `ParentRow` that tells whether the children of a row changed."""


class PartlyBad(StrEnum):
    """What becomes of the good records of a file that also holds bad ones."""

    KEEP_VALID = "keep_valid"
    ALL_OR_NOTHING = "all_or_nothing"


@dataclass(frozen=True, slots=True)
class Flow:
    """What comes in, where it is loaded, and how one becomes the other.

    name: the file name of the declaration; `flows.discover` sets it.
    record: one record as the partner sends it: a Pydantic model or a TypedDict
        (`typing_extensions`), the latter validated about twice as fast.
    table: where rows go; its primary key is the upsert's key.
    envelope: the key that holds the records, `{"<envelope>": [...]}`; without one the
        file is a bare array or a single record.
    file_prefixes: names that route a file dropped straight into `input/`.
    newest_by: the column that says which of two records with one key is newer. Without
        one the last to arrive wins, or, `append_only`, the first one stays.
    partitions: how `table`, and with it those of its children, is partitioned by a column of the key.
    local: columns that belong to this side of the integration: no file ever writes them.
    to_rows: one record to its rows; without it the record's fields are the columns.
    partly_bad: the policy for a file with good and bad records.
    exact_numbers: numbers with a fraction reach the record as `Decimal`, digit by digit.
    children: tables of rows that belong to a row of `table`. A row that `to_rows` gives holds
        the list of its children under the child table's name.
    outbound: the documents that go out when a row changed.
    messages: the EDI messages that it takes, by type (`ORDERS`, `850`), each with the function that makes
        a record of one. An interchange is acknowledged (`CONTRL`, `997`) by an outbound file.
    sources: where files are fetched; destinations: to whom outbound files are delivered. Each is
        on when its address is configured.
    """

    record: RecordType
    table: type[LoadedRow]
    name: str = ""
    envelope: str | None = None
    file_prefixes: tuple[str, ...] = ()
    newest_by: str | None = None
    append_only: bool = False
    partitions: Partitions | None = None
    local: tuple[str, ...] = ()
    to_rows: RowFunction | None = None
    partly_bad: PartlyBad = PartlyBad.KEEP_VALID
    exact_numbers: bool = False
    children: tuple[type[ChildRow], ...] = ()
    outbound: tuple[Outbound, ...] = ()
    messages: Mapping[str, MessageFunction] = field(default_factory=dict, hash=False)
    sources: tuple[Connector, ...] = ()
    destinations: tuple[Destination, ...] = ()

    def __post_init__(self) -> None:
        if not self.key:
            raise ValueError(f"table {self.sql_table.name} needs a primary key: it is the upsert's key")
        self._check_connectors()
        self._check_children()
        self._check_outbound()
        self._check_newest_by()
        self._check_partitions()

    def _check_connectors(self) -> None:
        names = [connector.name for connector in self.connectors]
        if len(set(names)) < len(names):
            raise ValueError(f"two connectors have the same name: {', '.join(names)}")
        documents = [document for destination in self.destinations for document in destination.documents]
        if len(set(documents)) < len(documents):
            raise ValueError("a kind of document goes to one destination: declare it twice to send it to two")

    def _check_children(self) -> None:
        for child in self.children:
            if not issubclass(self.table, ParentRow):
                raise ValueError(f"{self.sql_table.name} has children, so it has to be a ParentRow")
            if primary_key(child)[: len(self.key)] != self.key:
                raise ValueError(f"the key of {child.__tablename__} has to start with {', '.join(self.key)}")

    def _check_outbound(self) -> None:
        if self.messages and not self.outbound:
            raise ValueError("a flow that takes EDI messages acknowledges them, so it needs outbound")
        for outbound in self.outbound:
            self._check_names(outbound)
            if outbound.document is None and self.to_rows is not None:
                raise ValueError("where to_rows makes the rows, outbound has to say what goes out: its document")
        if len({(outbound.once, outbound.order) for outbound in self.outbound}) > 1:
            raise ValueError("the documents of a flow are all `once` or none, and have one `order`")

    def _check_newest_by(self) -> None:
        if self.newest_by is None:
            return
        if self.newest_by not in self.columns:
            raise ValueError(f"newest_by names {self.newest_by!r}, not a column of {self.sql_table.name}")
        if self.sql_table.columns[self.newest_by].nullable:
            raise ValueError(f"newest_by column {self.newest_by!r} must not be nullable")
        if self.append_only:
            raise ValueError("an append_only flow keeps the first record: it has no newest_by")

    def _check_partitions(self) -> None:
        if self.partitions is None:
            return
        column = self.partitions.column
        if column not in self.key:
            raise ValueError(f"partitions are by a column of the key ({', '.join(self.key)}), not by {column!r}")
        kind = self.sql_table.columns[column].type
        if isinstance(self.partitions, ByTime) and not (
            isinstance(kind, Date) or (isinstance(kind, TIMESTAMP) and kind.timezone)
        ):
            raise ValueError(f"partitions by time are by a timestamptz or a date, and {column!r} is {kind}")
        for table in self.sql_tables:
            if len(table.name.encode()) > _PARTITIONED_NAME_BYTES:
                raise ValueError(f"the name {table.name} is too long for a partitioned table")

    def _check_names(self, outbound: Outbound) -> None:
        fields = set(outbound.fields)
        known = {"file_id"}
        if outbound.form is Form.ONE:
            known.update(column.name for column in self.sql_table.columns if column.name not in OWN_COLUMNS)
        if "file_id" not in fields and not fields.issuperset(self.key):
            raise ValueError(f"file_name {outbound.file_name!r} must hold the key, or rows overwrite each other's file")
        if not fields <= known:
            raise ValueError(f"file_name {outbound.file_name!r} names {', '.join(sorted(fields - known))}, no column")

    @property
    def last_to_arrive_wins(self) -> bool:
        """Whether a record overwrites whatever came before it, so that an earlier state may come back."""
        return self.newest_by is None and not self.append_only

    @property
    def once(self) -> bool:
        """Whether its rows go out once in their life."""
        return any(outbound.once for outbound in self.outbound)

    @property
    def document_suffixes(self) -> dict[str, str]:
        """How the names of files end, for each named document and for acknowledgements."""
        named = {outbound.name: PurePath(outbound.file_name).suffix for outbound in self.outbound if outbound.name}
        return named | (_ACKNOWLEDGEMENTS if self.messages else {})

    @property
    def sql_table(self) -> Table:
        return _sql_table(self.table)

    @property
    def sql_tables(self) -> tuple[Table, ...]:
        """The flow's table and those of its children."""
        return (self.sql_table, *(_sql_table(child) for child in self.children))

    @property
    def key(self) -> tuple[str, ...]:
        """The columns of the primary key."""
        return primary_key(self.table)

    def child_columns(self, number: int) -> tuple[str, ...]:
        """The columns of a table of children that its parent's key does not fill."""
        return tuple(column.name for column in self.sql_tables[1 + number].columns if column.name not in self.key)

    @property
    def connectors(self) -> tuple[Connector, ...]:
        return (*self.sources, *self.destinations)

    @property
    def settings(self) -> tuple[Setting, ...]:
        """What its connectors read, each name once."""
        return tuple(dict.fromkeys(setting for connector in self.connectors for setting in connector.settings))

    @property
    def outbound_order(self) -> tuple[str, ...]:
        """The columns by which rows go out; with the key among them no two rows are equal."""
        return self.key if self.outbound[0].order is RowOrder.KEY else ("changed_at", *self.key)

    @property
    def said(self) -> tuple[str, ...]:
        """The columns of which a row that is changed by hand remembers what its source last said of them.

        None where time does not tell which record is newer: there whatever arrives is. None either where the
        source is the master: what it says again puts its local replica right.
        """
        if self.newest_by is None or any(isinstance(source, RestMaster) for source in self.sources):
            return ()
        return tuple(column for column in self.columns if column not in self.key)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that a record fills, in the table's order; behind them the children's digest."""
        own = OWN_COLUMNS.union(self.local)
        filled = tuple(column.name for column in self.sql_table.columns if column.name not in own)
        return (*filled, CHILDREN_DIGEST) if self.children else filled


def primary_key(table: type[LoadedRow] | type[ChildRow]) -> tuple[str, ...]:
    return tuple(column.name for column in _sql_table(table).primary_key.columns)


def _sql_table(table: type[LoadedRow] | type[ChildRow]) -> Table:
    made = table.__table__
    assert isinstance(made, Table)
    return made
