"""The inbox: one thread that turns hints and scans into complete files, handed out once each."""

import math
import os
import stat
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from loguru import logger

from services.files.directory import OpenFolders
from services.observer.completeness import Look, look
from services.observer.hints import Hints
from services.observer.lanes import PUT_OFF, Lane, Lanes, Stand
from services.observer.paths import FoundFile, Paths
from services.observer.scan import scan
from services.observer.watch_supervisor import WatchSupervisor
from settings import ObserverKind

POLL_SECONDS = 1.0
STOP_SECONDS = 5.0
"""So long its end is waited for; a thread that hangs ends with the process."""
LONGEST_WAIT_SECONDS = 60.0
HANGS_SECONDS = 300.0
"""A turn that takes longer than this hangs: a disk that does not answer, for one."""
_STUMBLE_SECONDS = 1.0
_BURST_SECONDS = 0.001
# Waking the loader for each single file would cost more than finding it; and no folder keeps the others
# waiting for longer than a look at so many of its files takes.
_BATCH = 128
_LISTING_SHARE = 5
"""Between two scans of everything lies so many times what one takes."""
CROWD_SECONDS = 10.0
"""Very many files that wait in a folder for longer than this are told of."""


@dataclass(frozen=True, slots=True)
class InboxStatus:
    """What the inbox holds and what it has lived through.

    crowds: the folders in which very many files wait, with how many are known to.
    """

    watching: bool
    waiting: int
    ready: int
    out: int
    more_in_folder: bool
    events: int
    scans: int
    overflows: int
    watch_restarts: int
    crowds: Mapping[str, int]


