"""Jobs in one thread: each started again when it fails, none in another's way, all gone when told to stop."""

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from models.errors import RetryLater, StopConnector
from services.runtime import supervisor as supervising
from services.runtime.blocking import in_thread
from services.runtime.status_file import JobPhase, JobState
from services.runtime.supervisor import Job, Supervisor, Tell
from services.transport.backoff import Backoff
from tests.support.waiting import eventually


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervising, "CONNECTOR", Backoff(first_seconds=0.01, longest_seconds=0.05))


@contextmanager
def supervised(*jobs: Job) -> Iterator[Supervisor]:
    supervisor = Supervisor(jobs)
    supervisor.start()
    try:
        yield supervisor
    finally:
        supervisor.stop()


def only(supervisor: Supervisor) -> JobState:
    (state,) = supervisor.states()
    return state


def test_a_job_takes_turns() -> None:
    turns = []

    async def run(tell: Tell) -> float:
        turns.append(1)
        tell(f"turn {len(turns)}")
        return 0.0

    with supervised(Job("a", run)) as supervisor:
        eventually(lambda: len(turns) > 3, what="turns")
        assert only(supervisor).phase is JobPhase.RUNNING
        assert only(supervisor).detail.startswith("turn ")


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (RetryLater("away", hint="wait"), "away"),
        (ValueError("away"), "ValueError: away"),
        (asyncio.CancelledError("away"), "CancelledError: away"),
        (RetryLater("aw\0ay\nfor good"), r"aw\x00ay for good"),
    ],
    ids=["in words", "unexpected", "cancelled by a library", "with a NUL"],
)
def test_a_job_that_fails_is_started_again_and_says_why(error: BaseException, says: str) -> None:
    well = threading.Event()

    async def run(tell: Tell) -> float:
        if not well.is_set():
            raise error
        tell("works")
        await asyncio.Event().wait()
        raise AssertionError

    with supervised(Job("a", run)) as supervisor:
        eventually(lambda: only(supervisor).failures > 3, what="failures")
        assert only(supervisor).phase is JobPhase.FAILING
        assert only(supervisor).detail == says
        since = only(supervisor).since
        eventually(lambda: only(supervisor).failures > 5, what="further failures")
        assert only(supervisor).since == since
        well.set()
        eventually(lambda: only(supervisor).phase is JobPhase.RUNNING, what="health")


def test_a_job_that_has_to_stop_leaves_the_others_alone() -> None:
    turns = []

    async def stopped(tell: Tell) -> float:
        raise StopConnector("bad credentials", hint="correct them")

    async def run(tell: Tell) -> float:
        turns.append(1)
        return 0.01

    with supervised(Job("bad", stopped), Job("good", run)) as supervisor:
        eventually(lambda: supervisor.states()[0].phase is JobPhase.STOPPED, what="the stop")
        before = len(turns)
        eventually(lambda: len(turns) > before + 2, what="the other's turns")
        assert supervisor.states()[0].hint == "correct them"


def test_a_partner_says_when_to_come_back() -> None:
    times = []

    async def run(tell: Tell) -> float:
        times.append(time.monotonic())
        raise RetryLater("busy", after_seconds=0.5)

    with supervised(Job("a", run)):
        eventually(lambda: len(times) > 1, what="the second turn")
    assert times[1] - times[0] >= 0.5


def test_stopping_ends_a_server_and_finishes_what_a_thread_has_in_hand() -> None:
    finished = threading.Event()
    begun = threading.Event()

    def work() -> None:
        begun.set()
        finished.wait(0.3)
        finished.set()

    async def run(tell: Tell) -> float:
        await in_thread(work)
        return 0.0

    async def serve(tell: Tell) -> float:
        await asyncio.Event().wait()
        return 0.0

    with supervised(Job("work", run), Job("serve", serve)):
        assert begun.wait(5)
        start = time.monotonic()
    assert finished.is_set()
    assert time.monotonic() - start < 3


def test_without_jobs_there_is_no_thread() -> None:
    before = threading.active_count()
    with supervised():
        assert threading.active_count() == before
