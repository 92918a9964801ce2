"""Every path the inbox knows of, and where it stands: waiting, ready, or out with the loader."""

import heapq
import math
import os
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

from loguru import logger

from services.observer.completeness import FileKind, Look, reason_to_wait

RECHECK_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A complete file, or something that is no file, to be taken from the input folder."""

    path: Path
    relative: str
    size: int
    mtime_ns: int
    seen_at: datetime
    kind: FileKind


class Stand(StrEnum):
    """Where a path stands."""

    WAITING = "waiting"
    READY = "ready"
    OUT = "out"


@dataclass(slots=True)
class _Known:
    seen_at: datetime
    since: float
    stand: Stand = Stand.WAITING
    certain: bool = False
    reason: str = ""
    due: float = 0.0
    shape: tuple[int, int] | None = None
    rests_since: float = 0.0
    again: bool = False
    found: FoundFile | None = field(default=None)


class Paths:
    """The book of paths; its methods may be called from any thread."""

    def __init__(self, root: str, *, settle_seconds: float, capacity: int, clock: Callable[[], float]) -> None:
        self._prefix = len(root) + 1
        self._settle_seconds = settle_seconds
        self._capacity = capacity
        self._clock = clock
        self._known: dict[str, _Known] = {}
        self._ready: deque[str] = deque()
        self._due: list[tuple[float, str]] = []
        self._changed = threading.Condition()

    @property
    def room(self) -> int:
        """How many further paths may come in."""
        return self._capacity - len(self._known)

    def __contains__(self, path: str) -> bool:
        return path in self._known

    def note(self, looks: Iterable[tuple[str, Look | None]], *, certain: bool) -> bool:
        """Take in what looks at these paths found; false when a new one found no room."""
        fits = True
        with self._changed:
            for path, seen in looks:
                known = self._known.get(path)
                if known is not None and known.stand is Stand.OUT:
                    known.again |= certain
                elif seen is None:
                    self._known.pop(path, None)
                elif known is None and not self.room:
                    fits = False
                else:
                    if known is None:
                        known = self._known[path] = _Known(datetime.now(UTC), self._clock())
                    self._judge(path, known, seen, certain=certain)
            if self._ready:
                self._changed.notify_all()
        return fits

    def _judge(self, path: str, known: _Known, seen: Look, *, certain: bool) -> None:
        now = self._clock()
        if known.shape != (seen.size, seen.mtime_ns):
            known.shape, known.rests_since = (seen.size, seen.mtime_ns), now
            # The event was about what lay there then; somebody writes again.
            known.certain = False
        known.certain |= certain
        reason = reason_to_wait(
            seen,
            rested_seconds=now - known.rests_since,
            settle_seconds=self._settle_seconds,
        )
        relative = path[self._prefix :]
        if reason is None:
            known.found = FoundFile(Path(path), relative, seen.size, seen.mtime_ns, known.seen_at, seen.kind)
            if known.stand is not Stand.READY:
                known.stand = Stand.READY
                self._ready.append(path)
            return
        if reason != known.reason:
            logger.debug("{!r} waits: {}", relative, reason)
        if reason == "still being written":
            # Its closing wakes us anyway: a long writer is asked less and less often.
            due = now + max(RECHECK_SECONDS, (now - known.since) / 10)
        else:
            due = known.rests_since + self._settle_seconds
        self._wait(path, known, reason, due)

    def _wait(self, path: str, known: _Known, reason: str, due: float) -> None:
        known.stand, known.reason, known.due = Stand.WAITING, reason, due
        heapq.heappush(self._due, (due, path))

    def due(self) -> list[str]:
        """The waiting paths that want another look now."""
        now, paths = self._clock(), []
        with self._changed:
            while self._due and self._due[0][0] <= now:
                due, path = heapq.heappop(self._due)
                known = self._known.get(path)
                if known is not None and known.stand is Stand.WAITING and known.due == due:
                    paths.append(path)
        return paths

    def next_due(self) -> float:
        """When the next waiting path wants a look; infinity when none waits."""
        with self._changed:
            return self._due[0][0] if self._due else math.inf

    def take(self, limit: int, timeout: float) -> list[FoundFile]:
        """Hand out up to `limit` complete files, waiting up to `timeout` seconds for the first."""
        taken: list[FoundFile] = []
        with self._changed:
            self._changed.wait_for(lambda: self._ready, timeout)
            while self._ready and len(taken) < limit:
                known = self._known.get(self._ready.popleft())
                if known is not None and known.stand is Stand.READY and known.found is not None:
                    known.stand, known.again = Stand.OUT, False
                    taken.append(known.found)
        # Another daemon may have had it meanwhile.
        gone = {found.path for found in taken if not os.path.lexists(found.path)}
        if gone:
            self.done(gone)
            taken = [found for found in taken if found.path not in gone]
        return taken

    def done(self, paths: Iterable[Path]) -> list[str]:
        """Forget `paths`; give back those of which an event came meanwhile: a new file may lie there."""
        with self._changed:
            known = {path: self._known.pop(path, None) for path in map(str, paths)}
        return [path for path, was in known.items() if was is not None and was.again]

    def later(self, paths: Iterable[Path], delay_seconds: float) -> None:
        """Hand `paths` out again after `delay_seconds`."""
        due = self._clock() + delay_seconds
        with self._changed:
            for path in map(str, paths):
                known = self._known.get(path)
                if known is not None:
                    self._wait(path, known, "retry", due)

    def waiting(self) -> list[tuple[str, str]]:
        """The paths that are not handed out, each with its reason."""
        now = self._clock()
        with self._changed:
            waiting = [(p, k.reason, k.due) for p, k in self._known.items() if k.stand is Stand.WAITING]
        return [
            (path[self._prefix :], f"retry in {max(0, math.ceil(due - now))} s" if why == "retry" else why)
            for path, why, due in waiting
        ]

    def counts(self) -> Counter[Stand]:
        """How many paths stand where."""
        with self._changed:
            return Counter(known.stand for known in self._known.values())
