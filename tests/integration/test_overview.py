"""What `status` says of files is what the ledger holds, though nobody counts its lines."""

from collections import Counter
from contextlib import ExitStack

import psycopg

from models.ledger import NO_FLOW
from services.ledger import overview, queries
from tests.support.sites import Site

COUNTED = "select coalesce(flow, '') as flow, status, count(*)::int as files from tidegate.inbound_file group by 1, 2"
COUNTS = """
select flow, status, sum(files)::int as files from tidegate.file_count group by 1, 2 having sum(files) <> 0
"""
A_LINE = """
insert into tidegate.inbound_file (flow, name, sha256, bytes, status, seen_at, node, error)
select 'orders', 'a', int8send(n), 0, '{status}', now(), 'test', {error} from generate_series(1, {count}) n
"""
GOOD = '[{{"vehicle_id": "van-{}", "report_time": "2026-01-01T00:00:00Z", "status": "driving"}}]'


def counts_hold(site: Site) -> bool:
    counted, counts = (Counter(map(str, site.query(query))) for query in (COUNTED, COUNTS))
    return counted == counts


def test_files_are_counted_as_they_come_and_go(site: Site) -> None:
    site.drop("good.json", GOOD.format(1), flow="vehicle_status")
    site.drop("other.json", GOOD.format(2), flow="vehicle_status")
    site.drop("bad.json", "no JSON", flow="vehicle_status")
    site.drop("stranger.json", "{}")
    site.load()
    site.drop("again.json", GOOD.format(1), flow="vehicle_status")
    site.load()
    assert len(site.query(COUNTED)) == 4
    assert counts_hold(site)
    site.execute("delete from tidegate.inbound_file where name in ('other.json', 'again.json')")
    assert counts_hold(site)
    site.execute("truncate tidegate.inbound_file cascade")
    assert site.query(COUNTS) == []


def test_each_flow_tells_its_last_file_and_its_last_error(site: Site) -> None:
    site.drop("bad.json", "no JSON", flow="vehicle_status")
    site.load()
    site.drop("good.json", GOOD.format(1), flow="vehicle_status")
    site.drop("stranger.json", "{}")
    site.load()
    with psycopg.connect(site.url) as connection:
        lines = {line.flow: line for line in overview.overview(connection, site.flows(), Counter())}
    ids = {line["name"]: line["id"] for line in site.ledger()}
    vehicles, strangers, orders = lines["vehicle_status"], lines[NO_FLOW], lines["orders"]
    assert (vehicles.loaded, vehicles.rejected, vehicles.last_file) == (1, 1, "good.json")
    assert (vehicles.last_error_id, vehicles.rows) == (ids["bad.json"], 1)
    assert (strangers.rejected, strangers.last_file, strangers.last_error_id) == (
        1,
        "stranger.json",
        ids["stranger.json"],
    )
    assert (orders.loaded, orders.last_file, orders.last_status, orders.last_error) == (0, None, None, None)


def test_sessions_do_not_wait_for_each_other_to_count(site: Site) -> None:
    shards: dict[int, psycopg.Connection] = {}
    with ExitStack() as stack:
        while len(shards) < 2:
            connection = stack.enter_context(psycopg.connect(site.url, options="-c lock_timeout=2s"))
            shards[connection.info.backend_pid % 16] = connection
        for status, connection in zip(("loaded", "rejected"), shards.values(), strict=False):
            connection.execute(A_LINE.format(status=status, count=3, error="null").encode())
        for connection in shards.values():
            connection.commit()
    assert counts_hold(site)
    assert {line["files"] for line in site.query(COUNTS)} == {3}


def test_files_of_a_rare_state_are_found_without_a_look_at_all_others(site: Site) -> None:
    site.execute(A_LINE.format(status="loaded", count=50_000, error="null"))
    site.execute(A_LINE.format(status="rejected", count=3, error="'bad'"))
    site.execute("analyze tidegate.inbound_file")
    with psycopg.connect(site.url, autocommit=True) as connection:
        read = "select heap_blks_read + heap_blks_hit from pg_statio_all_tables where relname = 'inbound_file'"
        connection.execute("select pg_stat_force_next_flush()")
        before = connection.execute(read).fetchone()
        assert len(queries.files(connection, status="rejected")) == 3
        assert queries.files(connection, status="partial") == []
        (line,) = [one for one in overview.overview(connection, site.flows(), Counter()) if one.flow == "orders"]
        assert (line.loaded, line.rejected, line.last_error) == (50_000, 3, "bad")
        connection.execute("select pg_stat_force_next_flush()")
        after = connection.execute(read).fetchone()
    assert before
    assert after
    assert after[0] - before[0] < 50
