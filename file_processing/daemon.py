"""The daemon's loop: complete files out of the inbox, each flow's in order, until told to stop."""

import dataclasses
import itertools
import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

from loguru import logger

from file_processing.inbound.intake import GROUP_FILES, Wait
from file_processing.inbound.pipeline import InHand, Pipeline
from file_processing.inbound.routing import DroppedFile, RoutedFile
from file_processing.outbound.worker import Writer
from file_processing.queues import Queue, Queues, Turn
from models.errors import Contention, FileGone, RestFlow, RetryLater, StopDaemon, TidegateError
from services.files.room import NoRoom
from services.ledger.daemons import Heartbeat
from services.observer.inbox import Inbox
from services.observer.paths import FoundFile
from services.runtime import systemd
from services.runtime.status_file import Fault, Phase, Publisher
from services.runtime.supervisor import Supervisor
from services.text import printable
from services.transport.backoff import INBOUND

TAKE_SECONDS = 0.5
"""The longest the loop sleeps: so late, at most, it notices a signal."""

PING_SECONDS = 5.0
"""How often systemd gets the status line where its unit asks for no watchdog."""

TELL_SECONDS = 0.25
BUSY_TELL_SECONDS = 1.0
"""How often, at most, `status` is told how it goes: it takes time, which files that just came in need more."""

