"""Moving files: never over another one, never one that was not read, never one that somebody still writes."""

import errno
import hashlib
import os
import shutil
import stat
from pathlib import Path
from typing import NamedTuple

from models.errors import FileGone, RetryLater
from services.files import durable, lease
from services.files.directory import Directory, Entry
from services.files.lease import WriterState
from services.files.names import numbered

COPY_BYTES = 1 << 20

_NOT_OPENED = {errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENXIO}
"""Why a file is not opened: it may not be read, or a link or a socket has taken its place."""

_ANOTHER = "another file has taken its place, or it is written to"


class Identity(NamedTuple):
    """Which file, in which state, as far as the file system can tell. Renaming changes `ctime_ns` as writing does."""

    device: int
    inode: int
    bytes: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> "Identity":
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)

    def is_of(self, status: os.stat_result) -> bool:
        """Whether this is still it."""
        return self.ctime_ns == status.st_ctime_ns and self.is_moved(status)

    def is_moved(self, status: os.stat_result) -> bool:
        """Whether this is still it, apart from its name."""
        return self[:4] == (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)

    @property
    def key(self) -> str:
        """As the ledger keeps it: the same after a rename, a `chmod` and a reboot, which may number devices anew."""
        return f"{self.inode}:{self.bytes}:{self.mtime_ns}"


class ReadState(NamedTuple):
    """A file as it was read. sha256: where its times alone cannot tell whether it was written to since.

    is_regular: whether it could be read at all; nothing else has writers that matter.
    """

    identity: Identity
    sha256: bytes | None = None
    is_regular: bool = True

    def fits(self, status: os.stat_result) -> bool:
        """Whether this may still be it; where there is a digest, it has the last word."""
        return self.identity.is_of(status) or (self.sha256 is not None and self.identity.is_moved(status))


def move(source: Entry, folder: Directory, name: str, number: int, read: ReadState | None) -> Entry:
    """Move `source` into `folder` under `name`, or under `name` with `number` where that is taken.

    A file with further links is copied, so that none of them leads to what is kept.

    read: what was read. A file that is another one by now, or that somebody writes to, stays in its place.

    Raises FileGone when it is no longer there (or no longer the one that was read) and
    RetryLater when the folder cannot take it.
    """
    try:
        descriptor = _opened(source, read)
        try:
            moved = _rename(source, folder, name, number, read, descriptor)
        finally:
            if descriptor is not None:
                os.close(descriptor)
        return moved or _copy(source, folder, name, number, read)
    except OSError as error:
        raise not_moved(error, source, folder.path) from None


def _rename(
    source: Entry, folder: Directory, name: str, number: int, read: ReadState | None, descriptor: int | None
) -> Entry | None:
    """None where it has to be copied: the folders lie on two file systems, or it has further links."""
    status, writer = _look(source, descriptor)
    if _is_linked(status):
        return None
    _check_at_rest(status, writer, read)
    try:
        target = durable.rename(source, folder, name, number)
    except OSError as error:
        if error.errno == errno.EXDEV:
            return None
        raise
    moved = target.status()
    if not _is_same(status, moved) or _is_linked(moved) or not _is_unwritten(descriptor, writer, read):
        # Another file, another link or a writer came between the look and the rename.
        durable.rename(target, source.folder, source.name, number)
        raise FileGone(_ANOTHER)
    return target


def _is_linked(status: os.stat_result) -> bool:
    return status.st_nlink > 1 and stat.S_ISREG(status.st_mode)


def _is_same(status: os.stat_result, moved: os.stat_result) -> bool:
    return Identity.of(status).is_moved(moved)


def _opened(source: Entry, read: ReadState | None) -> int | None:
    """A descriptor by which the kernel can be asked about its writers; None where it cannot, or need not.

    A lease on it goes with it: who would write to the file waits until it is closed.
    """
    if read is None or not read.is_regular:
        return None
    try:
        return source.open_to_read()
    except OSError as error:
        if error.errno not in _NOT_OPENED:
            raise
        return None


def _look(source: Entry, descriptor: int | None) -> tuple[os.stat_result, WriterState]:
    """Its status, and its writers; where there is a lease, from now on nobody changes it. Raises OSError."""
    if descriptor is None:
        return source.status(), WriterState.UNKNOWN
    writer = lease.take(descriptor)
    return os.fstat(descriptor), writer


