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

# A loader sets changed_at itself, so the trigger's condition spares it the call per row.
_FUNCTIONS = """
create or replace function tidegate.mark_changed() returns trigger language plpgsql as $$
begin
    new.changed_at := greatest(clock_timestamp(), old.changed_at + interval '1 microsecond');
    new.is_synced := false;
    new.outbound_error := null;
    return new;
end $$;

create or replace function tidegate.notify_outbound() returns trigger language plpgsql as $$
begin
    perform pg_notify('tidegate_outbound', tg_argv[0]);
    return null;
end $$;
"""

_TRIGGERS = """
create or replace trigger tidegate_changed before update on {table} for each row
when (new.changed_at = old.changed_at and ({old}) is distinct from ({new}))
execute function tidegate.mark_changed();

create or replace trigger tidegate_notify after insert or update of is_synced, {columns} on {table}
for each statement execute function tidegate.notify_outbound({flow});
"""

# Children change with their parent's record; by hand they change alone, and their parent must notice.
_CHILD_TRIGGERS = """
create or replace function {function}() returns trigger language plpgsql as $$
begin
    update {table} t set changed_at = greatest(clock_timestamp(), t.changed_at + interval '1 microsecond'),
        children_digest = null, is_synced = false, outbound_error = null
    from ({changed}) c where {same_key};
    return null;
end $$;

create or replace trigger {trigger} after {event} on {child} referencing {referencing}
for each statement when ({by_hand}) execute function {function}();
"""

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

LOADING = "set local tidegate.loading = 'on'"
"""A loader says so for its transaction: it tells the parents itself that their children changed."""

_BY_HAND = sql.SQL("current_setting('tidegate.loading', true) is distinct from 'on'")


def ensure(connection: Connection, flow: Flow) -> bool:
    """Create the triggers of a flow's tables where they are missing or differ; whether there was need.

    A trigger takes a lock that waits for running loads, so nothing is touched without need.
    """
    if not flow.outbound:
        return False
    cursor = connection.connection.driver_connection
    assert isinstance(cursor, psycopg.Connection)
    statements = _statements(flow).as_string(cursor)
    digest = hashlib.sha256((_FUNCTIONS + statements).encode()).hexdigest()
    table = flow.sql_table.name
    there = (
        connection.execute(
            text("""
            select obj_description(t.oid, 'pg_trigger') from pg_trigger t
            where t.tgrelid = any(select to_regclass(name) from unnest(cast(:tables as text[])) name)
              and t.tgname like 'tidegate!_%' escape '!'
        """),
            {"tables": [f'"{each.name}"' for each in flow.sql_tables]},
        )
        .scalars()
        .all()
    )
    if len(there) == 2 + len(_CHILD_EVENTS) * len(flow.children) and digest in there:
        return False
    comment = sql.SQL("comment on trigger tidegate_changed on {} is {}").format(
        sql.Identifier(table), sql.Literal(digest)
    )
    connection.exec_driver_sql(_FUNCTIONS)
    cursor.execute(sql.SQL(statements))
    cursor.execute(comment)
    return True


def drop(connection: Connection) -> None:
    """Remove the triggers from all tables: a column that one names can be neither changed nor dropped."""
    found = connection.execute(
        text("""
            select format('drop trigger %I on %s', t.tgname, cast(t.tgrelid as regclass)) from pg_trigger t
            join pg_proc p on p.oid = t.tgfoid
            where p.pronamespace = to_regnamespace('tidegate') and not t.tgisinternal
        """)
    )
    driver = connection.connection.driver_connection
    assert isinstance(driver, psycopg.Connection)
    for statement in found.scalars().all():
        driver.execute(sql.SQL(statement))


def _statements(flow: Flow) -> sql.Composed:
    table = flow.sql_table
    business = [column.name for column in table.columns if column.name not in OWN_COLUMNS]
    parts: dict[str, sql.Composable] = {
        "table": sql.Identifier(table.name),
        "old": names(business, "old"),
        "new": names(business, "new"),
        "columns": names(business),
        "flow": sql.Literal(flow.name),
        "key": names(flow.key),
        "same_key": equal(flow.key, "t", "c"),
        "by_hand": _BY_HAND,
    }
    children = [
        sql.SQL(_CHILD_TRIGGERS).format(
            **parts,
            child=sql.Identifier(child.__tablename__),
            event=sql.SQL(event),
            referencing=sql.SQL(referencing),
            changed=sql.SQL(changed).format(**parts),
            trigger=sql.Identifier(f"tidegate_{event}"),
            function=sql.Identifier("tidegate", f"{event}_{child.__tablename__}"),
        )
        for child in flow.children
        for event, referencing, changed in _CHILD_EVENTS
    ]
    return sql.SQL("").join([sql.SQL(_TRIGGERS).format(**parts), *children])
