"""Migrations of flows' tables: written from what differs, run at the next start, and taken back."""

import shutil
from pathlib import Path

import pytest
import sqlalchemy
from alembic import command
from sqlalchemy import Engine, Index, Integer, text
from sqlalchemy.orm import mapped_column

from models.errors import StopDaemon
from models.ledger import SCHEMA
from models.tables import Base
from services.db import schema
from tests.support.things import after, before, code, columns, sending, things

FILES = Base.metadata.tables[f"{SCHEMA}.inbound_file"]


def indexes(engine: Engine) -> dict[str | None, list[str | None]]:
    """The columns of each index of the ledger's files."""
    found = sqlalchemy.inspect(engine).get_indexes(FILES.name, schema=SCHEMA)
    return {index["name"]: index["column_names"] for index in found}


@pytest.fixture
def versions(tmp_path: Path) -> Path:
    """The migrations in a folder to which a test may add its own."""
    folder = tmp_path / "versions"
    shutil.copytree(schema.VERSIONS, folder, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def test_revision_and_next_start_make_the_table_fit_again(empty: Engine, versions: Path) -> None:
    newest = schema._revisions(versions)[-1]
    schema.prepare(empty, before(), versions=versions)
    with pytest.raises(StopDaemon):
        schema.prepare(empty, after(), versions=versions)
    path = schema.revision(empty, after(), "Sizes grew", versions=versions)
    assert path == versions / f"{int(newest) + 1:04d}_sizes_grew.py"
    assert columns(empty)["size"] == "INTEGER"  # nothing has run yet

    schema.prepare(empty, after(), versions=versions)
    assert columns(empty)["size"] == "BIGINT"
    assert {"colour", "size"} <= columns(empty).keys()
    assert "old" not in columns(empty)
    assert sqlalchemy.inspect(empty).get_pk_constraint("things")["constrained_columns"] == ["code", "size"]
    schema.prepare(empty, after(), versions=versions)
    assert schema.revision(empty, after(), "Nothing", versions=versions) is None


def test_a_column_of_a_flow_that_sends_can_change(empty: Engine, versions: Path) -> None:
    """A trigger names every column; PostgreSQL changes no column that a trigger names."""

    def triggers() -> list[str]:
        with empty.connect() as connection:
            query = text("select tgname from pg_trigger where tgrelid = to_regclass('things') order by 1")
            return list(connection.scalars(query))

    schema.prepare(empty, sending(before()), versions=versions)
    made = triggers()
    schema.revision(empty, sending(after()), "Sizes grew", versions=versions)
    schema.prepare(empty, sending(after()), versions=versions)
    assert columns(empty)["size"] == "BIGINT"
    assert triggers() == made == ["tidegate_changed", "tidegate_notify"]


def test_revision_reads_well_and_goes_back(empty: Engine, versions: Path) -> None:
    newest = schema._revisions(versions)[-1]
    schema.prepare(empty, before(), versions=versions)
    columns_before = columns(empty)
    path = schema.revision(empty, after(), "Sizes grew", versions=versions)
    assert path is not None
    source = path.read_text()
    assert source.startswith('"""Sizes grew\n')
    assert "    if has_table('things'):\n        op." in source
    schema.prepare(empty, after(), versions=versions)
    with empty.begin() as connection:
        command.downgrade(schema.config(connection, after(), versions), newest)
    assert columns(empty) == columns_before


def test_new_database_works_with_the_revisions_of_a_flow(empty: Engine, versions: Path) -> None:
    schema.prepare(empty, before(), versions=versions)
    schema.revision(empty, after(), "Sizes grew", versions=versions)
    with empty.begin() as connection:
        connection.execute(text("drop table things"))
        connection.execute(text("drop schema tidegate cascade"))
    schema.prepare(empty, after(), versions=versions)
    assert columns(empty)["size"] == "BIGINT"


def test_revision_keeps_what_others_added(empty: Engine, versions: Path) -> None:
    schema.prepare(empty, things(code=code()), versions=versions)
    with empty.begin() as connection:
        connection.execute(text("alter table things add column remark text"))
        connection.execute(text("create index by_remark on things (remark)"))
        connection.execute(text("create table somebody_elses (n int)"))
    assert schema.revision(empty, things(code=code()), "Nothing", versions=versions) is None


def test_migration_that_does_not_suit_the_rows_stops_with_a_hint(empty: Engine, versions: Path) -> None:
    schema.prepare(empty, things(code=code()), versions=versions)
    with empty.begin() as connection:
        connection.execute(text("insert into things (code) values ('a')"))
    changed = things(code=code(), size=mapped_column(Integer, nullable=False))
    schema.revision(empty, changed, "Size", versions=versions)
    with pytest.raises(StopDaemon, match="contains null values") as caught:
        schema.prepare(empty, changed, versions=versions)
    assert "server_default" in caught.value.hint


@pytest.fixture
def declared(monkeypatch: pytest.MonkeyPatch) -> set[Index]:
    """The indexes of the ledger's files as they are declared, to be changed for one test."""
    monkeypatch.setattr(FILES, "indexes", FILES.indexes.copy())
    return FILES.indexes


def test_an_index_of_the_ledger_is_built_at_the_start_and_by_no_migration(
    empty: Engine, versions: Path, declared: set[Index]
) -> None:
    """A migration would lock the ledger until it is there."""
    schema.prepare(empty, things(code=code()), versions=versions)
    declared.add(Index("inbound_file_by_node", FILES.c.node))
    assert schema.revision(empty, things(code=code()), "Nothing", versions=versions) is None
    schema.prepare(empty, things(code=code()), versions=versions)
    assert indexes(empty)["inbound_file_by_node"] == ["node"]


def test_a_changed_index_of_the_ledger_is_dropped_by_a_migration_and_built_at_the_start(
    empty: Engine, versions: Path, declared: set[Index]
) -> None:
    schema.prepare(empty, things(code=code()), versions=versions)
    declared.remove(next(index for index in declared if index.name == "inbound_file_recent"))
    declared.add(Index("inbound_file_recent", FILES.c.id))
    assert schema.revision(empty, things(code=code()), "Recent", versions=versions) is not None
    schema.prepare(empty, things(code=code()), versions=versions)
    assert indexes(empty)["inbound_file_recent"] == ["id"]
