"""The daemons of a database: each tells that it runs, all are shown, and none works on a schema that is not its own."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from pydantic import SecretStr

from models.errors import StopDaemon
from services.db import engine as databases, migrate
from services.ledger import daemons
from services.ledger.daemons import Heartbeat
from tests.support.pgbouncer import pgbouncer, pgbouncer_program
from tests.support.sites import Site, running
from tests.support.waiting import eventually

T1 = "2022-05-05T22:02:34Z"


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(daemons, "BEAT_SECONDS", 0.05)


@contextmanager
def beating(site: Site, node: str, *flows: str, version: str = "1.2.3") -> Iterator[Heartbeat]:
    """A daemon of which nothing but the heart is at work."""
    with databases.open_database(site.settings) as database:
        heartbeat = Heartbeat(database.engine, node=node, version=version, flows=flows)
        heartbeat.start()
        try:
            eventually(lambda: node in nodes(site), what="the first beat")
            yield heartbeat
        finally:
            heartbeat.stop()


def nodes(site: Site) -> list[str]:
    return [row["node"] for row in site.query("select node from tidegate.daemon order by node")]


def sharing(site: Site) -> list[bool]:
    """Of each daemon, whether another one has its node as well."""
    with psycopg.connect(site.url) as connection:
        return [one.shares_node for one in daemons.known(connection)]


def shown(site: Site) -> list[str]:
    """The lines of `status` on the daemons of the database."""
    lines = site.call("status").stdout.splitlines()
    start = next((n for n in range(len(lines)) if lines[n].split()[:2] == ["daemon", "version"]), len(lines))
    return lines[start : lines.index("", start)] if start < len(lines) else []


def test_a_daemon_tells_that_it_runs_and_takes_its_line_away_when_it_stops(site: Site) -> None:
    with running(site):
        site.drop(
            "a.json", [{"vehicle_id": v, "report_time": T1, "status": "driving"} for v in "abc"], flow="vehicle_status"
        )
        site.settled(1)
        eventually(lambda: site.query("select from tidegate.daemon where files = 1 and records = 3"))
        (line,) = site.query("select * from tidegate.daemon")
        assert line["schema_revision"] == migrate.own()[-1].id
        assert line["flows"] == sorted(line["flows"])
        assert "vehicle_status" in line["flows"]
        assert (line["files_of_minute"], line["records_of_minute"]) == (1, 3)
        header, row = shown(site)
        assert header.split() == ["daemon", "version", "since", "flows", "files/min", "records/min", "seen"]
        assert row.split()[:2] == [line["node"], line["version"]]
        assert row.endswith(" s ago")
        eventually(lambda: site.query("select from tidegate.daemon where last_seen_at > %s", line["last_seen_at"]))
    assert nodes(site) == []


def test_status_shows_daemons_of_other_machines_where_none_runs(site: Site) -> None:
    with beating(site, "web1:17", "orders", "work_orders"), beating(site, "web2:17", "orders", version="1.2.4"):
        assert "none runs here" in site.call("status").stdout
        rows = [line.split()[:2] for line in shown(site)]
        assert rows[1:3] == [["web1:17", "1.2.3"], ["web2:17", "1.2.4"]]
        assert any(line.startswith("web2:17 has no flow ") and "work_orders" in line for line in shown(site))


def test_a_daemon_that_ended_without_a_word_is_shown_and_later_forgotten(site: Site) -> None:
    with beating(site, "web1:17"):
        site.execute(
            "insert into tidegate.daemon select gen_random_uuid(), 'web2:9', pid, version, schema_revision, flows, "
            "started_at - interval '1 hour', now() - interval '200 s', 0, 0, 0, 0 from tidegate.daemon"
        )
        assert any(line.startswith("web2:9 was last seen 3 min ago: it ended without a word") for line in shown(site))
        site.execute("update tidegate.daemon set last_seen_at = now() - interval '25 hours' where node = 'web2:9'")
        eventually(lambda: nodes(site) == ["web1:17"], what="a line that is a day old to go")


def test_a_daemon_started_anew_takes_the_place_of_what_died_on_its_machine(site: Site) -> None:
    with beating(site, "web1:17"), beating(site, "web2:17"):
        site.execute(
            "insert into tidegate.daemon select gen_random_uuid(), 'web1:9', pid, version, schema_revision, flows, "
            "started_at, now() - interval '20 s', 0, 0, 0, 0 from tidegate.daemon where node = 'web1:17'"
        )
        eventually(lambda: nodes(site) == ["web1:17", "web2:17"], what="the dead one to go")


def test_two_daemons_of_one_name_are_told(site: Site, logged: list[str]) -> None:
    with beating(site, "host:1"):
        with beating(site, "host:1"):
            told = "WARNING another daemon of this database is called host:1 as well: give each machine"
            eventually(lambda: sum(line.startswith(told) for line in logged) == 2, what="both to say so, once")
            assert sharing(site) == [True, True]
        assert sharing(site) == [False]


def test_status_tells_of_two_daemons_of_one_name(site: Site) -> None:
    with beating(site, "host:1"), beating(site, "host:1"):
        eventually(lambda: sharing(site) == [True, True])
        assert sum("another daemon is called host:1 as well" in line for line in shown(site)) == 2


def test_one_started_anew_under_the_name_of_a_dead_one_is_alone(site: Site, logged: list[str]) -> None:
    with beating(site, "host:1") as first:
        first._leave = lambda: None  # type: ignore[method-assign]  # killed
    (dead,) = site.query("select id from tidegate.daemon")
    with beating(site, "host:1"):
        eventually(lambda: site.query("select from tidegate.daemon where id <> %s", dead["id"]), what="a beat")
        assert not any(sharing(site))
    assert not any("as well" in line for line in logged)


def test_a_beat_goes_on_after_the_database_was_away(site: Site) -> None:
    with beating(site, "web1:17"):
        site.execute("alter table tidegate.daemon rename to away")
        site.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where pid <> pg_backend_pid() "
            "and datname = current_database()"
        )
        site.execute("alter table tidegate.away rename to daemon")
        (before,) = site.query("select last_seen_at as at from tidegate.daemon")
        eventually(lambda: site.query("select from tidegate.daemon where last_seen_at > %s", before["at"]))


@pytest.mark.skipif(pgbouncer_program() is None, reason="there is no pgbouncer: make system-deps installs it")
def test_a_beat_passes_a_pooler_that_hands_sessions_around(site: Site, open_folder: Path) -> None:
    with pgbouncer(open_folder, site.url, pool_mode="transaction") as uri:
        urls = {"database_url": SecretStr(uri), "database_direct_url": SecretStr(site.url)}
        with beating(Site(site.settings.model_copy(update=urls)), "web1:17"):
            (before,) = site.query("select last_seen_at as at from tidegate.daemon")
            eventually(lambda: site.query("select from tidegate.daemon where last_seen_at > %s", before["at"]))


def test_an_idle_daemon_whose_database_was_upgraded_stops_with_a_sentence(site: Site) -> None:
    said = r"the database is at schema revision 9999, .*\(start the newer version of Tidegate\)"
    with pytest.raises(StopDaemon, match=said), running(site) as live:
        upgrade_and_wait(live)


def upgrade_and_wait(site: Site) -> None:
    (before,) = eventually(lambda: site.query("select last_seen_at as at from tidegate.daemon"))
    site.execute("update tidegate.alembic_version set version_num = '9999'")
    eventually(lambda: all(thread.name != "daemon" for thread in threading.enumerate()), what="the daemon to notice")
    (last,) = site.query("select last_seen_at as at from tidegate.daemon")
    assert last["at"] >= before["at"]


def test_an_upgrade_tells_of_what_still_runs_of_the_older_version(site: Site) -> None:
    older = psycopg.connect(site.url, application_name="tidegate:web1:17", autocommit=True)
    waiting = psycopg.connect(site.url, application_name="tidegate:web2:17", autocommit=True)
    with older, waiting, psycopg.connect(site.url, autocommit=True) as upgrading:
        upgrading.execute("select pg_advisory_lock(1)")
        # Also waits for its turn to upgrade, so it is no older one.
        thread = threading.Thread(target=waiting.execute, args=("select pg_advisory_lock(1)",))
        thread.start()
        eventually(lambda: site.query("select from pg_stat_activity where wait_event = 'advisory'"))
        *_, before, last = migrate.own()
        with databases.open_database(site.settings) as database, database.engine.begin() as connection:
            last.run(connection, "downgrade")
        site.execute(f"update tidegate.alembic_version set version_num = '{before.id}'")
        done = site.call("db", "upgrade")
        upgrading.execute("select pg_advisory_unlock(1)")
        thread.join()
    told = [line for line in done.stdout.splitlines() if "runs an older version" in line]
    assert len(told) == 1
    assert told[0].startswith("web1:17")
    assert told[0].endswith("runs an older version, which stops now: start the newer one there")
    assert "runs an older version" not in site.call("db", "upgrade").stdout
