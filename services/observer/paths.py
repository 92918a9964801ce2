"""Every path the inbox knows of, and where it stands: put off, ready, or out with the loader."""

import heapq
import itertools
import math
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from loguru import logger

from services.observer.completeness import FileKind, Look, reason_to_wait
from services.observer.lanes import PUT_OFF, Lane, Lanes, Stand

RECHECK_SECONDS = 0.2

RETRIES_PER_SECOND = 200
"""Of the files of one lane that the loader put off: very many of them are tried again less often."""


class FoundFile(NamedTuple):
    """A complete file, or something that is no file, to be taken from the input folder.

    arrival: its ctime when it was first seen as it is, in nanoseconds: later it tells of other things.
    """

    place: str
    relative: str
    size: int
    mtime_ns: int
    arrival: int
    seen_at: datetime
    kind: FileKind

    @property
    def path(self) -> Path:
        return Path(self.place)


@dataclass(slots=True)
class _Known:
    lane: Lane
    seen_at: datetime
    since: float
    stand: Stand | None = None
    reason: str = ""
    backs_off: bool = False
    due: float = 0.0
    shape: tuple[int, int] | None = None
    arrival: int = 0
    changed: bool = False
    rests_since: float = 0.0
    again: bool = False
    found: FoundFile | None = None


