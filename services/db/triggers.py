"""What the database itself does for outbound: notice that a row changed, whoever changed it."""

import hashlib

import psycopg
from psycopg import sql
from sqlalchemy import Connection, text

from models.flow import Flow
from models.tables import OWN_COLUMNS
from services.db.identifiers import equal, names

CHANNEL = "tidegate_outbound"
"""NOTIFY's channel; the payload is the flow's name."""

# What a loader's own statements change it marks itself, and what was there before was its source's word. Whatever
# else changes meanwhile, another application's triggers change: their statements are never the outermost.
_BY_HAND = "(pg_trigger_depth() > 0 or current_setting('tidegate.loading', true) is distinct from {table_name})"


# Each has a path of its own: whoever may create objects elsewhere has no say in it.
# `as_said` writes values in one way, whatever a session is set to, so that two of them can be compared.
# What is remembered of a row that was changed before its table got a column is completed: that one is as it came.
_FUNCTIONS = """
create or replace function tidegate.as_said(said record) returns jsonb language plpgsql stable
set search_path = pg_catalog, pg_temp
set timezone = 'UTC' set datestyle = 'ISO' set intervalstyle = 'postgres' set bytea_output = 'hex'
set extra_float_digits = 1 as $$
begin
    return to_jsonb(said);
end $$;

create or replace function tidegate.mark_changed() returns trigger language plpgsql
set search_path = pg_catalog, pg_temp as $$
declare
    said jsonb;
begin
    new.changed_at := greatest(clock_timestamp(), old.changed_at + interval '1 microsecond');
    new.is_synced := false;
    new.outbound_error := null;
    if tg_nargs > 0 and old.source_file_id is not null and (old.source_said ?& tg_argv) is not true then
        said := tidegate.as_said(old);
        select jsonb_object_agg(name, said -> name) || coalesce(old.source_said, '{}') into new.source_said
        from unnest(tg_argv) name;
    end if;
    return new;
end $$;

create or replace function tidegate.notify_outbound() returns trigger language plpgsql
set search_path = pg_catalog, pg_temp as $$
begin
    perform pg_notify('tidegate_outbound', tg_argv[0]);
    return null;
end $$;
"""

# `always`: also where a session replays changes of another database (session_replication_role).
_CHANGED = """
create or replace trigger tidegate_changed before update on {table} for each row
when ({by_hand} and ({old}) is distinct from ({new}))
execute function tidegate.mark_changed({said});

alter table {table} enable always trigger tidegate_changed;
"""

_NOTIFY = """
create or replace trigger tidegate_notify after insert or update of is_synced, {columns} on {table}
for each statement execute function tidegate.notify_outbound({flow});

alter table {table} enable always trigger tidegate_notify;
"""

# Children change with their parent's record; by hand they change alone, and their parent must notice.
_CHILD_TRIGGERS = """
create or replace function {function}() returns trigger language plpgsql
set search_path = pg_catalog, {schema}, pg_temp as $$
begin
    update {table} t set changed_at = greatest(clock_timestamp(), t.changed_at + interval '1 microsecond'),
        children_digest = null, is_synced = false, outbound_error = null{remember}
    from ({changed}) c where {same_key};
    return null;
end $$;

create or replace trigger {trigger} after {event} on {child} referencing {referencing}
for each statement when ({by_hand}) execute function {function}();

alter table {child} enable always trigger {trigger};
"""

_REMEMBER = """,
        source_said = case when t.source_file_id is null then t.source_said else (
            select jsonb_object_agg(name, said.it -> name) || coalesce(t.source_said, '{{}}')
            from (select tidegate.as_said(t) as it) said, unnest(array[{said}]) name) end"""

# A line that an UPDATE left as it was is no change, and one that moved changes both parents.
_CHILD_EVENTS = (
    ("insert", "new table as new_rows", "select {key} from new_rows"),
    ("delete", "old table as old_rows", "select {key} from old_rows"),
    (
        "update",
        "old table as old_rows new table as new_rows",
        """
        select {key} from (table old_rows except all table new_rows) gone
        union select {key} from (table new_rows except all table old_rows) come""",
    ),
)

