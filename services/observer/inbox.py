"""The inbox: one thread that turns hints and scans into complete files, handed out once each."""

import heapq
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from loguru import logger

from services.files.directory import OpenFolders
from services.observer.completeness import Look, look
from services.observer.hints import Hints
from services.observer.paths import FoundFile, Paths, Stand
from services.observer.scan import scan
from services.observer.watch_supervisor import WatchSupervisor
from settings import ObserverKind

POLL_SECONDS = 1.0
_STUMBLE_SECONDS = 1.0
_BURST_SECONDS = 0.001
# Waking the loader for each single file would cost more than finding it.
_BATCH = 128


@dataclass(frozen=True, slots=True)
class InboxStatus:
    """What the inbox holds and what it has lived through."""

    watching: bool
    waiting: int
    ready: int
    out: int
    more_in_folder: bool
    events: int
    scans: int
    overflows: int
    watch_restarts: int


class Inbox:
    """Complete files of `root` and its subfolders, each handed out once until it is done or put off.

    A file stays in its folder until the loader moves it away. The inbox holds at most `capacity` paths;
    what is more waits in the folder, which is the buffer, for a later scan.
    """

    def __init__(
        self,
        root: Path,
        *,
        observer_kind: ObserverKind = ObserverKind.INOTIFY,
        rescan_seconds: float = 10,
        settle_seconds: float = 2,
        capacity: int = 10_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._root = os.path.realpath(root)
        self._rescan_seconds = rescan_seconds
        self._capacity = capacity
        self._clock = clock
        # A network share's lease does not know the writers on other machines.
        self._lease = observer_kind is ObserverKind.INOTIFY
        self._paths = Paths(self._root, settle_seconds=settle_seconds, capacity=capacity, clock=clock)
        self._hints = Hints(capacity)
        self._watch = WatchSupervisor(self._root, self._hints, observer_kind)
        self._scan_at = 0.0
        self._scans = 0
        self._more_in_folder = False
        self._refilling = False
        self._faults: dict[str, str] = {}
        self._faults_before: dict[str, str] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="inbox", daemon=True)

    def start(self) -> None:
        """Begin to watch; the root folder is made where it is missing."""
        self._thread.start()

    def stop(self) -> None:
        """Stop watching; what is handed out stays with the loader, all else in the folder."""
        self._stopping.set()
        self._hints.wake()
        self._thread.join()

    def is_alive(self) -> bool:
        """Whether the inbox's thread is at work."""
        return self._thread.is_alive()

    def __contains__(self, path: Path) -> bool:
        """Whether it is known: handed out, or waiting to be."""
        return str(path) in self._paths

    def take(self, limit: int, timeout: float) -> list[FoundFile]:
        """Hand out up to `limit` complete files, waiting up to `timeout` seconds for the first."""
        found = self._paths.take(limit, timeout)
        self._refill()
        return found

    def done(self, paths: Iterable[Path]) -> None:
        """The loader has filed these: whatever has their name from now on is new."""
        for path in self._paths.done(paths):
            self._hints.file(path)
        self._refill()

    def later(self, paths: Iterable[Path], delay_seconds: float) -> None:
        """Hand these out again after `delay_seconds`."""
        self._paths.later(paths, delay_seconds)
        self._hints.wake()

    def waiting(self) -> list[tuple[str, str]]:
        """Files seen and not handed out, by their path below the root, each with its reason."""
        return self._paths.waiting()

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
            waiting=counts[Stand.WAITING],
            ready=counts[Stand.READY],
            out=counts[Stand.OUT],
            more_in_folder=self._more_in_folder,
            events=self._hints.events,
            scans=self._scans,
            overflows=self._hints.overflows,
            watch_restarts=self._watch.restarts,
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
        wakes = min(self._scan_at, self._paths.next_due(), self._watch.next_check)
        self._hints.wait(max(0.0, wakes - now))
        now = self._clock()
        new_watch = self._watch.keep(now)
        noticed = self._hints.drain()
        files = noticed.files
        if self._more_in_folder:
            # Newer files must not overtake, or they keep those in the folder there for ever.
            files = [path for path in files if path in self._paths]
        self._look(files, certain=True)
        self._look(self._paths.due(), certain=False)
        if new_watch or noticed.everything or self._root in noticed.folders or now >= self._scan_at:
            self._scan_all(now)
        else:
            for folder in noticed.folders:
                self._scan(folder, self._watch.enter)
        return bool(files)

    def _look(self, paths: list[str], *, certain: bool) -> None:
        for start in range(0, len(paths), _BATCH):
            batch = paths[start : start + _BATCH]
            with OpenFolders() as folders:
                looks = [(path, self._look_at(folders, path)) for path in batch]
            if not self._paths.note(looks, certain=certain):
                self._more_in_folder = True

    def _look_at(self, folders: OpenFolders, path: str) -> Look | None:
        try:
            return look(folders.entry(path, self._root), lease=self._lease)
        except OSError:
            return None

    def _scan_all(self, now: float) -> None:
        entered: set[str] = set()

        def enter(folder: str) -> None:
            entered.add(folder)
            self._watch.enter(folder)

        self._faults_before, self._faults = self._faults, {}
        # Without a watch the scan is all we have.
        alone = not self._watch.watching
        self._scan_at = now + min(self._rescan_seconds, POLL_SECONDS if alone else self._rescan_seconds)
        self._more_in_folder = False
        if self._ensure_root():
            self._scan(self._root, enter)
            self._watch.retain(entered)
        self._refilling = False
        self._scans += 1
        self._refill()

    def _refill(self) -> None:
        if self._more_in_folder and not self._refilling and self._paths.room >= self._capacity * 3 / 4:
            self._refilling = True
            self._hints.everywhere()

    def _scan(self, folder: str, enter: Callable[[str], None]) -> None:
        """Note the oldest files that are not known yet, as many as there is room for."""
        found = scan(folder, enter=enter, failed=self._cannot_read)
        room = max(0, self._paths.room)
        oldest = heapq.nsmallest(room + 1, self._unknown(found))
        self._look([path for _, path in oldest[:room]], certain=False)
        if len(oldest) > room:
            self._more_in_folder = True

    def _unknown(self, entries: Iterable[os.DirEntry[str]]) -> Iterator[tuple[int, str]]:
        for entry in entries:
            if entry.path not in self._paths:
                try:
                    yield entry.stat(follow_symlinks=False).st_mtime_ns, entry.path
                except OSError:
                    continue

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
        self._faults[folder] = str(error)
        if self._faults_before.get(folder) != str(error):
            logger.warning("cannot read {!r}, its files wait: {}", folder, error)
