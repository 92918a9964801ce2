"""What is the database's fault is never the file's: files wait, the daemon says why, then all load, once."""

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg
import pytest
from pydantic import SecretStr

from models.errors import StopDaemon
from services.db import connection as connections, embedded
from services.db.embedded import Server
from services.runtime import status_file
from services.runtime.status_file import Phase
from tests.support.database_faults import failing, told
from tests.support.sites import Site, running
from tests.support.waiting import eventually

T1, T2 = "2022-05-05T22:02:34Z", "2022-05-05T23:02:34Z"


def reports(*vehicles: str, time: str = T1) -> dict[str, list[dict[str, object]]]:
    return {"vehicle_status": [{"vehicle_id": v, "report_time": time, "status": "driving"} for v in vehicles]}


def drop(site: Site, *names: str) -> None:
    for name in names:
        site.drop(f"{name}.json", reports(name), flow="vehicle_status")


def expect_loaded(site: Site, *names: str) -> None:
    """Each exactly once, and nothing rejected."""
    lines = site.settled(len(names))
    assert sorted((line["name"], line["status"]) for line in lines) == [(f"{n}.json", "loaded") for n in sorted(names)]
    assert [row["vehicle_id"] for row in site.rows("vehicles_status")] == sorted(names)
    assert site.waiting() == []
    assert [path for path in site.rejected.rglob("*") if not path.is_dir()] == []


def fault(site: Site) -> str:
    """The fault that the daemon tells of, once it does."""
    eventually(lambda: told(site).fault, what="a fault in the daemon's state")
    state = told(site)
    assert state.fault is not None
    assert state.state is Phase.WAITING_FOR_DATABASE
    return state.fault.text


def works_again(site: Site) -> None:
    eventually(lambda: told(site).state is Phase.WATCHING, what="a daemon that watches again")
    assert told(site).fault is None


def alarms(logged: list[str]) -> list[str]:
    return [line for line in logged if line.startswith(("WARNING", "ERROR", "CRITICAL"))]


# A server that a test may stop


@pytest.fixture
def server(open_folder: Path) -> Iterator[Server]:
    with embedded.serve(open_folder) as server:
        yield server


def kill_server(server: Server) -> None:
    """All of its processes: one that outlives the first would still finish the transaction that it has in hand."""
    first = int((server.data / "postmaster.pid").read_text().splitlines()[0])
    os.kill(first, signal.SIGSTOP)  # or it starts further ones
    for process in (*map(int, Path(f"/proc/{first}/task/{first}/children").read_text().split()), first):
        os.kill(process, signal.SIGKILL)


@pytest.fixture
def own(site: Site, server: Server) -> Site:
    """A site on that server."""
    settings = site.settings.model_copy(update={"database_url": SecretStr(server.uri), "database_direct_url": None})
    return Site(settings, site.processes)


def test_a_server_that_is_down_at_the_start_is_waited_for(own: Site, server: Server) -> None:
    server.stop()
    process = own.start()
    drop(own, "a", "b")
    eventually(lambda: [d for d in status_file.running(own.settings.data_dir) if d.fault], what="a daemon that waits")
    assert fault(own)
    status = json.loads(own.call("status", "--json", expect=2).stdout)
    assert status["database"]["up"] is False
    assert status["daemons"][0]["fault"]["text"]
    assert status["waiting"] == {"vehicle_status": 2}
    server.ensure_running()
    works_again(own)
    expect_loaded(own, "a", "b")
    reasons = [line.partition("trying again")[2] for line in own.log().splitlines() if "WARNING" in line]
    assert reasons == list(dict.fromkeys(reasons)), "each reason is told once"
    assert own.stop(process) == 0


def test_a_server_that_dies_between_two_files_is_waited_for(own: Site, server: Server, logged: list[str]) -> None:
    with running(own):
        drop(own, "a")
        expect_loaded(own, "a")
        kill_server(server)
        drop(own, "b")
        assert fault(own)
        drop(own, "c")
        server.ensure_running()
        expect_loaded(own, "a", "b", "c")
        works_again(own)
    # Away, shutting down, starting up: whatever loader and writer see of it they say once each.
    told = alarms(logged)
    assert told
    assert len(told) == len({*told}), told


@contextmanager
def vehicles_locked(url: str) -> Iterator[psycopg.Connection]:
    """Another application's transaction that keeps the loader waiting in the middle of its own."""
    with psycopg.connect(url) as other:
        other.execute("lock table vehicles_status in share mode")
        yield other


WAITING_LOADERS = """
select pid from pg_stat_activity
where wait_event_type = 'Lock' and datname = current_database() and application_name like 'tidegate:%%'
"""


