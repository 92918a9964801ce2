"""Receipts get random ids: numbers let a sender guess those of others. Those that are there keep theirs."""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("alter table tidegate.receipt alter id drop default, alter id type text using id::text")
    op.execute("alter table tidegate.receipt alter id set default gen_random_uuid()")
    op.execute("drop sequence tidegate.receipt_id_seq")


def downgrade() -> None:
    """What came since gets numbers behind those that are there."""
    op.execute("create sequence tidegate.receipt_id_seq owned by tidegate.receipt.id")
    op.execute(
        "select setval('tidegate.receipt_id_seq', "
        "(select coalesce(max(id::bigint), 0) + 1 from tidegate.receipt where id ~ '^[0-9]+$'), false)"
    )
    op.execute("alter table tidegate.receipt alter id drop default")
    op.execute("update tidegate.receipt set id = nextval('tidegate.receipt_id_seq')::text where id !~ '^[0-9]+$'")
    op.execute("alter table tidegate.receipt alter id type bigint using id::bigint")
    op.execute("alter table tidegate.receipt alter id set default nextval('tidegate.receipt_id_seq')")
