"""The ledger: its tables, their states, and what may become of each state."""

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, Literal, NotRequired, TypedDict
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    BigInteger,
    CheckConstraint,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    SmallInteger,
    Text,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from models.tables import Base

SCHEMA = "tidegate"


class FileStatus(StrEnum):
    """What became of a dropped file."""

    LOADED = "loaded"
    PARTIAL = "partial"  # good records loaded, bad ones rejected
    REJECTED = "rejected"
    DUPLICATE = "duplicate"  # of a content that is loaded


class OutboundStatus(StrEnum):
    """How far an outbound file is."""

    WRITING = "writing"  # sealed here, perhaps not yet on disk
    WRITTEN = "written"
    DELIVERED = "delivered"
    FAILED = "failed"  # a dead letter: its partner turned it down for good
    SUPERSEDED = "superseded"  # a newer state took its place before it was delivered, or could be written


NO_FLOW: Final = "(no flow)"
"""Stands for the flow of a file that none takes."""

WAITING: Final = "waiting"
"""What is said of a file of which the ledger has no line yet."""

UNCHANGED: Final = "unchanged"
"""What is said of an object that was here already: no file had to bring it."""

LocalStatus = FileStatus | Literal["waiting", "unchanged"]
"""What became here of an object that was written at its master."""

FILE_TRANSITIONS: Mapping[FileStatus, frozenset[FileStatus]] = dict.fromkeys(FileStatus, frozenset())
"""A line says what became of one file, once: the file dropped again gets a line of its own."""

OUTBOUND_TRANSITIONS: Mapping[OutboundStatus, frozenset[OutboundStatus]] = {
    OutboundStatus.WRITING: frozenset({OutboundStatus.WRITTEN, OutboundStatus.SUPERSEDED}),
    OutboundStatus.WRITTEN: frozenset({OutboundStatus.DELIVERED, OutboundStatus.FAILED, OutboundStatus.SUPERSEDED}),
    OutboundStatus.FAILED: frozenset({OutboundStatus.WRITTEN, OutboundStatus.SUPERSEDED}),
    OutboundStatus.DELIVERED: frozenset(),
    OutboundStatus.SUPERSEDED: frozenset(),
}
"""What may become of an outbound file in each state; every statement that changes one is made of this table."""

IN_TABLE = (FileStatus.LOADED, FileStatus.PARTIAL)
"""The states of a file of which records are in the flow's table."""


class RecordError(TypedDict):
    """One reason why one record is rejected, as it stands in the report and in the ledger.

    record: its position in the file, from 0. line, column: from 1. value: as JSON text, cut at 200 characters.
    """

    record: int
    pointer: str
    line: int
    column: int
    value: NotRequired[str]
    reason: str


class InboundFileRow(Base):
    """One dropped file, written in the transaction that loads it.

    `path` is where it lay. `filed_at` is null between the commit and the move out of
    `input/`: after a crash it tells that the file there only has to be moved, if it is the same
    one by its `identity`: another may have been dropped under its name.
    arrival: when it came, in nanoseconds: the last time, of content that came again. Lines of earlier releases
        have none, and came before all others.
    """

    __tablename__ = "inbound_file"
    __table_args__ = (
        CheckConstraint("status in ('loaded', 'partial', 'rejected', 'duplicate')", name="status"),
        # The last line of defence of exactly-once: one content is loaded once per flow.
        Index(
            "inbound_file_loaded_once",
            "flow",
            "sha256",
            unique=True,
            postgresql_where=text("status in ('loaded', 'partial') and superseded_by is null"),
        ),
        # Those that are not in the one above: nearly none, so that a line is put into one index by its content.
        Index(
            "inbound_file_content",
            "sha256",
            postgresql_where=text("status in ('rejected', 'duplicate') or superseded_by is not null"),
        ),
        Index("inbound_file_unfiled", "flow", postgresql_where=text("filed_at is null")),
        Index("inbound_file_recent", "flow", "id"),
        Index("inbound_file_arrival", "arrival", postgresql_using="brin"),
        # Of what went wrong or was known; most lines are in neither, and pay nothing for them.
        Index("inbound_file_not_loaded", "status", "id", postgresql_where=text("status <> 'loaded'")),
        Index("inbound_file_error", "flow", "id", postgresql_where=text("error is not null")),
        {"schema": SCHEMA},
    )

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    flow: Mapped[str | None] = mapped_column(Text)
    name: Mapped[str] = mapped_column(Text)
    path: Mapped[str | None] = mapped_column(Text)
    sha256: Mapped[bytes | None] = mapped_column(LargeBinary)
    bytes: Mapped[int] = mapped_column(BigInteger)
    status: Mapped[str] = mapped_column(Text)
    records: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    inserted: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    updated: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    unchanged: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    stale: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    rejected: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    seen_at: Mapped[datetime]
    loaded_at: Mapped[datetime] = mapped_column(server_default=func.now())
    filed_at: Mapped[datetime | None]
    filed_as: Mapped[str | None] = mapped_column(Text)
    node: Mapped[str] = mapped_column(Text)
    error: Mapped[str | None] = mapped_column(Text)
    drift: Mapped[dict[str, int] | None] = mapped_column(JSONB)
    duplicate_of: Mapped[int | None] = mapped_column(BigInteger)
    superseded_by: Mapped[int | None] = mapped_column(BigInteger)
    identity: Mapped[str | None] = mapped_column(Text)
    arrival: Mapped[int | None] = mapped_column(BigInteger)


