"""The inbox: one thread that turns hints and scans into complete files, handed out once each."""

import contextlib
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
from services.observer.scan import walk
from services.observer.watch_supervisor import WatchSupervisor
from settings import ObserverKind

POLL_SECONDS = 1.0
STOP_SECONDS = 5.0
"""So long its end is waited for; a thread that hangs ends with the process."""
LONGEST_WAIT_SECONDS = 60.0
HANGS_SECONDS = 300.0
"""A turn that takes longer than this hangs: a disk that does not answer, for one."""
_STUMBLE_SECONDS = 1.0
_BURST_SECONDS = 0.005
# Waking the loader for each single file would cost more than finding it; and no folder keeps the others
# waiting for longer than a look at so many of its files takes.
_BATCH = 128
LISTED_AT_ONCE = 512
"""So many entries and folders are listed, of all lanes together, before whatever else there is has its turn."""
_LISTING_SHARE = 5
"""Between two scans of a lane lies so many times what one takes."""
CROWD_SECONDS = 10.0
"""Very many files that wait in a folder for longer than this are told of."""


@dataclass(frozen=True, slots=True)
class InboxStatus:
    """What the inbox holds and what it has lived through.

    unwatched: how many folders are too many to be watched; scans find what lies in them.
    scans: how many times everything was scanned, at least.
    crowds: the folders in which very many files wait, with how many are known to.
    """

    watching: bool
    waiting: int
    ready: int
    out: int
    more_in_folder: bool
    unwatched: int
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

    def done(self, paths: Iterable[str | Path]) -> None:
        """The loader has filed these: whatever has their name from now on is new."""
        for path in self._paths.done(paths):
            self._hints.file(path)
        self._refill()

    def later(self, paths: Iterable[str | Path], delay_seconds: float, reason: str = "") -> bool:
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
            unwatched=sum(lane.unwatched for lane in self._lanes),
            events=self._hints.events,
            scans=min(lane.scans for lane in self._lanes),
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
        for lane in self._lanes:
            lane.walk = iter(())  # which closes the folder that it had open

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
        everywhere = new_watch or noticed.everything or self._root in noticed.folders
        due = [lane for lane in self._lanes if everywhere or now >= lane.scan_at]
        if due:
            self._scan(due, now)
        self._scan_folders([folder for folder in noticed.folders if self._lanes.of_folder(folder) not in due])
        for lane in self._lanes:
            if lane.wants_listing:
                self._list(lane)
        share = max(1, LISTED_AT_ONCE // max(1, sum(lane.listing.filling for lane in self._lanes)))
        for lane in self._lanes:
            self._advance(lane, share)
        self._tell_crowds(now)
        return bool(files)

    def _wakes_at(self) -> float:
        for lane in self._lanes:
            if lane.listing.filling or lane.wants_listing or (lane.listing and lane.room > 0):
                return -math.inf
        scan_at = min(lane.scan_at for lane in self._lanes)
        return min(scan_at, self._paths.next_due(), self._watch.next_check)

    def _in_order(self, files: Iterable[str]) -> Iterator[str]:
        """The files before which no older one of their lane is to come in; the next listing finds the others."""
        for path in files:
            lane = self._lanes.of(path)
            if path in self._paths or not lane.holds_back:
                yield path
            elif lane.listing.filling:
                self._join(lane, path)
            else:
                lane.behind = True

    def _join(self, lane: Lane, path: str) -> None:
        with contextlib.suppress(OSError), OpenFolders() as folders:
            lane.listing.join(path, folders.entry(path, self._root).status().st_mtime_ns)

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

    def _advance(self, lane: Lane, entries: int) -> None:
        """List so much more of a lane, or take in a few of its oldest files, as far as there is room."""
        if lane.listing.filling:
            began = self._clock()
            through = lane.go_on(entries)
            lane.seconds += self._clock() - began
            if through:
                self._listed(lane)
        names = lane.listing.pop(min(lane.room, _BATCH)) if lane.listing and lane.room > 0 else []
        self._look([path for path in names if path not in self._paths], noticed=False)

    def _refill(self) -> None:
        if any(lane.wants_listing or lane.wants_names for lane in self._lanes):
            self._hints.wake()

    def _scan(self, lanes: list[Lane], now: float) -> None:
        """Begin to list these lanes; one whose listing goes on, or is not used up, is listed anew behind it."""
        if not self._ensure_root():
            for lane in lanes:
                lane.scan_at = now + self._scan_every()
                lane.scans += 1
            return
        # As the system may have too few watches for all, first come the root and each flow's own folder.
        for lane in sorted(lanes, key=lambda lane: lane.folder):
            lane.watched.add(lane.folder)
            self._watch.enter(lane.folder)
        for lane in lanes:
            if lane.is_listed:
                lane.behind = True
                lane.scans += 1
                if lane.met is None:  # else the listing of the whole lane, when it is through, tells how long to wait
                    lane.scan_at = now + self._scan_every()
            else:
                self._list(lane, is_scan=True)

    def _scan_every(self) -> float:
        # Without a watch the scan is all we have.
        return self._rescan_seconds if self._watch.watching else min(self._rescan_seconds, POLL_SECONDS)

    def _scan_folders(self, folders: list[str]) -> None:
        of_lanes: dict[Lane, list[str]] = {}
        for folder in folders:
            of_lanes.setdefault(self._lanes.of_folder(folder), []).append(folder)
        for lane, below in of_lanes.items():
            if lane.holds_back:
                lane.behind = True
            else:
                self._list(lane, below)

    def _list(self, lane: Lane, folders: Collection[str] = (), *, is_scan: bool = False) -> None:
        """Begin to list a lane's files that are not known yet: all, or those at or below `folders`."""

        def enter(below: str) -> None:
            if lane.admits(below):
                self._watch.enter(below)

        # A link of that name is one of the root's files.
        start = (folders or [lane.folder]) if _is_folder(lane.folder) else []
        steps = walk(start, root=self._root, enter=enter, failed=self._cannot_read, skip=lane.skip)
        unknown = (step if step is None or step.path not in self._paths else None for step in steps)
        lane.begin(unknown, whole=not folders or lane.folder in folders, is_scan=is_scan)

    def _listed(self, lane: Lane) -> None:
        """See to what follows from a listing that is through."""
        if lane.scan_at == math.inf:
            lane.scan_at = self._clock() + max(self._scan_every(), _LISTING_SHARE * lane.seconds)
        if lane.take_gone():
            self._watch.retain(set().union(*(lane.watched for lane in self._lanes)))
        if lane.unwatched and not lane.unwatched_told:
            logger.warning(
                "more than {} folders lie in {!r}: files in the {} others are found by scans",
                len(lane.watched),
                lane.folder,
                lane.unwatched,
            )
        lane.unwatched_told = lane.unwatched > 0

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
        lane = self._lanes.of_folder(folder)
        told = str(error) in (lane.faults.get(folder), lane.faults_before.get(folder))
        lane.faults[folder] = str(error)
        if not told:
            logger.warning("cannot read {!r}, its files wait: {}", folder, error)


def _is_folder(path: str) -> bool:
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except OSError:
        return False
