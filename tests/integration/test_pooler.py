"""Between us and the server: PgBouncer, and servers of which only one takes writes."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psycopg
import pytest
from pydantic import SecretStr

from models.errors import StopDaemon
from services.db import embedded, schema
from services.db.engine import open_database
from settings import Settings
from tests.support.pgbouncer import pgbouncer, pgbouncer_program
from tests.support.sites import Site, running
from tests.support.waiting import eventually

with_pgbouncer = pytest.mark.skipif(
    pgbouncer_program() is None, reason="there is no pgbouncer: make system-deps installs it"
)

REPORT = [{"vehicle_id": "V1", "report_time": "2022-05-05T22:02:34Z", "status": "driving"}]


def pooled(site: Site, uri: str, *, direct: bool) -> Site:
    """The site with its database behind a pooler."""
    urls = {"database_url": SecretStr(uri), "database_direct_url": SecretStr(site.url) if direct else None}
    return Site(site.settings.model_copy(update=urls))


@with_pgbouncer
def test_pooler_that_hands_sessions_around_is_refused_with_a_sentence(site: Site, open_folder: Path) -> None:
    with pgbouncer(open_folder, site.url, pool_mode="transaction") as uri:
        done = pooled(site, uri, direct=False).call("db", "upgrade", expect=2)
    assert "pool_mode = transaction" in done.stderr
    assert "DATABASE_DIRECT_URL" in done.stderr


@with_pgbouncer
def test_pooler_that_keeps_sessions_needs_nothing_more(site: Site, open_folder: Path) -> None:
    with (
        pgbouncer(open_folder, site.url, pool_mode="session") as uri,
        open_database(pooled(site, uri, direct=False).settings) as database,
    ):
        schema.prepare(database.direct, {})
        with database.connect() as one, database.connect() as another:
            assert one.info.transaction_status == another.info.transaction_status


@with_pgbouncer
def test_site_behind_a_pooler_loads_and_sends_by_its_direct_url(site: Site, open_folder: Path) -> None:
    with pgbouncer(open_folder, site.url, pool_mode="transaction") as uri, running(pooled(site, uri, direct=True)):
        for number in range(30):  # often enough for statements to be prepared, were they
            site.drop(f"{number}.json", [REPORT[0] | {"vehicle_id": f"V{number}"}], flow="vehicle_status")
            if number % 10 == 0:
                site.settled(number + 1)
        assert {line["status"] for line in site.settled(30)} == {"loaded"}
        assert len(site.rows("vehicles_status")) == 30
        eventually(lambda: all(row["is_synced"] for row in site.rows("vehicles_status")), what="rows that went out")


def test_direct_url_without_a_pooler_is_refused(settings: Settings) -> None:
    alone = settings.model_copy(update={"database_url": None, "database_direct_url": SecretStr("postgresql://h/x")})
    with pytest.raises(StopDaemon, match="DATABASE_DIRECT_URL is set, and DATABASE_URL is not"), open_database(alone):
        pass


@contextmanager
def standby(folder: Path) -> Iterator[str]:
    """A server that takes no writes."""
    with embedded.serve(folder, durable=False) as server:
        with psycopg.connect(server.uri, autocommit=True) as connection:
            connection.execute(f"alter database {embedded.DATABASE} set default_transaction_read_only = on".encode())
        yield server.uri


def test_of_several_hosts_the_one_that_takes_writes(open_folder: Path) -> None:
    with ExitStack() as servers:
        first, second = open_folder / "standby", open_folder / "primary"
        uris = [servers.enter_context(standby(first)), servers.enter_context(embedded.serve(second, durable=False)).uri]
        hosts = ",".join(uri.partition("host=")[2].partition("&")[0] for uri in uris)
        uri = f"{uris[0].partition('?')[0]}?host={hosts}&port=5432,5432"
        with open_database(Settings(_env_file=None, database_url=SecretStr(uri))) as database:
            schema.prepare(database.direct, {})
            with psycopg.connect(uris[1]) as primary:
                assert primary.execute("select to_regclass('tidegate.inbound_file')").fetchone() != (None,)


def test_connection_to_a_server_that_became_a_standby_is_dropped(site: Site) -> None:
    with running(site):
        site.drop("before.json", REPORT, flow="vehicle_status")
        site.settled(1)
        # Its open sessions go on to be read-only, whoever takes writes by now.
        site.execute(
            "create function read_only() returns trigger language plpgsql as $$ begin "
            "perform set_config('default_transaction_read_only', 'on', false); return null; end $$"
        )
        site.execute("create trigger read_only after insert on tidegate.inbound_file execute function read_only()")
        site.drop("last.json", [REPORT[0] | {"vehicle_id": "V2"}], flow="vehicle_status")
        eventually(lambda: len(site.rows("vehicles_status")) == 2, what="the last file before it")
        site.execute("drop trigger read_only on tidegate.inbound_file")
        site.drop("after.json", [REPORT[0] | {"vehicle_id": "V3"}], flow="vehicle_status")
        eventually(lambda: len(site.rows("vehicles_status")) == 3, what="a file after it")
        # It may have been told as filed by the session that takes no writes; then the next group tells it again.
        site.drop("next.json", [REPORT[0] | {"vehicle_id": "V4"}], flow="vehicle_status")
        assert {line["status"] for line in site.settled(4)} == {"loaded"}
