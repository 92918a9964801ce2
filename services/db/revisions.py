"""Writing a migration: what Alembic finds different, kept to what is ours, guarded table by table."""

import re
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy
from alembic.autogenerate import produce_migrations, render_python_code
from alembic.autogenerate.api import AutogenContext
from alembic.autogenerate.render import render_op, renderers
from alembic.migration import MigrationContext
from alembic.operations import ops
from sqlalchemy import Column, Connection, MetaData, Table

from models.errors import StopDaemon
from models.ledger import SCHEMA
from models.tables import NAMING, Base
from services.db import migrate

_FILE = '''"""{message}

Made from the declarations and the database of {day}: read it before it runs. A column
that was renamed is dropped here, with its values, and added anew: make that one `op.alter_column`.
A new column that is not nullable needs a `server_default` where there are rows.
"""

import sqlalchemy as sa
from alembic import op
{imports}

def has_table(name: str, schema: str | None = None) -> bool:
    """A new database has no table yet: it gets it afterwards, as it is declared by then."""
    return sa.inspect(op.get_bind()).has_table(name, schema=schema)


def upgrade() -> None:
    {ways[0]}


def downgrade() -> None:
    {ways[1]}
'''


class IfTableExists(ops.ModifyTableOps):
    """Changes of a flow's table; a new database has none yet and gets it as it is declared by then."""


@renderers.dispatch_for(IfTableExists)
def _render(context: AutogenContext, block: IfTableExists) -> list[str]:
    arguments = [block.table_name] if block.schema is None else [block.table_name, block.schema]
    changes = [line for change in block.ops for line in render_op(context, change)]
    # Alembic's printer indents after the colon and leaves the block at the empty line.
    return [f"if has_table({', '.join(map(repr, arguments))}):", *changes, ""]


@renderers.dispatch_for(ops.CreatePrimaryKeyOp, replace=True)
def _render_key(_context: AutogenContext, key: ops.CreatePrimaryKeyOp) -> str:
    """Alembic has left this one out."""
    place = f", schema={key.schema!r}" if key.schema else ""
    return f"op.create_primary_key({str(key.constraint_name)!r}, {key.table_name!r}, {list(key.columns)!r}{place})"


def write_of_site(connection: Connection, tables: Iterable[Table], message: str, folder: Path) -> Path | None:
    """A new file in the folder, named by the time; None when there is nothing to change in these tables."""
    metadata = copied(tables)
    return _write(connection, metadata, folder / f"{datetime.now(UTC):%Y%m%dT%H%M%S}_{_slug(message)}.py", message)


def write_own(connection: Connection, message: str) -> Path | None:
    """A new file at the end of Tidegate's own line; None when there is nothing to change in the ledger's tables."""
    number = int(migrate.own()[-1].id) + 1
    return _write(connection, ledger(), migrate.OWN_FOLDER / f"{number:04}_{_slug(message)}.py", message)


def _slug(message: str) -> str:
    return re.sub(r"[\W_]+", "_", message.lower()).strip("_")[:40].rstrip("_") or "change"


def _write(connection: Connection, metadata: MetaData, path: Path, message: str) -> Path | None:
    context = MigrationContext.configure(connection, opts=options(metadata))
    found = produce_migrations(context, metadata)
    upgrade, downgrade = found.upgrade_ops, found.downgrade_ops
    assert upgrade is not None
    assert downgrade is not None
    _finish(connection, metadata, upgrade, downgrade)
    if upgrade.is_empty():
        return None
    ways = [render_python_code(way, migration_context=context) for way in (upgrade, downgrade)]
    imports = "from sqlalchemy.dialects import postgresql\n" if any("postgresql." in way for way in ways) else ""
    said = message.replace("\\", "/").replace('"', "'")
    try:
        path.parent.mkdir(exist_ok=True)
        with path.open("x") as file:
            file.write(_FILE.format(message=said, day=datetime.now(UTC).date(), imports=imports, ways=ways))
    except OSError as error:
        raise StopDaemon(f"{path} cannot be written: {error.strerror}", hint="mend the permissions there") from error
    return path


