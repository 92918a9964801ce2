"""Lanes: the folders of the input root that have room of their own, so that what lies in one keeps out no other."""

import heapq
import os
from collections import Counter, OrderedDict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum

from services.observer.scan import Listed

NAMES_LISTED = 200_000
"""So many names, of some 100 bytes, one listing of a folder holds; the next one goes on behind them."""

MANY_WAITING = 100
"""From so many waiting names of one folder on, the folder is told of instead of each name."""


class Stand(StrEnum):
    """Where a path stands."""

    SETTLING = "settling"  # it rests, and is ready soon
    WAITING = "waiting"  # for somebody else, nobody knows for how long
    READY = "ready"
    OUT = "out"


PUT_OFF = (Stand.SETTLING, Stand.WAITING)


class Listing:
    """Names found at or below a folder, the oldest first: listed once, given out as there is room for them."""

    def __init__(self, folder: str) -> None:
        self._prefix = f"{folder}/"
        self._left: list[bytes] = []  # the oldest at the end
        self._behind = b""

    def __len__(self) -> int:
        return len(self._left)

    def fill(self, listed: Iterable[Listed]) -> bool:
        """Take in the oldest of these; true when there are more, which the next call goes on with."""
        names = heapq.nsmallest(NAMES_LISTED + 1, (name for name in self._names(listed) if name > self._behind))
        more = len(names) > NAMES_LISTED
        if more:
            names.pop()
        self._behind = names[-1] if more else b""
        names.reverse()
        self._left = names
        return more

    def _names(self, listed: Iterable[Listed]) -> Iterator[bytes]:
        """Bytes that sort by age and then by name: a pair of number and text would take three times the memory."""
        for path, entry in listed:
            try:
                mtime_ns = entry.stat(follow_symlinks=False).st_mtime_ns
            except OSError:
                continue
            age = min(max(mtime_ns + (1 << 63), 0), (1 << 64) - 1)  # some file systems take any time at all
            yield age.to_bytes(8) + os.fsencode(path.removeprefix(self._prefix))

    def pop(self, limit: int) -> list[str]:
        """Give out the paths of up to `limit` names."""
        taken = self._left[: -limit - 1 : -1]
        del self._left[-limit:]
        return [self._prefix + os.fsdecode(name[8:]) for name in taken]


@dataclass(slots=True, eq=False)
class Lane:
    """One folder, and what is known of the files at or below it.

    skip: folders directly below it that are lanes themselves.
    capacity: so many of its files settle, are ready or out at a time. What only waits is not counted against that;
        of that as many are remembered, and the others are looked at again with the next listing.
    behind: files lie in it that are in no listing yet, and that newer ones must not overtake.
    watched: its folders, as the last listing found them.
    """

    folder: str
    capacity: int
    listing: Listing
    skip: frozenset[str] = frozenset()
    behind: bool = False
    watched: set[str] = field(default_factory=set)
    counts: Counter[Stand] = field(default_factory=Counter)
    settling: OrderedDict[str, None] = field(default_factory=OrderedDict)
    waiting: OrderedDict[str, None] = field(default_factory=OrderedDict)
    crowded_since: float | None = None
    crowded_at: float = 0.0
    crowd_told: bool = False

    @property
    def room(self) -> int:
        """How many further files may come in."""
        return self.capacity - self.counts[Stand.SETTLING] - self.counts[Stand.READY] - self.counts[Stand.OUT]

    @property
    def holds_back(self) -> bool:
        """Whether older files than a new one are still to come in."""
        return self.behind or bool(self.listing)

    @property
    def wants_listing(self) -> bool:
        """Whether it is worth while to list the folder for what lies there; that costs more than a few files."""
        return self.behind and not self.listing and self.room >= self.capacity * 3 / 4

    @property
    def wants_names(self) -> bool:
        """Whether it is worth while to wake for the names that are listed already."""
        return bool(self.listing) and self.room >= self.capacity / 4

    def move(self, path: str, was: Stand | None, now: Stand | None) -> None:
        """Count a path that stood here and stands there; None is outside."""
        if was is now:
            return
        if was is not None:
            self.counts[was] -= 1
        if now is not None:
            self.counts[now] += 1
        for stand, paths in zip(PUT_OFF, (self.settling, self.waiting), strict=True):
            if was is stand:
                del paths[path]
            if now is stand:
                paths[path] = None

    @property
    def is_crowded(self) -> bool:
        """Whether too many names wait to tell of each."""
        return len(self.waiting) >= MANY_WAITING

    def crowd_begins(self, now: float, *, after_seconds: float) -> bool:
        """Whether it is to be told now that many names wait, and have done so for a while."""
        if self.is_crowded:
            self.crowded_at = now
            self.crowded_since = now if self.crowded_since is None else self.crowded_since
        elif now - self.crowded_at > after_seconds:  # not at once: all of them may be tried again at one time
            self.crowded_since, self.crowd_told = None, False
        if self.crowded_since is None or self.crowd_told or self.crowded_at - self.crowded_since < after_seconds:
            return False
        self.crowd_told = True
        return True


class Lanes:
    """A lane for each of `folders` of the root, and one for all else that lies there."""

    def __init__(self, root: str, folders: Collection[str], capacity: int) -> None:
        self._prefix = len(root) + 1
        paths = {name: f"{root}/{name}" for name in folders}
        self._own = {name: Lane(path, capacity, Listing(path)) for name, path in paths.items()}
        self._shared = Lane(root, capacity, Listing(root), frozenset(paths.values()))

    def __iter__(self) -> Iterator[Lane]:
        yield from self._own.values()
        yield self._shared

    def of(self, path: str) -> Lane:
        """The lane of a file."""
        folder, below, _ = path[self._prefix :].partition("/")
        return self._own.get(folder, self._shared) if below else self._shared

    def of_folder(self, path: str) -> Lane:
        """The lane of what lies in a folder."""
        return self.of(f"{path}/")