def loader_waits(site: Site) -> int:
    """The server process of a loader that waits for a lock, once there is one."""
    rows = eventually(lambda: site.query(WAITING_LOADERS), what="a loader that waits for a lock")
    return int(rows[0]["pid"])


def test_a_server_that_dies_in_the_middle_of_a_load_is_waited_for(own: Site, server: Server) -> None:
    with running(own):
        with suppress(psycopg.OperationalError), vehicles_locked(own.url):
            drop(own, "a", "b")
            loader_waits(own)
            kill_server(server)
        assert fault(own)
        server.ensure_running()
        expect_loaded(own, "a", "b")
        works_again(own)


def test_the_embedded_server_is_brought_back_when_it_dies(site: Site, open_folder: Path) -> None:
    settings = site.settings.model_copy(
        update={"database_url": None, "database_direct_url": None, "data_dir": open_folder}
    )
    with running(Site(settings)) as alone:
        server = Server(open_folder / "postgres", {})
        known = Site(settings.model_copy(update={"database_url": SecretStr(server.uri)}))
        drop(alone, "a")
        expect_loaded(known, "a")
        kill_server(server)
        drop(alone, "b")
        eventually(lambda: alone.waiting() == [], timeout=30, what="an empty input folder")
        expect_loaded(known, "a", "b")
        works_again(alone)


# Faults of single statements


def test_a_terminated_connection_is_made_anew(live: Site, logged: list[str]) -> None:
    with vehicles_locked(live.url):
        drop(live, "a")
        live.query("select pg_terminate_backend(%s)", loader_waits(live))
        assert "terminating connection" in fault(live)
    expect_loaded(live, "a")
    works_again(live)
    assert len(alarms(logged)) == 1, alarms(logged)


def test_a_lock_that_another_application_holds_is_waited_for(
    live: Site, logged: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "LOCK_WAIT_SECONDS", 0.1)
    with vehicles_locked(live.url):
        drop(live, "a")
        assert "lock timeout" in fault(live)
        # Other flows do not wait.
        order = {"orderNo": 1, "summary": "Pump", "creationDate": T1, "lastUpdateDate": T1}
        live.drop("1.json", order, flow="work_orders")
        eventually(lambda: live.rows("work_orders"), what="a work order")
        assert "lock timeout" in fault(live)
    eventually(lambda: len(live.rows("vehicles_status")) == 1)
    works_again(live)
    assert live.waiting() == []
    assert {line["status"] for line in live.settled(2)} == {"loaded"}
    assert len(alarms(logged)) == 1, alarms(logged)


def test_a_deadlock_is_tried_again(live: Site) -> None:
    drop(live, "a", "b")
    expect_loaded(live, "a", "b")
    with psycopg.connect(live.url) as other:
        other.execute("set deadlock_timeout = '1min'")  # so it is the loader that finds out
        other.execute("update vehicles_status set is_synced = true where vehicle_id = 'b'")
        live.drop("ab.json", reports("a", "b", time=T2), flow="vehicle_status")
        loader_waits(live)
        other.execute("update vehicles_status set is_synced = true where vehicle_id = 'a'")
    assert live.settled(3)[2]["updated"] == 2
    works_again(live)
    assert live.waiting() == []


SERIOUS = {
    "40001": "could not serialize access",
    "53100": "could not extend file",
    "57014": "canceling statement due to user request",
    "XX000": "out of luck",
}


@pytest.mark.parametrize("code", SERIOUS)
@pytest.mark.parametrize("when", ["", "deferrable initially deferred"], ids=["in the upsert", "in the commit"])
def test_files_wait_while_the_database_fails(live: Site, logged: list[str], code: str, when: str) -> None:
    with failing(live, code, SERIOUS[code], when=when):
        drop(live, "a", "b")
        assert fault(live) == SERIOUS[code]
        both = {"vehicle_status/a.json", "vehicle_status/b.json"}
        eventually(lambda: {name for name, _ in told(live).waiting} == both, what="both files among the waiting")
        drop(live, "c")
    expect_loaded(live, "a", "b", "c")
    works_again(live)
    assert len(alarms(logged)) == 1, alarms(logged)
    assert SERIOUS[code] in alarms(logged)[0]


def exorcise(site: Site) -> None:
    """A deferred constraint of the table, which speaks at the commit."""
    site.execute(
        "create function no_ghosts() returns trigger language plpgsql as "
        "$$ begin if new.vehicle_id = 'ghost' then raise exception 'no ghosts' using errcode = '23514'; end if; "
        "return null; end $$"
    )
    site.execute(
        "create constraint trigger no_ghosts after insert on vehicles_status deferrable initially deferred "
        "for each row execute function no_ghosts()"
    )