def ledger() -> MetaData:
    """Tidegate's own tables."""
    return copied(table for table in Base.metadata.tables.values() if table.schema == SCHEMA)


def copied(tables: Iterable[Table]) -> MetaData:
    """These tables alone."""
    metadata = MetaData(naming_convention=NAMING)
    for table in tables:
        table.to_metadata(metadata)
    return metadata


def options(metadata: MetaData) -> dict[str, Any]:
    """How Alembic compares the database with `metadata`: only its tables, and not what others added."""
    ours = {(table.schema, table.name) for table in metadata.tables.values()}

    def include_name(name: str | None, kind: str, parents: Any) -> bool:
        if kind == "schema":
            return name is None or name in {schema for schema, _ in ours}
        return kind != "table" or (parents["schema_name"], name) in ours

    def include_object(item: Any, _name: str | None, kind: str, reflected: bool, counterpart: object) -> bool:
        only_there = reflected and counterpart is None and kind != "table" and item.table.schema != SCHEMA
        return not only_there or (kind == "column" and _blocks_inserts(item))

    return {
        "target_metadata": metadata,
        "include_schemas": True,
        "include_name": include_name,
        "include_object": include_object,
        "compare_type": True,
        "compare_server_default": True,
    }


def _blocks_inserts(column: "Column[Any]") -> bool:
    return not column.nullable and column.server_default is None and column.identity is None


def _finish(connection: Connection, metadata: MetaData, upgrade: ops.UpgradeOps, downgrade: ops.DowngradeOps) -> None:
    _change_keys(connection, metadata, upgrade)
    _leave_indexes(upgrade)
    upgrade.reverse_into(downgrade)
    for container in (upgrade, downgrade):
        container.ops = [_guarded(change) for change in container.ops]


def _guarded(change: ops.MigrateOperation) -> ops.MigrateOperation:
    if isinstance(change, ops.ModifyTableOps) and change.schema != SCHEMA:
        return IfTableExists(change.table_name, change.ops, schema=change.schema)
    return change


def _change_keys(connection: Connection, metadata: MetaData, upgrade: ops.UpgradeOps) -> None:
    """Alembic does not compare primary keys: drop the old one first, make the new one last."""
    inspector = sqlalchemy.inspect(connection)
    for table in metadata.tables.values():
        name, schema = table.name, table.schema
        if not inspector.has_table(name, schema=schema):
            continue
        old = inspector.get_pk_constraint(name, schema=schema)
        columns = [column.name for column in table.primary_key.columns]
        if old["constrained_columns"] == columns:
            continue
        changes = _changes(upgrade, name, schema)
        if old["name"]:
            made = ops.CreatePrimaryKeyOp(old["name"], name, old["constrained_columns"], schema=schema)
            changes.insert(0, ops.DropConstraintOp(old["name"], name, type_="primary", schema=schema, _reverse=made))
        changes.append(ops.CreatePrimaryKeyOp(f"{name}_pkey", name, columns, schema=schema))


def _leave_indexes(upgrade: ops.UpgradeOps) -> None:
    """The ledger's indexes that are not unique are built at the start (`services.db.indexes`), without a lock."""
    for block in upgrade.ops:
        if isinstance(block, ops.ModifyTableOps) and block.schema == SCHEMA:
            block.ops = [each for each in block.ops if not isinstance(each, ops.CreateIndexOp) or each.unique]
    upgrade.ops = [each for each in upgrade.ops if not isinstance(each, ops.ModifyTableOps) or each.ops]


def _changes(upgrade: ops.UpgradeOps, name: str, schema: str | None) -> list[ops.MigrateOperation]:
    for change in upgrade.ops:
        if isinstance(change, ops.ModifyTableOps) and (change.table_name, change.schema) == (name, schema):
            return change.ops
    block = ops.ModifyTableOps(name, [], schema=schema)
    upgrade.ops.append(block)
    return block.ops
