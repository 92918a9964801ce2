"""Keeps a watch running: opened, proved alive by a canary, replaced with growing pauses when it is not."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from loguru import logger

from services.files import durable
from services.files.directory import Folder
from services.observer.hints import Hints
from services.transport.backoff import WATCH
from settings import ObserverKind

if TYPE_CHECKING:
    from services.observer.watch import Watch

CANARY_EVERY_SECONDS = 60.0
CANARY_SECONDS = 2.0


class WatchSupervisor:
    """Owns the watch, if there is one: none when polling, nor while inotify cannot be had."""

    def __init__(self, root: str, hints: Hints, kind: ObserverKind) -> None:
        self._root = root
        self._hints = hints
        self._watch: Watch | None = None
        self._wanted = kind is ObserverKind.INOTIFY
        if self._wanted and sys.platform != "linux":
            logger.warning("no inotify on {}: polling instead", sys.platform)
            self._wanted = False
        self._failures = 0
        self._complained = False
        self._canary_flies = False
        self._next = 0.0
        self.restarts = 0

    @property
    def watching(self) -> bool:
        """Whether a watch is at work."""
        return self._watch is not None and self._watch.is_alive()

    @property
    def next_check(self) -> float:
        """When `keep` has something to do."""
        return self._next if self._wanted else float("inf")

    def keep(self, now: float) -> bool:
        """Do what is due for the watch; true when a new one knows of no folder yet."""
        if not self._wanted:
            return False
        if self._watch is None:
            return now >= self._next and self._open(now)
        if not self._watch.is_alive():
            self._replace("its thread ended", now)
        elif self._canary_flies and self._watch.canary_seen.is_set():
            self._canary_flies = False
            self._failures = 0
            self._next = now + CANARY_EVERY_SECONDS
        elif now >= self._next:
            if self._canary_flies:
                self._replace(f"a file touched in it was not noticed within {CANARY_SECONDS:g} s", now)
            else:
                self._fly_canary(now)
        return False

    def fly_canary(self) -> None:
        """Have the next `keep` prove that the watch notices files."""
        if not self._canary_flies:
            self._next = 0.0
            self._hints.wake()

    def _fly_canary(self, now: float) -> None:
        assert self._watch is not None
        name = durable.temporary_name()  # that nobody can have put something under
        self._watch.expect(name)
        try:
            with Folder(Path(self._root)).open() as root:
                canary = root.entry(name)
                os.close(durable.create(canary))
                canary.unlink(missing_ok=True)
        except OSError as error:
            # A folder that we may only read, a full disk: that proves nothing about the watch.
            logger.debug("cannot test whether {!r} is watched: {}", self._root, error)
            self._next = now + CANARY_EVERY_SECONDS
        else:
            self._canary_flies = True
            self._next = now + CANARY_SECONDS

    def _open(self, now: float) -> bool:
        from services.observer.watch import Watch

        try:
            self._watch = Watch(self._root, self._hints)
        except OSError as error:
            logger.warning("cannot watch for file events, scanning instead: {}", error)
            self._wait(now)
            return False
        self._canary_flies, self._complained = False, False
        self._next = now
        return True

    def _replace(self, why: str, now: float) -> None:
        logger.warning("the watch of {!r} stopped working ({}): opening a new one", self._root, why)
        self.restarts += 1
        self.stop()
        self._wait(now)

    def _wait(self, now: float) -> None:
        self._next = now + WATCH.pause_seconds(self._failures)
        self._failures += 1

    def enter(self, folder: str) -> None:
        """Watch `folder`, about to be scanned."""
        if self._watch is None:
            return
        try:
            self._watch.add(folder)
        except (FileNotFoundError, NotADirectoryError):
            pass
        except OSError as error:
            if not self._complained:
                self._complained = True
                hint = "raise fs.inotify.max_user_watches if that is the limit"
                logger.warning("cannot watch {!r}, its files are found by scans: {} ({})", folder, error, hint)

    def retain(self, folders: set[str]) -> None:
        """Watch none but these any longer."""
        if self._watch is not None:
            self._watch.retain(folders)

    def stop(self) -> None:
        """Close the watch."""
        if self._watch is not None:
            self._watch.stop()
            self._watch = None
