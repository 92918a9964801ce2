"""Which file came before which: any order of loading gives the same table."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

# Volatile, so that each call sees what was committed since its statement began: the line of a file whose row that
# statement met and waited for.
CAME_BEFORE = """
create function tidegate.came_before(
    line bigint, file bigint, files bigint[], arrivals bigint[], names text[], contents bytea[]
) returns boolean language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
    mine int := array_position(files, file);
begin
    if line is null or line = file then
        return true;
    elsif line = any (files) then
        return line < file;
    end if;
    return coalesce((
        select (f.arrival, f.name collate "C", coalesce(f.sha256, ''))
            <= (arrivals[mine], names[mine] collate "C", contents[mine])
        from tidegate.inbound_file f where f.id = line
    ), true);
end $$
"""


def upgrade() -> None:
    op.add_column("inbound_file", sa.Column("arrival", sa.BigInteger), schema="tidegate")
    op.create_index("inbound_file_arrival", "inbound_file", ["arrival"], schema="tidegate", postgresql_using="brin")
    op.execute(CAME_BEFORE)


def downgrade() -> None:
    op.execute("drop function tidegate.came_before")
    op.drop_column("inbound_file", "arrival", schema="tidegate")