class FileCountRow(Base):
    """How many lines of `inbound_file` a flow has in a state, kept by that table's triggers: counting takes long.

    flow: empty for files of none. shard: which of several rows a session counts in, so that loaders do not wait for
        one another; what holds is their sum.
    """

    __tablename__ = "file_count"
    __table_args__ = ({"schema": SCHEMA},)

    flow: Mapped[str] = mapped_column(Text, primary_key=True)
    status: Mapped[str] = mapped_column(Text, primary_key=True)
    shard: Mapped[int] = mapped_column(SmallInteger, primary_key=True, autoincrement=False)
    files: Mapped[int] = mapped_column(BigInteger)


class PlacedFileRow(Base):
    """What is known of a file before it is loaded, by who placed it.

    again: it is loaded although its content was before; false: it repeats one that was placed, and is loaded only
        if that one was not.
    """

    __tablename__ = "placed_file"
    __table_args__ = ({"schema": SCHEMA},)

    flow: Mapped[str] = mapped_column(Text, primary_key=True)
    identity: Mapped[str] = mapped_column(Text, primary_key=True)
    again: Mapped[bool]
    placed_at: Mapped[datetime] = mapped_column(server_default=func.now())


class RejectedRecordRow(Base):
    """One reason why one record was rejected; a record may have several."""

    __tablename__ = "rejected_record"
    __table_args__ = ({"schema": SCHEMA},)

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    inbound_file_id: Mapped[int] = mapped_column(ForeignKey(InboundFileRow.id, ondelete="CASCADE"), index=True)
    position: Mapped[int] = mapped_column(Integer)
    pointer: Mapped[str] = mapped_column(Text)
    line: Mapped[int] = mapped_column(Integer)
    column: Mapped[int] = mapped_column("column", Integer)
    value: Mapped[str | None] = mapped_column(Text)
    reason: Mapped[str] = mapped_column(Text)


class OutboundFileRow(Base):
    """One outbound file: sealed here before a byte of it is written.

    document: the name of the `Outbound` or acknowledgement that it carries, empty for an unnamed one. Null until
        it is told of the file's name: the first release sealed files without it.
    content: its bytes until they are on disk, so that a crash repeats the same file; where its document has a
        destination, until that has them, so that any daemon can deliver it.
    taken: the rows that have gone out wholly with it, `[key…, changed_at]` each, until they are marked.
    carries: its other rows, which say that they went out in the file of a later document; null without any.
    written_in: the output folder, with its machine.
    sent_at: when it was last sent to a partner of which no clear answer is known: it may have the file.
    delivered_as: the partner's answer. filed_as: where it lies since; null until it is moved.
    """

    __tablename__ = "outbound_file"
    __table_args__ = (
        CheckConstraint("status in ('writing', 'written', 'delivered', 'failed', 'superseded')", name="status"),
        Index("outbound_file_open", "flow", "id", postgresql_where=text("status = 'writing'")),
        Index("outbound_file_recent", "flow", "id"),
        Index("outbound_file_name", "flow", "name"),
        Index("outbound_file_failed", "flow", "id", postgresql_where=text("status = 'failed'")),
        Index("outbound_file_due", "flow", "document", "id", postgresql_where=text("status = 'written'")),
        Index("outbound_file_undocumented", "flow", postgresql_where=text("document is null")),
        Index("outbound_file_unfiled", "flow", postgresql_where=text("status = 'delivered' and filed_as is null")),
        {"schema": SCHEMA},
    )

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    flow: Mapped[str] = mapped_column(Text)
    document: Mapped[str | None] = mapped_column(Text)
    name: Mapped[str] = mapped_column(Text)
    sha256: Mapped[bytes] = mapped_column(LargeBinary)
    bytes: Mapped[int] = mapped_column(BigInteger)
    records: Mapped[int] = mapped_column(Integer)
    status: Mapped[str] = mapped_column(Text)
    attempts: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    next_attempt_at: Mapped[datetime | None]
    last_error: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    written_at: Mapped[datetime | None]
    sent_at: Mapped[datetime | None]
    delivered_at: Mapped[datetime | None]
    delivered_as: Mapped[Any | None] = mapped_column(JSONB)
    filed_as: Mapped[str | None] = mapped_column(Text)
    node: Mapped[str] = mapped_column(Text)
    content: Mapped[Any | None] = mapped_column(LargeBinary)
    taken: Mapped[list[list[str]] | None] = mapped_column(JSONB)
    carries: Mapped[list[list[str]] | None] = mapped_column(JSONB)
    written_in: Mapped[str | None] = mapped_column(Text)


