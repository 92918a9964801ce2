"""Whether tables in the database fit their declarations, and in plain words where they do not."""

from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import NamedTuple

from sqlalchemy import Connection, Table, text

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


# Each as `create table … partition by` has it.
_PARTITIONED = text("""
    select wanted.name, pg_get_partkeydef(to_regclass(wanted.name)) as by
      from unnest(cast(:tables as text[])) as wanted(name)
     where to_regclass(wanted.name) is not null
""")


class Column(NamedTuple):
    """A column as PostgreSQL's catalog has it; `filled` by a default when an insert leaves it out."""

    table_name: str
    name: str
    type: str
    nullable: bool
    filled: bool
    key_position: int | None


def by_name(connection: Connection, tables: Iterable[Table]) -> dict[str, Table]:
    """The tables by their names, as a statement has them."""
    preparer = connection.dialect.identifier_preparer
    return {preparer.format_table(table): table for table in tables}


def columns(connection: Connection, tables: Iterable[str]) -> dict[str, list[Column]]:
    """The columns of those tables that exist, by table."""
    rows = map(Column._make, connection.execute(_COLUMNS, {"tables": list(tables)}))
    return {name: list(group) for name, group in groupby(rows, key=lambda column: column.table_name)}


def found(connection: Connection, tables: Mapping[str, Table]) -> list[str]:
    """A sentence for each table that does not fit its declaration. tables: see `by_name`."""
    types = {column.type.compile(connection.dialect) for table in tables.values() for column in table.columns}
    spelled = _spelled(connection, sorted(types))
    existing = columns(connection, tables)
    rows = connection.execute(_PARTITIONED, {"tables": list(tables)})
    partitioned: dict[str, str | None] = {row.name: row.by for row in rows}
    sentences = []
    for name, table in tables.items():
        if name not in existing:
            sentences.append(f"table {name} is missing")
        elif differences := _differences(_declared(connection, table, spelled), existing[name]):
            sentences.append(f"table {name} no longer fits its declaration: {', '.join(differences)}")
        elif (wanted := table.dialect_options["postgresql"]["partition_by"]) and wanted != partitioned[name]:
            sentences.append(
                f"table {name} is partitioned by {partitioned[name] or 'nothing'}, in the declaration by {wanted}: "
                'docs/flows.md, "Partitioned tables", says how its rows come into one that is'
            )
    return sentences


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
