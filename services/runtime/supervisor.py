"""The thread of all that waits for others: each job in a task of its own, started again when it fails."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from loguru import logger

from models.errors import NoDatabase, RetryLater, StopConnector, StopDaemon, TidegateError
from services.runtime.status_file import JobPhase, JobState
from services.text import one_line
from services.transport.backoff import CONNECTOR, DATABASE

STOP_SECONDS = 5.0
"""What a job has in hand when the daemon stops may take so long; systemd gives the daemon ten."""


Tell = Callable[[str], None]
"""Called by a job when its work goes well, with what `status` shows of it."""


@dataclass(frozen=True, slots=True)
class Job:
    """Something that runs as long as the daemon: a connector, a server.

    name: as `status` and the log show it, `customers/crm`.
    run: one turn of work. It returns the seconds until the next turn; a server never returns.
        It is cancelled when the daemon stops. RetryLater pauses the job, for `after_seconds` at
        least; StopConnector and StopDaemon end it until the daemon starts anew; whatever else it
        raises is logged with its traceback, and the job is started again.
    """

    name: str
    run: Callable[[Tell], Awaitable[float]]


class Supervisor:
    """Runs jobs in one thread with one event loop; none of them can hold up or end another."""

    def __init__(self, jobs: Iterable[Job]) -> None:
        self._jobs = tuple(jobs)
        now = datetime.now(UTC)
        self._states = {job.name: JobState(job.name, JobPhase.WAITING, "", "", now, 0) for job in self._jobs}
        if len(self._states) < len(self._jobs):
            raise ValueError("two jobs have the same name")
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, name="connectors", daemon=True)

    def start(self) -> None:
        """Start all jobs; without one there is no thread."""
        if self._jobs:
            self._thread.start()
            while self.is_alive() and not self._started.wait(0.1):
                pass

    def is_alive(self) -> bool:
        """Whether the jobs' thread is at work; it ends, with all of them, when one could not even be started again."""
        return self._thread.is_alive() or not self._jobs

    def stop(self) -> None:
        """Cancel all jobs and wait until they have ended, for a few seconds."""
        if self._loop is None or self._stop is None or not self._thread.is_alive():
            return
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(STOP_SECONDS)
        if self._thread.is_alive():
            logger.warning("connectors did not stop within {:.0f} s; what they had in hand is done again", STOP_SECONDS)

    def states(self) -> tuple[JobState, ...]:
        """How each job is, in the order they were given."""
        return tuple(self._states[job.name] for job in self._jobs)

    def _run(self) -> None:
        try:
            asyncio.run(self._supervise())
        except Exception as error:  # noqa: BLE001  # the daemon sees that the thread has ended
            logger.opt(exception=error).error("the connectors end")

    async def _supervise(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self._started.set()
        tasks = [asyncio.create_task(self._keep_running(job), name=job.name) for job in self._jobs]
        for task in tasks:
            task.add_done_callback(self._ended)
        await self._stop.wait()
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """A job is started again whatever it raises: what comes here came out of just that."""
        error = None if task.cancelled() else task.exception()
        if error is not None and self._stop is not None:
            logger.opt(exception=error).error("{} cannot be started again: the connectors end", task.get_name())
            self._stop.set()

    async def _keep_running(self, job: Job) -> None:
        failures = 0

        def well(detail: str) -> None:
            nonlocal failures
            failures = 0
            self._works(job, detail)

        while True:
            try:
                seconds = await job.run(well)
                well(self._states[job.name].detail if self._works_already(job) else "")
            except (StopConnector, StopDaemon) as error:
                self._stopped(job, error)
                return
            except (Exception, asyncio.CancelledError) as error:  # supervised: the job starts over
                # Only the daemon cancels jobs; any other cancellation got out of a library.
                if isinstance(error, asyncio.CancelledError) and self._stopping:
                    raise
                seconds = self._failed(job, error, failures)
                failures += 1
            await asyncio.sleep(seconds)

    @property
    def _stopping(self) -> bool:
        return self._stop is not None and self._stop.is_set()

    def _works_already(self, job: Job) -> bool:
        return self._states[job.name].phase is JobPhase.RUNNING

    def _works(self, job: Job, detail: str) -> None:
        state = self._states[job.name]
        if state.phase is JobPhase.FAILING:
            seconds = (datetime.now(UTC) - state.since).total_seconds()
            logger.info("{} works again after {:.0f} s: {}", job.name, seconds, state.detail)
        since = state.since if self._works_already(job) else datetime.now(UTC)
        self._states[job.name] = JobState(job.name, JobPhase.RUNNING, detail, "", since, state.failures)

    def _failed(self, job: Job, error: BaseException, failures: int) -> float:
        """Note it, tell the log once an outage; the seconds to wait."""
        state = self._states[job.name]
        known = error if isinstance(error, TidegateError) else None
        reason = one_line(known.reason if known else f"{type(error).__name__}: {error}")
        if known is None:
            logger.opt(exception=error).error("{} failed unexpectedly, starting it again", job.name)
        elif state.phase is not JobPhase.FAILING:
            logger.warning("{} waits, trying again: {}", job.name, known)
        else:
            logger.debug("{} still waits: {}", job.name, known)
        since = state.since if state.phase is JobPhase.FAILING else datetime.now(UTC)
        hint = one_line(known.hint) if known else "the log has the traceback"
        self._states[job.name] = JobState(job.name, JobPhase.FAILING, reason, hint, since, state.failures + 1)
        backoff = DATABASE if isinstance(error, NoDatabase) else CONNECTOR
        return backoff.pause_seconds(failures, at_least=error.after_seconds if isinstance(error, RetryLater) else 0.0)

    def _stopped(self, job: Job, error: TidegateError) -> None:
        logger.error("{} stopped: {}", job.name, error)
        failures = self._states[job.name].failures + 1
        self._states[job.name] = JobState(
            job.name, JobPhase.STOPPED, one_line(error.reason), one_line(error.hint), datetime.now(UTC), failures
        )
