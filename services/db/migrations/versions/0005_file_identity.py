"""Each file is known by its identity: a crash's leftover from a new drop, and one that is to be loaded again."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

INSTANT = sa.TIMESTAMP(timezone=True)


def upgrade() -> None:
    # A database that was upgraded between two releases has it not null, with an empty default.
    op.alter_column("outbound_file", "document", nullable=True, server_default=None, schema="tidegate")
    op.add_column("inbound_file", sa.Column("identity", sa.Text), schema="tidegate")
    op.drop_column("inbound_file", "reload", schema="tidegate")
    op.create_table(
        "placed_file",
        sa.Column("flow", sa.Text, primary_key=True),
        sa.Column("identity", sa.Text, primary_key=True),
        sa.Column("again", sa.Boolean, nullable=False),
        sa.Column("placed_at", INSTANT, server_default=sa.func.now(), nullable=False),
        schema="tidegate",
    )


def downgrade() -> None:
    op.drop_table("placed_file", schema="tidegate")
    op.add_column(
        "inbound_file",
        sa.Column("reload", sa.Boolean, server_default=sa.text("false"), nullable=False),
        schema="tidegate",
    )
    op.drop_column("inbound_file", "identity", schema="tidegate")
