"""Lanes: the folders of the input root that have room of their own, so that what lies in one keeps out no other."""

import itertools
import math
import os
import sys
from collections import Counter, OrderedDict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum

from services.observer.scan import Listed

NAMES_LISTED = 200_000
"""So many names, of some 100 bytes, one listing of a folder holds; the next one goes on behind them."""

WATCHED_FOLDERS = 1_000
"""So many folders of one lane are watched, as the system has a limit for all; scans find what lies in the others."""

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
    """Names found at or below a folder, the oldest first: listed once, given out as there is room for them.

    filling: it is in the middle of listing, and gives out nothing yet: older names may follow.
    """

    def __init__(self, folder: str) -> None:
        self._prefix = f"{folder}/"
        self._left: list[bytes] = []  # the oldest at the end
        self._behind = b""
        self._found: list[bytes] = []
        self._sorted = 0
        self.filling = False

    def __len__(self) -> int:
        return len(self._left)

    def fill(self, steps: Iterable[Listed | None], limit: int = sys.maxsize) -> bool:
        """Take in the oldest of what up to `limit` of these steps come to.

        True when there are more: while it is `filling` the next call goes on with the same steps, afterwards with
        those of another walk, behind the names that this one gave.
        """
        taken = 0
        for taken, listed in enumerate(itertools.islice(steps, limit), 1):  # noqa: B007  # counted
            if listed is not None:
                path, entry = listed
                try:
                    mtime_ns = entry.stat(follow_symlinks=False).st_mtime_ns
                except OSError:
                    continue
                if (name := self._name(path, mtime_ns)) > self._behind:
                    self._add(name)
        self.filling = taken == limit
        if self.filling:
            return True
        self._keep_oldest()
        self._left, self._found, self._sorted = self._found, [], 0
        more = len(self._left) > NAMES_LISTED
        if more:
            self._left.pop()
        self._behind = self._left[-1] if more else b""
        self._left.reverse()
        return more

    def join(self, path: str, mtime_ns: int) -> None:
        """Take in a path that was noticed while this is `filling`; that it may be found once more does no harm."""
        self._add(self._name(path, mtime_ns))

    def _add(self, name: bytes) -> None:
        self._found.append(name)
        if len(self._found) - self._sorted > NAMES_LISTED // 4:
            self._keep_oldest()

    def _keep_oldest(self) -> None:
        """Drop what is too much, and keep one name more, which tells that there are."""
        self._found.sort()
        del self._found[NAMES_LISTED + 1 :]
        self._sorted = len(self._found)

    def _name(self, path: str, mtime_ns: int) -> bytes:
        """Bytes that sort by age and then by name: a pair of number and text would take three times the memory."""
        age = min(max(mtime_ns + (1 << 63), 0), (1 << 64) - 1)  # some file systems take any time at all
        return age.to_bytes(8) + os.fsencode(path.removeprefix(self._prefix))

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
    walk: where the listing that is going on stands.
    watched: its folders that are watched, or would be if the system let us.
    met: those of them that the listing of the whole lane came across so far; None when only a part is listed.
    refused: how many folders it came across that are too many to be watched; `unwatched` when it is through.
    scan_at: when the whole lane is listed again, in seconds of the inbox's clock; `scans` counts that.
    seconds: what the listing of the whole lane took so far, without the turns of others.
    faults: why folders cannot be read, as this listing and the one before it have told.
    """

    folder: str
    capacity: int
    listing: Listing
    skip: frozenset[str] = frozenset()
    behind: bool = False
    walk: Iterator[Listed | None] = field(default_factory=lambda: iter(()))
    watched: set[str] = field(default_factory=set)
    met: set[str] | None = None
    refused: int = 0
    unwatched: int = 0
    unwatched_told: bool = False
    scan_at: float = 0.0
    scans: int = 0
    is_scan: bool = False
    seconds: float = 0.0
    faults: dict[str, str] = field(default_factory=dict)
    faults_before: dict[str, str] = field(default_factory=dict)
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
        return self.behind or self.is_listed

    @property
    def is_listed(self) -> bool:
        """Whether a listing is going on, or has names left."""
        return self.listing.filling or bool(self.listing)

    @property
    def wants_listing(self) -> bool:
        """Whether it is worth while to list the folder for what lies there; that costs more than a few files."""
        return self.behind and not self.is_listed and self.room >= self.capacity * 3 / 4

    @property
    def wants_names(self) -> bool:
        """Whether it is worth while to wake for the names that are listed already."""
        return bool(self.listing) and self.room >= self.capacity / 4

    def begin(self, walk: Iterator[Listed | None], *, whole: bool, is_scan: bool) -> None:
        """List what this walk comes across; `go_on` does it."""
        self.behind = False
        self.walk, self.listing.filling = walk, True
        self.met, self.is_scan = None, is_scan
        if whole:
            self.met, self.refused, self.seconds, self.scan_at = set(), 0, 0.0, math.inf
            self.faults_before, self.faults = self.faults, {}

    def go_on(self, entries: int) -> bool:
        """List so many further entries and folders; true when that was the end of it.

        What was noticed meanwhile may have set `behind`, which stays.
        """
        more = self.listing.fill(self.walk, entries)
        if self.listing.filling:
            return False
        self.behind |= more
        self.walk = iter(())
        self.scans += self.is_scan
        return True

    def take_gone(self) -> set[str]:
        """The watched folders that the listing of the whole lane did not come across; they are forgotten."""
        if self.met is None:
            return set()
        self.unwatched = self.refused
        gone = self.watched - self.met
        self.watched, self.met = self.met, None
        return gone

    def admits(self, folder: str) -> bool:
        """Whether this folder of it is to be watched: as many as have room are."""
        if folder not in self.watched and len(self.watched) >= WATCHED_FOLDERS:
            self.refused += 1
            return False
        self.watched.add(folder)
        if self.met is not None:
            self.met.add(folder)
        return True

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
