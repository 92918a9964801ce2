"""Processes for work that would keep this one from everything else: forked where nothing else is at work.

A process with threads is not safe to fork, as another thread may hold a lock for good. So a first one, the nursery, is
forked early, does nothing but fork others when it is asked to, and ends with this process, however that ends; each of
the others ends when its connection is closed.
"""

import contextlib
import gc
import os
import select
import signal
import socket
import threading
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from loguru import logger

from models.errors import StopDaemon
from services.runtime import garbage

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

Work = Callable[["Connection", Sequence[int]], None]
"""What a forked process does; it gets its end of the connection, and the descriptors that were sent with it."""

_NAME_BYTES = 1024
_DESCRIPTORS = 4
_FIRST_DESCRIPTOR, _LAST_DESCRIPTOR = 3, 2**31 - 1
_OUT_OF_MEMORY = 500
"""Of the thousandths by which the kernel chooses whom it ends when memory is short: sooner one of these."""


class Nursery:
    """Forks processes that do one piece of work each.

    prepare: called in the nursery before it forks, with the name of the work; what it takes long for is done once.
    """

    def __init__(self, prepare: Callable[[str], Work]) -> None:
        self._prepare = prepare
        self._starting = threading.Lock()
        self._requests: socket.socket | None = None

    def start(self) -> None:
        """Fork the nursery, where that has not been done; it is better done before there are threads."""
        with self._starting:
            if self._requests is not None:
                return
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            pid = os.fork()
            if pid == 0:
                _serve(theirs, self._prepare)
            theirs.close()
            self._requests = ours
            weakref.finalize(self, _end, ours, pid)

    def fork(self, name: str, descriptors: Sequence[int] = ()) -> "Connection":
        """A process that does the work of that name; to close the connection ends it.

        Raises StopDaemon when there is no nursery any more.
        """
        from multiprocessing.connection import Connection  # which takes a while, and few commands read long files

        self.start()
        assert self._requests is not None
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                socket.send_fds(self._requests, [name.encode()], [theirs.fileno(), *descriptors])
            except ConnectionError as error:
                ours.close()
                raise StopDaemon(
                    "the process that starts those which read long files has ended",
                    hint="start anew; what ended it may stand in the system's log",
                ) from error
        return Connection(ours.detach())


def hang_up(connection: "Connection") -> None:
    """Close a connection for both ends. Whoever waits at this one is told, and the descriptor is still its own."""
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(connection.fileno())) as ours:
        ours.shutdown(socket.SHUT_RDWR)


def _end(requests: socket.socket, pid: int) -> None:
    requests.close()
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, 0)


def _serve(requests: socket.socket, prepare: Callable[[str], Work]) -> NoReturn:
    """The nursery, until the process that started it closes its end or is gone."""
    try:
        logger.remove()
        _keep_only(requests.fileno())
        gc.freeze()  # what belongs to the other process is never taken apart here
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGINT, signal.SIGTERM):  # the terminal and systemd tell all processes
            signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel forgets who has ended
        while True:
            name, descriptors, _, _ = socket.recv_fds(requests, _NAME_BYTES, _DESCRIPTORS)
            if not name:
                break
            work = prepare(name.decode())
            with contextlib.suppress(OSError):  # too many processes: whoever asked sees its connection closed
                if os.fork() == 0:
                    requests.close()
                    _work(work, descriptors[0], descriptors[1:])
            for descriptor in descriptors:
                os.close(descriptor)
    finally:
        os._exit(0)


def _keep_only(descriptor: int) -> None:
    """Close what was open in the other process: no lock, no connection of it may outlive it here."""
    os.closerange(_FIRST_DESCRIPTOR, descriptor)
    os.closerange(descriptor + 1, _LAST_DESCRIPTOR)


def _work(work: Work, connection: int, descriptors: Sequence[int]) -> NoReturn:
    from multiprocessing.connection import Connection

    try:
        threading.Thread(target=_end_with, args=(connection,), daemon=True).start()
        with contextlib.suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text(str(_OUT_OF_MEMORY))
        gc.freeze()
        garbage.collect_seldom()
        work(Connection(connection), descriptors)
    finally:
        os._exit(0)


def _end_with(connection: int) -> NoReturn:
    """End this process when the other end is closed, whatever it is at."""
    waiting = select.poll()
    waiting.register(connection, 0)  # nothing but that it hangs up
    waiting.poll()
    os._exit(0)
