"""Moving files: never over another one, never one that was not read, durable where it is said."""

import contextlib
import ctypes
import errno
import filecmp
import itertools
import os
import shutil
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from models.errors import FileGone, RetryLater

UNROUTED = "_unrouted"
"""Stands for the flow's name in the folders of files that belong to no flow."""

MAX_NAME_BYTES = 255

STALE_SECONDS = 3600
"""A temporary file that nobody has written to for so long is nobody's."""

_ANOTHER = "another file has taken its place"

# Python has no rename that never replaces; Linux has had it since 2014.
_renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
_AT_FDCWD = -100
_RENAME_NOREPLACE = 1


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


@dataclass(frozen=True, slots=True)
class Cabinet:
    """The folders where files end up."""

    archive: Path
    rejected: Path

    def archive_of(self, flow: str | None) -> Path:
        return self.archive / (flow or UNROUTED)

    def archived(self, flow: str | None, day: datetime) -> Path:
        return self.archive_of(flow) / day.astimezone(UTC).date().isoformat()

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


def numbered(name: str, number: int | str) -> str:
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
        if identity is not None and Identity.of(os.lstat(source)) != identity:
            raise FileGone(_ANOTHER)
        try:
            target = rename(source, folder, name, number)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            return _copy(source, folder, name, number, identity)
        if identity is not None and Identity.of(os.lstat(target)) != identity:
            # It took the place between the look and the rename, and nobody has read it.
            rename(target, source.parent, source.name, number)
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
            folder.mkdir(parents=True, exist_ok=True)
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
    _rename_over_reserved(source, target, number)


def _rename_over_reserved(source: Path, target: Path, number: int) -> None:
    """The same on NFS and others that cannot do it at once: over a file of ours that keeps the name free."""
    ours = f"kept free for #{number}\n"
    try:
        with target.open("x") as file:
            file.write(ours)
    except FileExistsError:
        if not _says(target, ours):
            raise  # else a crash left it
    try:
        source.rename(target)
    except BaseException:
        target.unlink(missing_ok=True)
        raise


def _says(path: Path, text: str) -> bool:
    status = path.lstat()
    return stat.S_ISREG(status.st_mode) and status.st_size == len(text) and path.read_bytes() == text.encode()


def _copy(source: Path, folder: Path, name: str, number: int, identity: Identity | None) -> Path:
    """Move across file systems: copy, fsync, rename, fsync of the folder, unlink.

    A crash on the way leaves the source; the next try finds the whole copy, or makes it anew.
    """
    status = source.lstat()
    target = next((p for p in (folder / name, folder / numbered(name, number)) if _is_copy(p, source, status)), None)
    if target is None:
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / f".{number}.part"
        part.unlink(missing_ok=True)
        try:
            _duplicate(source, part, status)
            target = rename(part, folder, name, number)
        finally:
            part.unlink(missing_ok=True)
        sync_folder(folder)
    if Identity.of(source.lstat()) != (identity or Identity.of(status)):
        target.unlink()
        raise FileGone(_ANOTHER)
    source.unlink()
    return target


def _duplicate(source: Path, part: Path, status: os.stat_result) -> None:
    if stat.S_ISREG(status.st_mode) or stat.S_ISLNK(status.st_mode):
        shutil.copy2(source, part, follow_symlinks=False)
    else:
        os.mknod(part, status.st_mode, status.st_rdev)
    if stat.S_ISREG(status.st_mode):
        with part.open("rb") as file:
            os.fsync(file.fileno())


def _is_copy(target: Path, source: Path, status: os.stat_result) -> bool:
    """Whether `target` is the copy that a crash kept us from removing `source` after."""
    try:
        found = target.lstat()
    except FileNotFoundError:
        return False
    same = (found.st_mode, found.st_size, found.st_mtime_ns) == (status.st_mode, status.st_size, status.st_mtime_ns)
    return same and stat.S_ISREG(status.st_mode) and filecmp.cmp(source, target, shallow=False)


def sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def arrive(folder: Path, name: str, content: bytes, number: int) -> Path:
    """Put a file into `folder`, whole, durable and over no other; `number` makes its name its own.

    Raises RetryLater.
    """
    part = part_of(folder, name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_part(part, content)
        with part.open("rb") as file:
            os.fsync(file.fileno())
        target = rename(part, folder, name, number)
        sync_folder(folder)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink()
        raise RetryLater(
            f"{name} cannot be written to {folder}: {error.strerror or error}",
            hint="make room or mend the permissions there; it is fetched again",
        ) from error
    return target


def part_of(folder: Path, name: str) -> Path:
    """The temporary name of a file that arrives; of this process alone, as daemons may share the folder."""
    return folder / with_suffix(f".{name}", f".tidegate-{os.getpid()}.part")


def remove_stale_parts(folder: Path) -> None:
    """Remove what daemons left that a crash cut off; a younger one may be another's at work."""
    oldest = time.time() - STALE_SECONDS
    for part in folder.glob(".*.tidegate-*.part"):
        with contextlib.suppress(OSError):
            if part.lstat().st_mtime < oldest:
                part.unlink()


def write_part(part: Path, content: bytes) -> None:
    """Write a file under its temporary name; it is not durable yet. Raises OSError."""
    # O_NOFOLLOW: whoever may write to the folder must not make us write elsewhere.
    flags = os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(part, flags, 0o640), "wb") as file:
        file.write(content)
