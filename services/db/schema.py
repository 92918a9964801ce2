"""The schema: the ledger by migrations, each flow's table by its declaration, and whether both still fit."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from loguru import logger
from sqlalchemy import Connection, Engine, Table, text
from sqlalchemy.schema import sort_tables

from models.errors import RejectFile, StopDaemon
from models.flow import Flow
from models.ledger import SCHEMA
from services.db import sqlstate, triggers

if TYPE_CHECKING:
    from alembic.config import Config

MIGRATIONS = Path(__file__).parent / "migrations"
VERSIONS = MIGRATIONS / "versions"
_ADVISORY_LOCK = int.from_bytes(b"tidegate")
_MIGRATE = 'python main.py db revision "what changed", then python main.py db upgrade'

_COLUMNS = text("""
    select wanted.name as table_name,
           a.attname as name,
           format_type(a.atttypid, a.atttypmod) as type,
           not a.attnotnull as nullable,
           a.atthasdef or a.attidentity <> '' as filled,
           array_position(i.indkey::int2[], a.attnum) as key_position
      from unnest(cast(:tables as text[])) as wanted(name)
      join pg_attribute a on a.attrelid = to_regclass(wanted.name)
      left join pg_index i on i.indrelid = a.attrelid and i.indisprimary
     where a.attnum > 0 and not a.attisdropped
     order by wanted.name, a.attnum
""")


class Column(NamedTuple):
    """A column as PostgreSQL's catalog has it; `filled` by a default when an insert leaves it out."""

    table_name: str
    name: str
    type: str
    nullable: bool
    filled: bool
    key_position: int | None


def prepare(engine: Engine, flows: Mapping[str, Flow], *, versions: Path = VERSIONS) -> None:
    """Bring the database to the schema of this program, or leave it as it is.

    Processes that start together wait for each other. Raises StopDaemon when a flow's table no
    longer fits its declaration.
    """
    with _transaction(engine) as connection:
        _upgrade(connection, versions)
        tables = _by_name(connection, flows)
        existing = _columns(connection, tables)
        for table in sort_tables([table for name, table in tables.items() if name not in existing]):
            table.create(connection, checkfirst=True)
            logger.info("created the table {}", table.fullname)
        if misfits := list(_misfits(connection, {name: tables[name] for name in existing}, existing)):
            raise StopDaemon("; ".join(misfits), hint=_MIGRATE)
        for flow in flows.values():
            if triggers.ensure(connection, flow):
                logger.debug("created the triggers of {}", flow.name)


def upgrade(engine: Engine, *, versions: Path = VERSIONS) -> None:
    """Run the migrations that the database has not seen; `prepare` brings the triggers back."""
    with _transaction(engine) as connection:
        _upgrade(connection, versions)


def revision(engine: Engine, flows: Mapping[str, Flow], message: str, *, versions: Path = VERSIONS) -> Path | None:
    """Write the migration from the tables as they are to their declarations; None when they fit."""
    from services.db import revisions

    with _transaction(engine) as connection:
        _upgrade(connection, versions)
        tables = _by_name(connection, flows)
        existing = [tables[name] for name in _columns(connection, tables)]
        number = f"{int(_revisions(versions)[-1]) + 1:04d}"
        path = revisions.write(config(connection, versions), existing, number, message)
        connection.rollback()  # what the migrations before it did was only to compare with
        return path


def config(connection: Connection, versions: Path = VERSIONS) -> "Config":
    """Alembic's configuration; there is no alembic.ini."""
    from alembic.config import Config

    made = Config()
    for option, value in {
        "script_location": MIGRATIONS,
        "version_locations": versions,
        "path_separator": "newline",
    }.items():
        made.set_main_option(option, str(value).replace("%", "%%"))
    made.attributes["configure"] = {"connection": connection, "version_table_schema": SCHEMA}
    return made


