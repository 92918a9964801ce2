"""What the watch noticed and the inbox has not looked at yet."""

import threading
from collections import deque
from dataclasses import dataclass

from loguru import logger


@dataclass(frozen=True, slots=True)
class Noticed:
    """One helping of hints, each list in order of arrival."""

    files: list[str]
    folders: list[str]
    everything: bool


class Hints:
    """A bounded queue from the watch's thread to the inbox's: too many hints become "look everywhere"."""

    def __init__(self, capacity: int) -> None:
        self._files: deque[str] = deque()
        self._folders: deque[str] = deque()
        self._capacity = capacity
        self._everything = False
        self._wake = threading.Event()
        self.events = 0
        self.overflows = 0

    def file(self, path: str) -> None:
        """This file was closed after writing, or moved here."""
        self.events += 1
        if len(self._files) < self._capacity:
            self._files.append(path)
            self._wake.set()
        else:
            self.everywhere()

    def folder(self, path: str) -> None:
        """This folder appeared, or may be another than before."""
        self.events += 1
        if len(self._folders) < self._capacity:
            self._folders.append(path)
            self._wake.set()
        else:
            self.everywhere()

    def overflow(self) -> None:
        """The kernel dropped events."""
        self.overflows += 1
        logger.warning("too many file events at once, some were lost: scanning the input folder")
        self.everywhere()

    def everywhere(self) -> None:
        """Anything may have happened anywhere."""
        self._everything = True
        self._wake.set()

    def wake(self) -> None:
        """Have `wait` return now."""
        self._wake.set()

    def wait(self, seconds: float) -> None:
        """Wait for a hint, at most this long."""
        self._wake.wait(seconds)

    def drain(self) -> Noticed:
        """Take all hints."""
        self._wake.clear()
        everything = self._everything
        if everything:
            self._everything = False
        files = [self._files.popleft() for _ in range(len(self._files))]
        folders = dict.fromkeys(self._folders.popleft() for _ in range(len(self._folders)))
        return Noticed(files, list(folders), everything)
