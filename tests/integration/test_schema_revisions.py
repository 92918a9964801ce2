"""Migrations of flows' tables: written from what differs, run at the next start, and taken back."""

import re
import shutil
from pathlib import Path

import pytest
import sqlalchemy
from sqlalchemy import Engine, Index, Integer, text
from sqlalchemy.orm import mapped_column

from models.errors import StopDaemon
from models.ledger import SCHEMA
from models.tables import Base
from services.db import migrate, schema
from tests.support.things import after, before, code, columns, sending, things

FILES = Base.metadata.tables[f"{SCHEMA}.inbound_file"]


def indexes(engine: Engine) -> dict[str | None, list[str | None]]:
    """The columns of each index of the ledger's files."""
    found = sqlalchemy.inspect(engine).get_indexes(FILES.name, schema=SCHEMA)
    return {index["name"]: index["column_names"] for index in found}


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    """Where a site's migrations lie: beside the flows that come with Tidegate, and beside its own."""
    return [tmp_path / "flows" / "migrations", tmp_path / "migrations"]


def seen(engine: Engine) -> tuple[str, set[str]]:
    """Tidegate's newest revision in the database, and the site's."""
    with engine.connect() as connection:
        newest = connection.scalar(text("select version_num from tidegate.alembic_version"))
        return newest, set(connection.scalars(text("select id from tidegate.site_revision")))


def add_column(folder: Path, name: str, column: str = "colour") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.py"
    added = f'op.execute("alter table things add column {column} text")'
    path.write_text(f"from alembic import op\n\n\ndef upgrade() -> None:\n    {added}\n")
    return path


def test_revision_and_next_start_make_the_table_fit_again(empty: Engine, folders: list[Path]) -> None:
    schema.prepare(empty, before(), folders)
    with pytest.raises(StopDaemon):
        schema.prepare(empty, after(), folders)
    path = schema.revision(empty, after(), "Sizes grew", folders)
    assert path is not None
    assert path.parent == folders[-1]
    assert re.fullmatch(r"\d{8}T\d{6}_sizes_grew\.py", path.name)
    assert columns(empty)["size"] == "INTEGER"  # nothing has run yet

    schema.prepare(empty, after(), folders)
    assert seen(empty) == (migrate.own()[-1].id, {path.stem})
    assert columns(empty)["size"] == "BIGINT"
    assert {"colour", "size"} <= columns(empty).keys()
    assert "old" not in columns(empty)
    assert sqlalchemy.inspect(empty).get_pk_constraint("things")["constrained_columns"] == ["code", "size"]
    schema.prepare(empty, after(), folders)
    assert schema.revision(empty, after(), "Nothing", folders) is None


def test_migrations_run_once_and_in_order_of_their_names(empty: Engine, folders: list[Path]) -> None:
    """Of both folders, and one of earlier time that a colleague's branch brings later as well."""
    schema.prepare(empty, things(code=code()), folders)
    add_column(folders[1], "20260102T000000_b")
    add_column(folders[0], "20260101T000000_a").write_text(
        "from alembic import op\n\n\ndef upgrade() -> None:\n    op.execute('alter table things rename code to key')\n"
    )
    add_column(folders[1], "20260103T000000_c").write_text(
        "from alembic import op\n\n\ndef upgrade() -> None:\n    op.execute('alter table things rename key to code')\n"
    )
    for _ in range(2):
        schema.prepare(empty, things(code=code()), folders)
    add_column(folders[0], "20260101T120000_late", "late")
    schema.prepare(empty, things(code=code()), folders)
    assert {"code", "colour", "late"} <= columns(empty).keys()


def test_daemons_with_different_flows_share_a_database(empty: Engine, folders: list[Path]) -> None:
    schema.prepare(empty, things(code=code()), folders)
    add_column(folders[1], "20260102T000000_b")
    schema.prepare(empty, things(code=code()), folders)
    schema.prepare(empty, {}, folders[:1])
    add_column(folders[0], "20260101T000000_a", "size")
    schema.prepare(empty, {}, folders[:1])
    assert {"colour", "size"} <= columns(empty).keys()


