"""Outbound files on disk: whole or not at all, under their names only when they are there for good."""

import errno
import hashlib
import os
import stat
from collections.abc import Collection, Iterable, Iterator
from contextlib import ExitStack, suppress
from itertools import islice

from models.errors import RetryLater
from services.files import durable
from services.files.directory import Entry, Folder, OpenFolders
from services.files.durable import Temporary
from services.ledger.outbound import SealedFile

FILES_AT_ONCE = 128
"""So many files are written before the first of them is synced: one commit of the file system serves them all."""

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


Outcome = Entry | RetryLater
"""Where a file lies; or why it does not."""


class OutputFolder(OpenFolders):
    """A flow's output folder, open as long as this is in use.

    A file's name may lead into a folder below it, never out of it.
    """

    def __init__(self, folder: Folder) -> None:
        super().__init__()
        self._folder = folder
        self._parents_below: dict[str, Folder] = {}

    def write(self, files: Iterable[SealedFile], *, fsync: bool) -> Iterator[tuple[SealedFile, Outcome]]:
        """Write files, each replacing an older state of it at once, and tell what became of each, in order.

        It is Unwritable when it alone cannot be written, RetryLater when the folder takes none: those behind it
        are not tried.
        """
        waiting = iter(files)
        while group := list(islice(waiting, FILES_AT_ONCE)):
            for file, outcome in self._write(group, fsync=fsync):
                yield file, outcome
                if _takes_none(outcome):
                    return

    def _write(self, group: Iterable[SealedFile], *, fsync: bool) -> list[tuple[SealedFile, Outcome]]:
        begun: list[tuple[SealedFile, Temporary | RetryLater]] = []
        done: list[tuple[SealedFile, Outcome]] = []
        with ExitStack() as temporaries:
            for file in group:
                begun.append((file, self._begin(file, temporaries)))
                if _takes_none(begun[-1][1]):
                    break
            for _, temporary in begun if fsync else ():
                if isinstance(temporary, Temporary):
                    temporary.start_sync()
            for file, temporary in begun:
                done.append((file, self._finish(file, temporary, fsync=fsync)))
                if _takes_none(done[-1][1]):
                    break
        return done

    def _begin(self, file: SealedFile, temporaries: ExitStack) -> Temporary | RetryLater:
        """The file under a temporary name, for as long as `temporaries` is open."""
        try:
            with ExitStack() as opened:
                temporary = opened.enter_context(Temporary(self.open(self._parent(file.name), make=True)))
                temporary.file.write(file.content)
                temporary.file.flush()
                temporaries.push(opened.pop_all())
        except OSError as error:
            return self._fault(file, error)
        return temporary

    def _finish(self, file: SealedFile, begun: Temporary | RetryLater, *, fsync: bool) -> Outcome:
        if isinstance(begun, RetryLater):
            return begun
        try:
            if fsync:
                begun.sync()
            return begun.replace(_last(file.name))
        except OSError as error:
            return self._fault(file, error)

    def _fault(self, file: SealedFile, error: OSError) -> RetryLater:
        takes_others = os.access(self._folder.path, os.W_OK | os.X_OK)
        kind = Unwritable if error.errno in _OF_ONE_NAME and takes_others else RetryLater
        return kind(
            f"{file.name} cannot be written to {self._folder.path}: {error.strerror or error}",
            hint="make room or mend the permissions there; it is tried again",
        )

    def states(self, names: Iterable[str]) -> dict[str, bytes]:
        """The SHA-256 of what lies under these names; it is empty where that cannot be read, or is no file."""
        return {name: found for name in names if (found := self._state(name)) is not None}

    def _state(self, name: str) -> bytes | None:
        try:
            entry = self.open(self._parent(name)).entry(_last(name))
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
        below = name.rpartition("/")[0]
        parent = self._parents_below.get(below)
        if parent is None:
            parent = self._parents_below[below] = self._folder / below
        return parent


def _last(name: str) -> str:
    return name.rpartition("/")[2]


def _takes_none(outcome: object) -> bool:
    """Whether this tells that the folder takes no file at all."""
    return isinstance(outcome, RetryLater) and not isinstance(outcome, Unwritable)
