"""Moving files: never over another one, never one that was not read."""

import errno
import filecmp
import os
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path

from models.errors import FileGone, RetryLater
from services.files import durable
from services.files.names import numbered

COPY_BYTES = 1 << 20

_ANOTHER = "another file has taken its place"


@dataclass(frozen=True, slots=True)
class Identity:
    """Which file, with which content, as far as the file system can tell."""

    device: int
    inode: int
    bytes: int
    mtime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> "Identity":
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def move(source: Path, folder: Path, name: str, number: int, identity: Identity | None) -> Path:
    """Move `source` into `folder` under `name`, or under `name` with `number` where that is taken.

    identity: what was read. A file that is another one by now stays in its place.

    Raises FileGone when it is no longer there (or no longer the one that was read) and
    RetryLater when the folder cannot take it.
    """
    try:
        if identity is not None and Identity.of(os.lstat(source)) != identity:
            raise FileGone(_ANOTHER)
        try:
            target = durable.rename(source, folder, name, number)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            return _copy(source, folder, name, number, identity)
        if identity is not None and Identity.of(os.lstat(target)) != identity:
            # It took the place between the look and the rename, and nobody has read it.
            durable.rename(target, source.parent, source.name, number)
            raise FileGone(_ANOTHER)
    except OSError as error:
        raise explained(error, source, folder) from None
    return target


def explained(error: OSError, source: Path, folder: Path) -> FileGone | RetryLater:
    if error.errno == errno.ENOENT and not os.path.lexists(source):
        return FileGone("the file is no longer there")
    return RetryLater(
        f"{source.name!r} cannot be moved to {folder}: {error.strerror or error}",
        hint="make room or mend the permissions there; it is tried again",
    )


def _copy(source: Path, folder: Path, name: str, number: int, identity: Identity | None) -> Path:
    """Move across file systems: copy, fsync, rename, fsync of the folder, unlink.

    A crash on the way leaves the source; the next try finds the whole copy, or makes it anew.
    """
    status = source.lstat()
    target = next((p for p in (folder / name, folder / numbered(name, number)) if _is_copy(p, source, status)), None)
    if target is None:
        copy = _copy_regular if stat.S_ISREG(status.st_mode) else _copy_special
        target = copy(source, status, folder, name, number)
        durable.sync_folder(folder)
    if Identity.of(source.lstat()) != (identity or Identity.of(status)):
        target.unlink()
        raise FileGone(_ANOTHER)
    source.unlink()
    return target


def _copy_regular(source: Path, status: os.stat_result, folder: Path, name: str, number: int) -> Path:
    descriptor = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with open(descriptor, "rb") as original, durable.Temporary(folder) as copy:
        shutil.copyfileobj(original, copy.file, COPY_BYTES)
        copy.sync()
        os.fchmod(copy.file.fileno(), stat.S_IMODE(status.st_mode))
        os.utime(copy.file.fileno(), ns=(status.st_atime_ns, status.st_mtime_ns))
        return copy.place(name, number)


def _copy_special(source: Path, status: os.stat_result, folder: Path, name: str, number: int) -> Path:
    """A link, pipe or device: rejected, and kept as what it is."""
    durable.make_folder(folder)
    copy = durable.temporary_path(folder)
    if stat.S_ISLNK(status.st_mode):
        copy.symlink_to(source.readlink())
    else:
        os.mknod(copy, status.st_mode, status.st_rdev)
    try:
        return durable.rename(copy, folder, name, number)
    finally:
        copy.unlink(missing_ok=True)


def _is_copy(target: Path, source: Path, status: os.stat_result) -> bool:
    """Whether `target` is the copy that a crash kept us from removing `source` after."""
    try:
        found = target.lstat()
    except FileNotFoundError:
        return False
    same = (found.st_mode, found.st_size, found.st_mtime_ns) == (status.st_mode, status.st_size, status.st_mtime_ns)
    return same and stat.S_ISREG(status.st_mode) and filecmp.cmp(source, target, shallow=False)