def test_two_migrations_of_one_number_stop_the_start(empty: Engine, folders: list[Path]) -> None:
    for name in ("0002_one", "0002_other"):
        add_column(folders[0], name)
    with pytest.raises(StopDaemon, match=r"two migrations have the number 0002: .*0002_one.py and .*0002_other.py"):
        schema.prepare(empty, {}, folders)


def test_a_migration_that_was_copied_to_the_other_folder_is_one(empty: Engine, folders: list[Path]) -> None:
    schema.prepare(empty, things(code=code()), folders)
    for folder in folders:
        add_column(folder, "0002_one")
    schema.prepare(empty, things(code=code()), folders)
    assert "colour" in columns(empty)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("    1 / 0", "ZeroDivisionError: division by zero"),
        ("    that is no Python", "SyntaxError"),
        ("    op.execute(\"do $$ begin raise 'not like this'; end $$\")", "not like this"),
        ("    op.execute('alter table things add column code text')", 'column "code" of relation "things" already'),
        ("    pass\n\n\ndel upgrade", "KeyError: 'upgrade'"),
    ],
)
def test_a_migration_that_fails_is_named(empty: Engine, folders: list[Path], line: str, said: str) -> None:
    schema.prepare(empty, things(code=code()), folders)
    path = add_column(folders[0], "20260102T000000_wrong")
    path.write_text(f"from alembic import op\n\n\ndef upgrade() -> None:\n{line}\n")
    with pytest.raises(StopDaemon) as caught:
        schema.prepare(empty, things(code=code()), folders)
    assert caught.value.reason.startswith(f"the migration {path} fails: ")
    assert said in caught.value.reason
    assert seen(empty) == (migrate.own()[-1].id, set())


def test_a_folder_that_cannot_be_written_is_named(empty: Engine, tmp_path: Path) -> None:
    schema.prepare(empty, before())
    (tmp_path / "file").write_text("")
    with pytest.raises(StopDaemon, match=r"file/20.*sizes_grew\.py cannot be written"):
        schema.revision(empty, after(), "Sizes grew", [tmp_path / "file"])


