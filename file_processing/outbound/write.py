"""Outbound files on disk: whole or not at all, under their names only when they are there for good."""

from pathlib import Path

from models.errors import RetryLater
from services.files import durable


def write(folder: Path, name: str, content: bytes, *, fsync: bool) -> Path:
    """Write `content` as `folder/name`, replacing an older state of it at once.

    name: may lead into a folder below, never out of `folder`.
    Raises RetryLater when the folder cannot take it.
    """
    target = folder / name
    try:
        return durable.replace(target.parent, target.name, content, fsync=fsync)
    except OSError as error:
        raise RetryLater(
            f"{name} cannot be written to {folder}: {error.strerror or error}",
            hint="make room or mend the permissions there; it is tried again",
        ) from error


def remove_abandoned(folder: Path, names: list[str]) -> None:
    """Remove what a crash left of files that were being written to these names."""
    for parent in {(folder / name).parent for name in names}:
        durable.remove_abandoned(parent)


def sync(folder: Path, names: list[str]) -> None:
    """Make the names of files durable: one fsync for each folder they lie in. Raises RetryLater."""
    try:
        for parent in {(folder / name).parent for name in names}:
            durable.sync_folder(parent)
    except OSError as error:
        raise RetryLater(f"{folder} cannot be synced: {error.strerror or error}") from error