SHOWN_WAITING = 100
"""So many waiting files `status` names; it counts the others in the folder itself."""


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
        heartbeat: Heartbeat,
        recover: Callable[[], None],
        workers: int,
        stopping: threading.Event,
    ) -> None:
        self._inbox = inbox
        self._pipeline = pipeline
        self._writer = writer
        self._connectors = connectors
        self._publisher = publisher
        self._heartbeat = heartbeat
        self._recover = recover
        self._stopping = stopping
        self._queues = Queues(pipeline.flows, workers)
        self._workers = workers + 1  # see Queues
        self._pool = ThreadPoolExecutor(self._workers, thread_name_prefix="loader")
        self._loaders: list[Future[None]] = []
        self._stop_reason: StopDaemon | None = None
        self._ping_at = 0.0
        self._told_at = -math.inf

    def run(self) -> None:
        """Work until `stopping` is set. Raises StopDaemon when going on would be wrong."""
        self._inbox.start()
        self._writer.start()
        self._connectors.start()
        self._heartbeat.start()
        self._loaders = [self._pool.submit(self._load_in_turns) for _ in range(self._workers)]
        try:
            found: list[FoundFile] = []
            while not self._stopping.is_set():
                self._tell(BUSY_TELL_SECONDS if found else TELL_SECONDS)
                if found := self._inbox.take(GROUP_FILES, TAKE_SECONDS):
                    self._queues.add(self._routed(found))
        finally:
            self._stopping.set()
            self._publish(state=Phase.STOPPING)
            systemd.notify("STOPPING=1")
            self._connectors.stop()
            self._queues.close()
            self._pool.shutdown(wait=True)
            self._writer.join()
            self._inbox.stop()
            self._heartbeat.stop()
        if self._stop_reason is not None:
            raise self._stop_reason

    def _routed(self, files: Iterable[FoundFile]) -> list[RoutedFile]:
        routed: list[RoutedFile] = []
        for found in files:
            try:
                routed.append(self._pipeline.router.route(found))
            except FileGone:
                self._inbox.done([found.place])
            except RetryLater as error:
                self._postpone(found, Wait.of(error))
        return routed

    def _load_in_turns(self) -> None:
        while not self._stopping.is_set() and (turn := self._queues.next_turn()) is not None:
            left = list(turn.files)
            try:
                left = self._serve(turn)
            finally:
                self._queues.over(turn, left)

    def _serve(self, turn: Turn) -> list[RoutedFile]:
        """Do what a turn is for; gives back its files that are not done.

        Raises nothing but our own mistakes: all else is told and tried again, or ends the daemon.
        """
        queue, left = turn.queue, {routed.dropped.place: routed for routed in turn.files}
        try:
            if turn.recovers:
                self._pipeline.recover(queue.flow)
                queue.to_recover = False
            self._load(turn, left)
        except StopDaemon as error:
            self._stop(error)
        except RetryLater as error:
            self._back_off(queue, error)
        else:
            self._works(queue)
        return list(left.values())

    def _load(self, turn: Turn, left: dict[str, RoutedFile]) -> None:
        """Load the files of a turn, each of which leaves `left` then."""
        done: list[str] = []
        files = records = 0
        try:
            for result in self._pipeline.handle(turn.queue.flow, turn.files, _InHand(self._queues, turn, left)):
                del left[result.dropped.place]
                if result.entry is not None:
                    files, records = files + 1, records + result.entry.records
                if result.ledger_id is not None:
                    self._works(turn.queue)
                if result.wait is None:
                    done.append(result.dropped.place)
                else:
                    self._postpone(result.dropped, result.wait)
        except TidegateError:
            raise
        except Exception as error:  # noqa: BLE001  # a mistake of ours must not end the daemon, nor hold up others
            logger.opt(exception=error).error("flow {}: unexpected, trying again", turn.queue.name)
            for routed in left.values():
                self._postpone(routed.dropped, Wait(f"{type(error).__name__}: {error}"))
            left.clear()
        finally:
            self._inbox.done(done)
            self._heartbeat.count(files, records)

    def _postpone(self, dropped: DroppedFile, wait: Wait) -> None:
        """Leave a file that itself is the reason where it is; say why, once, unless it is only still written."""
        is_news = self._inbox.later([dropped.place], wait.seconds or INBOUND.longest_seconds, str(wait))
        if is_news and not self._stopping.is_set():
            logger.log(
                "WARNING" if wait.seconds is None else "DEBUG", "{} waits: {}", printable(dropped.relative), wait
            )

    def _stop(self, reason: StopDaemon) -> None:
        self._stop_reason = reason
        self._stopping.set()

    def _back_off(self, queue: Queue, error: RetryLater) -> None:
        """Database, flow or another loader is the reason, no file: the queue rests, its files keep their order."""
        if self._stopping.is_set():
            return
        queue.resume_at = time.monotonic() + INBOUND.pause_seconds(queue.failures)
        if isinstance(error, Contention):
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
        except (RetryLater, OSError) as reason:
            logger.debug("not recovered yet: {}", reason)

    def _works(self, queue: Queue) -> None:
        if queue.fault is None and not queue.failures:
            return
        fault, queue.fault, queue.failures = queue.fault, None, 0
        if fault is not None:
            seconds = (datetime.now(UTC) - fault.since).total_seconds()
            logger.info("files of {} load again after {:.0f} s: {}", queue.name, seconds, fault.text)

    def _faults(self) -> list[Fault]:
        """What keeps queues from working, the oldest first."""
        found = [fault for queue in self._queues if (fault := queue.fault) is not None]
        return sorted(found, key=lambda fault: fault.since)

    def _tell(self, every_seconds: float) -> None:
        """Tell `status` and systemd how it goes, at most so often."""
        parts = {
            "observer": self._inbox.is_alive,
            "writer": self._writer.is_alive,
            "connectors": self._connectors.is_alive,
            "heartbeat": self._heartbeat.is_alive,
        }
        for name, is_alive in parts.items():
            if not is_alive():
                raise StopDaemon(f"the thread of the {name} has ended", hint="the log may say why; start it anew")
        for loader in self._loaders:
            if loader.done():
                loader.result()
        now = time.monotonic()
        if now < self._told_at + every_seconds:
            return
        self._told_at = now
        fault = next((fault for fault in self._faults() if not fault.of_one_flow), None)
        of_queues = {queue.name: queue.fault for queue in self._queues}
        outbound = self._writer.faults()
        status = dataclasses.asdict(self._inbox.status())
        self._publish(
            state=fault.phase if fault else Phase.WATCHING,
            fault=fault,
            resting={name: own for name, own in of_queues.items() if own and own.of_one_flow},
            outbound=outbound,
            connectors=self._connectors.states(),
            waiting=tuple(itertools.islice(self._waiting(), SHOWN_WAITING)),
            crowds=status.pop("crowds"),
            counters={key: int(value) for key, value in status.items()},
        )
        if now >= self._ping_at:
            self._ping_at = now + (systemd.watchdog_interval_seconds() or PING_SECONDS)
            waits = next((f"outbound files of {flow} wait: {why}" for flow, why in outbound.items()), "watching")
            systemd.notify("WATCHDOG=1", f"STATUS={fault.text if fault else waits}")

    def _waiting(self) -> Iterator[tuple[str, str]]:
        """The files that wait, each with the reason."""
        for queue in self._queues:
            yield from queue.waiting(SHOWN_WAITING)
        yield from self._inbox.waiting(SHOWN_WAITING)

    def _publish(self, **changes: Any) -> None:
        try:
            self._publisher.update(**changes)
        except OSError as error:
            logger.debug("the daemon's state cannot be written: {}", error)


@dataclasses.dataclass(frozen=True, slots=True)
class _InHand(InHand):
    """The files of a turn that are left of it, and those with which it goes on."""

    queues: Queues
    turn: Turn
    left: dict[str, RoutedFile]

    def further(self) -> Sequence[RoutedFile]:
        files = self.queues.go_on(self.turn)
        self.left.update((routed.dropped.place, routed) for routed in files)
        return files

    def in_order(self, files: Sequence[DroppedFile]) -> bool:
        own = {file.place for file in files}
        others = [routed.dropped for place, routed in self.left.items() if place not in own]
        return self.queues.in_order(self.turn, files, others)


def _phase(error: RetryLater) -> Phase:
    """What the daemon is about while it waits for this to pass."""
    if isinstance(error, NoRoom):
        return Phase.WAITING_FOR_ROOM
    return Phase.WATCHING if isinstance(error, RestFlow) else Phase.WAITING_FOR_DATABASE
