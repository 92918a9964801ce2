"""The daemon's loop: complete files out of the inbox, each flow's in order, until told to stop."""

import dataclasses
import itertools
import math
import operator
import random
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

from file_processing import routing
from file_processing.handler import GROUP_FILES, Handler
from file_processing.ledger import FlowBusy
from file_processing.outcome import Dropped, Outcome
from file_processing.writer import Writer
from models.errors import FileGone, RejectFile, RetryLater, StopDaemon, TidegateError
from models.flow import Flow
from services import systemd
from services.daemon_state import Fault, Phase, Publisher
from services.observer.inbox import Inbox
from services.observer.paths import Found
from services.supervisor import Supervisor

TAKE_SECONDS = 0.5
"""The longest the loop sleeps: so late, at most, it notices a signal."""

BUSY_TAKE_SECONDS = 0.05
"""The same while files wait for their lane to be free."""

FIRST_PAUSE_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 5.0
"""What cannot be loaded now is tried again after pauses that grow from the first to the longest."""

TELL_SECONDS = 0.25
"""How often, at most, `status` is told how it goes: looking at all that waits takes time in a burst."""

SHOWN_WAITING = 100
"""So many waiting files `status` names; it counts the others in the folder itself."""


@dataclass(slots=True)
class _Lane:
    """The files of one flow, loaded one group after another: a flow's files keep their order.

    unhealed: what a crash or a fault left half-done is still to be finished.
    fault: why its files wait; then it rests until `resume_at`, after so many failures in a row.
    """

    flow: Flow | None
    files: deque[tuple[Found, RejectFile | None]] = field(default_factory=deque)
    running: Future[None] | None = None
    unhealed: bool = True
    fault: Fault | None = None
    failures: int = 0
    resume_at: float = 0.0

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
        writer: Writer,
        connectors: Supervisor,
        publisher: Publisher,
        recover: Callable[[], None],
        workers: int,
        stopping: threading.Event,
    ) -> None:
        self._inbox = inbox
        self._handler = handler
        self._writer = writer
        self._connectors = connectors
        self._publisher = publisher
        self._recover = recover
        self._stopping = stopping
        self._lanes = {flow.name if flow else None: _Lane(flow) for flow in handler.flows}
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="loader")
        self._told: dict[Path, str] = {}
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
                self._start_lanes()
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

    def _enqueue(self, found: Found) -> None:
        try:
            routed = self._handler.route(found)
        except FileGone:
            self._inbox.done([found.path])
        except RetryLater as error:
            self._postpone(found, error)
        else:
            flow, why = (None, routed) if isinstance(routed, RejectFile) else (routed, None)
            self._lanes[flow.name if flow else None].files.append((found, why))

    def _start_lanes(self) -> None:
        now = time.monotonic()
        for lane in self._lanes.values():
            if lane.running is not None and lane.running.done():
                lane.running.result()
                lane.running = None
            if lane.running is None and (lane.files or lane.unhealed) and now >= lane.resume_at:
                lane.running = self._pool.submit(self._drain, lane)

    def _patience(self) -> float:
        """For how long to wait for files: until some lane wants to be started."""
        waiting = [lane for lane in self._lanes.values() if lane.files or lane.unhealed]
        if any(lane.running for lane in waiting):
            return BUSY_TAKE_SECONDS
        resume_at = min((lane.resume_at for lane in waiting), default=math.inf)
        return min(max(resume_at - time.monotonic(), 0), TAKE_SECONDS)

    def _drain(self, lane: _Lane) -> None:
        """Load what waits in a lane. Raises nothing but StopDaemon: all else is told and tried again."""
        try:
            if lane.unhealed:
                self._handler.heal(lane.flow)
                lane.unhealed = False
            while lane.files and not self._stopping.is_set():
                self._load_some(lane)
                self._works(lane)
        except StopDaemon as error:
            self._stop_reason = error
            self._stopping.set()
        except RetryLater as error:
            self._back_off(lane, error)
        else:
            self._works(lane)

    def _load_some(self, lane: _Lane) -> None:
        """Load the next files of a lane; what is not done when the database fails goes back to its head."""
        files = [lane.files.popleft() for _ in range(min(len(lane.files), GROUP_FILES))]
        left = {found.path: (found, why) for found, why in files}
        try:
            for why, group in itertools.groupby(files, key=operator.itemgetter(1)):
                for outcome in self._handler.handle(lane.flow, [found for found, _ in group], why):
                    del left[outcome.dropped.path]
                    self._settle(outcome)
        except TidegateError:
            lane.files.extendleft(reversed(left.values()))
            raise
        except Exception as error:  # noqa: BLE001  # a mistake of ours must not end the daemon, nor hold up others
            logger.opt(exception=error).error("flow {}: unexpected, trying again", lane.name)
            for found, _ in left.values():
                self._postpone(found, RetryLater(f"{type(error).__name__}: {error}"))

    def _settle(self, outcome: Outcome) -> None:
        path = outcome.dropped.path
        if outcome.waits is None:
            self._told.pop(path, None)
            self._inbox.done([path])
        else:
            self._postpone(outcome.dropped, outcome.waits)

    def _postpone(self, dropped: Dropped, error: TidegateError) -> None:
        """Leave a file that itself is the reason where it is; say why, once."""
        if self._told.get(dropped.path) != error.reason and not self._stopping.is_set():
            self._told[dropped.path] = error.reason
            logger.warning("{} waits: {}", routing.printable(dropped.relative), error)
        self._inbox.later([dropped.path], LONGEST_PAUSE_SECONDS)

    def _back_off(self, lane: _Lane, error: RetryLater) -> None:
        """The database is the reason: the lane rests, its files keep their order."""
        if self._stopping.is_set():
            return
        pause = min(FIRST_PAUSE_SECONDS * 2**lane.failures, LONGEST_PAUSE_SECONDS) * random.uniform(0.5, 1)  # noqa: S311
        lane.resume_at = time.monotonic() + pause
        if isinstance(error, FlowBusy):
            logger.debug("flow {}: {}", lane.name, error)
            return
        lane.failures += 1
        lane.unhealed = True
        if lane.fault is None or lane.fault.text != error.reason:
            level = "DEBUG" if any(fault.text == error.reason for fault in self._faults()) else "WARNING"
            logger.log(level, "files of {} wait, trying again: {}", lane.name, error)
            since = lane.fault.since if lane.fault else datetime.now(UTC)
            lane.fault = Fault(error.reason, error.hint, since)
        try:
            self._recover()
        except StopDaemon as reason:
            self._stop_reason = reason
            self._stopping.set()
        except RetryLater as reason:
            logger.debug("not recovered yet: {}", reason)

    def _works(self, lane: _Lane) -> None:
        fault, lane.fault, lane.failures = lane.fault, None, 0
        if fault is not None:
            seconds = (datetime.now(UTC) - fault.since).total_seconds()
            logger.info("files of {} load again after {:.0f} s: {}", lane.name, seconds, fault.text)

    def _faults(self) -> list[Fault]:
        """What keeps lanes from working, the oldest first."""
        return sorted((lane.fault for lane in self._lanes.values() if lane.fault), key=lambda fault: fault.since)

    def _tell(self) -> None:
        """Tell `status` and systemd how it goes."""
        if not self._inbox.is_alive():
            raise StopDaemon("the observer's thread has ended")
        now = time.monotonic()
        if now < self._tell_at:
            return
        self._tell_at = now + TELL_SECONDS
        fault = next(iter(self._faults()), None)
        self._publish(
            state=Phase.WAITING_FOR_DATABASE if fault else Phase.WATCHING,
            fault=fault,
            outbound=self._writer.faults(),
            connectors=self._connectors.states(),
            waiting=tuple(itertools.islice(self._waiting(), SHOWN_WAITING)),
            counters={key: int(value) for key, value in dataclasses.asdict(self._inbox.status()).items()},
        )
        if now >= self._ping_at:
            self._ping_at = now + (systemd.watchdog_interval_seconds() or LONGEST_PAUSE_SECONDS)
            systemd.notify("WATCHDOG=1", f"STATUS={fault.text if fault else 'watching'}")

    def _waiting(self) -> Iterator[tuple[str, str]]:
        """The files that wait, each with the reason."""
        for lane in self._lanes.values():
            if lane.fault is not None:
                yield from ((found.relative, lane.fault.text) for found, _ in lane.files.copy())
        yield from self._inbox.waiting()

    def _publish(self, **changes: Any) -> None:
        try:
            self._publisher.update(**changes)
        except OSError as error:
            logger.debug("the daemon's state cannot be written: {}", error)
