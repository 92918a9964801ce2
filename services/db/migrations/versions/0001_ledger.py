"""The ledger: inbound files, rejected records, outbound files."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

INSTANT = sa.TIMESTAMP(timezone=True)
COUNTS = ("records", "inserted", "updated", "unchanged", "stale", "rejected")


def upgrade() -> None:
    op.execute("create schema if not exists tidegate")
    op.create_table(
        "inbound_file",
        sa.Column("id", sa.BigInteger, primary_key=True),
        sa.Column("flow", sa.Text),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("path", sa.Text),
        sa.Column("sha256", sa.LargeBinary),
        sa.Column("bytes", sa.BigInteger, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        *(sa.Column(name, sa.BigInteger, server_default=sa.text("0"), nullable=False) for name in COUNTS),
        sa.Column("seen_at", INSTANT, nullable=False),
        sa.Column("loaded_at", INSTANT, server_default=sa.func.now(), nullable=False),
        sa.Column("filed_at", INSTANT),
        sa.Column("filed_as", sa.Text),
        sa.Column("node", sa.Text, nullable=False),
        sa.Column("error", sa.Text),
        sa.Column("drift", JSONB),
        sa.Column("duplicate_of", sa.BigInteger),
        sa.Column("superseded_by", sa.BigInteger),
        sa.Column("reload", sa.Boolean, server_default=sa.text("false"), nullable=False),
        sa.CheckConstraint(
            "status in ('loaded', 'partial', 'rejected', 'duplicate')", name=op.f("inbound_file_status_check")
        ),
        schema="tidegate",
    )
    op.create_index(
        "inbound_file_loaded_once",
        "inbound_file",
        ["flow", "sha256"],
        unique=True,
        schema="tidegate",
        postgresql_where=sa.text("status in ('loaded', 'partial') and superseded_by is null"),
    )
    op.create_index("inbound_file_content", "inbound_file", ["sha256"], schema="tidegate")
    op.create_index(
        "inbound_file_unfiled",
        "inbound_file",
        ["flow"],
        schema="tidegate",
        postgresql_where=sa.text("filed_at is null"),
    )
    op.create_index("inbound_file_recent", "inbound_file", ["flow", "id"], schema="tidegate")
    op.create_table(
        "rejected_record",
        sa.Column("id", sa.BigInteger, primary_key=True),
        sa.Column("inbound_file_id", sa.BigInteger, nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("pointer", sa.Text, nullable=False),
        sa.Column("line", sa.Integer, nullable=False),
        sa.Column("column", sa.Integer, nullable=False),
        sa.Column("value", sa.Text),
        sa.Column("reason", sa.Text, nullable=False),
        sa.ForeignKeyConstraint(
            ["inbound_file_id"],
            ["tidegate.inbound_file.id"],
            name=op.f("rejected_record_inbound_file_id_fkey"),
            ondelete="CASCADE",
        ),
        schema="tidegate",
    )
    op.create_index(
        op.f("rejected_record_inbound_file_id_idx"), "rejected_record", ["inbound_file_id"], schema="tidegate"
    )
    op.create_table(
        "outbound_file",
        sa.Column("id", sa.BigInteger, primary_key=True),
        sa.Column("flow", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("sha256", sa.LargeBinary, nullable=False),
        sa.Column("bytes", sa.BigInteger, nullable=False),
        sa.Column("records", sa.Integer, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("attempts", sa.Integer, server_default=sa.text("0"), nullable=False),
        sa.Column("next_attempt_at", INSTANT),
        sa.Column("last_error", sa.Text),
        sa.Column("created_at", INSTANT, server_default=sa.func.now(), nullable=False),
        sa.Column("written_at", INSTANT),
        sa.Column("sent_at", INSTANT),
        sa.Column("delivered_at", INSTANT),
        sa.Column("delivered_as", JSONB),
        sa.Column("filed_as", sa.Text),
        sa.Column("node", sa.Text, nullable=False),
        sa.Column("content", sa.LargeBinary),
        sa.Column("taken", JSONB),
        sa.CheckConstraint(
            "status in ('writing', 'written', 'delivered', 'failed', 'superseded')",
            name=op.f("outbound_file_status_check"),
        ),
        schema="tidegate",
    )
    op.create_index(
        "outbound_file_open",
        "outbound_file",
        ["flow", "id"],
        schema="tidegate",
        postgresql_where=sa.text("status = 'writing'"),
    )
    op.create_index("outbound_file_recent", "outbound_file", ["flow", "id"], schema="tidegate")
    op.create_index("outbound_file_name", "outbound_file", ["flow", "name"], schema="tidegate")
    op.create_index(
        "outbound_file_failed",
        "outbound_file",
        ["flow", "id"],
        schema="tidegate",
        postgresql_where=sa.text("status = 'failed'"),
    )
    op.create_index(
        "outbound_file_due",
        "outbound_file",
        ["flow", "id"],
        schema="tidegate",
        postgresql_where=sa.text("status = 'written'"),
    )
    op.create_index(
        "outbound_file_unfiled",
        "outbound_file",
        ["flow"],
        schema="tidegate",
        postgresql_where=sa.text("status = 'delivered' and filed_as is null"),
    )
    op.create_table(
        "interchange",
        *(sa.Column(name, sa.Text, primary_key=True) for name in ("standard", "sender", "receiver", "reference")),
        sa.Column("inbound_file_id", sa.BigInteger, nullable=False),
        schema="tidegate",
    )
    op.create_table(
        "cursor",
        sa.Column("flow", sa.Text, primary_key=True),
        sa.Column("source", sa.Text, primary_key=True),
        sa.Column("state", JSONB, nullable=False),
        sa.Column("updated_at", INSTANT, server_default=sa.func.now(), nullable=False),
        schema="tidegate",
    )
    op.create_table(
        "receipt",
        sa.Column("id", sa.BigInteger, primary_key=True),
        sa.Column("flow", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("sha256", sa.LargeBinary, nullable=False),
        sa.Column("bytes", sa.BigInteger, nullable=False),
        sa.Column("idempotency_key", sa.Text),
        sa.Column("received_at", INSTANT, server_default=sa.func.now(), nullable=False),
        sa.UniqueConstraint("flow", "idempotency_key", name=op.f("receipt_flow_idempotency_key_key")),
        schema="tidegate",
    )
    # Both are there for moments: compressing them would be most of their cost.
    op.execute(
        "alter table tidegate.outbound_file alter content set storage external, alter taken set storage external"
    )


def downgrade() -> None:
    for table in ("receipt", "cursor", "interchange", "outbound_file", "rejected_record", "inbound_file"):
        op.drop_table(table, schema="tidegate")
