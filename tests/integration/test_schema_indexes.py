"""Indexes that are not there: built at the start, each once, while others go on writing."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import psycopg
import pytest
from sqlalchemy import Engine, text

import flows
from models.errors import RetryLater
from services.db import indexes, schema
from tests.support.sites import Site
from tests.support.waiting import eventually

FLOWS = flows.discover()
LEDGER_INDEX, FLOW_INDEX = "tidegate.inbound_file_recent", "vehicles_status_unsynced_idx"
INSERTS = {
    LEDGER_INDEX: "insert into tidegate.inbound_file (name, bytes, status, seen_at, node) "
    "values ('a', 0, 'rejected', now(), 'test')",
    FLOW_INDEX: "insert into vehicles_status (vehicle_id, report_time, status) "
    "values (gen_random_uuid(), now(), 'driving')",
}
BUILDING = (
    "select pid from pg_stat_activity where query like 'create index concurrently%' and wait_event_type = 'Lock' "
    "and datname = current_database()"
)
IN_LINE = "select pid from pg_stat_activity where query like '%advisory_lock%' and datname = current_database()"
"""Who waits for the lock, or has just asked for it."""


def valid_indexes(engine: Engine) -> dict[str, bool]:
    """Every index of the ledger and of the flows' tables by name, and whether it is valid."""
    with engine.connect() as connection:
        query = text("select cast(indexrelid as regclass)::text, indisvalid from pg_index i "
                     "join pg_class c on c.oid = i.indexrelid where c.relnamespace::regnamespace::text "
                     "in ('public', 'tidegate')")  # fmt: skip
        return dict(connection.execute(query).all())


def built(logged: list[str]) -> list[str]:
    return sorted(line.rpartition(" ")[2].replace('"', "") for line in logged if "building the index" in line)


@contextmanager
def held_up(site: Site, index: str) -> Iterator[None]:
    """Another application has written into the index's table, and has not committed: the build waits for it."""
    with psycopg.connect(site.url) as other:
        other.execute(INSERTS[index].encode())
        yield


def test_a_prepared_database_has_every_index_and_gets_none(engine: Engine, logged: list[str]) -> None:
    declared = [*indexes.of_ledger(), *(index for flow in FLOWS.values() for index in indexes.of_flow(flow))]
    wanted = {index.name.replace('"', "") for index in declared}
    assert {LEDGER_INDEX, FLOW_INDEX, "tidegate.outbound_file_due", "orders_unsynced_idx"} <= wanted
    assert {name for name, valid in valid_indexes(engine).items() if valid} >= wanted
    schema.prepare(engine, FLOWS)
    assert built(logged) == []


def test_missing_indexes_are_built_at_the_start_as_they_were(engine: Engine, logged: list[str]) -> None:
    definitions = text("select indexdef from pg_indexes where schemaname in ('public', 'tidegate') order by 1")
    with engine.begin() as connection:
        before = connection.execute(definitions).scalars().all()
        for name in (LEDGER_INDEX, FLOW_INDEX):
            connection.execute(text(f"drop index {name}"))
    schema.prepare(engine, FLOWS)
    with engine.connect() as connection:
        assert connection.execute(definitions).scalars().all() == before
    assert all(valid_indexes(engine).values())
    assert built(logged) == [LEDGER_INDEX, FLOW_INDEX]


@pytest.mark.parametrize("index", INSERTS)
def test_nobody_who_writes_is_held_up_by_a_build(index: str, site: Site, engine: Engine) -> None:
    site.execute(f"drop index {index}")
    with ThreadPoolExecutor(1) as pool:
        with held_up(site, index):
            start = pool.submit(schema.prepare, engine, FLOWS)
            eventually(lambda: site.query(BUILDING), what="a build that waits")
            with psycopg.connect(site.url, options="-c lock_timeout=2s") as writer:
                writer.execute(INSERTS[index].encode())
            assert not start.done()
        start.result(20)
    assert valid_indexes(engine)[index]


@pytest.mark.parametrize("index", INSERTS)
def test_an_index_that_a_crash_left_half_built_is_built_anew(index: str, site: Site, engine: Engine) -> None:
    site.execute(f"drop index {index}")
    with ThreadPoolExecutor(1) as pool, held_up(site, index):
        start = pool.submit(schema.prepare, engine, FLOWS)
        (building,) = eventually(lambda: site.query(BUILDING), what="a build that waits")
        site.query("select pg_terminate_backend(%s)", building["pid"])
        with pytest.raises(RetryLater):
            start.result(20)
    assert valid_indexes(engine)[index] is False
    schema.prepare(engine, FLOWS)
    assert valid_indexes(engine)[index] is True


def test_processes_that_start_together_build_an_index_once(site: Site, engine: Engine, logged: list[str]) -> None:
    site.execute(f"drop index {LEDGER_INDEX}")
    with ThreadPoolExecutor(3) as pool:
        with held_up(site, LEDGER_INDEX):
            starts = [pool.submit(schema.prepare, engine, FLOWS) for _ in range(3)]
            eventually(lambda: site.query(BUILDING), what="a build that waits")
            eventually(lambda: len(site.query(IN_LINE)) >= 2, what="the others in line")
        for start in starts:
            start.result(20)
    assert built(logged) == [LEDGER_INDEX]
    assert valid_indexes(engine)[LEDGER_INDEX]
