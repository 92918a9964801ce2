"""Writing a migration: what Alembic finds different, kept to what is ours, guarded table by table."""

from argparse import Namespace
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import sqlalchemy
from alembic import command
from alembic.autogenerate.api import AutogenContext
from alembic.autogenerate.render import render_op, renderers
from alembic.config import Config
from alembic.operations import ops
from sqlalchemy import Column, Connection, MetaData, Table

from models.ledger import SCHEMA
from models.tables import NAMING, Base


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


def write(config: Config, tables: Iterable[Table], number: str, message: str) -> Path | None:
    """The new file in the folder of versions; None when there is nothing to change."""
    metadata = expected(tables)
    configure: dict[str, Any] = config.attributes["configure"]
    configure |= options(metadata)
    configure["process_revision_directives"] = lambda _context, _revision, scripts: _finish(
        configure["connection"], metadata, scripts
    )
    config.cmd_opts = Namespace(quiet=True)
    script = command.revision(config, message, autogenerate=True, rev_id=number)
    return Path(script.path) if script is not None and not isinstance(script, list) else None


def expected(tables: Iterable[Table]) -> MetaData:
    """The ledger's tables and these."""
    metadata = MetaData(naming_convention=NAMING)
    ledger = [table for table in Base.metadata.tables.values() if table.schema == SCHEMA]
    for table in (*ledger, *tables):
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


def _finish(connection: Connection, metadata: MetaData, scripts: list[ops.MigrationScript]) -> None:
    upgrade, downgrade = scripts[0].upgrade_ops, scripts[0].downgrade_ops
    assert upgrade is not None
    assert downgrade is not None
    _change_keys(connection, metadata, upgrade)
    _leave_indexes(upgrade)
    if upgrade.is_empty():
        scripts.clear()
        return
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
