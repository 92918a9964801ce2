"""The schema: made at the start, compared with the declarations, changed by migrations."""

import dataclasses
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

import pytest
import sqlalchemy
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from pydantic import BaseModel, SecretStr
from sqlalchemy import BigInteger, Engine, Float, Integer, MetaData, Numeric, String, Text, text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import mapped_column

import flows
from models.errors import RetryLater, StopDaemon
from models.flow import Flow
from models.outbound import Outbound
from models.tables import NAMING, LoadedRow
from services.db import engine as db_engine, revisions, schema
from settings import Settings

_number = count()


class Thing(BaseModel):
    code: str


def things(**columns: object) -> dict[str, Flow]:
    """A flow whose table `things` is declared with these columns, apart from all other declarations."""
    members = {"__tablename__": "things", "metadata": MetaData(naming_convention=NAMING), **columns}
    table = type(f"Things{next(_number)}", (LoadedRow,), members)
    return {"things": Flow(record=Thing, table=table, name="things")}


def code() -> object:
    return mapped_column(Text, primary_key=True)


@pytest.fixture
def empty(empty_database_url: str) -> Iterator[Engine]:
    """A database with nothing in it."""
    with db_engine.open_database(Settings(_env_file=None, database_url=SecretStr(empty_database_url))) as database:
        yield database.engine


