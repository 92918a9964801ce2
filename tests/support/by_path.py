"""The same as the product does in open folders, for tests that go by paths."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from services.files import durable, move as moving
from services.files.directory import Directory, Entry, Folder
from services.files.move import Identity, ReadState
from services.observer.completeness import Look, look as look_at


@contextmanager
def folder_at(path: Path) -> Iterator[Directory]:
    """A folder, made where it is missing."""
    with Folder(path).open(make=True) as folder:
        yield folder


@contextmanager
def entry_at(path: Path) -> Iterator[Entry]:
    with Folder(path.parent).open() as folder:
        yield folder.entry(path.name)


def move(source: Path, folder: Path, name: str, number: int, identity: Identity | None) -> Path:
    with entry_at(source) as entry, folder_at(folder) as target:
        read = ReadState(identity, is_regular=source.is_file() and not source.is_symlink()) if identity else None
        return moving.move(entry, target, name, number, read).path


def place(folder: Path, name: str, content: bytes, number: int) -> Path:
    with folder_at(folder) as target:
        return durable.place(target, name, content, number).path


def replace(folder: Path, name: str, content: bytes, *, fsync: bool) -> Path:
    with folder_at(folder) as target:
        return durable.replace(target, name, content, fsync=fsync).path


def rename(source: Path, folder: Path, name: str, number: int) -> Path:
    with entry_at(source) as entry, folder_at(folder) as target:
        return durable.rename(entry, target, name, number).path


def look(path: Path, *, lease: bool = True) -> Look | None:
    with entry_at(path) as entry:
        return look_at(entry, lease=lease)
