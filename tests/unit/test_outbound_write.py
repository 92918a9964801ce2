"""Outbound files on disk: synced before they have their names, many at once, and each by itself where one fails."""

import errno
import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from file_processing.outbound import write
from file_processing.outbound.write import Outcome, OutputFolder, Unwritable
from models.errors import RetryLater
from services.files import durable
from services.files.directory import Entry, Folder
from services.files.durable import Temporary
from services.ledger.outbound import SealedFile


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "output"
    made.mkdir()
    return made


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What happens to the disk: `write`, `start`, `sync`, and the name that a file gets."""
    done: list[str] = []

    def told(owner: type, name: str, step: Callable[..., str]) -> None:
        original = getattr(owner, name)

        def instead(*arguments: object) -> object:
            done.append(step(*arguments))
            return original(*arguments)

        monkeypatch.setattr(owner, name, instead)

    told(Temporary, "__enter__", lambda _: "write")
    told(Temporary, "start_sync", lambda _: "start")
    told(Temporary, "sync", lambda _: "sync")
    told(Entry, "rename", lambda _, target: target.name)
    return done


def sealed(*names: str) -> Iterator[SealedFile]:
    return (SealedFile(number, "", name, f"content of {name}".encode(), 1) for number, name in enumerate(names))


def written(folder: Path, *names: str, fsync: bool = True) -> list[Outcome]:
    with OutputFolder(Folder(folder)) as output:
        return [outcome for _, outcome in output.write(sealed(*names), fsync=fsync)]


def content(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def failing(monkeypatch: pytest.MonkeyPatch, owner: object, name: str, nth: int) -> None:
    """The disk is full at the nth call."""
    original, calls = getattr(owner, name), itertools.count(1)

    def instead(*arguments: object) -> object:
        if next(calls) == nth:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return original(*arguments)

    monkeypatch.setattr(owner, name, instead)


def test_all_are_on_their_way_to_the_disk_before_one_is_waited_for(folder: Path, steps: list[str]) -> None:
    written(folder, "a", "b")
    assert steps == ["write", "write", "start", "start", "sync", "a", "sync", "b"]


def test_so_many_at_once(folder: Path, steps: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write, "FILES_AT_ONCE", 2)
    assert len(written(folder, "a", "b", "c")) == 3
    assert steps == ["write", "write", "start", "start", "sync", "a", "sync", "b", "write", "start", "sync", "c"]


def test_a_file_that_need_not_be_synced_is_not(folder: Path, steps: list[str]) -> None:
    written(folder, "a", "b", fsync=False)
    assert steps == ["write", "write", "a", "b"]
    assert content(folder) == {"a": "content of a", "b": "content of b"}


def test_a_system_that_cannot_start_a_write_syncs_all_the_same(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(durable, "_sync_file_range", None)
    written(folder, "below/a")
    assert content(folder) == {"below/a": "content of below/a"}


def test_of_two_of_one_name_the_later_one_stays(folder: Path) -> None:
    with OutputFolder(Folder(folder)) as output:
        states = [SealedFile(number, "", "a", str(number).encode(), 1) for number in range(3)]
        assert [file for file, _ in output.write(states, fsync=True)] == states
    assert content(folder) == {"a": "2"}


def test_one_that_alone_cannot_be_written_holds_up_no_other(folder: Path) -> None:
    (folder / "b" / "inside").mkdir(parents=True)
    first, second, third = written(folder, "a", "b", "c")
    assert isinstance(first, Entry)
    assert isinstance(second, Unwritable)
    assert isinstance(third, Entry)
    assert content(folder) == {"a": "content of a", "c": "content of c"}


@pytest.mark.parametrize(("owner", "step"), [(durable, "_create_locked"), (Temporary, "sync")])
def test_a_disk_that_takes_none_keeps_what_came_before(
    folder: Path, monkeypatch: pytest.MonkeyPatch, owner: object, step: str
) -> None:
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    failing(monkeypatch, owner, step, 2)
    first, second = written(folder, "a", "b", "c")
    assert isinstance(first, Entry)
    assert isinstance(second, RetryLater)
    assert not isinstance(second, Unwritable)
    assert "No space left" in second.reason
    assert content(folder) == {"a": "content of a"}
    assert len(list(Path("/proc/self/fd").iterdir())) == descriptors
