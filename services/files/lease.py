"""Who has a file open for writing: the kernel tells, by a read lease, which it grants only while nobody has."""

import errno
import fcntl
from enum import Enum, auto
from signal import SIGURG

_SIGNAL = int(SIGURG)


class WriterState(Enum):
    """What a read lease says of a file's writers."""

    DONE = auto()
    WRITING = auto()
    UNKNOWN = auto()


def give_back(descriptor: int) -> None:
    """Let those write who want to."""
    fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)


def writer_state(descriptor: int) -> WriterState:
    """What a read lease says now; it is given back at once."""
    state = take(descriptor)
    if state is WriterState.DONE:
        give_back(descriptor)
    return state


def is_awaited(descriptor: int) -> bool:
    """Whether somebody waits to open the file for writing, of a file whose lease is held."""
    return fcntl.fcntl(descriptor, fcntl.F_GETLEASE) != fcntl.F_RDLCK


def take(descriptor: int) -> WriterState:
    """Take a read lease, where it is to be had, and what it says; it goes when the descriptor is closed.

    DONE: nobody writes, and who opens the file for writing meanwhile is kept waiting: be short.
    UNKNOWN: another user's file without CAP_LEASE, a file system or platform without leases.
    """
    try:
        # Who opens the file for writing while we hold the lease makes the kernel signal us. Its default
        # signal, SIGIO, would end the process; SIGURG is ignored unless somebody asks for it.
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, _SIGNAL)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError as error:
        return WriterState.WRITING if error.errno == errno.EAGAIN else WriterState.UNKNOWN
    except AttributeError:  # no such platform
        return WriterState.UNKNOWN
    return WriterState.DONE
