"""The one way in which a file comes to be: under a temporary name, on disk, then under its own.

A reader of the folder sees a file whole or not at all, and a power cut leaves what was said to be there.
Everything here raises OSError.
"""

import contextlib
import ctypes
import errno
import fcntl
import itertools
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from services.files.names import numbered

MODE = 0o640

_PREFIX, _SUFFIX = ".tidegate-", ".part"

# Python has no rename that never replaces; Linux has had it since 2014.
_renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
_AT_FDCWD = -100
_RENAME_NOREPLACE = 1

NO_LINKS = {errno.EXDEV, errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.ENOSYS}
"""Why a file system makes no hard link of just this file."""


class Temporary:
    """A new file in `folder` under a name that nobody can guess; left without a name of its own it is removed.

    The folder is made where it is missing. The file is locked while its maker lives, see `remove_abandoned`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = temporary_path(folder)
        try:
            descriptor = _create_locked(self.path)
        except FileNotFoundError:
            make_folder(folder)
            descriptor = _create_locked(self.path)
        # Buffered: a raw write may end early on a full disk, and not say so.
        self.file: BinaryIO = open(descriptor, "wb")  # noqa: SIM115  # closed in __exit__

    def sync(self) -> None:
        """Have its content on disk."""
        self.file.flush()
        os.fsync(self.file.fileno())

    def place(self, name: str, number: int) -> Path:
        """Give it its name, or that with `number` where it is taken; `sync_folder` makes the name durable."""
        self.file.flush()
        return rename(self.path, self.folder, name, number)

    def replace(self, name: str) -> Path:
        """Give it its name at once, over whatever lies there."""
        self.file.flush()
        return self.path.rename(self.folder / name)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.path.unlink(missing_ok=True)
        finally:
            if kind is None:
                self.file.close()
            else:
                with contextlib.suppress(OSError):  # a full disk is told already
                    self.file.close()


def temporary_path(folder: Path) -> Path:
    """A name that nobody can guess, and that no reader takes for a finished file."""
    return folder / f"{_PREFIX}{secrets.token_hex(8)}{_SUFFIX}"


def create(path: Path) -> int:
    """A new file under just this name, open for writing; the descriptor."""
    # O_EXCL and O_NOFOLLOW: whoever may write to the folder must not make us write elsewhere.
    return os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, MODE)


def _create_locked(path: Path) -> int:
    while True:
        descriptor = create(path)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink:
            return descriptor
        os.close(descriptor)  # somebody took it for abandoned before it was locked


def place(folder: Path, name: str, content: bytes, number: int) -> Path:
    """Put a file into the folder for good, over no other; `number` makes its name its own."""
    with Temporary(folder) as file:
        file.file.write(content)
        file.sync()
        path = file.place(name, number)
    sync_folder(folder)
    return path


def replace(folder: Path, name: str, content: bytes, *, fsync: bool) -> Path:
    """Put a file into the folder, over an older state of it; `sync_folder` makes the name durable."""
    with Temporary(folder) as file:
        file.file.write(content)
        if fsync:
            file.sync()
        return file.replace(name)


def rename(source: Path, folder: Path, name: str, number: int) -> Path:
    """Rename within a file system, never over another file; the new path. Raises OSError."""
    for candidate in _candidates(name, number):
        target = folder / candidate
        try:
            _rename_exclusively(source, target, number)
        except FileExistsError:
            continue
        except FileNotFoundError:
            if folder.is_dir():
                raise
            make_folder(folder)
            return rename(source, folder, name, number)
        return target
    raise AssertionError


def _candidates(name: str, number: int) -> Iterator[str]:
    yield name
    yield numbered(name, number)
    # A sender may well have called a file just so.
    for further in itertools.count(2):
        yield numbered(name, f"{number}-{further}")


def _rename_exclusively(source: Path, target: Path, number: int) -> None:
    """Raises FileExistsError, or another OSError."""
    if _renameat2 is not None:
        if _renameat2(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), _RENAME_NOREPLACE) == 0:
            return
        code = ctypes.get_errno()
        if code not in (errno.EINVAL, errno.ENOSYS):
            raise OSError(code, os.strerror(code), str(source), None, str(target))
    _rename_otherwise(source, target, f"kept free for #{number}\n")


def _rename_otherwise(source: Path, target: Path, reservation: str) -> None:
    """The same on NFS and others that cannot do it at once: a second name, and the first is removed.

    Where there are no links either, over a file of ours that keeps the name free. A crash leaves both names, or
    the file of ours, which the next try finds.
    """
    status = source.lstat()
    try:
        os.link(source, target, follow_symlinks=False)
    except FileExistsError:
        if not os.path.samestat(status, target.lstat()) and not _says(target, reservation):
            raise
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        _reserve(target, reservation)
    if os.path.samestat(status, target.lstat()):
        source.unlink()
        return
    try:
        source.rename(target)
    except BaseException:
        target.unlink(missing_ok=True)
        raise


def _reserve(target: Path, reservation: str) -> None:
    try:
        with target.open("x") as file:
            file.write(reservation)
    except FileExistsError:
        if not _says(target, reservation):
            raise  # else a crash left it


def _says(path: Path, text: str) -> bool:
    status = path.lstat()
    return stat.S_ISREG(status.st_mode) and status.st_size == len(text) and path.read_bytes() == text.encode()


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, for good."""
    if not folder.exists():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Have the names in a folder on disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_abandoned(folder: Path) -> None:
    """Remove the temporary files that no process holds any longer: their makers have died."""
    for path in folder.glob(f"{_PREFIX}*{_SUFFIX}"):
        with contextlib.suppress(OSError):
            descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
            finally:
                os.close(descriptor)
