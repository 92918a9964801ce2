"""The one way in which a file comes to be: under a temporary name, on disk, then under its own.

A reader of the folder sees a file whole or not at all, and a power cut leaves what was said to be there.
Everything here raises OSError.
"""

import contextlib
import ctypes
import errno
import fcntl
import functools
import hashlib
import itertools
import os
import secrets
import socket
import stat
import time
from collections.abc import Iterator
from types import TracebackType
from typing import BinaryIO, Self

from services.files.directory import Directory, Entry
from services.files.names import numbered

MODE = 0o640

ABANDONED_SECONDS = 3600.0
"""So long nothing was done to a temporary file whose maker cannot be asked: it is dead."""

_PREFIX, _SUFFIX = ".tidegate-", ".part"

# Python has neither a rename that never replaces, which Linux has had since 2014, nor the call that starts a write.
_libc = ctypes.CDLL(None, use_errno=True)
_renameat2 = getattr(_libc, "renameat2", None)
_RENAME_NOREPLACE = 1
_sync_file_range = getattr(_libc, "sync_file_range", None)
_SYNC_FILE_RANGE_WRITE = 2
_WHOLE_FILE = ctypes.c_longlong(0), ctypes.c_longlong(0)

_NO_LINKS = {errno.EXDEV, errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.ENOSYS}
"""Why a file system makes no hard link of just this file."""

_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
"""How a file system says that it has none."""


class Temporary:
    """A new file in an open folder under a name that nobody can guess; left without a name of its own it is removed.

    The file is locked while its maker lives, see `remove_abandoned`.
    """

    def __init__(self, folder: Directory) -> None:
        self.entry = Entry(folder, temporary_name())
        # Buffered: a raw write may end early on a full disk, and not say so.
        self.file: BinaryIO = open(_create_locked(self.entry), "wb")  # noqa: SIM115  # closed in __exit__
        self._is_renamed = False

    def start_sync(self) -> None:
        """Have its content on its way to the disk; nothing is told of it until `sync`.

        Done for many files before the first of them is synced, it has one commit of the file system serve all.
        """
        self.file.flush()
        if _sync_file_range is not None:
            _sync_file_range(self.file.fileno(), *_WHOLE_FILE, _SYNC_FILE_RANGE_WRITE)

    def sync(self) -> None:
        """Have its content on disk."""
        self.file.flush()
        os.fsync(self.file.fileno())

    def place(self, name: str, number: int) -> Entry:
        """Give it its name, or that with `number` where it is taken; syncing the folder makes the name durable."""
        self.file.flush()
        return rename(self.entry, self.entry.folder, name, number)

    def replace(self, name: str) -> Entry:
        """Give it its name at once, over whatever lies there."""
        self.file.flush()
        target = self.entry.folder.entry(name)
        self.entry.rename(target)
        self._is_renamed = True
        return target

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if not self._is_renamed:
                self.entry.unlink(missing_ok=True)
        finally:
            if kind is None:
                self.file.close()
            else:
                with contextlib.suppress(OSError):  # a full disk is told already
                    self.file.close()


def temporary_name() -> str:
    """A name that nobody can guess, and that no reader takes for a finished file's; it tells this node."""
    return f"{_prefix(socket.gethostname())}{secrets.token_hex(8)}{_SUFFIX}"


@functools.lru_cache(1)
def _prefix(host: str) -> str:
    return f"{_PREFIX}{hashlib.sha256(host.encode()).hexdigest()[:8]}-"


def create(entry: Entry) -> int:
    """A new file under just this name, open for writing; the descriptor."""
    # O_EXCL, and no link followed: whoever may write to the folder must not make us write elsewhere.
    return entry.open(os.O_CREAT | os.O_EXCL | os.O_WRONLY, MODE)


def _create_locked(entry: Entry) -> int:
    while True:
        descriptor = create(entry)
        try:
            _lock(descriptor, fcntl.LOCK_EX)
            is_there = os.fstat(descriptor).st_nlink > 0
        except BaseException:
            os.close(descriptor)
            entry.unlink(missing_ok=True)
            raise
        if is_there:
            return descriptor
        os.close(descriptor)  # somebody took it for abandoned before it was locked


