"""The daemon's loop: complete files out of the inbox, each flow's in order, until told to stop."""

import dataclasses
import itertools
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from loguru import logger

from file_processing.inbound.archive import FileResult
from file_processing.inbound.intake import GROUP_FILES, Wait
from file_processing.inbound.pipeline import Pipeline
from file_processing.inbound.routing import DroppedFile, RoutedFile
from file_processing.outbound.worker import Writer
from models.errors import FileGone, RestFlow, RetryLater, StopDaemon, TidegateError
from services.files.room import NoRoom
from services.ledger.locks import FlowBusy
from services.observer.inbox import Inbox
from services.observer.paths import FoundFile
from services.runtime import systemd
from services.runtime.status_file import Fault, Phase, Publisher
from services.runtime.supervisor import Supervisor
from services.text import printable
from services.transport.backoff import INBOUND

TAKE_SECONDS = 0.5
"""The longest the loop sleeps: so late, at most, it notices a signal."""

BUSY_TAKE_SECONDS = 0.05
"""The same while files wait for their queue to be free."""

PING_SECONDS = 5.0
"""How often systemd gets the status line where its unit asks for no watchdog."""

TELL_SECONDS = 0.25
"""How often, at most, `status` is told how it goes: looking at all that waits takes time in a burst."""

SHOWN_WAITING = 100
"""So many waiting files `status` names; it counts the others in the folder itself."""


@dataclass(slots=True)
class _Queue:
    """The files of one flow, loaded one group after another: a flow's files keep their order.

    The loop's thread starts it (`running`) and appends to `files`. While it runs, all else is its loader's to
    change, and may have changed between two looks of the loop.

    to_recover: what a crash or a fault left half-done is still to be finished.
    fault: why its files wait; then it rests until `resume_at`, after so many failures in a row.
    """

    flow: str | None
    files: deque[RoutedFile] = field(default_factory=deque)
    running: Future[None] | None = None
    to_recover: bool = True
    fault: Fault | None = None
    failures: int = 0
    resume_at: float = 0.0

    @property
    def name(self) -> str:
        return self.flow or "no flow"

    def waiting(self) -> list[tuple[str, str]]:
        """The files that a fault keeps waiting, each with the reason."""
        fault = self.fault
        return [] if fault is None else [(routed.dropped.relative, fault.text) for routed in self.files.copy()]


