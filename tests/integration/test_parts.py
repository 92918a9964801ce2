"""Parts of a daemon that die: each is started again, or the daemon ends; `status` never says that all is well."""

import socket
import threading
from typing import Any

import pytest

from file_processing.outbound import worker
from file_processing.outbound.worker import Writer
from models.errors import StopDaemon
from services.db.engine import Database
from services.runtime import status_file
from services.runtime.supervisor import Job, Supervisor, Tell
from services.transport.backoff import Backoff
from tests.support.sites import Site, running
from tests.support.waiting import eventually

REPORT = [{"vehicle_id": "a", "report_time": "2026-01-01T00:00:00Z", "status": "x"}]


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "OUTBOUND", Backoff(first_seconds=0.05, longest_seconds=0.1))


def outbound_faults(site: Site) -> dict[str, str]:
    return {flow: why for one in status_file.running(site.settings.data_dir) for flow, why in one.outbound.items()}


def is_over() -> bool:
    return not any(thread.name == "daemon" for thread in threading.enumerate())


def test_a_writer_lives_through_an_error_while_it_recovers_and_status_tells(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = threading.Event()
    connect = Database.connect

    def gone(database: Database) -> Any:
        if away.is_set():
            raise OSError(24, "Too many open files")
        return connect(database)

    def fails(_database: Database) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(Database, "connect", gone)
    monkeypatch.setattr(Database, "recover", fails)
    with running(site):
        site.drop("v.json", REPORT, flow="vehicle_status")
        eventually(lambda: site.out("vehicle_status"), what="a first file")
        away.set()
        site.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where datname = current_database() and pid <> pg_backend_pid()"
        )
        eventually(lambda: "Too many open files" in outbound_faults(site).get(worker.ALL_FLOWS, ""), what="the fault")
        assert "outbound files of all flows wait" in site.call("status").stdout
        away.clear()
        eventually(lambda: not outbound_faults(site), what="the writer at work again")
        site.execute("update vehicles_status set status = 'y'")
        eventually(lambda: len(site.out("vehicle_status")) == 2, what="a second file")


def test_a_daemon_whose_writer_has_died_ends(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Writer, "_run", lambda _writer: None)
    with pytest.raises(StopDaemon, match="the thread of the writer has ended"), running(site):
        eventually(is_over, what="the end")


def test_a_daemon_whose_connectors_have_died_ends(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def dies(*_: object) -> float:
        raise MemoryError("no room to note it")

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        taken = Site(site.settings.model_copy(update={"api_port": free.getsockname()[1]}))
        free.listen()
        monkeypatch.setattr(Supervisor, "_failed", dies)  # what starts a failed job again
        with pytest.raises(StopDaemon, match="the thread of the connectors has ended"), running(taken):
            eventually(is_over, what="the end")


def test_jobs_whose_thread_does_not_start_are_known_to_be_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run(tell: Tell) -> float:
        return 0.0

    async def fails(_supervisor: Supervisor) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(Supervisor, "_supervise", fails)
    supervisor = Supervisor([Job("a", run)])
    supervisor.start()
    eventually(lambda: not supervisor.is_alive(), what="that it is dead")
    supervisor.stop()
