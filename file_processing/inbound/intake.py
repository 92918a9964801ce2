"""Intake: dropped files in groups, each opened and hashed before a record of it is read."""

import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from file_processing.inbound import open_file
from file_processing.inbound.formats.base import Rejection
from file_processing.inbound.open_file import OpenFile
from file_processing.inbound.routing import DroppedFile, RoutedFile
from models.errors import FileGone, RejectFile, RetryLater, TidegateError
from services.files.directory import Entry, OpenFolders
from services.files.move import Identity, ReadState
from services.ledger.arrival import Arrival
from services.text import printable

GROUP_FILES = 512
GROUP_BYTES = 4 << 20
"""Small files share a transaction up to these limits."""

SMALL_BYTES = 1 << 20
SMALL_COMPRESSED_BYTES = 16 << 10
"""A file up to this size is read at once; a larger one streams, in a transaction of its own."""


class InboundFile(NamedTuple):
    """A dropped file, before its content is read.

    entry: its name in the open folder where it lies. state: what will be moved, if it is still the same then.
    sha256: of its bytes as they lie there; none of what cannot be opened, such as a pipe.
    source: its content, where it is to be read. is_long: too large to be read at once.
    stays: it is left where it lies when all is done.
    rejection: why it is rejected, whatever it holds.
    """

    dropped: DroppedFile
    entry: Entry
    state: ReadState
    stays: bool
    sha256: bytes | None = None
    source: OpenFile | None = None
    is_long: bool = False
    rejection: Rejection | None = None

    @property
    def name(self) -> str:
        """As the sender called it, printable."""
        return printable(self.entry.name)

    @property
    def arrival(self) -> Arrival:
        return Arrival(self.dropped.arrival, self.name, self.sha256 or b"")

    @property
    def bytes_read(self) -> int:
        """How much of it has been read, of its bytes as they lie there."""
        return self.source.bytes_read if self.source is not None else 0

    @property
    def place(self) -> str:
        """Where it lies, printable."""
        return printable(self.dropped.place)


@dataclass(frozen=True, slots=True)
class Wait:
    """Why a file is left where it is for now. seconds: until it is tried again; by default as long as any waits."""

    reason: str
    hint: str = ""
    seconds: float | None = None

    @classmethod
    def of(cls, error: TidegateError) -> "Wait":
        seconds = error.after_seconds if isinstance(error, RetryLater) else 0.0
        return cls(error.reason, error.hint, seconds or None)

    def __str__(self) -> str:
        return f"{self.reason} ({self.hint})" if self.hint else self.reason


class LeftFile(NamedTuple):
    """A file with which nothing is done now; without `wait` it is gone, or no longer the one that was seen."""

    dropped: DroppedFile
    wait: Wait | None = None

    @classmethod
    def because(cls, dropped: DroppedFile, error: FileGone | RetryLater) -> "LeftFile":
        return cls(dropped, None if isinstance(error, FileGone) else Wait.of(error))


@dataclass(frozen=True, slots=True)
class Intake:
    """A group of files, opened as long as this is in use; and those of it that are left."""

    files: tuple[InboundFile, ...]
    left: tuple[LeftFile, ...]


@contextmanager
def taken_in(group: Sequence[RoutedFile], *, root: Path | None, max_bytes: int) -> Iterator[Intake]:
    """Open and hash the files of a group.

    root: the resolved input folder; `None` for files anywhere, which stay where they are.
    """
    files: list[InboundFile] = []
    left: list[LeftFile] = []
    below, alone = None if root is None else str(root), len(group) == 1
    with OpenFolders() as folders:
        for routed in group:
            try:
                files.append(_take_in(routed, folders, alone=alone, root=below, max_bytes=max_bytes))
            except (FileGone, RetryLater) as error:
                left.append(LeftFile.because(routed.dropped, error))
        yield Intake(tuple(files), tuple(left))


def _take_in(routed: RoutedFile, folders: OpenFolders, *, alone: bool, root: str | None, max_bytes: int) -> InboundFile:
    """Raises FileGone or RetryLater."""
    dropped, stays = routed.dropped, root is None
    entry = open_file.entry_of(folders, dropped.place, root)
    try:
        source = open_file.opened(entry, max_bytes=max_bytes, seen=(dropped.size, dropped.mtime_ns))
    except RejectFile as error:
        return _unread(dropped, entry, Rejection.of(error), stays=stays)
    if source.is_open:
        folders.enter_context(source)
    sha256 = source.sha256()
    state = source.read_state(sha256)
    if routed.rejection is not None:
        return InboundFile(dropped, entry, state, stays, sha256, rejection=routed.rejection)
    long = _is_long(entry.name, source.identity.bytes)
    if long and not alone:
        raise RetryLater("the file grew since it was seen", hint="it is read when it is at rest")
    return InboundFile(dropped, entry, state, stays, sha256, source, long)


def _unread(dropped: DroppedFile, entry: Entry, rejection: Rejection, *, stays: bool) -> InboundFile:
    """What cannot even be opened: a link, a pipe, a file too large."""
    try:
        state = ReadState(Identity.of(status := entry.status()), is_regular=stat.S_ISREG(status.st_mode))
        return InboundFile(dropped, entry, state, stays, rejection=rejection)
    except OSError as error:
        raise FileGone("the file is no longer there") from error


def is_long(dropped: DroppedFile) -> bool:
    """Whether a file is too large to be read at once, as far as is known before it is opened."""
    return _is_long(dropped.place, dropped.size)


def _is_long(name: str, size: int) -> bool:
    return size > SMALL_COMPRESSED_BYTES and (size > SMALL_BYTES or open_file.is_compressed(name))


def groups(files: Sequence[RoutedFile]) -> Iterator[list[RoutedFile]]:
    """Small files together, a large one alone, all in their order."""
    group: list[RoutedFile] = []
    total = 0
    for routed in files:
        size = routed.dropped.size
        alone = is_long(routed.dropped)
        if group and (alone or len(group) == GROUP_FILES or total + size > GROUP_BYTES):
            yield group
            group, total = [], 0
        group.append(routed)
        total += size
        if alone:
            yield group
            group, total = [], 0
    if group:
        yield group
