"""When a file is complete: nobody writes it any more, or it has rested long enough."""

import os
import stat
from enum import StrEnum
from typing import NamedTuple

from services.files.directory import Entry
from services.files.lease import WriterState, writer_state


class FileKind(StrEnum):
    """What lies under a name; only a `FILE` can be loaded, the rest is for quarantine."""

    FILE = "file"
    SYMLINK = "symlink"
    FIFO = "fifo"
    SOCKET = "socket"
    DEVICE = "device"


class Look(NamedTuple):
    """A file as one look at it found it."""

    kind: FileKind
    size: int
    mtime_ns: int
    ctime_ns: int
    writer: WriterState


_KINDS = {
    stat.S_IFREG: FileKind.FILE,
    stat.S_IFLNK: FileKind.SYMLINK,
    stat.S_IFIFO: FileKind.FIFO,
    stat.S_IFSOCK: FileKind.SOCKET,
    stat.S_IFCHR: FileKind.DEVICE,
    stat.S_IFBLK: FileKind.DEVICE,
}


def look(entry: Entry, *, lease: bool = True) -> Look | None:
    """Look at what has this name, never through a symlink; None when it is gone, unreachable or a folder.

    Without `lease` the writer stays unknown: a network share's lease knows only this machine's writers.
    """
    try:
        found = entry.status()
    except OSError:
        return None
    kind = _KINDS.get(stat.S_IFMT(found.st_mode))
    if kind is None:
        return None
    writer = _writer_state(entry) if lease and kind is FileKind.FILE else WriterState.UNKNOWN
    return Look(kind, found.st_size, found.st_mtime_ns, found.st_ctime_ns, writer)


def _writer_state(entry: Entry) -> WriterState:
    try:
        descriptor = entry.open_to_read()
    except OSError:
        return WriterState.UNKNOWN  # no permission to read, for one
    try:
        return writer_state(descriptor)
    finally:
        os.close(descriptor)


def reason_to_wait(seen: Look, *, rested_seconds: float, settle_seconds: float) -> str | None:
    """Why this file is not complete yet, or None when it is.

    An empty file must rest, as some tools create first and write later; so must what is no file, and what has
    writers that the kernel does not tell of.
    """
    if seen.writer is WriterState.WRITING:
        return "still being written"
    whole = seen.kind is FileKind.FILE and seen.size > 0 and seen.writer is WriterState.DONE
    if whole or rested_seconds >= settle_seconds:
        return None
    return "empty" if seen.kind is FileKind.FILE and seen.size == 0 else "settling"