_THERE = text("""
    select obj_description(t.oid, 'pg_trigger'), t.tgenabled = 'A'
    from pg_trigger t
    where t.tgrelid = any(select to_regclass(name) from unnest(cast(:tables as text[])) name)
      and t.tgname like 'tidegate!_%' escape '!'
""")

_SCHEMA = text("""
    select n.nspname from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = to_regclass(:table)
""")


def ensure(connection: Connection, flow: Flow) -> bool:
    """Create the triggers of a flow's tables where they are missing or differ; whether there was need.

    A trigger takes a lock that waits for running loads, so nothing is touched without need.
    """
    if not flow.outbound and flow.newest_by is None:
        return False
    driver = connection.connection.driver_connection
    assert isinstance(driver, psycopg.Connection)
    table = flow.sql_table.name
    schema = connection.scalar(_SCHEMA, {"table": f'"{table}"'})
    statements = _statements(flow, schema).as_string(driver)
    digest = hashlib.sha256((_FUNCTIONS + statements).encode()).hexdigest()
    there = connection.execute(_THERE, {"tables": [f'"{each.name}"' for each in flow.sql_tables]}).all()
    wanted = 1 + bool(flow.outbound) + len(_CHILD_EVENTS) * len(flow.children)
    always = [comment for comment, is_always in there if is_always]
    if len(always) >= wanted and digest in always:
        return False
    comment = sql.SQL("comment on trigger tidegate_changed on {} is {}").format(
        sql.Identifier(schema, table), sql.Literal(digest)
    )
    connection.exec_driver_sql(_FUNCTIONS)
    driver.execute(sql.SQL(statements))
    driver.execute(comment)
    return True


def loading(flow: Flow) -> sql.Composed:
    """The statement by which a loader says whose rows it loads, for its transaction or until it says another's."""
    return sql.SQL("set local tidegate.loading = {}").format(sql.Literal(flow.sql_table.name))


def drop(connection: Connection) -> None:
    """Remove the triggers from the flows' tables: a column that one names can be neither changed nor dropped."""
    found = connection.execute(
        text("""
            select format('drop trigger %I on %s', t.tgname, cast(t.tgrelid as regclass)) from pg_trigger t
            join pg_proc p on p.oid = t.tgfoid join pg_class c on c.oid = t.tgrelid
            where p.pronamespace = to_regnamespace('tidegate') and not t.tgisinternal
              and t.tgparentid = 0 and c.relnamespace <> p.pronamespace
        """)
    )
    driver = connection.connection.driver_connection
    assert isinstance(driver, psycopg.Connection)
    for statement in found.scalars().all():
        driver.execute(sql.SQL(statement))


def _statements(flow: Flow, schema: str) -> sql.Composed:
    table = flow.sql_table
    business = [column.name for column in table.columns if column.name not in OWN_COLUMNS]
    parts: dict[str, sql.Composable] = {
        "table": sql.Identifier(schema, table.name),
        "schema": sql.Identifier(schema),
        "said": sql.SQL(", ").join(map(sql.Literal, flow.said)),
        "old": names(business, "old"),
        "new": names(business, "new"),
        "columns": names(business),
        "flow": sql.Literal(flow.name),
        "key": names(flow.key),
        "same_key": equal(flow.key, "t", "c"),
        "by_hand": sql.SQL(_BY_HAND).format(table_name=sql.Literal(table.name)),
    }
    children = [
        sql.SQL(_CHILD_TRIGGERS).format(
            **parts,
            child=sql.Identifier(schema, child.__tablename__),
            event=sql.SQL(event),
            referencing=sql.SQL(referencing),
            changed=sql.SQL(changed).format(**parts),
            remember=sql.SQL(_REMEMBER if flow.said else "").format(**parts),
            trigger=sql.Identifier(f"tidegate_{event}"),
            function=sql.Identifier("tidegate", f"{event}_{child.__tablename__}"),
        )
        for child in flow.children
        for event, referencing, changed in _CHILD_EVENTS
    ]
    own = [_CHANGED, _NOTIFY] if flow.outbound else [_CHANGED]
    return sql.SQL("").join([*(sql.SQL(each).format(**parts) for each in own), *children])
