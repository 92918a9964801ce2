"""The daemon's loop: it stops when told, lives through mistakes, and keeps up with a burst."""

import fcntl
import os
import signal
import socket
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psycopg
import pytest

from file_processing.inbound import archive, recovery
from file_processing.inbound.archive import FileResult
from file_processing.inbound.pipeline import Pipeline
from file_processing.inbound.routing import RoutedFile
from models.errors import RetryLater
from services.db import connection as connections, schema
from services.ledger import locks
from services.runtime import status_file
from services.runtime.status_file import Phase, Publisher
from tests.support.processes import Process
from tests.support.sites import Site, running
from tests.support.waiting import eventually

T1 = "2022-05-05T22:02:34Z"
LONG = 150_000

LOADING = f"""
select 1 from pg_locks join pg_database d on d.oid = database
where locktype = 'advisory' and granted and classid = {locks._LOADERS}
  and objid::bigint = hashtext('vehicle_status')::bigint & 4294967295 and datname = current_database()
"""


def reports(*vehicles: str) -> list[dict[str, object]]:
    return [{"vehicle_id": v, "report_time": T1, "status": "driving"} for v in vehicles]


def drop(site: Site, name: str, content: object) -> Path:
    return site.drop(name, content, flow="vehicle_status")


def started(site: Site) -> Process:
    process = site.start()
    eventually(
        lambda: [d for d in status_file.running(site.settings.data_dir) if d.state is Phase.WATCHING],
        timeout=40,
        what="a daemon at work",
    )
    return process


def stopped_in(site: Site, process: Process, how: signal.Signals = signal.SIGTERM) -> float:
    """Seconds that it took; it has to end well."""
    begin = time.monotonic()
    assert site.stop(process, how) == 0
    return time.monotonic() - begin


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_an_idle_daemon_leaves_at_once(site: Site, how: signal.Signals) -> None:
    process = started(site)
    assert stopped_in(site, process, how) < 2
    assert status_file.running(site.settings.data_dir) == []
    assert list((site.settings.data_dir / "run").iterdir()) == []


def test_systemd_hears_of_a_daemon_whose_migration_takes_long(site: Site, tmp_path: Path) -> None:
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd,
        psycopg.connect(site.url, autocommit=True) as migrating,
    ):
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(20)
        migrating.execute("select pg_advisory_lock(%s)", [schema._ADVISORY_LOCK])
        process = site.start(NOTIFY_SOCKET=str(tmp_path / "notify"), WATCHDOG_USEC="100000")
        told = iter(lambda: systemd.recv(4096), b"STATUS=watching")
        assert any(line.startswith(b"READY=1") for line in told)
        assert [next(told) for _ in range(5)] == [b"WATCHDOG=1"] * 5
    site.stop(process)


def test_systemd_hears_of_a_daemon_whose_embedded_server_takes_long_to_start(
    site: Site, open_folder: Path, tmp_path: Path
) -> None:
    data = open_folder / "data"
    data.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(20)
        told = iter(lambda: systemd.recv(4096), b"")
        with (data / "postgres.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            process = site.start(
                DATABASE_URL="",
                DATABASE_DIRECT_URL="",
                DATA_DIR=str(data),
                NOTIFY_SOCKET=str(tmp_path / "notify"),
                WATCHDOG_USEC="100000",
            )
            for _ in range(5):
                assert b"EXTEND_TIMEOUT_USEC=30000000" in next(told)
        assert any(line.startswith(b"READY=1") for line in told)
        assert b"EXTEND_TIMEOUT_USEC" not in next(told)
    assert site.stop(process) == 0


def test_a_daemon_told_to_stop_leaves_a_long_file_for_the_next_start(site: Site) -> None:
    process = started(site)
    record = '{"vehicle_id": "v%d", "report_time": "2022-05-05T22:02:34Z", "status": "driving"}'
    drop(site, "long.json", "[" + ",\n".join(record % n for n in range(LONG)) + "]")
    eventually(lambda: site.query(LOADING), what="a loader at work")
    assert stopped_in(site, process) < 10
    assert site.ledger() == []
    assert site.query("select count(*) as n from vehicles_status") == [{"n": 0}]
    assert [path.name for path in site.waiting()] == ["long.json"]
    assert "WARNING" not in site.log()
    with running(site):
        (line,) = site.settled(1)
    assert (line["status"], line["inserted"]) == ("loaded", LONG)
    assert site.waiting() == []