@contextmanager
def _transaction(engine: Engine) -> Iterator[Connection]:
    """One transaction, alone among all that change the schema."""
    try:
        with sqlstate.translated(), engine.begin() as connection:
            connection.execute(text("select pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK})
            yield connection
    except RejectFile as error:
        raise StopDaemon(
            f"a migration does not suit the rows that are there: {error.reason}",
            hint=f"mend the newest file in {VERSIONS}: fill the column first, or give it a server_default",
        ) from error


def _upgrade(connection: Connection, versions: Path) -> None:
    current, known = _version(connection), _revisions(versions)
    if current == known[-1]:
        return  # without importing Alembic, which takes longer than all the rest
    if current is not None and current not in known:
        raise StopDaemon(
            f"the database is at schema revision {current}, this program knows up to {known[-1]}",
            hint="start the newer version of Tidegate",
        )
    from alembic import command

    connection.execute(text(f"create schema if not exists {SCHEMA}"))
    triggers.drop(connection)
    command.upgrade(config(connection, versions), "head")
    logger.info("upgraded the schema from {} to {}", current or "nothing", known[-1])


def _version(connection: Connection) -> str | None:
    table = f"{SCHEMA}.alembic_version"
    if connection.execute(text("select to_regclass(:table)"), {"table": table}).scalar_one() is None:
        return None
    return connection.execute(text(f"select version_num from {table}")).scalar_one_or_none()  # noqa: S608


def _revisions(versions: Path) -> list[str]:
    """The revisions by their files' names, `0001_what.py`, oldest first: they form one line."""
    return sorted(path.name.partition("_")[0] for path in versions.glob("[0-9]*_*.py"))


def _by_name(connection: Connection, flows: Mapping[str, Flow]) -> dict[str, Table]:
    preparer = connection.dialect.identifier_preparer
    tables = [table for flow in flows.values() for table in flow.sql_tables]
    return {preparer.format_table(table): table for table in tables}


def _columns(connection: Connection, tables: Iterable[str]) -> dict[str, list[Column]]:
    """The columns of those tables that exist, by table."""
    rows = map(Column._make, connection.execute(_COLUMNS, {"tables": list(tables)}))
    return {name: list(columns) for name, columns in groupby(rows, key=lambda column: column.table_name)}


def _misfits(
    connection: Connection, tables: Mapping[str, Table], existing: Mapping[str, list[Column]]
) -> Iterator[str]:
    """A sentence for each table that no longer fits its declaration."""
    types = {column.type.compile(connection.dialect) for table in tables.values() for column in table.columns}
    spelled = _spelled(connection, sorted(types))
    for name, table in tables.items():
        differences = _differences(_declared(connection, table, spelled), existing[name])
        if differences:
            yield f"table {name} no longer fits its declaration: {', '.join(differences)}"


def _differences(declared: list[Column], existing: list[Column]) -> list[str]:
    """What differs, in plain words. A column that only the database has may stay if inserts can leave it out."""
    there = {column.name: column for column in existing}
    said = []
    for wanted in declared:
        found = there.pop(wanted.name, None)
        if found is None:
            said.append(f"column {wanted.name} ({wanted.type}) is missing in the database")
            continue
        if found.type != wanted.type:
            said.append(f"column {wanted.name} is {found.type} in the database, {wanted.type} in the declaration")
        if found.nullable != wanted.nullable:
            null = {True: "may be null", False: "must not be null"}
            said.append(
                f"column {wanted.name} {null[found.nullable]} in the database, "
                f"{null[wanted.nullable]} in the declaration"
            )
    said += [
        f"column {column.name} ({column.type}) is not in the declaration, and no row can be inserted without it"
        for column in there.values()
        if not (column.nullable or column.filled)
    ]
    keys = [", ".join(_key(columns)) or "nothing" for columns in (existing, declared)]
    if keys[0] != keys[1]:
        said.append(f"the primary key is {keys[0]} in the database, {keys[1]} in the declaration")
    return said


def _key(columns: list[Column]) -> list[str]:
    return [name for _, name in sorted((c.key_position, c.name) for c in columns if c.key_position is not None)]


def _declared(connection: Connection, table: Table, spelled: Mapping[str, str]) -> list[Column]:
    key = {column.name: position for position, column in enumerate(table.primary_key.columns)}
    return [
        Column(
            table_name=table.name,
            name=column.name,
            type=spelled[column.type.compile(connection.dialect)],
            nullable=bool(column.nullable),
            filled=column.server_default is not None,
            key_position=key.get(column.name),
        )
        for column in table.columns
    ]


def _spelled(connection: Connection, types: list[str]) -> dict[str, str]:
    """Each type as the catalog spells it, `VARCHAR(50)` as `character varying(50)`: the server reads it."""
    if not types:
        return {}
    nulls = connection.exec_driver_sql("select " + ", ".join(f"cast(null as {name})" for name in types))
    assert nulls.cursor is not None
    result = nulls.cursor.pgresult  # psycopg's: the oid and modifier of each column
    codes = {"types": [result.ftype(i) for i in range(len(types))], "mods": [result.fmod(i) for i in range(len(types))]}
    nulls.close()
    names = connection.execute(
        text("""
            select format_type(type, mod)
              from unnest(cast(:types as oid[]), cast(:mods as int4[])) with ordinality as t(type, mod, n)
             order by n
        """),
        codes,
    )
    return dict(zip(types, names.scalars(), strict=True))