class Inbox:
    """Complete files of `root` and its subfolders, each handed out once until it is done or put off.

    A file stays in its folder until the loader moves it away. At most `capacity` paths of each of `folders`,
    and of all others together, are ready or handed out at a time; what is more waits in the folder, which is the
    buffer, and is listed once and taken in as there is room.
    """

    def __init__(
        self,
        root: Path,
        *,
        folders: Collection[str] = (),
        observer_kind: ObserverKind = ObserverKind.INOTIFY,
        rescan_seconds: float = 10,
        settle_seconds: float = 2,
        capacity: int = 10_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._root = os.path.realpath(root)
        self._rescan_seconds = rescan_seconds
        self._clock = clock
        # A network share's lease does not know the writers on other machines.
        self._lease = observer_kind is ObserverKind.INOTIFY
        self._lanes = Lanes(self._root, folders, capacity)
        self._paths = Paths(self._root, self._lanes, settle_seconds=settle_seconds, clock=clock)
        self._hints = Hints(capacity)
        self._watch = WatchSupervisor(self._root, self._hints, observer_kind)
        self._scan_at = 0.0
        self._scans = 0
        self._faults: dict[str, str] = {}
        self._faults_before: dict[str, str] = {}
        self._turned_at = time.monotonic()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="inbox", daemon=True)

    def start(self) -> None:
        """Begin to watch; the root folder is made where it is missing."""
        self._thread.start()

    def stop(self) -> None:
        """Stop watching; what is handed out stays with the loader, all else in the folder."""
        self._stopping.set()
        self._hints.wake()
        self._thread.join(STOP_SECONDS)

    def is_alive(self) -> bool:
        """Whether the inbox's thread is at work, and no call of it hangs."""
        return self._thread.is_alive() and time.monotonic() - self._turned_at < HANGS_SECONDS

    def take(self, limit: int, timeout: float) -> list[FoundFile]:
        """Hand out up to `limit` complete files, waiting up to `timeout` seconds for the first."""
        return self._paths.take(limit, timeout)

    def done(self, paths: Iterable[Path]) -> None:
        """The loader has filed these: whatever has their name from now on is new."""
        for path in self._paths.done(paths):
            self._hints.file(path)
        self._refill()

    def later(self, paths: Iterable[Path], delay_seconds: float, reason: str = "") -> bool:
        """Hand these out again after `delay_seconds`, or somewhat later where very many of their folder wait.

        Returns whether that is news: not the reason that they waited for before, nor one of very many.
        """
        news = self._paths.later(paths, delay_seconds, reason)
        self._hints.wake()
        return news

    def waiting(self, limit: int = 100) -> list[tuple[str, str]]:
        """Up to `limit` files of each folder that are seen and not handed out, by path below the root, with the reason.

        They come a folder's one after another's, so that the first of them show every folder.
        """
        return self._paths.waiting(limit)

    def rescan(self) -> None:
        """Scan now."""
        self._hints.everywhere()

    def fly_canary(self) -> None:
        """Prove now that file events arrive; if they do not, the watch is replaced and `status` tells."""
        self._watch.fly_canary()

    def status(self) -> InboxStatus:
        """Where the inbox stands."""
        counts = self._paths.counts()
        return InboxStatus(
            watching=self._watch.watching,
            waiting=sum(counts[stand] for stand in PUT_OFF),
            ready=counts[Stand.READY],
            out=counts[Stand.OUT],
            more_in_folder=any(lane.holds_back for lane in self._lanes),
            events=self._hints.events,
            scans=self._scans,
            overflows=self._hints.overflows,
            watch_restarts=self._watch.restarts,
            crowds={lane.folder: len(lane.waiting) for lane in self._lanes if lane.crowd_told},
        )

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                if self._turn():
                    # The first file of a burst goes at once, those behind it together.
                    self._stopping.wait(_BURST_SECONDS)
            except Exception:  # noqa: BLE001
                # Nobody else notices this thread's end, and the next scan finds whatever was missed.
                logger.exception("the inbox stumbled; it scans again in {:g} s", _STUMBLE_SECONDS)
                self._stopping.wait(_STUMBLE_SECONDS)
                self._hints.everywhere()
        self._watch.stop()

    def _turn(self) -> bool:
        """Follow what was noticed and do what is due; true when files came by events."""
        now = self._clock()
        self._hints.wait(min(max(0.0, self._wakes_at() - now), LONGEST_WAIT_SECONDS))
        self._turned_at = time.monotonic()
        now = self._clock()
        new_watch = self._watch.keep(now)
        noticed = self._hints.drain()
        files = list(self._in_order(noticed.files))
        self._look(files, noticed=True)
        self._look(self._paths.due(_BATCH), noticed=False)
        everywhere = new_watch or noticed.everything or self._root in noticed.folders or now >= self._scan_at
        if everywhere:
            self._scan_all(now)
        else:
            for folder in noticed.folders:
                self._scan_folder(folder)
        for lane in self._lanes:
            self._advance(lane)
        self._scans += everywhere
        self._tell_crowds(now)
        return bool(files)

    def _wakes_at(self) -> float:
        if any(lane.wants_listing or (lane.listing and lane.room > 0) for lane in self._lanes):
            return -math.inf
        return min(self._scan_at, self._paths.next_due(), self._watch.next_check)

    def _in_order(self, files: Iterable[str]) -> Iterator[str]:
        """The files before which no older one of their lane is to come in; the next listing finds the others."""
        for path in files:
            lane = self._lanes.of(path)
            if path in self._paths or not lane.holds_back:
                yield path
            else:
                lane.behind = True

    def _look(self, paths: list[str], *, noticed: bool) -> None:
        for start in range(0, len(paths), _BATCH):
            batch = paths[start : start + _BATCH]
            with OpenFolders() as folders:
                looks = [(path, self._look_at(folders, path)) for path in batch]
            self._paths.note(looks, noticed=noticed)

    def _look_at(self, folders: OpenFolders, path: str) -> Look | None:
        try:
            return look(folders.entry(path, self._root), lease=self._lease)
        except OSError:
            return None

    def _advance(self, lane: Lane) -> None:
        """Take in a few of a lane's oldest files, as far as there is room."""
        if lane.wants_listing:
            self._list(lane, lane.folder)
        names = lane.listing.pop(min(lane.room, _BATCH)) if lane.listing and lane.room > 0 else []
        self._look([path for path in names if path not in self._paths], noticed=False)

    def _refill(self) -> None:
        if any(lane.wants_listing or lane.wants_names for lane in self._lanes):
            self._hints.wake()

    def _scan_all(self, now: float) -> None:
        self._faults_before, self._faults = self._faults, {}
        if self._ensure_root():
            for lane in self._lanes:
                if lane.listing:
                    lane.behind = True  # it is listed anew when this one is through
                else:
                    lane.watched.clear()
                    self._list(lane, lane.folder)
            self._watch.retain(set().union(*(lane.watched for lane in self._lanes)))
        # Without a watch the scan is all we have.
        every = min(self._rescan_seconds, POLL_SECONDS) if not self._watch.watching else self._rescan_seconds
        self._scan_at = now + max(every, _LISTING_SHARE * (self._clock() - now))

    def _scan_folder(self, folder: str) -> None:
        lane = self._lanes.of_folder(folder)
        if lane.holds_back:
            lane.behind = True
        else:
            self._list(lane, folder)

    def _list(self, lane: Lane, folder: str) -> None:
        """List a lane's files at or below `folder` that are not known yet."""

        def enter(below: str) -> None:
            lane.watched.add(below)
            self._watch.enter(below)

        lane.behind = False
        if _is_folder(lane.folder):  # a link of that name is one of the root's files
            found = scan(folder, root=self._root, enter=enter, failed=self._cannot_read, skip=lane.skip)
            lane.behind = lane.listing.fill(listed for listed in found if listed.path not in self._paths)

    def _tell_crowds(self, now: float) -> None:
        for lane in self._lanes:
            if lane.crowd_begins(now, after_seconds=CROWD_SECONDS):
                logger.warning(
                    "very many files wait in {!r}, and files of other folders pass them: {} are known, such as {}",
                    lane.folder,
                    len(lane.waiting),
                    self._paths.first_waiting(lane),
                )

    def _ensure_root(self) -> bool:
        if Path(self._root).is_dir():
            return True
        try:
            Path(self._root).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            self._cannot_read(self._root, error)
            return False
        logger.info("made the input folder {!r}, which was missing", self._root)
        return True

    def _cannot_read(self, folder: str, error: OSError) -> None:
        told = str(error) in (self._faults.get(folder), self._faults_before.get(folder))
        self._faults[folder] = str(error)
        if not told:
            logger.warning("cannot read {!r}, its files wait: {}", folder, error)


def _is_folder(path: str) -> bool:
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except OSError:
        return False
