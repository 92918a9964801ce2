"""kill -9 of a daemon that has a long file read, or of a process that reads it for it: nothing is lost or doubled."""

import json
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.processes import Process
from tests.support.sites import Site, running
from tests.support.waiting import eventually

STATUS = "vehicle_status"
LONG = 40_000


def drop_long(site: Site) -> None:
    records = [
        {"vehicle_id": f"v{n:05}", "report_time": "2022-05-05T22:02:34Z", "status": "driving"} for n in range(LONG)
    ]
    site.drop("long.json", json.dumps(records), flow=STATUS)


def children(pid: int) -> list[int]:
    """The processes of Python that it started."""
    found: list[int] = []
    with suppress(OSError):  # one has ended meanwhile
        for task in Path("/proc", str(pid), "task").iterdir():
            for child in (task / "children").read_text().split():
                found += [int(child)] if "postgres" not in Path("/proc", child, "comm").read_text() else []
    return found


def reader(daemon: Process) -> tuple[int, int]:
    """The process from which those are forked that read, and one that reads."""

    def found() -> list[tuple[int, int]]:
        return [(nursery, reads) for nursery in children(daemon.pid) for reads in children(nursery)]

    return eventually(found, timeout=20, what="a process that reads")[0]


def is_gone(pid: int) -> Callable[[], bool]:
    return lambda: not Path(f"/proc/{pid}").exists()


def expect_all_loaded_once(site: Site) -> None:
    (line,) = site.settled(1)
    assert (line["name"], line["status"], line["records"], line["inserted"]) == ("long.json", "loaded", LONG, LONG)
    assert site.query("select count(*) as n, count(distinct record_position) as m from vehicles_status") == [
        {"n": LONG, "m": LONG}
    ]
    assert site.waiting() == []


def test_with_the_daemon_all_that_read_are_gone_and_no_lock_stays(site: Site) -> None:
    daemon = site.start()
    drop_long(site)
    nursery, reading = reader(daemon)
    os.kill(daemon.pid, signal.SIGKILL)
    assert daemon.wait() == -signal.SIGKILL
    for pid in (nursery, reading):
        eventually(is_gone(pid), what=f"the end of process {pid}")
    with running(site):
        expect_all_loaded_once(site)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSEGV])
def test_a_reader_that_is_killed_takes_nothing_with_it(site: Site, how: signal.Signals) -> None:
    daemon = site.start(impatient=True)
    drop_long(site)
    _, reading = reader(daemon)
    os.kill(reading, how)
    eventually(lambda: "the process that read it has ended" in site.log(), what="the warning")
    assert daemon.poll() is None
    assert site.ledger() == []
    assert [path.name for path in site.waiting()] == ["long.json"]
    assert site.stop(daemon) == 0
    with running(site):
        expect_all_loaded_once(site)


def test_a_daemon_that_can_have_no_file_read_any_more_ends_and_says_so(site: Site) -> None:
    daemon = site.start()
    (nursery,) = eventually(lambda: children(daemon.pid), what="the process that forks")
    os.kill(nursery, signal.SIGKILL)
    drop_long(site)
    assert daemon.wait() != 0
    assert "the process that starts those which read long files has ended" in daemon.log.read_text()
    with running(site):
        expect_all_loaded_once(site)
