"""Outbound files tell their document; before, the names of the files told it."""

from pathlib import PurePath

import sqlalchemy as sa
from alembic import context, op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_BACKFILL = sa.text("""
    update tidegate.outbound_file set document = :document
    where flow = :flow and starts_with(name, :document || '/') and right(name, length(:suffix)) = :suffix
""")

# Files of a named document lie in a folder of its name, and so do acknowledgements.
_ACKNOWLEDGEMENTS = {"contrl": ".edi", "997": ".x12"}


def upgrade() -> None:
    op.add_column("outbound_file", sa.Column("document", sa.Text, server_default="", nullable=False), schema="tidegate")
    for flow in context.config.attributes["flows"].values():
        documents = {one.name: PurePath(one.file_name).suffix for one in flow.outbound if one.name}
        for document, suffix in {**documents, **(_ACKNOWLEDGEMENTS if flow.messages else {})}.items():
            op.get_bind().execute(_BACKFILL, {"flow": flow.name, "document": document, "suffix": suffix})
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
