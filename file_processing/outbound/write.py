"""Outbound files on disk: whole or not at all, under their names only when they are there for good."""

import errno
import hashlib
import os
import stat
from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import PurePath

from models.errors import RetryLater
from services.files import durable
from services.files.directory import Entry, Folder, OpenFolders

_OF_ONE_NAME = {
    errno.EACCES,
    errno.EEXIST,
    errno.EINVAL,
    errno.EISDIR,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.ENOTDIR,
    errno.ENOTEMPTY,
    errno.EPERM,
}
"""What may be wrong with a single name: something lies there, it is too long, its own folder is closed to us."""


class Unwritable(RetryLater):
    """Just this file cannot be written: others can."""


class OutputFolder(OpenFolders):
    """A flow's output folder, open as long as this is in use.

    A file's name may lead into a folder below it, never out of it.
    """

    def __init__(self, folder: Folder) -> None:
        super().__init__()
        self._folder = folder

    def write(self, name: str, content: bytes, *, fsync: bool) -> Entry:
        """Write `content`, replacing an older state of it at once.

        Raises Unwritable when it alone cannot be written, RetryLater when the folder cannot take any file.
        """
        try:
            parent = self.open(self._parent(name), make=True)
            return durable.replace(parent, PurePath(name).name, content, fsync=fsync)
        except OSError as error:
            takes_others = os.access(self._folder.path, os.W_OK | os.X_OK)
            kind = Unwritable if error.errno in _OF_ONE_NAME and takes_others else RetryLater
            raise kind(
                f"{name} cannot be written to {self._folder.path}: {error.strerror or error}",
                hint="make room or mend the permissions there; it is tried again",
            ) from error

    def states(self, names: Iterable[str]) -> dict[str, bytes]:
        """The SHA-256 of what lies under these names; it is empty where that cannot be read, or is no file."""
        return {name: found for name in names if (found := self._state(name)) is not None}

    def _state(self, name: str) -> bytes | None:
        try:
            entry = self.open(self._parent(name)).entry(PurePath(name).name)
            mode = entry.status().st_mode
            if stat.S_ISDIR(mode):
                return None  # to give a file this name will tell
            if not stat.S_ISREG(mode):
                return b""
            with open(entry.open_to_read(), "rb") as file:
                return hashlib.file_digest(file, "sha256").digest()
        except OSError as error:
            return b"" if error.errno in (errno.EACCES, errno.EPERM) else None

    def remove_abandoned(self, names: Collection[str]) -> None:
        """Remove what a crash left of files that were being written, in the folders that these names lead to."""
        for parent in set(map(self._parent, names)):
            with suppress(OSError):  # writing there will tell
                durable.remove_abandoned(self.open(parent))

    def sync(self, names: Collection[str]) -> None:
        """Make the names of files durable: one fsync for each folder they lie in. Raises RetryLater."""
        try:
            for parent in set(map(self._parent, names)):
                self.open(parent).sync()
        except OSError as error:
            raise RetryLater(f"{self._folder.path} cannot be synced: {error.strerror or error}") from error

    def _parent(self, name: str) -> Folder:
        return self._folder / PurePath(name).parent
