"""Outbound files on disk: whole or not at all, under their names only when they are there for good."""

from collections.abc import Collection
from contextlib import suppress
from pathlib import PurePath

from models.errors import RetryLater
from services.files import durable
from services.files.directory import Entry, Folder, OpenFolders


class OutputFolder(OpenFolders):
    """A flow's output folder, open as long as this is in use.

    A file's name may lead into a folder below it, never out of it.
    """

    def __init__(self, folder: Folder) -> None:
        super().__init__()
        self._folder = folder

    def write(self, name: str, content: bytes, *, fsync: bool) -> Entry:
        """Write `content`, replacing an older state of it at once. Raises RetryLater when the folder cannot take it."""
        try:
            parent = self.open(self._parent(name), make=True)
            return durable.replace(parent, PurePath(name).name, content, fsync=fsync)
        except OSError as error:
            raise RetryLater(
                f"{name} cannot be written to {self._folder.path}: {error.strerror or error}",
                hint="make room or mend the permissions there; it is tried again",
            ) from error

    def remove_abandoned(self, names: Collection[str]) -> None:
        """Remove what a crash left of files that were being written to these names."""
        for parent in set(map(self._parent, names)):
            with suppress(FileNotFoundError):
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
