"""Room on disks: below a floor nothing is taken in, so that what is at work can end well."""

import os
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from models.errors import RetryLater


class NoRoom(RetryLater):
    """A disk is almost full; nothing is taken in before there is room on it again."""


@dataclass(frozen=True, slots=True)
class Room:
    """Folders, by the name of the setting that says where they are, and the bytes that stay free on their disks."""

    folders: Mapping[str, Path]
    min_free_bytes: int

    def check(self) -> None:
        """Raises NoRoom."""
        for shortage in self.shortages():
            raise shortage

    def shortages(self) -> Iterator[NoRoom]:
        """What is short, one for each disk."""
        short: dict[int, list[str]] = defaultdict(list)
        for name, folder in self.folders.items():
            try:
                disk = os.statvfs(folder)
                if disk.f_bavail * disk.f_frsize < self.min_free_bytes:
                    short[folder.stat().st_dev].append(name)
            except OSError:
                continue  # whoever uses it says what is wrong with it
        for names in short.values():
            yield NoRoom(
                f"fewer bytes than MIN_FREE_BYTES ({self.min_free_bytes}) are free on the disk of {', '.join(names)}",
                hint=f"make room there ({self.folders[names[0]]}): then files are taken in again by themselves",
            )