def _lock(descriptor: int, how: int) -> bool:
    """Whether it is locked now; false where the file system has no locks. Raises BlockingIOError."""
    try:
        fcntl.flock(descriptor, how)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return False
    return True


def place(folder: Directory, name: str, content: bytes, number: int) -> Entry:
    """Put a file into the folder for good, over no other; `number` makes its name its own."""
    with Temporary(folder) as file:
        file.file.write(content)
        file.sync()
        entry = file.place(name, number)
    folder.sync()
    return entry


def replace(folder: Directory, name: str, content: bytes, *, fsync: bool) -> Entry:
    """Put a file into the folder, over an older state of it; syncing the folder makes the name durable."""
    with Temporary(folder) as file:
        file.file.write(content)
        if fsync:
            file.sync()
        return file.replace(name)


def rename(source: Entry, folder: Directory, name: str, number: int) -> Entry:
    """Rename within a file system, never over another file; the new name."""
    target = folder.entry(name)
    others = _other_names(name, number)
    while True:
        try:
            _rename_exclusively(source, target, number)
        except FileExistsError:
            target = folder.entry(next(others))
        else:
            return target


def _other_names(name: str, number: int) -> Iterator[str]:
    yield numbered(name, number)
    # A sender may well have called a file just so.
    for further in itertools.count(2):
        yield numbered(name, f"{number}-{further}")


def _rename_exclusively(source: Entry, target: Entry, number: int) -> None:
    """Raises FileExistsError, or another OSError."""
    if _renameat2 is not None:
        old = os.fsencode(source.name)
        new = old if target.name == source.name else os.fsencode(target.name)
        if _renameat2(source.folder.descriptor, old, target.folder.descriptor, new, _RENAME_NOREPLACE) == 0:
            return
        code = ctypes.get_errno()
        if code not in (errno.EINVAL, errno.ENOSYS):
            raise OSError(code, os.strerror(code), str(source.path), None, str(target.path))
    _rename_otherwise(source, target, f"kept free for #{number}\n")


def _rename_otherwise(source: Entry, target: Entry, reservation: str) -> None:
    """The same on NFS and others that cannot do it at once: a second name, and the first is removed.

    Where there are no links either, over a file of ours that keeps the name free. A crash leaves both names, or
    the file of ours, which the next try finds.
    """
    status = source.status()
    try:
        _link(source, target)
    except FileExistsError:
        if not os.path.samestat(status, target.status()) and not _says(target, reservation):
            raise
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        _reserve(target, reservation)
    if os.path.samestat(status, target.status()):
        source.unlink()
        return
    try:
        source.rename(target)
    except BaseException:
        target.unlink(missing_ok=True)
        raise


def _link(source: Entry, target: Entry) -> None:
    here, there = source.folder.descriptor, target.folder.descriptor
    os.link(source.name, target.name, src_dir_fd=here, dst_dir_fd=there, follow_symlinks=False)


def _reserve(target: Entry, reservation: str) -> None:
    try:
        with open(create(target), "w") as file:
            file.write(reservation)
    except FileExistsError:
        if not _says(target, reservation):
            raise  # else a crash left it


def _says(entry: Entry, text: str) -> bool:
    status = entry.status()
    if not stat.S_ISREG(status.st_mode) or status.st_size != len(text):
        return False
    with open(entry.open_to_read(), "rb") as file:
        return file.read() == text.encode()


def remove_abandoned(folder: Directory) -> None:
    """Remove the temporary files whose makers have died.

    One of this node is locked while its maker lives. Whether one of another node is, a network folder may not
    tell: it has to be old, and so has every file where there are no locks.
    """
    ours = _prefix(socket.gethostname())
    for entry in folder.entries():
        if entry.name.startswith(_PREFIX) and entry.name.endswith(_SUFFIX):
            with contextlib.suppress(OSError):
                descriptor = entry.open(os.O_RDWR | os.O_NONBLOCK)
                try:
                    told = _lock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB) and entry.name.startswith(ours)
                    # Not by the time of its content: a copy has that of what it is a copy of.
                    if told or time.time() - os.fstat(descriptor).st_ctime > ABANDONED_SECONDS:
                        entry.unlink()
                finally:
                    os.close(descriptor)
