"""Every daemon that runs on the database says so."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

INSTANT = sa.TIMESTAMP(timezone=True)


def upgrade() -> None:
    op.create_table(
        "daemon",
        sa.Column("id", sa.Uuid, nullable=False),
        sa.Column("node", sa.Text, nullable=False),
        sa.Column("pid", sa.Integer, nullable=False),
        sa.Column("version", sa.Text, nullable=False),
        sa.Column("schema_revision", sa.Text, nullable=False),
        sa.Column("flows", sa.ARRAY(sa.Text), nullable=False),
        sa.Column("started_at", INSTANT, nullable=False),
        sa.Column("last_seen_at", INSTANT, nullable=False),
        sa.Column("files", sa.BigInteger, nullable=False),
        sa.Column("records", sa.BigInteger, nullable=False),
        sa.Column("files_of_minute", sa.BigInteger, nullable=False),
        sa.Column("records_of_minute", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="daemon_pkey"),
        schema="tidegate",
    )


def downgrade() -> None:
    op.drop_table("daemon", schema="tidegate")
