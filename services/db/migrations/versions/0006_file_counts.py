"""Files are counted as their lines are written, by flow and state: to count a million takes long.

And an index by content has no longer the lines that are in the unique one.
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

# Once for each statement, in the order of the key: sessions that share a shard never wait for each other in a circle.
_COUNT = """
create function tidegate.count_files() returns trigger language plpgsql
set search_path = pg_catalog, pg_temp as $$
begin
    if tg_op = 'TRUNCATE' then
        delete from tidegate.file_count;
        return null;
    end if;
    insert into tidegate.file_count as c (flow, status, shard, files)
    select coalesce(flow, ''), status, pg_backend_pid() % 16, case tg_op when 'INSERT' then count(*) else -count(*) end
    from lines group by 1, 2 order by 1, 2
    on conflict (flow, status, shard) do update set files = c.files + excluded.files;
    return null;
end $$;

create trigger file_count_insert after insert on tidegate.inbound_file
referencing new table as lines for each statement execute function tidegate.count_files();

create trigger file_count_delete after delete on tidegate.inbound_file
referencing old table as lines for each statement execute function tidegate.count_files();

create trigger file_count_truncate after truncate on tidegate.inbound_file
for each statement execute function tidegate.count_files();
"""

_COUNT_THOSE_THERE = """
insert into tidegate.file_count (flow, status, shard, files)
select coalesce(flow, ''), status, 0, count(*) from tidegate.inbound_file group by 1, 2
"""


def upgrade() -> None:
    op.create_table(
        "file_count",
        sa.Column("flow", sa.Text, primary_key=True),
        sa.Column("status", sa.Text, primary_key=True),
        sa.Column("shard", sa.SmallInteger, primary_key=True, autoincrement=False),
        sa.Column("files", sa.BigInteger, nullable=False),
        schema="tidegate",
        postgresql_with={"fillfactor": 10},
    )
    op.execute(_COUNT)  # and nobody writes a line from here on until this transaction ends
    op.execute(_COUNT_THOSE_THERE)
    # `services.db.indexes` makes it anew, without a lock.
    op.drop_index("inbound_file_content", "inbound_file", schema="tidegate", if_exists=True)


def downgrade() -> None:
    op.execute("drop trigger file_count_insert on tidegate.inbound_file")
    op.execute("drop trigger file_count_delete on tidegate.inbound_file")
    op.execute("drop trigger file_count_truncate on tidegate.inbound_file")
    op.execute("drop function tidegate.count_files()")
    op.drop_table("file_count", schema="tidegate")
    op.drop_index("inbound_file_content", "inbound_file", schema="tidegate", if_exists=True)
    op.create_index("inbound_file_content", "inbound_file", ["sha256"], schema="tidegate")