class DestinationRow(Base):
    """A destination that some daemon of this database delivers to, or did: its document's files stay here until then.

    document: the name of those that go there. name: as the flow declares it.
    """

    __tablename__ = "destination"
    __table_args__ = ({"schema": SCHEMA},)

    flow: Mapped[str] = mapped_column(Text, primary_key=True)
    document: Mapped[str] = mapped_column(Text, primary_key=True)
    name: Mapped[str] = mapped_column(Text)


class InterchangeRow(Base):
    """An EDI interchange that was loaded: its sender never gives another one the same control reference.

    sender, receiver: number and qualifier, `4012345000009:14`.
    """

    __tablename__ = "interchange"
    __table_args__ = ({"schema": SCHEMA},)

    standard: Mapped[str] = mapped_column(Text, primary_key=True)
    sender: Mapped[str] = mapped_column(Text, primary_key=True)
    receiver: Mapped[str] = mapped_column(Text, primary_key=True)
    reference: Mapped[str] = mapped_column(Text, primary_key=True)
    inbound_file_id: Mapped[int] = mapped_column(BigInteger)


class ReceiptRow(Base):
    """A body that came in by HTTP: what its sender may ask for, before its file is loaded and after.

    id: random, so that nobody finds another sender's; those of before revision 0003 are numbers.
    name: its file's name, which no other file has; with `sha256` it leads to the ledger's line.
    idempotency_key: the sender's own name of the request, which keeps a repeat from becoming a second file.
    """

    __tablename__ = "receipt"
    __table_args__ = (UniqueConstraint("flow", "idempotency_key"), {"schema": SCHEMA})

    id: Mapped[str] = mapped_column(Text, primary_key=True, server_default=text("gen_random_uuid()"))
    flow: Mapped[str] = mapped_column(Text)
    name: Mapped[str] = mapped_column(Text)
    sha256: Mapped[bytes] = mapped_column(LargeBinary)
    bytes: Mapped[int] = mapped_column(BigInteger)
    idempotency_key: Mapped[str | None] = mapped_column(Text)
    received_at: Mapped[datetime] = mapped_column(server_default=func.now())


class CursorRow(Base):
    """How far a source has got. Only the source knows what `state` says."""

    __tablename__ = "cursor"
    __table_args__ = ({"schema": SCHEMA},)

    flow: Mapped[str] = mapped_column(Text, primary_key=True)
    source: Mapped[str] = mapped_column(Text, primary_key=True)
    state: Mapped[dict[str, Any]] = mapped_column(JSONB)
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now())


class DaemonRow(Base):
    """A daemon that runs on this database, or did and ended without a word; times by the database's clock.

    node: its machine and process, as `inbound_file.node` has it.
    flows: those that it takes files of. files, records: what it loaded since it started; of_minute: in the minute
        before it was last seen.
    """

    __tablename__ = "daemon"
    __table_args__ = ({"schema": SCHEMA},)

    id: Mapped[UUID] = mapped_column(primary_key=True)
    node: Mapped[str] = mapped_column(Text)
    pid: Mapped[int] = mapped_column(Integer)
    version: Mapped[str] = mapped_column(Text)
    schema_revision: Mapped[str] = mapped_column(Text)
    flows: Mapped[list[str]] = mapped_column(ARRAY(Text))
    started_at: Mapped[datetime]
    last_seen_at: Mapped[datetime]
    files: Mapped[int] = mapped_column(BigInteger)
    records: Mapped[int] = mapped_column(BigInteger)
    files_of_minute: Mapped[int] = mapped_column(BigInteger)
    records_of_minute: Mapped[int] = mapped_column(BigInteger)
