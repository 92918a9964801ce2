"""The schema: made at the start, and compared with what is declared."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from pydantic import SecretStr
from sqlalchemy import BigInteger, Engine, Float, Integer, Numeric, String, Text, text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import mapped_column

import flows
from models.errors import RetryLater, StopDaemon
from models.flow import Flow
from services.db import engine as databases, migrate, revisions, schema
from settings import Settings
from tests.support.sites import Site
from tests.support.things import code, things


def tables(engine: Engine) -> set[str]:
    with engine.connect() as connection:
        return set(
            connection.scalars(
                text("select schemaname || '.' || tablename from pg_tables where schemaname in ('public', 'tidegate')")
            )
        )


def test_first_start_makes_the_ledger_and_the_tables_of_the_flows(empty: Engine) -> None:
    found = flows.discover()
    schema.prepare(empty, found)
    assert tables(empty) == {
        "tidegate.alembic_version",
        "tidegate.cursor",
        "tidegate.daemon",
        "tidegate.destination",
        "tidegate.file_count",
        "tidegate.inbound_file",
        "tidegate.interchange",
        "tidegate.outbound_file",
        "tidegate.placed_file",
        "tidegate.receipt",
        "tidegate.rejected_record",
        "tidegate.site_revision",
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
    schema.prepare(empty, {})
    with empty.connect() as connection:
        options = revisions.options(revisions.ledger())
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, options["target_metadata"]) == []
        checks = text(
            "select conname from pg_constraint where contype = 'c' and connamespace = 'tidegate'::regnamespace"
        )
        assert connection.scalars(checks).all() == ["inbound_file_status_check", "outbound_file_status_check"]


def test_tidegate_s_own_migrations_form_one_line_by_number() -> None:
    assert [*migrate.OWN] == sorted(path.stem for path in migrate.OWN_FOLDER.glob("*.py"))
    assert [revision.id for revision in migrate.own()] == [f"{number:04d}" for number, _ in enumerate(migrate.OWN, 1)]


def test_newer_database_stops_the_older_program(site: Site) -> None:
    site.execute("update tidegate.alembic_version set version_num = '9999'")
    said = site.fork("run", expect=2).splitlines()[-1]
    known = migrate.own()[-1].id
    assert said.startswith(f"the database is at schema revision 9999, this program knows up to {known}")
    assert said.endswith("(start the newer version of Tidegate)")


def test_a_table_of_the_ledger_that_was_changed_stops_the_start(site: Site) -> None:
    site.execute("alter table tidegate.inbound_file drop column drift")
    assert site.fork("run", expect=2).splitlines()[-1] == (
        "table tidegate.inbound_file no longer fits its declaration: column drift (jsonb) is missing in the database "
        "(undo what changed Tidegate's own tables; if you changed models/ledger.py: "
        'python main.py db revision --ledger "what changed")'
    )


@pytest.mark.parametrize(
    ("change", "differs"),
    [
        ("alter table tidegate.cursor alter column state type text", "column state is text in the database, jsonb in"),
        ("alter table tidegate.receipt alter column name drop not null", "column name may be null in the database"),
        ("alter table tidegate.receipt add column note text not null", "column note (text) is not in the declaration"),
        ("alter table tidegate.interchange drop constraint interchange_pkey", "the primary key is nothing in the data"),
        ("drop table tidegate.rejected_record", "table tidegate.rejected_record is missing"),
        ("alter table tidegate.cursor drop column state, drop column updated_at", "column updated_at (timestamp with"),
        ("alter table tidegate.receipt add column note text", ""),
    ],
)
def test_the_tables_of_the_ledger_are_compared(change: str, differs: str, engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text(change))
    if not differs:
        schema.prepare(engine, {})
        return
    with pytest.raises(StopDaemon) as caught:
        schema.prepare(engine, {})
    assert differs in caught.value.reason
    assert "Tidegate's own tables" in caught.value.hint


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
        connection.execute(text("create table things (code int primary key)"))
    with pytest.raises(StopDaemon):
        schema.prepare(empty, flows.discover() | things(code=code()))
    assert tables(empty) == {"public.things"}


def test_server_that_is_down_is_retried() -> None:
    nowhere = Settings(_env_file=None, database_url=SecretStr("postgresql://u@127.0.0.1:1/x"))
    with databases.open_database(nowhere) as database, pytest.raises(RetryLater):
        schema.prepare(database.engine, {})
