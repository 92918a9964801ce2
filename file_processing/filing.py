"""Moving a file out of the input folder: never over another one, never one that was not read."""

import errno
import os
import shutil
import stat
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from file_processing.opening import Identity
from models.errors import FileGone, RetryLater

UNROUTED = "_unrouted"
"""Stands for the flow's name in the folders of files that belong to no flow."""

MAX_NAME_BYTES = 255


@dataclass(frozen=True, slots=True)
class Cabinet:
    """The folders where files end up."""

    archive: Path
    rejected: Path

    def archived(self, flow: str | None, day: datetime) -> Path:
        return self.archive / (flow or UNROUTED) / day.astimezone(UTC).date().isoformat()

    def refused(self, flow: str | None) -> Path:
        return self.rejected / (flow or UNROUTED)


def with_suffix(name: str, suffix: str) -> str:
    """`name` with something put behind it, shortened where the file system needs it."""
    spare = MAX_NAME_BYTES - len(os.fsencode(suffix))
    data = os.fsencode(name)
    if len(data) > spare:
        # A character cut in two would make the name undecodable: leave its first half out.
        name = data[:spare].decode("utf-8", "ignore")
    return name + suffix


def numbered(name: str, number: int) -> str:
    """`name` made its owner's alone: `report.json` → `report.7.json`."""
    stem, dot, suffix = name.partition(".")
    if not stem or len(os.fsencode(suffix)) > MAX_NAME_BYTES // 2:
        return with_suffix(name, f".{number}")
    return with_suffix(stem, f".{number}{dot}{suffix}")


def move(source: Path, folder: Path, name: str, number: int, identity: Identity | None) -> Path:
    """Move `source` into `folder` under `name`, or under `name` with `number` where that is taken.

    identity: what was read. A file that is another one by now stays in its place.

    Raises FileGone when it is no longer there (or no longer the one that was read) and
    RetryLater when the folder cannot take it.
    """
    try:
        _check_identity(source, identity)
        target = reserve(folder, name, number)
        try:
            _rename(source, target, number)
        except BaseException:
            target.unlink(missing_ok=True)
            raise
        _put_back_if_changed(source, target, identity)
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


def _check_identity(source: Path, identity: Identity | None) -> None:
    if identity is not None and Identity.of(source.lstat()) != identity:
        raise FileGone("another file has taken its place")


def reserve(folder: Path, name: str, number: int) -> Path:
    """An empty file of ours under a name that nobody else has: it may be renamed over."""
    target = folder / name
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
    try:
        os.close(os.open(target, flags, 0o640))
    except FileExistsError:
        # The ledger gave this number to one file only: what bears it is a left-over of ours.
        target = folder / numbered(name, number)
    except FileNotFoundError:
        folder.mkdir(parents=True, exist_ok=True)
        os.close(os.open(target, flags, 0o640))
    return target


def _rename(source: Path, target: Path, number: int) -> None:
    try:
        source.rename(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        _copy(source, target, number)


def _copy(source: Path, target: Path, number: int) -> None:
    """Move across file systems: copy, fsync, rename, fsync of the folder, unlink."""
    mode = source.lstat().st_mode
    if stat.S_ISLNK(mode):
        target.unlink(missing_ok=True)
        target.symlink_to(source.readlink())
    elif stat.S_ISREG(mode):
        part = target.parent / f".{number}.part"
        try:
            shutil.copy2(source, part, follow_symlinks=False)
            with part.open("rb") as file:
                os.fsync(file.fileno())
            part.rename(target)
        finally:
            part.unlink(missing_ok=True)
    else:
        raise OSError(errno.EXDEV, "a pipe, socket or device cannot move to another file system")
    sync_folder(target.parent)
    source.unlink()


def sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _put_back_if_changed(source: Path, target: Path, identity: Identity | None) -> None:
    """Between the check and the rename another file may have taken the place: it was not read."""
    if identity is None:
        return
    moved = Identity.of(target.lstat())
    same = moved == identity
    if moved.device != identity.device:  # copied: a new inode
        same = (moved.bytes, moved.mtime_ns) == (identity.bytes, identity.mtime_ns)
    if not same:
        if not os.path.lexists(source):
            target.rename(source)
        raise FileGone("another file has taken its place")
