"""The base of every table: where a row came from, and whether it has gone out."""

from datetime import datetime
from typing import Any, ClassVar

from sqlalchemy import TIMESTAMP, BigInteger, Integer, LargeBinary, MetaData, Text, func, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

NAMING = {
    "pk": "%(table_name)s_pkey",
    "uq": "%(table_name)s_%(column_0_N_name)s_key",
    "ix": "%(table_name)s_%(column_0_N_name)s_idx",
    "fk": "%(table_name)s_%(column_0_N_name)s_fkey",
    "ck": "%(table_name)s_%(constraint_name)s_check",
}


class Base(DeclarativeBase):
    """Declarative base; a `datetime` is always `timestamptz`."""

    metadata = MetaData(naming_convention=NAMING)
    type_annotation_map: ClassVar[dict[Any, Any]] = {datetime: TIMESTAMP(timezone=True), str: Text()}


class LoadedRow(Base):
    """A row that came out of a file. A flow's table extends it and adds the business columns.

    The columns here are Tidegate's own: the loader fills them, a flow never does. A row that
    another application inserted has no source file. `source_said`, of a row that was changed by
    hand since: what its source last said. `confirmed_file_id`: the last file to arrive that said
    the same again.
    """

    __abstract__ = True

    source_file_id: Mapped[int | None] = mapped_column(BigInteger, sort_order=100)
    record_position: Mapped[int | None] = mapped_column(Integer, sort_order=101)
    replaced_file_id: Mapped[int | None] = mapped_column(BigInteger, sort_order=102)
    replaced_position: Mapped[int | None] = mapped_column(Integer, sort_order=103)
    inserted_at: Mapped[datetime] = mapped_column(server_default=func.now(), sort_order=104)
    changed_at: Mapped[datetime] = mapped_column(server_default=func.now(), sort_order=105)
    is_synced: Mapped[bool] = mapped_column(server_default=text("false"), sort_order=106)
    synced_at: Mapped[datetime | None] = mapped_column(sort_order=107)
    outbound_file_id: Mapped[int | None] = mapped_column(BigInteger, sort_order=108)
    outbound_error: Mapped[str | None] = mapped_column(sort_order=109)
    source_said: Mapped[Any | None] = mapped_column(JSONB, sort_order=111)
    confirmed_file_id: Mapped[int | None] = mapped_column(BigInteger, sort_order=112)


class ParentRow(LoadedRow):
    """A loaded row with children; the digest of all of them tells whether they changed."""

    __abstract__ = True

    children_digest: Mapped[bytes | None] = mapped_column(LargeBinary, sort_order=110)


class ChildRow(Base):
    """A row that belongs to a loaded row: its key starts with the key of its parent.

    Children come and go with their parent's record; they have no history of their own.
    """

    __abstract__ = True


OWN_COLUMNS = frozenset(
    {
        "source_file_id",
        "record_position",
        "replaced_file_id",
        "replaced_position",
        "inserted_at",
        "changed_at",
        "is_synced",
        "synced_at",
        "outbound_file_id",
        "outbound_error",
        "children_digest",
        "source_said",
        "confirmed_file_id",
    }
)
"""The columns of `LoadedRow`: everything else in a flow's table is business."""