@pytest.fixture
def versions(tmp_path: Path) -> Path:
    """The migrations in a folder to which a test may add its own."""
    folder = tmp_path / "versions"
    shutil.copytree(schema.VERSIONS, folder, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def tables(engine: Engine) -> set[str]:
    with engine.connect() as connection:
        return set(
            connection.scalars(
                text("select schemaname || '.' || tablename from pg_tables where schemaname in ('public', 'tidegate')")
            )
        )


def columns(engine: Engine) -> dict[str, str]:
    return {c["name"]: str(c["type"]) for c in sqlalchemy.inspect(engine).get_columns("things")}


def test_first_start_makes_the_ledger_and_the_tables_of_the_flows(empty: Engine) -> None:
    found = flows.discover()
    schema.prepare(empty, found)
    assert tables(empty) == {
        "tidegate.alembic_version",
        "tidegate.cursor",
        "tidegate.inbound_file",
        "tidegate.interchange",
        "tidegate.outbound_file",
        "tidegate.receipt",
        "tidegate.rejected_record",
        *(f"public.{table.name}" for flow in found.values() for table in flow.sql_tables),
    }
    schema.prepare(empty, found)


def test_only_the_given_flows_get_their_tables(empty: Engine) -> None:
    schema.prepare(empty, things(code=code()))
    assert {name for name in tables(empty) if name.startswith("public")} == {"public.things"}


def test_prepared_database_needs_no_alembic(database_url: str) -> None:
    script = f"""
import sys, flows
from pydantic import SecretStr
from services.db import engine, schema
from settings import Settings
with engine.open_database(Settings(_env_file=None, database_url=SecretStr({database_url!r}))) as database:
    schema.prepare(database.engine, flows.discover())
assert "alembic" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], cwd=Path(__file__).parents[2], check=True)


def test_concurrent_starts_are_safe(empty: Engine) -> None:
    found = flows.discover()
    with ThreadPoolExecutor(5) as pool:
        list(pool.map(lambda _: schema.prepare(empty, found), range(5)))
    assert "tidegate.inbound_file" in tables(empty)


def test_migrations_of_the_ledger_equal_its_models(empty: Engine) -> None:
    schema.upgrade(empty)
    with empty.connect() as connection:
        options = revisions.options(revisions.expected([]))
        context = MigrationContext.configure(connection, opts=options | {"version_table_schema": "tidegate"})
        assert compare_metadata(context, options["target_metadata"]) == []
        checks = text(
            "select conname from pg_constraint where contype = 'c' and connamespace = 'tidegate'::regnamespace"
        )
        assert connection.scalars(checks).all() == ["inbound_file_status_check", "outbound_file_status_check"]


def test_migrations_form_one_line_named_by_number(empty: Engine) -> None:
    with empty.connect() as connection:
        script = ScriptDirectory.from_config(schema.config(connection))
    line = [revision.revision for revision in script.walk_revisions()]
    assert line[::-1] == schema._revisions(schema.VERSIONS)
    assert line == [f"{number:04d}" for number in range(len(line), 0, -1)]


def test_newer_database_stops_the_older_program(empty: Engine) -> None:
    schema.upgrade(empty)
    with empty.begin() as connection:
        connection.execute(text("update tidegate.alembic_version set version_num = '9999'"))
    with pytest.raises(StopDaemon, match="revision 9999") as caught:
        schema.prepare(empty, {})
    assert "newer version" in caught.value.hint


def test_every_type_of_column_fits_its_own_table(empty: Engine) -> None:
    def declared() -> dict[str, Flow]:
        return things(
            code=code(),
            short=mapped_column(String(7)),
            any_length=mapped_column(String),
            amount=mapped_column(Numeric(10, 2)),
            ratio=mapped_column(Float),
            big=mapped_column(BigInteger),
            words=mapped_column(ARRAY(Text)),
            document=mapped_column(JSONB),
            moment=mapped_column(sqlalchemy.TIMESTAMP(timezone=True)),
            local_moment=mapped_column(sqlalchemy.TIMESTAMP(timezone=False)),
            day=mapped_column(sqlalchemy.Date),
            token=mapped_column(sqlalchemy.Uuid),
            raw=mapped_column(sqlalchemy.LargeBinary),
            span=mapped_column(sqlalchemy.Interval),
            order=mapped_column(Integer),
        )

    schema.prepare(empty, declared())
    schema.prepare(empty, declared())


@pytest.mark.parametrize(
    ("existing", "differs"),
    [
        ("code text primary key, size int", []),
        ("code text primary key, size int, note text", []),
        ("code text primary key, size int, note text not null default ''", []),
        ("code text primary key, size int, n int generated always as identity", []),
        ("code text primary key", ["column size (integer) is missing in the database"]),
        ("code text primary key, size bigint", ["column size is bigint in the database, integer in the declaration"]),
        (
            "code varchar(9) primary key, size int",
            ["column code is character varying(9) in the database, text in the declaration"],
        ),
        (
            "code text primary key, size int not null",
            ["column size must not be null in the database, may be null in the declaration"],
        ),
        (
            "code text primary key, size int, note text not null",
            ["column note (text) is not in the declaration, and no row can be inserted without it"],
        ),
        ("code text not null, size int", ["the primary key is nothing in the database, code in the declaration"]),
        (
            "code text, size int, note text default '', primary key (code, note)",
            ["the primary key is code, note in the database, code in the declaration"],
        ),
        ("code text primary key, size text, note int not null", ["column size is text", "column note (integer)"]),
    ],
)
def test_table_that_differs_from_its_declaration_stops_with_what_differs(
    empty: Engine, existing: str, differs: list[str]
) -> None:
    own = """
        source_file_id bigint, record_position int, replaced_file_id bigint, replaced_position int,
        inserted_at timestamptz not null default now(), changed_at timestamptz not null default now(),
        is_synced boolean not null default false, synced_at timestamptz, outbound_file_id bigint, outbound_error text
    """
    with empty.begin() as connection:
        connection.execute(text(f"create table things ({existing}, {own})"))
    declared = things(code=code(), size=mapped_column(Integer, nullable=True))
    if not differs:
        schema.prepare(empty, declared)
        return
    with pytest.raises(StopDaemon) as caught:
        schema.prepare(empty, declared)
    assert caught.value.reason.startswith("table things no longer fits its declaration: ")
    for sentence in differs:
        assert sentence in caught.value.reason
    assert 'python main.py db revision "what changed"' in caught.value.hint
    assert "python main.py db upgrade" in caught.value.hint


def test_misfit_leaves_the_database_as_it_was(empty: Engine) -> None:
    with empty.begin() as connection:
        connection.execute(text("create table things (code text primary key)"))
    with pytest.raises(StopDaemon):
        schema.prepare(empty, flows.discover() | things(code=code()))
    assert tables(empty) == {"public.things"}


def before() -> dict[str, Flow]:
    return things(code=code(), size=mapped_column(Integer), old=mapped_column(Text, nullable=False))


def after() -> dict[str, Flow]:
    return things(
        code=code(),
        size=mapped_column(BigInteger, primary_key=True),
        colour=mapped_column(String(20), index=True),
    )


def test_revision_and_upgrade_make_the_table_fit_again(empty: Engine, versions: Path) -> None:
    schema.prepare(empty, before(), versions=versions)
    with pytest.raises(StopDaemon):
        schema.prepare(empty, after(), versions=versions)
    path = schema.revision(empty, after(), "Sizes grew", versions=versions)
    assert path == versions / "0002_sizes_grew.py"
    assert columns(empty)["size"] == "INTEGER"  # nothing has run yet

    schema.upgrade(empty, versions=versions)
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

    def sending(declared: dict[str, Flow]) -> dict[str, Flow]:
        outbound = Outbound(document=Thing, to_document=lambda row: row, file_name="{file_id}.json")
        return {name: dataclasses.replace(flow, outbound=(outbound,)) for name, flow in declared.items()}

    schema.prepare(empty, sending(before()), versions=versions)
    made = triggers()
    schema.revision(empty, sending(after()), "Sizes grew", versions=versions)
    schema.prepare(empty, sending(after()), versions=versions)
    assert columns(empty)["size"] == "BIGINT"
    assert triggers() == made == ["tidegate_changed", "tidegate_notify"]


def test_revision_reads_well_and_goes_back(empty: Engine, versions: Path) -> None:
    from alembic import command

    schema.prepare(empty, before(), versions=versions)
    columns_before = columns(empty)
    path = schema.revision(empty, after(), "Sizes grew", versions=versions)
    assert path is not None
    source = path.read_text()
    assert source.startswith('"""Sizes grew\n')
    assert "    if has_table('things'):\n        op." in source
    schema.upgrade(empty, versions=versions)
    with empty.begin() as connection:
        command.downgrade(schema.config(connection, versions), "0001")
    assert columns(empty) == columns_before


def test_new_database_works_with_the_revisions_of_a_flow(
    empty: Engine, versions: Path, empty_database_url: str
) -> None:
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
        schema.upgrade(empty, versions=versions)
    assert "server_default" in caught.value.hint


def test_server_that_is_down_is_retried() -> None:
    nowhere = Settings(_env_file=None, database_url=SecretStr("postgresql://u@127.0.0.1:1/x"))
    with db_engine.open_database(nowhere) as database, pytest.raises(RetryLater):
        schema.prepare(database.engine, {})