def test_tidegate_s_own_tables_are_changed_by_its_own_line(
    empty: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever develops Tidegate asks for it; a flow's migration never holds any of it."""
    schema.prepare(empty, {})
    with empty.begin() as connection:
        connection.execute(text("alter table tidegate.inbound_file drop column drift"))
    with pytest.raises(StopDaemon, match=r"table tidegate\.inbound_file no longer fits"):
        schema.revision(empty, {}, "x", [tmp_path])
    monkeypatch.setattr(migrate, "own", lambda: [migrate.Revision(migrate.OWN[-1][:4], tmp_path)])
    monkeypatch.setattr(migrate, "OWN_FOLDER", tmp_path)
    path = schema.own_revision(empty, "Drift: again!")
    assert path == tmp_path / f"{len(migrate.OWN) + 1:04}_drift_again.py"
    assert "op.add_column('inbound_file', sa.Column('drift', postgresql.JSONB" in path.read_text()
    assert "from sqlalchemy.dialects import postgresql" in path.read_text()


def test_a_column_of_a_flow_that_sends_can_change(empty: Engine, folders: list[Path]) -> None:
    """A trigger names every column; PostgreSQL changes no column that a trigger names."""

    def triggers() -> list[str]:
        with empty.connect() as connection:
            query = text("select tgname from pg_trigger where tgrelid = to_regclass('things') order by 1")
            return list(connection.scalars(query))

    schema.prepare(empty, sending(before()), folders)
    made = triggers()
    schema.revision(empty, sending(after()), "Sizes grew", folders)
    schema.prepare(empty, sending(after()), folders)
    assert columns(empty)["size"] == "BIGINT"
    assert triggers() == made == ["tidegate_changed", "tidegate_notify"]


def test_revision_reads_well_and_goes_back(empty: Engine, folders: list[Path]) -> None:
    schema.prepare(empty, before(), folders)
    columns_before = columns(empty)
    path = schema.revision(empty, after(), "Sizes grew", folders)
    assert path is not None
    source = path.read_text()
    assert source.startswith('"""Sizes grew\n')
    assert "    if has_table('things'):\n        op." in source
    schema.prepare(empty, after(), folders)
    with empty.begin() as connection:
        migrate.Revision.of(path).run(connection, "downgrade")
    assert columns(empty) == columns_before


def test_new_database_works_with_the_revisions_of_a_flow(empty: Engine, folders: list[Path]) -> None:
    schema.prepare(empty, before(), folders)
    schema.revision(empty, after(), "Sizes grew", folders)
    with empty.begin() as connection:
        connection.execute(text("drop table things"))
        connection.execute(text("drop schema tidegate cascade"))
    schema.prepare(empty, after(), folders)
    assert columns(empty)["size"] == "BIGINT"


def test_revision_keeps_what_others_added(empty: Engine, folders: list[Path]) -> None:
    schema.prepare(empty, things(code=code()), folders)
    with empty.begin() as connection:
        connection.execute(text("alter table things add column remark text"))
        connection.execute(text("create index by_remark on things (remark)"))
        connection.execute(text("create table somebody_elses (n int)"))
    assert schema.revision(empty, things(code=code()), "Nothing", folders) is None


def test_migration_that_does_not_suit_the_rows_stops_with_a_hint(empty: Engine, folders: list[Path]) -> None:
    schema.prepare(empty, things(code=code()), folders)
    with empty.begin() as connection:
        connection.execute(text("insert into things (code) values ('a')"))
    changed = things(code=code(), size=mapped_column(Integer, nullable=False))
    schema.revision(empty, changed, "Size", folders)
    with pytest.raises(StopDaemon, match="contains null values") as caught:
        schema.prepare(empty, changed, folders)
    assert "server_default" in caught.value.hint


@pytest.fixture
def declared(monkeypatch: pytest.MonkeyPatch) -> set[Index]:
    """The indexes of the ledger's files as they are declared, to be changed for one test."""
    monkeypatch.setattr(FILES, "indexes", FILES.indexes.copy())
    return FILES.indexes


@pytest.fixture
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Tidegate's own migrations in a folder to which a test may add."""
    folder = tmp_path / "versions"
    shutil.copytree(migrate.OWN_FOLDER, folder, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(migrate, "OWN_FOLDER", folder)
    return folder


def test_an_index_of_the_ledger_is_built_at_the_start_and_by_no_migration(
    empty: Engine, own_folder: Path, declared: set[Index]
) -> None:
    """A migration would lock the ledger until it is there."""
    before = sorted(own_folder.iterdir())
    schema.prepare(empty, things(code=code()))
    declared.add(Index("inbound_file_by_node", FILES.c.node))
    assert schema.own_revision(empty, "Nothing") is None
    assert sorted(own_folder.iterdir()) == before
    schema.prepare(empty, things(code=code()))
    assert indexes(empty)["inbound_file_by_node"] == ["node"]


def test_a_changed_index_of_the_ledger_is_dropped_by_a_migration_and_built_at_the_start(
    empty: Engine, own_folder: Path, declared: set[Index], monkeypatch: pytest.MonkeyPatch
) -> None:
    schema.prepare(empty, things(code=code()))
    declared.remove(next(index for index in declared if index.name == "inbound_file_recent"))
    declared.add(Index("inbound_file_recent", FILES.c.id))
    path = schema.own_revision(empty, "Recent")
    assert path is not None
    assert path.parent == own_folder
    monkeypatch.setattr(migrate, "OWN", (*migrate.OWN, path.stem))
    schema.prepare(empty, things(code=code()))
    assert indexes(empty)["inbound_file_recent"] == ["id"]
