"""Who may connect to the embedded server, and as what: we alone, as a role that owns the database and may do no more.

A cluster of an earlier release let everybody who reached its socket be its superuser, and the superuser owned
everything; it is brought to the same state at the next start.
"""

import os
from collections.abc import Callable
from pathlib import Path

import psycopg
from loguru import logger
from psycopg import sql

from models.errors import StopDaemon
from services import trust
from services.db.server_user import ServerUser

OWNER = "tidegate"
SUPERUSER = "postgres"

_HBA = """\
# Written by Tidegate at each start. The kernel says who connects, pg_ident.conf as what.
local all all peer map=tidegate
local replication all peer map=tidegate
"""

# Functions and triggers of ours, and whatever else was made as the superuser; extensions stay the superuser's.
_HAND_OVER = """
do $$
declare statement text;
begin
    for statement in
        with extension_member as (select classid, objid from pg_depend where deptype = 'e'),
        system_schema as (select oid from pg_namespace where nspname = 'information_schema' or nspname ~ '^pg_'),
        superuser as (select oid from pg_roles where rolname = 'postgres')
        select format('alter schema %I owner to tidegate', nspname)
          from pg_namespace
         where nspowner = (table superuser) and oid not in (table system_schema)
           and ('pg_namespace'::regclass, oid) not in (table extension_member)
        union all
        select format('alter %s %s owner to tidegate',
                      case relkind when 'v' then 'view' when 'm' then 'materialized view' when 'S' then 'sequence'
                                   when 'f' then 'foreign table' when 'c' then 'type' else 'table' end, oid::regclass)
          from pg_class c
         where relowner = (table superuser) and relkind in ('r', 'p', 'v', 'm', 'S', 'f', 'c')
           and relnamespace not in (table system_schema)
           and ('pg_class'::regclass, oid) not in (table extension_member)
           and not exists (select from pg_depend d  -- a sequence goes with the table that owns it
                           where d.classid = 'pg_class'::regclass and d.objid = c.oid and c.relkind = 'S'
                             and d.deptype in ('a', 'i'))
        union all
        select format('alter routine %s owner to tidegate', oid::regprocedure)
          from pg_proc
         where proowner = (table superuser) and pronamespace not in (table system_schema)
           and ('pg_proc'::regclass, oid) not in (table extension_member)
        union all
        select format('alter type %s owner to tidegate', oid::regtype)
          from pg_type
         where typowner = (table superuser) and typtype in ('d', 'e', 'r')
           and typnamespace not in (table system_schema)
           and ('pg_type'::regclass, oid) not in (table extension_member)
    loop
        execute statement;
    end loop;
end $$
"""


def write(user: ServerUser, data: Path) -> bool:
    """Say in the server's files who may connect; whether anything of it is new to a server that runs."""
    logins = dict.fromkeys((user.login, trust.user_name(os.geteuid())))
    ident = "".join(f'tidegate "{login}" all\n' for login in logins)
    changed = False
    for name, content in {"pg_ident.conf": ident, "pg_hba.conf": _HBA}.items():
        if user.read(data / name) != content:
            script = 'umask 077; cat > "$1.new" && mv -f "$1.new" "$1"'
            done = user.run("/bin/sh", "-c", script, "sh", name, cwd=data, given=content)
            if done.returncode != 0:
                raise StopDaemon(f"{data / name} cannot be written: {done.stderr.strip()}")
            changed = True
    return changed


def prepare(database: str, connect: Callable[[str], psycopg.Connection]) -> None:
    """Make the role and the database; have the role own it. connect: to a database, as the superuser."""
    with connect("postgres") as connection:
        found = connection.execute(
            "select pg_get_userbyid(datdba) from pg_database where datname = %s", [database]
        ).fetchone()
        if found == (OWNER,):
            return
        role, name = sql.Identifier(OWNER), sql.Identifier(database)
        if not connection.execute("select from pg_roles where rolname = %s", [OWNER]).rowcount:
            connection.execute(sql.SQL("create role {}").format(role))
            # The schema of that name is the ledger's, and by the server's own default "$user" comes before public.
            connection.execute(sql.SQL("alter role {} set search_path = public").format(role))
        connection.execute(sql.SQL("alter role {} login nosuperuser").format(role))
        if found is None:
            connection.execute(sql.SQL("create database {} owner {}").format(name, role))
            return
    with connect(database) as connection, connection.transaction():
        connection.execute("set local search_path = pg_catalog")
        connection.execute(_HAND_OVER)
        connection.execute(sql.SQL("alter database {} owner to {}").format(name, role))
    logger.info("the database {} belongs to the role {} now, which is no superuser", database, OWNER)