def test_only_the_file_at_fault_is_rejected_when_a_commit_fails(live: Site) -> None:
    """The constraint speaks for a group of files: which one is it?"""
    exorcise(live)
    drop(live, *"abc", "ghost", *"def")
    lines = {line["name"]: line for line in live.settled(7)}
    assert (lines["ghost.json"]["status"], lines["ghost.json"]["error"]) == ("rejected", "no ghosts")
    assert {lines[f"{name}.json"]["status"] for name in "abcdef"} == {"loaded"}
    assert [row["vehicle_id"] for row in live.rows("vehicles_status")] == list("abcdef")
    assert live.report("ghost.json", "vehicle_status")["errors"][0]["reason"] == "no ghosts"
    assert live.waiting() == []


def test_a_file_rejected_at_the_commit_tells_of_its_bad_records_too(site: Site) -> None:
    exorcise(site)
    ghost, *_ = reports("ghost")["vehicle_status"]
    site.drop("ghost.json", [ghost, ghost | {"status": 7, "colour": "red"}], flow="vehicle_status")
    site.load()
    (line,) = site.ledger()
    assert (line["status"], line["error"]) == ("rejected", "no ghosts")
    assert (line["records"], line["rejected"], line["drift"]) == (2, 1, {"colour": 1})
    whole, of_record = site.report("ghost.json", "vehicle_status")["errors"]
    assert whole["reason"] == "no ghosts"
    assert (of_record["record"], of_record["reason"]) == (1, "should be text")


def test_a_file_that_the_ledger_cannot_take_holds_up_no_other(live: Site, logged: list[str]) -> None:
    live.execute("alter table tidegate.inbound_file add constraint no_ghosts check (name <> 'ghost.json')")
    drop(live, "ghost", "a", "b")
    eventually(lambda: any("ghost.json waits" in line for line in logged), what="a word on the file that waits")
    drop(live, "c")
    expect = ["a.json", "b.json", "c.json"]
    assert sorted(line["name"] for line in live.settled(3)) == expect
    assert [path.name for path in live.waiting()] == ["ghost.json"]
    assert [name for name, _ in eventually(lambda: told(live).waiting)] == ["vehicle_status/ghost.json"]
    assert told(live).fault is None
    assert sum("ghost.json waits" in line for line in logged) == 1


def test_a_content_that_somebody_else_records_at_that_moment_is_a_duplicate(live: Site) -> None:
    """The unique index of the ledger decides where somebody did not ask for the flow's lock."""
    import hashlib

    content = json.dumps(reports("a")).encode()
    with psycopg.connect(live.url) as other:
        other.execute(
            "insert into tidegate.inbound_file (flow, name, sha256, bytes, status, seen_at, node, filed_at) "
            "values ('vehicle_status', 'theirs.json', %s, 1, 'loaded', now(), 'other', now())",
            [hashlib.sha256(content).digest()],
        )
        live.drop("ours.json", content, flow="vehicle_status")
        loader_waits(live)
    theirs, ours = sorted(live.settled(2), key=lambda line: line["node"] == "test")
    assert (ours["status"], ours["duplicate_of"]) == ("duplicate", theirs["id"])
    assert live.rows("vehicles_status") == []
    assert live.waiting() == []


def test_a_ledger_that_no_longer_fits_stops_the_daemon(site: Site) -> None:
    def live() -> None:
        with running(site):
            drop(site, "a")
            expect_loaded(site, "a")
            site.execute("drop table tidegate.rejected_record, tidegate.inbound_file")
            drop(site, "b")
            eventually(lambda: told(site).state is Phase.STOPPING, what="a daemon that stops")

    with pytest.raises(StopDaemon, match=r"tidegate\.inbound_file") as stopped:
        live()
    assert "db upgrade" in stopped.value.hint
    assert [path.name for path in site.waiting()] == ["b.json"]


def test_the_process_says_why_and_leaves_with_2(site: Site) -> None:
    process = site.start()
    drop(site, "a")
    expect_loaded(site, "a")
    site.execute("drop table tidegate.rejected_record, tidegate.inbound_file")
    drop(site, "b")
    assert process.wait(10) == 2
    log = (site.input.parent / "daemon-0.log").read_text()
    assert 'relation "tidegate.inbound_file" does not exist' in log
    assert "Traceback" not in log
    assert [path.name for path in site.waiting()] == ["b.json"]
