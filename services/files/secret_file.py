"""A secret of our own in a file: made once, and readable by nobody else."""

import os
import secrets
import stat
from pathlib import Path

from models.errors import StopDaemon
from services.files.directory import Entry, Folder
from services.files.durable import Temporary

_SECRET_BYTES = 32
_LONGEST = 1024


def made_once(path: Path) -> str:
    """The secret in this file; where there is none, a new one is put there for good.

    Raises StopDaemon when it cannot be had, or others may have seen or written it.
    """
    try:
        with Folder(path.parent).open(make=True) as folder:
            entry = folder.entry(path.name)
            try:
                return _read(entry)
            except FileNotFoundError:
                _make(entry)
                return _read(entry)
    except OSError as error:
        raise StopDaemon(
            f"the secret in {path} cannot be had: {error.strerror}",
            hint="a file of the daemon's own user, no link, in a folder that it can write",
        ) from error


def _make(entry: Entry) -> None:
    """Never over a file that came meanwhile: whoever was first has made it."""
    with Temporary(entry.folder) as file:
        os.fchmod(file.file.fileno(), 0o600)
        file.file.write(f"{secrets.token_urlsafe(_SECRET_BYTES)}\n".encode())
        file.sync()
        placed = file.place(entry.name, 0)
    if placed != entry:
        placed.unlink()
    entry.folder.sync()


def _read(entry: Entry) -> str:
    with open(entry.open_to_read(), "rb") as file:
        status = os.fstat(file.fileno())
        text = file.read(_LONGEST).decode("ascii", "replace").strip() if stat.S_ISREG(status.st_mode) else ""
    if status.st_uid not in (os.geteuid(), 0) or status.st_mode & 0o077:
        raise StopDaemon(
            f"{entry.path} is not the daemon's alone: others may know what it holds",
            hint="remove it and start the daemon anew, which makes another one",
        )
    if len(text) < _SECRET_BYTES or not text.isprintable():
        raise StopDaemon(f"{entry.path} holds no secret", hint="remove it and start the daemon anew, which makes one")
    return text