class Daemon:
    """Owns the queues; everything else is handed in."""

    def __init__(
        self,
        *,
        inbox: Inbox,
        pipeline: Pipeline,
        writer: Writer,
        connectors: Supervisor,
        publisher: Publisher,
        recover: Callable[[], None],
        workers: int,
        stopping: threading.Event,
    ) -> None:
        self._inbox = inbox
        self._pipeline = pipeline
        self._writer = writer
        self._connectors = connectors
        self._publisher = publisher
        self._recover = recover
        self._stopping = stopping
        self._queues = {flow: _Queue(flow) for flow in pipeline.flows}
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="loader")
        self._warned: dict[Path, str] = {}
        self._stop_reason: StopDaemon | None = None
        self._ping_at = 0.0
        self._tell_at = 0.0

    def run(self) -> None:
        """Work until `stopping` is set. Raises StopDaemon when going on would be wrong."""
        self._inbox.start()
        self._writer.start()
        self._connectors.start()
        try:
            while not self._stopping.is_set():
                self._start_queues()
                self._tell()
                for found in self._inbox.take(GROUP_FILES, self._patience()):
                    self._enqueue(found)
        finally:
            self._stopping.set()
            self._publish(state=Phase.STOPPING)
            systemd.notify("STOPPING=1")
            self._connectors.stop()
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._writer.join()
            self._inbox.stop()
        if self._stop_reason is not None:
            raise self._stop_reason

    def _enqueue(self, found: FoundFile) -> None:
        try:
            routed = self._pipeline.router.route(found)
        except FileGone:
            self._inbox.done([found.path])
        except RetryLater as error:
            self._postpone(found, Wait.of(error))
        else:
            self._queues[routed.flow].files.append(routed)

    def _start_queues(self) -> None:
        now = time.monotonic()
        for queue in self._queues.values():
            if queue.running is not None and queue.running.done():
                queue.running.result()
                queue.running = None
            if queue.running is None and (queue.files or queue.to_recover) and now >= queue.resume_at:
                queue.running = self._pool.submit(self._drain, queue)

    def _patience(self) -> float:
        """For how long to wait for files: until some queue wants to be started."""
        waiting = [queue for queue in self._queues.values() if queue.files or queue.to_recover]
        if any(queue.running for queue in waiting):
            return BUSY_TAKE_SECONDS
        resume_at = min((queue.resume_at for queue in waiting), default=math.inf)
        return min(max(resume_at - time.monotonic(), 0), TAKE_SECONDS)

    def _drain(self, queue: _Queue) -> None:
        """Load what waits in a queue. Raises nothing but StopDaemon: all else is told and tried again."""
        try:
            if queue.to_recover:
                self._pipeline.recover(queue.flow)
                queue.to_recover = False
            while queue.files and not self._stopping.is_set():
                self._load_some(queue)
                self._works(queue)
        except StopDaemon as error:
            self._stop(error)
        except RetryLater as error:
            self._back_off(queue, error)
        else:
            self._works(queue)

    def _load_some(self, queue: _Queue) -> None:
        """Load the next files of a queue; what is not done when the database fails goes back to its head."""
        files = [queue.files.popleft() for _ in range(min(len(queue.files), GROUP_FILES))]
        left = {routed.dropped.path: routed for routed in files}
        try:
            for result in self._pipeline.handle(queue.flow, files):
                del left[result.dropped.path]
                self._settle(result)
        except TidegateError:
            queue.files.extendleft(reversed(left.values()))
            raise
        except Exception as error:  # noqa: BLE001  # a mistake of ours must not end the daemon, nor hold up others
            logger.opt(exception=error).error("flow {}: unexpected, trying again", queue.name)
            for routed in left.values():
                self._postpone(routed.dropped, Wait(f"{type(error).__name__}: {error}"))

    def _settle(self, result: FileResult) -> None:
        path = result.dropped.path
        if result.wait is None:
            self._warned.pop(path, None)
            self._inbox.done([path])
        else:
            self._postpone(result.dropped, result.wait)

    def _postpone(self, dropped: DroppedFile, wait: Wait) -> None:
        """Leave a file that itself is the reason where it is; say why, once, unless it is only still written."""
        if wait.seconds is not None:
            logger.debug("{} waits: {}", printable(dropped.relative), wait)
        elif self._warned.get(dropped.path) != wait.reason and not self._stopping.is_set():
            self._warned[dropped.path] = wait.reason
            logger.warning("{} waits: {}", printable(dropped.relative), wait)
        self._inbox.later([dropped.path], wait.seconds or INBOUND.longest_seconds)

    def _forget_gone(self) -> None:
        """A file that left the folder while it waited has no reason any more."""
        for path in list(self._warned):  # a copy: the loaders add to it
            if path not in self._inbox:
                self._warned.pop(path, None)

    def _stop(self, reason: StopDaemon) -> None:
        self._stop_reason = reason
        self._stopping.set()

    def _back_off(self, queue: _Queue, error: RetryLater) -> None:
        """Database, flow or another loader is the reason, no file: the queue rests, its files keep their order."""
        if self._stopping.is_set():
            return
        queue.resume_at = time.monotonic() + INBOUND.pause_seconds(queue.failures)
        if isinstance(error, FlowBusy):
            logger.debug("flow {}: {}", queue.name, error)
            return
        queue.failures += 1
        queue.to_recover = True
        if queue.fault is None or queue.fault.text != error.reason:
            level = "DEBUG" if any(fault.text == error.reason for fault in self._faults()) else "WARNING"
            logger.log(level, "files of {} wait, trying again: {}", queue.name, error)
            since = queue.fault.since if queue.fault else datetime.now(UTC)
            queue.fault = Fault(error.reason, error.hint, since, _phase(error))
        try:
            self._recover()
        except StopDaemon as reason:
            self._stop(reason)
        except RetryLater as reason:
            logger.debug("not recovered yet: {}", reason)

    def _works(self, queue: _Queue) -> None:
        fault, queue.fault, queue.failures = queue.fault, None, 0
        if fault is not None:
            seconds = (datetime.now(UTC) - fault.since).total_seconds()
            logger.info("files of {} load again after {:.0f} s: {}", queue.name, seconds, fault.text)

    def _faults(self) -> list[Fault]:
        """What keeps queues from working, the oldest first."""
        found = [fault for queue in self._queues.values() if (fault := queue.fault) is not None]
        return sorted(found, key=lambda fault: fault.since)

    def _tell(self) -> None:
        """Tell `status` and systemd how it goes."""
        if not self._inbox.is_alive():
            raise StopDaemon("the observer's thread has ended")
        now = time.monotonic()
        if now < self._tell_at:
            return
        self._tell_at = now + TELL_SECONDS
        self._forget_gone()
        fault = next((fault for fault in self._faults() if not fault.of_one_flow), None)
        of_queues = {queue.name: queue.fault for queue in self._queues.values()}
        self._publish(
            state=fault.phase if fault else Phase.WATCHING,
            fault=fault,
            resting={name: own for name, own in of_queues.items() if own and own.of_one_flow},
            outbound=self._writer.faults(),
            connectors=self._connectors.states(),
            waiting=tuple(itertools.islice(self._waiting(), SHOWN_WAITING)),
            counters={key: int(value) for key, value in dataclasses.asdict(self._inbox.status()).items()},
        )
        if now >= self._ping_at:
            self._ping_at = now + (systemd.watchdog_interval_seconds() or PING_SECONDS)
            systemd.notify("WATCHDOG=1", f"STATUS={fault.text if fault else 'watching'}")

    def _waiting(self) -> Iterator[tuple[str, str]]:
        """The files that wait, each with the reason."""
        for queue in self._queues.values():
            yield from queue.waiting()
        yield from self._inbox.waiting()

    def _publish(self, **changes: Any) -> None:
        try:
            self._publisher.update(**changes)
        except OSError as error:
            logger.debug("the daemon's state cannot be written: {}", error)


def _phase(error: RetryLater) -> Phase:
    """What the daemon is about while it waits for this to pass."""
    if isinstance(error, NoRoom):
        return Phase.WAITING_FOR_ROOM
    return Phase.WATCHING if isinstance(error, RestFlow) else Phase.WAITING_FOR_DATABASE