class Paths:
    """The book of paths; its methods may be called from any thread."""

    def __init__(self, root: str, lanes: Lanes, *, settle_seconds: float, clock: Callable[[], float]) -> None:
        self._prefix = len(root) + 1
        self._lanes = lanes
        self._settle_seconds = settle_seconds
        self._clock = clock
        self._known: dict[str, _Known] = {}
        self._ready: dict[Lane, deque[str]] = {}
        self._due: list[tuple[float, str]] = []
        self._changed = threading.Condition()

    def __contains__(self, path: str) -> bool:
        return path in self._known

    def note(self, looks: Iterable[tuple[str, Look | None]], *, noticed: bool) -> None:
        """Take in what looks at these paths found; a lane that has no room for a new one falls behind.

        noticed: an event led there, so that of a file in hand there may be a newer one by now.
        """
        with self._changed:
            for path, seen in looks:
                known = self._known.get(path)
                if known is not None and known.stand is Stand.OUT:
                    known.again |= noticed
                elif seen is None:
                    self._forget(path)
                elif known is not None:
                    self._judge(path, known, seen)
                elif (lane := self._lanes.of(path)).room > 0:
                    known = self._known[path] = _Known(lane, datetime.now(UTC), self._clock())
                    self._judge(path, known, seen)
                else:
                    lane.behind = True
            if self._ready:
                self._changed.notify_all()

    def _put(self, path: str, known: _Known, stand: Stand) -> None:
        known.lane.move(path, known.stand, stand)
        known.stand = stand

    def _forget(self, path: str) -> _Known | None:
        known = self._known.pop(path, None)
        if known is not None:
            known.lane.move(path, known.stand, None)
        return known

    def _judge(self, path: str, known: _Known, seen: Look) -> None:
        now = self._clock()
        if known.shape != (seen.size, seen.mtime_ns):
            known.changed = known.shape is not None
            known.shape, known.rests_since = (seen.size, seen.mtime_ns), now
            known.arrival = seen.ctime_ns
        rested_seconds = now - known.rests_since
        reason = reason_to_wait(seen, rested_seconds=rested_seconds, settle_seconds=self._settle_seconds)
        relative = path[self._prefix :]
        if reason is None:
            known.found = FoundFile(path, relative, seen.size, seen.mtime_ns, known.arrival, known.seen_at, seen.kind)
            if known.stand is not Stand.READY:
                self._put(path, known, Stand.READY)
                self._ready.setdefault(known.lane, deque()).append(path)
            return
        if reason != known.reason:
            logger.debug("{!r} waits: {}", relative, reason)
        stand = Stand.WAITING
        if reason == "still being written":
            # Its closing wakes us anyway: a long writer is asked less and less often.
            due = now + max(RECHECK_SECONDS, (now - known.since) / 10)
        else:
            due = known.rests_since + self._settle_seconds
            if not known.changed:
                stand = Stand.SETTLING
        self._wait(path, known, stand, reason, due)

    def _wait(self, path: str, known: _Known, stand: Stand, reason: str, due: float) -> None:
        known.reason, known.due, known.backs_off = reason, due, False
        self._put(path, known, stand)
        heapq.heappush(self._due, (due, path))
        if len(known.lane.waiting) > known.lane.capacity:
            # It still lies in the folder, and the next listing finds it; nobody waits here for ever.
            self._forget(next(iter(known.lane.waiting)))

    def due(self, limit: int) -> list[str]:
        """Up to `limit` waiting paths that want another look now."""
        now = self._clock()
        paths: list[str] = []
        with self._changed:
            while self._due and self._due[0][0] <= now and len(paths) < limit:
                due, path = heapq.heappop(self._due)
                known = self._known.get(path)
                if known is not None and known.stand in PUT_OFF and known.due == due:
                    paths.append(path)
        return paths

    def next_due(self) -> float:
        """When the next waiting path wants a look; infinity when none waits."""
        with self._changed:
            return self._due[0][0] if self._due else math.inf

    def take(self, limit: int, timeout: float) -> list[FoundFile]:
        """Hand out up to `limit` complete files, waiting up to `timeout` seconds for the first.

        Lanes take turns, so that the files of one are not behind all of another's. Another daemon may have had
        some of them meanwhile.
        """
        taken: list[FoundFile] = []
        with self._changed:
            self._changed.wait_for(lambda: self._ready, timeout)
            for path in itertools.islice(self._next_ready(), limit):
                known = self._known.get(path)
                if known is not None and known.stand is Stand.READY and known.found is not None:
                    self._put(path, known, Stand.OUT)
                    known.again = False
                    taken.append(known.found)
        return taken

    def _next_ready(self) -> Iterator[str]:
        while self._ready:
            lane, paths = next(iter(self._ready.items()))
            path = paths.popleft()
            del self._ready[lane]
            if paths:
                self._ready[lane] = paths  # behind the others
            yield path

    def done(self, paths: Iterable[str | Path]) -> list[str]:
        """Forget `paths`; give back those of which an event came meanwhile: a new file may lie there."""
        with self._changed:
            known = {path: self._forget(path) for path in map(str, paths)}
        return [path for path, was in known.items() if was is not None and was.again]

    def later(self, paths: Iterable[str | Path], delay_seconds: float, reason: str) -> bool:
        """Hand `paths` out again after `delay_seconds`; whether that is news, and not one of very many."""
        now, news = self._clock(), False
        with self._changed:
            for path in map(str, paths):
                known = self._known.get(path)
                if known is not None:
                    news |= known.reason != reason and not known.lane.is_crowded
                    pause = max(delay_seconds, len(known.lane.waiting) / RETRIES_PER_SECOND)
                    self._wait(path, known, Stand.WAITING, reason, now + pause)
                    known.backs_off = True
        return news

    def waiting(self, limit: int) -> list[tuple[str, str]]:
        """Up to `limit` paths of each lane that are not handed out, each with its reason, lane by lane in turn."""
        with self._changed:
            lanes = [[*itertools.islice(itertools.chain(lane.waiting, lane.settling), limit)] for lane in self._lanes]
            turns = itertools.chain.from_iterable(itertools.zip_longest(*lanes))
            return [self._why(path, self._known[path]) for path in turns if path is not None]

    def first_waiting(self, lane: Lane) -> str:
        """The path of a lane that waits for the longest time, and why, in words."""
        with self._changed:
            first = next(iter(lane.waiting), None)
            return "{!r}: {}".format(*self._why(first, self._known[first])) if first is not None else "none"

    def _why(self, path: str, known: _Known) -> tuple[str, str]:
        reason = known.reason
        if known.backs_off:
            seconds = max(0, math.ceil(known.due - self._clock()))
            reason = f"{reason}{', ' if reason else ''}retry in {seconds} s"
        return path[self._prefix :], reason

    def counts(self) -> Counter[Stand]:
        """How many paths stand where."""
        with self._changed:
            return sum((lane.counts for lane in self._lanes), Counter())
