"""The daemon's loop: complete files out of the inbox, each flow's in order, until told to stop."""

import dataclasses
import itertools
import operator
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from loguru import logger

from file_processing import routing
from file_processing.handler import GROUP_FILES, Dropped, Handler, Outcome
from models.errors import FileGone, RejectFile, RetryLater, StopDaemon, TidegateError
from models.flow import Flow
from services import systemd
from services.daemon_state import Fault, Phase, Publisher
from services.observer.inbox import Inbox
from services.observer.paths import Found

TAKE_SECONDS = 0.5
"""The longest the loop sleeps: so late, at most, it notices a signal."""

FIRST_PAUSE_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 5.0
"""What cannot be loaded now is tried again after pauses that grow from the first to the longest."""

SHOWN_WAITING = 100
"""So many waiting files `status` names; it counts the others in the folder itself."""


@dataclass(slots=True)
class _Lane:
    """The files of one flow, loaded one group after another: a flow's files keep their order."""

    flow: Flow | None
    files: deque[tuple[Found, RejectFile | None]] = field(default_factory=deque)
    running: Future[None] | None = None
    failures: int = 0

    @property
    def name(self) -> str:
        return self.flow.name if self.flow else "no flow"


class Daemon:
    """Owns the lanes; everything else is handed in."""

    def __init__(
        self,
        *,
        inbox: Inbox,
        handler: Handler,
        publisher: Publisher,
        recover: Callable[[], None],
        workers: int,
        stopping: threading.Event,
    ) -> None:
        self._inbox = inbox
        self._handler = handler
        self._publisher = publisher
        self._recover = recover
        self._stopping = stopping
        self._lanes: dict[str | None, _Lane] = {}
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="loader")
        self._told: dict[Path, str] = {}
        self._fault: Fault | None = None
        self._stop_reason: StopDaemon | None = None
        self._ping_at = 0.0

    def run(self) -> None:
        """Work until `stopping` is set. Raises StopDaemon when going on would be wrong."""
        self._inbox.start()
        try:
            while not self._stopping.is_set():
                for found in self._inbox.take(GROUP_FILES, TAKE_SECONDS):
                    self._enqueue(found)
                self._start_lanes()
                self._tell()
        finally:
            self._stopping.set()
            self._publisher.update(state=Phase.STOPPING)
            systemd.notify("STOPPING=1")
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._inbox.stop()
        if self._stop_reason is not None:
            raise self._stop_reason

    def _enqueue(self, found: Found) -> None:
        try:
            routed = self._handler.route(found)
        except FileGone:
            self._inbox.done([found.path])
            return
        except RetryLater as error:
            self._postpone(found, error)
            return
        flow, why = (None, routed) if isinstance(routed, RejectFile) else (routed, None)
        lane = self._lanes.setdefault(flow.name if flow else None, _Lane(flow))
        lane.files.append((found, why))

    def _start_lanes(self) -> None:
        for lane in self._lanes.values():
            if lane.running is not None and lane.running.done():
                lane.running.result()
                lane.running = None
            if lane.files and lane.running is None:
                lane.running = self._pool.submit(self._drain, lane)

    def _drain(self, lane: _Lane) -> None:
        """Load what waits in a lane. Never raises: what goes wrong is told and tried again."""
        while lane.files and not self._stopping.is_set():
            files = [lane.files.popleft() for _ in range(min(len(lane.files), GROUP_FILES))]
            waiting: dict[Path, Dropped] = {found.path: found for found, _ in files}
            try:
                for why, group in itertools.groupby(files, key=operator.itemgetter(1)):
                    for outcome in self._handler.handle(lane.flow, [found for found, _ in group], why):
                        waiting.pop(outcome.dropped.path)
                        self._settle(outcome)
                lane.failures = 0
                self._clear_fault()
            except StopDaemon as error:
                self._stop_reason = error
                self._stopping.set()
            except RetryLater as error:
                self._back_off(lane, waiting.values(), error)
            except Exception as error:  # noqa: BLE001  # a mistake of ours must not end the daemon
                logger.opt(exception=error).error("flow {}: unexpected, trying again", lane.name)
                self._back_off(lane, waiting.values(), RetryLater(f"{type(error).__name__}: {error}"))

    def _settle(self, outcome: Outcome) -> None:
        path = outcome.dropped.path
        if outcome.waits is None:
            self._told.pop(path, None)
            self._inbox.done([path])
        else:
            self._postpone(outcome.dropped, outcome.waits)

    def _postpone(self, dropped: Dropped, error: TidegateError) -> None:
        """Leave a file that itself is the reason where it is; say why, once."""
        if self._told.get(dropped.path) != error.reason:
            self._told[dropped.path] = error.reason
            logger.warning("{} waits: {}", routing.printable(dropped.relative), error)
        self._inbox.later([dropped.path], LONGEST_PAUSE_SECONDS)

    def _back_off(self, lane: _Lane, waiting: Iterable[Dropped], error: RetryLater) -> None:
        """The database, or something else that concerns all files, is the reason."""
        if self._stopping.is_set():
            return
        pause = min(FIRST_PAUSE_SECONDS * 2**lane.failures, LONGEST_PAUSE_SECONDS) * random.uniform(0.5, 1)  # noqa: S311
        lane.failures += 1
        paths = [dropped.path for dropped in waiting]
        if self._fault is None or self._fault.text != error.reason:
            self._fault = Fault(error.reason, error.hint, datetime.now(UTC))
            logger.warning("{} files of {} wait, trying again: {}", len(paths), lane.name, error)
        self._inbox.later(paths, pause)
        self._recover()

    def _clear_fault(self) -> None:
        if self._fault is not None:
            seconds = (datetime.now(UTC) - self._fault.since).total_seconds()
            logger.info("works again after {:.0f} s: {}", seconds, self._fault.text)
            self._fault = None

    def _tell(self) -> None:
        """Tell `status` and systemd how it goes."""
        if not self._inbox.is_alive():
            raise StopDaemon("the observer's thread has ended")
        inbox = self._inbox.status()
        fault = self._fault
        self._publisher.update(
            state=Phase.WAITING_FOR_DATABASE if fault else Phase.WATCHING,
            fault=fault,
            waiting=tuple(self._inbox.waiting()[:SHOWN_WAITING]),
            counters={key: int(value) for key, value in dataclasses.asdict(inbox).items()},
        )
        now = time.monotonic()
        if now >= self._ping_at:
            self._ping_at = now + (systemd.watchdog_interval_seconds() or LONGEST_PAUSE_SECONDS)
            systemd.notify("WATCHDOG=1", f"STATUS={fault.text if fault else 'watching'}")
