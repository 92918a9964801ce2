"""The ledger: which file came, what became of it, and why a record was refused."""

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, Integer, LargeBinary, Text, func, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from models.tables import Base

SCHEMA = "tidegate"


class FileStatus(StrEnum):
    """What became of a dropped file."""

    LOADED = "loaded"
    PARTIAL = "partial"
    REJECTED = "rejected"
    DUPLICATE = "duplicate"


class InboundFile(Base):
    """One dropped file, written in the transaction that loads it.

    `path` is where it lay. `filed_at` is null between the commit and the move out of
    `input/`: after a crash it tells that the file there only needs to be moved. `reload`
    asks for a file whose content is known to be loaded again the next time it is seen.
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
        Index("inbound_file_content", "sha256"),
        Index("inbound_file_unfiled", "flow", postgresql_where=text("filed_at is null")),
        Index("inbound_file_recent", "flow", "id"),
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
    reload: Mapped[bool] = mapped_column(server_default=text("false"))


class RejectedRecord(Base):
    """One reason why one record was refused; a record may have several."""

    __tablename__ = "rejected_record"
    __table_args__ = ({"schema": SCHEMA},)

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    inbound_file_id: Mapped[int] = mapped_column(ForeignKey(InboundFile.id, ondelete="CASCADE"), index=True)
    position: Mapped[int] = mapped_column(Integer)
    pointer: Mapped[str] = mapped_column(Text)
    line: Mapped[int] = mapped_column(Integer)
    column: Mapped[int] = mapped_column("column", Integer)
    value: Mapped[str | None] = mapped_column(Text)
    reason: Mapped[str] = mapped_column(Text)


class OutboundStatus(StrEnum):
    """How far an outbound file is."""

    WRITING = "writing"
    WRITTEN = "written"
    DELIVERED = "delivered"
    FAILED = "failed"


class OutboundFile(Base):
    """One outbound file: fixed here before a byte of it is written.

    content: its bytes until they are on disk, so that a crash repeats the same file.
    taken: the rows it carries, `[key…, changed_at]` each, until they are marked.
    """

    __tablename__ = "outbound_file"
    __table_args__ = (
        CheckConstraint("status in ('writing', 'written', 'delivered', 'failed')", name="status"),
        Index("outbound_file_open", "flow", "id", postgresql_where=text("status = 'writing'")),
        Index("outbound_file_recent", "flow", "id"),
        Index("outbound_file_name", "flow", "name"),
        {"schema": SCHEMA},
    )

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    flow: Mapped[str] = mapped_column(Text)
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
    delivered_at: Mapped[datetime | None]
    node: Mapped[str] = mapped_column(Text)
    content: Mapped[Any | None] = mapped_column(LargeBinary)
    taken: Mapped[list[list[str]] | None] = mapped_column(JSONB)
