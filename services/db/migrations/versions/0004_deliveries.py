"""Outbound files stay whole in the ledger until they are delivered, and tell where they lie and what they carry."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("outbound_file", sa.Column("written_in", sa.Text), schema="tidegate")
    op.add_column("outbound_file", sa.Column("carries", JSONB), schema="tidegate")
    op.create_table(
        "destination",
        sa.Column("flow", sa.Text, primary_key=True),
        sa.Column("document", sa.Text, primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        schema="tidegate",
    )


def downgrade() -> None:
    op.drop_table("destination", schema="tidegate")
    op.drop_column("outbound_file", "carries", schema="tidegate")
    op.drop_column("outbound_file", "written_in", schema="tidegate")