def _check_at_rest(status: os.stat_result, writer: WriterState, read: ReadState | None) -> None:
    """Raises FileGone when it is not what was read, or somebody writes to it."""
    if writer is WriterState.WRITING or (read is not None and not read.fits(status)):
        raise FileGone(_ANOTHER)


def _is_unwritten(descriptor: int | None, writer: WriterState, read: ReadState | None) -> bool:
    """Whether nobody came to write to it who is kept waiting, or whom its times do not tell of."""
    if descriptor is None or read is None:
        return True
    if read.sha256 is not None and _digest(descriptor) != read.sha256:
        return False
    return writer is not WriterState.DONE or not lease.is_awaited(descriptor)


def _digest(descriptor: int) -> bytes:
    digest, at = hashlib.sha256(), 0
    while data := os.pread(descriptor, COPY_BYTES, at):
        digest.update(data)
        at += len(data)
    return digest.digest()


def not_moved(error: OSError, source: Entry, folder: Path) -> FileGone | RetryLater:
    """Why `source` cannot be moved to `folder`."""
    if error.errno == errno.ENOENT and not _is_there(source):
        return FileGone("the file is no longer there")
    return RetryLater(
        f"{source.name!r} cannot be moved to {folder}: {error.strerror or error}",
        hint="make room or mend the permissions there; it is tried again",
    )


def _is_there(entry: Entry) -> bool:
    try:
        entry.status()
    except OSError:
        return False
    return True


def _copy(source: Entry, folder: Directory, name: str, number: int, read: ReadState | None) -> Entry:
    """Move across file systems: copy, fsync, rename, fsync of the folder, unlink.

    A crash on the way leaves the source; the next try finds the whole copy, or makes it anew.
    """
    status = source.status()
    read = read or ReadState(Identity.of(status))
    copies = (folder.entry(each) for each in (name, numbered(name, number)))
    target = next((copy for copy in copies if _is_copy(copy, source, status)), None)
    if target is None:
        copy = _copy_regular if stat.S_ISREG(status.st_mode) else _copy_special
        target = copy(source, status, folder, name, number)
        folder.sync()
    try:
        descriptor = _opened(source, read)
        try:
            _, writer = _look(source, descriptor)
            _check_at_rest(source.status(), writer, read)
            if read.sha256 is not None and descriptor is not None and _digest(descriptor) != read.sha256:
                raise FileGone(_ANOTHER)
            source.unlink()
        finally:
            if descriptor is not None:
                os.close(descriptor)
    except (FileGone, OSError):
        target.unlink()  # or each try would leave one more
        raise
    return target


def _copy_regular(source: Entry, status: os.stat_result, folder: Directory, name: str, number: int) -> Entry:
    with open(source.open_to_read(), "rb") as original, durable.Temporary(folder) as copy:
        shutil.copyfileobj(original, copy.file, COPY_BYTES)
        copy.sync()
        os.fchmod(copy.file.fileno(), stat.S_IMODE(status.st_mode))
        os.utime(copy.file.fileno(), ns=(status.st_atime_ns, status.st_mtime_ns))
        return copy.place(name, number)


def _copy_special(source: Entry, status: os.stat_result, folder: Directory, name: str, number: int) -> Entry:
    """A link, pipe or device: rejected, and kept as what it is."""
    copy = folder.entry(durable.temporary_name())
    if stat.S_ISLNK(status.st_mode):
        os.symlink(os.readlink(source.name, dir_fd=source.folder.descriptor), copy.name, dir_fd=folder.descriptor)
    else:
        os.mknod(copy.name, status.st_mode, status.st_rdev, dir_fd=folder.descriptor)
    try:
        return durable.rename(copy, folder, name, number)
    finally:
        copy.unlink(missing_ok=True)


def _is_copy(target: Entry, source: Entry, status: os.stat_result) -> bool:
    """Whether `target` is the copy that a crash kept us from removing `source` after."""
    try:
        found = target.status()
    except FileNotFoundError:
        return False
    same = (found.st_mode, found.st_size, found.st_mtime_ns) == (status.st_mode, status.st_size, status.st_mtime_ns)
    return same and stat.S_ISREG(status.st_mode) and _same_bytes(target, source)


def _same_bytes(one: Entry, other: Entry) -> bool:
    digests = []
    for entry in (one, other):
        descriptor = entry.open_to_read()
        try:
            digests.append(_digest(descriptor))
        finally:
            os.close(descriptor)
    return digests[0] == digests[1]
