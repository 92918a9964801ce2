"""What holds in every transaction that loads, whatever server, database and role say."""

import json

import psycopg
import pytest

from services.db import connection as connections
from services.db.connection import KeepAlive, settings as transaction_settings
from services.db.engine import open_database
from tests.support.sites import Site

REPORT = [{"vehicle_id": "V1", "report_time": "2022-05-05T22:02:34Z", "status": "driving"}]

# What a load finds set, as a trigger sees it.
_WATCH = """
create table public.seen (name text, value text);
create function public.watch() returns trigger language plpgsql as $$ begin
    insert into public.seen select name, current_setting(name) from unnest(array['synchronous_commit', 'lock_timeout',
        'statement_timeout', 'idle_in_transaction_session_timeout', 'transaction_timeout', 'search_path']) name
        where current_setting(name, true) is not null;
    return null;
end $$;
create trigger watch after insert on public.vehicles_status execute function public.watch();
"""


def settings_of_the_database(site: Site, **settings: str) -> None:
    name = site.query("select quote_ident(current_database()) as name")[0]["name"]
    for setting, value in settings.items():
        site.execute(f"alter database {name} set {setting} = {value}")


def load(site: Site) -> dict[str, str]:
    site.drop("one.json", REPORT, flow="vehicle_status")
    (result,) = site.load()
    assert result.status == "loaded", result
    return {row["name"]: row["value"] for row in site.query("select name, value from public.seen")}


def test_load_is_durable_and_has_its_own_timeouts(site: Site) -> None:
    site.execute(_WATCH)
    settings_of_the_database(
        site,
        synchronous_commit="off",
        lock_timeout="'1ms'",
        idle_in_transaction_session_timeout="'9s'",
        transaction_timeout="'10s'",
        statement_timeout="'9s'",
    )
    assert load(site) == {
        "synchronous_commit": "on",
        "lock_timeout": "5s",
        "statement_timeout": "10min",
        "idle_in_transaction_session_timeout": "1min",
        "transaction_timeout": "0",
        "search_path": '"$user", public',
    }


def test_who_waits_for_standbys_to_apply_still_does(site: Site) -> None:
    site.execute(_WATCH)
    settings_of_the_database(site, synchronous_commit="remote_apply")
    assert load(site)["synchronous_commit"] == "remote_apply"


def test_search_path_is_the_roles_own_whatever_the_session_was_left_with(site: Site) -> None:
    # As a trigger of another application may leave it, or a pooler's other client.
    site.execute(
        "create function public.mislead() returns trigger language plpgsql as $$ begin "
        "perform set_config('search_path', 'nowhere', false); return null; end $$;"
        "create trigger mislead after insert on tidegate.inbound_file execute function public.mislead()"
    )
    site.drop("one.json", REPORT, flow="vehicle_status")
    site.drop("two.json", [REPORT[0] | {"vehicle_id": "V2", "padding": "x" * 5_000_000}], flow="vehicle_status")
    assert [result.status for result in site.load()] == ["loaded", "loaded"]


@pytest.mark.parametrize(("version", "is_set"), [(140005, False), (160009, False), (170000, True), (180001, True)])
def test_a_setting_that_an_older_server_does_not_know_is_left_out(version: int, is_set: bool) -> None:
    assert ("transaction_timeout" in transaction_settings(version, local=True)) is is_set


def test_status_tells_what_no_session_can_set(site: Site) -> None:
    if site.query("show fsync")[0]["fsync"] == "on":
        pytest.skip("the tests' server is durable")
    assert "fsync is off" in site.call("status").stdout
    assert "full_page_writes is off" in " ".join(json.loads(site.call("status", "--json").stdout)["database"]["risks"])


def test_transaction_of_a_frozen_process_ends(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(connections._SETTINGS, "idle_in_transaction_session_timeout", "'200ms'")
    lock = "select pg_advisory_xact_lock(1)"

    def freeze() -> None:
        with database.connect() as frozen, frozen.transaction():
            frozen.execute(lock)
            site.query(lock)  # as another process that waits for it
            frozen.execute(lock)

    with (
        open_database(site.settings) as database,
        pytest.raises(psycopg.errors.IdleInTransactionSessionTimeout),
    ):
        freeze()


@pytest.mark.parametrize(("seconds", "is_asked"), [(0.0, True), (60.0, False)])
def test_transaction_that_reads_for_long_shows_now_and_then_that_it_is_at_work(
    site: Site, monkeypatch: pytest.MonkeyPatch, *, seconds: float, is_asked: bool
) -> None:
    monkeypatch.setattr(connections, "_IDLE_SECONDS", seconds)
    with open_database(site.settings) as database, database.connect() as reading, reading.transaction():
        reading.execute("select 'the last of the load'")
        KeepAlive(reading).show()
        last = f"select query from pg_stat_activity where pid = {reading.info.backend_pid}"
        assert (site.query(last)[0]["query"] == "select") is is_asked
