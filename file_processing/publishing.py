"""An outbound file on disk: whole or not at all, under its name only when it is there for good."""

import os
from pathlib import Path

from models.errors import RetryLater
from services import filing


def publish(folder: Path, name: str, content: bytes, *, fsync: bool) -> Path:
    """Write `content` as `folder/name`, replacing an older state of it at once.

    name: may lead into a folder below, never out of `folder`.
    Raises RetryLater when the folder cannot take it.
    """
    target = folder / name
    temporary = target.with_name(f".{target.name}.tmp")
    try:
        try:
            _write(temporary, content, fsync=fsync)
        except FileNotFoundError:
            _make(target.parent)
            _write(temporary, content, fsync=fsync)
        temporary.rename(target)
    except OSError as error:
        raise RetryLater(
            f"{name} cannot be written to {folder}: {error.strerror or error}",
            hint="make room or mend the permissions there; it is tried again",
        ) from error
    return target


def _write(path: Path, content: bytes, *, fsync: bool) -> None:
    # O_NOFOLLOW: whoever may write to the folder must not make us write elsewhere.
    flags = os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o640)
    with open(descriptor, "wb") as file:  # buffered: a raw write may end early on a full disk, and not say so
        file.write(content)
        file.flush()
        if fsync:
            os.fsync(descriptor)


def _make(folder: Path) -> None:
    """Make a folder and those above it durably."""
    if not folder.exists():
        _make(folder.parent)
        folder.mkdir(exist_ok=True)
        filing.sync_folder(folder.parent)


def settle(folder: Path, names: list[str]) -> None:
    """Make the names of files durable: one fsync for each folder they lie in. Raises RetryLater."""
    try:
        for parent in {(folder / name).parent for name in names}:
            filing.sync_folder(parent)
    except OSError as error:
        raise RetryLater(f"{folder} cannot be synced: {error.strerror or error}") from error