def test_a_daemon_whose_database_was_upgraded_meanwhile_stops_with_a_sentence(site: Site) -> None:
    process = started(site)
    site.execute("update tidegate.alembic_version set version_num = '9999'")
    path = drop(site, "a.json", reports("a"))
    assert process.wait(30) == 2
    said = process.log.read_text().splitlines()[-1]
    assert said.startswith("the database is at schema revision 9999, this program knows up to ")
    assert said.endswith("(start the newer version of Tidegate)")
    assert site.ledger() == []
    assert site.waiting() == [path]


def test_a_daemon_told_to_stop_does_not_wait_for_another_application(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "LOCK_WAIT_SECONDS", 0.5)
    with psycopg.connect(site.url) as other:
        other.execute("lock table vehicles_status in share mode")
        with running(site):
            drop(site, "a.json", reports("a"))
            eventually(lambda: site.query("select 1 from pg_stat_activity where wait_event_type = 'Lock'"))
            begin = time.monotonic()
        assert time.monotonic() - begin < 5
    assert [path.name for path in site.waiting()] == ["a.json"]
    assert site.ledger() == []


def test_a_burst_that_goes_on_while_files_load(live: Site) -> None:
    for n in range(2_000):
        flow = ("vehicle_status", "work_orders")[n % 2]
        order = {"orderNo": n, "summary": "Pump", "creationDate": T1, "lastUpdateDate": T1}
        live.drop(f"{n}.json", order if n % 2 else reports(f"v{n}"), flow=flow)
    lines = live.settled(2_000)
    assert {line["status"] for line in lines} == {"loaded"}
    assert (len(live.rows("vehicles_status")), len(live.rows("work_orders"))) == (1_000, 1_000)
    assert live.waiting() == []


@pytest.mark.usefixtures("impatient")
def test_a_mistake_of_ours_is_told_with_its_traceback_and_tried_again(
    live: Site, logged: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(archive, "archive", lambda *_, **__: 1 / 0)
        drop(live, "a.json", reports("a"))
        eventually(lambda: any("unexpected, trying again" in line for line in logged))
        assert any("ZeroDivisionError" in line for line in logged)
    (line,) = live.settled(1)
    assert line["status"] == "loaded"
    assert live.waiting() == []


def test_a_recovery_that_fails_keeps_no_file_from_loading(
    site: Site, logged: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def recover(*_: Any) -> None:
        raise PermissionError("rejected/")

    monkeypatch.setattr(recovery, "recover", recover)
    with running(site):
        drop(site, "a.json", reports("a"))
        assert site.settled(1)[0]["status"] == "loaded"
    assert any("cannot be put in order" in line for line in logged)


@pytest.mark.usefixtures("impatient")
def test_files_keep_their_order_when_the_database_fails(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the last one to arrive wins, it must stay the last."""
    failed: list[str] = []
    loaded: list[str] = []
    original = Pipeline.handle

    def handle(pipeline: Pipeline, flow: str | None, files: Sequence[RoutedFile], *_: object) -> Iterator[FileResult]:
        names = [routed.dropped.path.name for routed in files]
        if files and not failed:
            if len(files) == 5:
                failed.extend(names)
                yield from original(pipeline, flow, files[:1])
            raise RetryLater("the server is gone")
        loaded.extend(names)
        yield from original(pipeline, flow, files)

    monkeypatch.setattr(Pipeline, "handle", handle)
    for n in range(5):
        drop(site, f"{n}.json", reports(f"v{n}"))
    with running(site):
        site.settled(5)
        eventually(lambda: site.waiting() == [])
    assert loaded == failed[1:]


def test_a_full_disk_under_the_daemons_state_does_not_end_it(live: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def update(*_: Any, **__: Any) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(Publisher, "update", update)
    drop(live, "a.json", reports("a"))
    assert live.settled(1)[0]["status"] == "loaded"
