"""A queue per flow, and whose turn it is: no flow waits for another one's backlog, no small file for a giant."""

import math
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice

from file_processing.inbound import intake
from file_processing.inbound.routing import DroppedFile, RoutedFile
from services.runtime.status_file import Fault


@dataclass(slots=True, eq=False)
class Queue:
    """The files of one flow, loaded one group after another: a flow's files keep their order.

    to_recover: what a crash or a fault left half-done is still to be finished.
    fault: why its files wait; then it rests until `resume_at`, after so many failures in a row.
    turn: the number of its last turn. at_work: how many go on; alone: one of them has to be the only one.
    """

    flow: str | None
    files: deque[RoutedFile] = field(default_factory=deque)
    to_recover: bool = True
    fault: Fault | None = None
    failures: int = 0
    resume_at: float = 0.0
    turn: int = 0
    at_work: int = 0
    alone: bool = False

    @property
    def name(self) -> str:
        return self.flow or "no flow"

    def waits(self, now: float) -> bool:
        """Whether there is something to do in a turn of its own."""
        return not self.at_work and now >= self.resume_at and bool(self.files or self.to_recover)

    def next_group(self) -> tuple[Sequence[RoutedFile], bool]:
        """The files that may be loaded together next, and whether there are more behind them."""
        files = list(islice(self.files, intake.GROUP_FILES + 1))
        group = next(intake.groups(files), [])
        return group, len(group) < len(files)

    def waiting(self, limit: int) -> list[tuple[str, str]]:
        """Up to `limit` of the files that a fault keeps waiting, each with the reason."""
        fault = self.fault
        if fault is None:
            return []
        return [(routed.dropped.relative, fault.text) for routed in islice(self.files.copy(), limit)]


@dataclass(frozen=True, slots=True)
class Turn:
    """A queue's turn: a recovery where that is due, and one group of its files.

    is_long: the group is a long file, alone. recovers: it begins with the recovery.
    """

    queue: Queue
    files: Sequence[RoutedFile]
    is_long: bool
    recovers: bool


class Queues:
    """Gives turns to the queues that have something to do, to the one that waited longest first.

    A turn is one group of files, so that a queue that is filled all the time is left after each; it goes on only
    while no other queue waits. At most `workers` turns of long files go on at a time, and as many others, and one more
    than `workers` of both: so there is a worker for small files, whatever the others have in hand.
    Who would have nothing to do takes a further turn of a queue that has whole groups of small files. One that
    recovers, or has a long file in hand, has no other turn meanwhile.
    """

    def __init__(self, flows: Iterable[str | None], workers: int) -> None:
        self._queues = {flow: Queue(flow) for flow in flows}
        self._workers = workers
        self._changed = threading.Condition()
        self._turns = 0
        self._at_work = {True: 0, False: 0}
        self._closed = False

    def __iter__(self) -> Iterator[Queue]:
        return iter(self._queues.values())

    def add(self, files: Iterable[RoutedFile]) -> None:
        """Put files at the ends of their flows' queues."""
        with self._changed:
            for routed in files:
                self._queues[routed.flow].files.append(routed)
            self._wake_one()

    def next_turn(self) -> Turn | None:
        """The next turn; waits for one. None when the queues are closed."""
        with self._changed:
            while not self._closed:
                now = time.monotonic()
                if (turn := self._choose(now)) is not None:
                    self._wake_one()
                    return turn
                resumes_at = min((queue.resume_at for queue in self if queue.resume_at > now), default=math.inf)
                self._changed.wait(min(resumes_at - now, threading.TIMEOUT_MAX))
        return None

    def _choose(self, now: float) -> Turn | None:
        for queue in sorted(self, key=lambda queue: (queue.at_work, queue.turn)):
            if not queue.waits(now) and not self._has_more(queue, now):
                continue
            is_long = bool(queue.files) and intake.is_long(queue.files[0].dropped)
            if self._at_work[is_long] < self._workers:
                return self._begin(queue, is_long)
        return None

    def _has_more(self, queue: Queue, now: float) -> bool:
        """Whether a further turn is worth its while: half a group grows while another is in hand."""
        if queue.alone or queue.to_recover or not queue.files or now < queue.resume_at:
            return False
        return not intake.is_long(queue.files[0].dropped) and queue.next_group()[1]

    def _begin(self, queue: Queue, is_long: bool) -> Turn:
        files = _taken(queue)
        self._turns += 1
        queue.turn, queue.alone = self._turns, is_long or queue.to_recover
        queue.at_work += 1
        self._at_work[is_long] += 1
        return Turn(queue, files, is_long, queue.to_recover)

    def in_order(self, turn: Turn, files: Sequence[DroppedFile], others: Iterable[DroppedFile]) -> bool:
        """Whether no file of the queue that came before one of these is still to be loaded.

        others: what else the turn has in hand.
        """
        with self._changed:
            if turn.queue.at_work > 1:
                return False
            last = max((file.arrival for file in files), default=0)
            waiting = (routed.dropped for routed in turn.queue.files)
            return all(file.arrival >= last for file in chain(waiting, others))

    def go_on(self, turn: Turn) -> Sequence[RoutedFile]:
        """A further group of small files for this turn, where no other queue waits for one of its own."""
        with self._changed:
            now = time.monotonic()
            others_wait = any(queue.waits(now) for queue in self)
            if self._closed or others_wait or turn.queue.to_recover or intake.is_long(turn.files[0].dropped):
                return ()
            return _taken(turn.queue) if turn.queue.files and not intake.is_long(turn.queue.files[0].dropped) else ()

    def over(self, turn: Turn, left: Iterable[RoutedFile] = ()) -> None:
        """End a turn; what is left of its files goes back to the head of their queue."""
        with self._changed:
            turn.queue.files.extendleft(reversed([*left]))
            turn.queue.at_work -= 1
            turn.queue.alone = False
            self._at_work[turn.is_long] -= 1
            self._wake_one()

    def _wake_one(self) -> None:
        """Where there may be a turn, have one who waits look, and no more: each needs the processor for it.

        Who gets a turn wakes the next one.
        """
        if any(queue.files or queue.to_recover for queue in self if not queue.alone):
            self._changed.notify()

    def close(self) -> None:
        """Give no more turns."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()


def _taken(queue: Queue) -> Sequence[RoutedFile]:
    """The next group, out of the queue."""
    files, _ = queue.next_group()
    for _ in files:
        queue.files.popleft()
    return files
