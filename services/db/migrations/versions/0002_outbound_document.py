"""Outbound files tell their document; before, the names of the files told it."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Null, until `services.ledger.documents` fills it in: a daemon of the first release that runs on tells none.
    op.add_column("outbound_file", sa.Column("document", sa.Text), schema="tidegate")
    # The index on what is due has the document too: `services.db.indexes` makes it anew, without a lock.
    op.drop_index("outbound_file_due", "outbound_file", schema="tidegate")
    op.execute("update tidegate.cursor set source = replace(source, ' walk', ' full sync') where source like '% walk'")
    op.execute(
        "update tidegate.cursor set state = jsonb_build_object('synced_at', state -> 'walked_at') "
        "where state ? 'walked_at'"
    )


def downgrade() -> None:
    op.execute(
        "update tidegate.cursor set source = replace(source, ' full sync', ' walk') where source like '% full sync'"
    )
    op.execute(
        "update tidegate.cursor set state = jsonb_build_object('walked_at', state -> 'synced_at') "
        "where state ? 'synced_at'"
    )
    op.drop_index("outbound_file_due", "outbound_file", schema="tidegate", if_exists=True)
    op.create_index(
        "outbound_file_due",
        "outbound_file",
        ["flow", "id"],
        schema="tidegate",
        postgresql_where=sa.text("status = 'written'"),
    )
    op.drop_column("outbound_file", "document", schema="tidegate")
