"""When a file is complete: nobody writes it any more, or it has rested long enough."""

import errno
import fcntl
import os
import signal
import stat
from dataclasses import dataclass
from enum import Enum, StrEnum, auto


class FileKind(StrEnum):
    """What lies under a name; only a `FILE` can be loaded, the rest is for quarantine."""

    FILE = "file"
    SYMLINK = "symlink"
    FIFO = "fifo"
    SOCKET = "socket"
    DEVICE = "device"


class WriterState(Enum):
    """What a read lease says of a file's writers."""

    DONE = auto()
    WRITING = auto()
    UNKNOWN = auto()


@dataclass(frozen=True, slots=True)
class Look:
    """A file as one look at it found it."""

    kind: FileKind
    size: int
    mtime_ns: int
    writer: WriterState


_KINDS = {
    stat.S_IFREG: FileKind.FILE,
    stat.S_IFLNK: FileKind.SYMLINK,
    stat.S_IFIFO: FileKind.FIFO,
    stat.S_IFSOCK: FileKind.SOCKET,
    stat.S_IFCHR: FileKind.DEVICE,
    stat.S_IFBLK: FileKind.DEVICE,
}


def look(path: str, *, lease: bool = True) -> Look | None:
    """Look at `path` itself, never through a symlink; None when it is gone, unreachable or a folder.

    Without `lease` the writer stays unknown: a network share's lease knows only this machine's writers.
    """
    try:
        found = os.lstat(path)
    except OSError:
        return None
    kind = _KINDS.get(stat.S_IFMT(found.st_mode))
    if kind is None:
        return None
    writer = writer_state(path) if lease and kind is FileKind.FILE else WriterState.UNKNOWN
    return Look(kind, found.st_size, found.st_mtime_ns, writer)


def writer_state(path: str) -> WriterState:
    """Ask the kernel for a read lease, which it refuses while any process has the file open for writing.

    UNKNOWN where leases are not to be had: another user's file without CAP_LEASE, no permission to read,
    a file system or platform without them.
    """
    if not hasattr(fcntl, "F_SETLEASE"):
        return WriterState.UNKNOWN
    try:
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return WriterState.UNKNOWN
    try:
        # Who opens the file for writing while we hold the lease makes the kernel signal us. Its default
        # signal, SIGIO, would end the process; SIGURG is ignored unless somebody asks for it.
        fcntl.fcntl(file, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError as error:
        return WriterState.WRITING if error.errno == errno.EAGAIN else WriterState.UNKNOWN
    finally:
        # Closing gives the lease back.
        os.close(file)
    return WriterState.DONE


def reason_to_wait(seen: Look, *, certain: bool, rested_seconds: float, settle_seconds: float) -> str | None:
    """Why this file is not complete yet, or None when it is.

    `certain`: an event said that it was closed or moved here. An empty file must rest all the same, as
    some tools create first and write later; so must what is no file, as nothing else tells.
    """
    if seen.writer is WriterState.WRITING:
        return "still being written"
    whole = seen.kind is FileKind.FILE and seen.size > 0 and (certain or seen.writer is WriterState.DONE)
    if whole or rested_seconds >= settle_seconds:
        return None
    return "empty" if seen.kind is FileKind.FILE and seen.size == 0 else "settling"
