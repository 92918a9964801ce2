"""Moving a file out of the input folder: never over another one, never one that was not read."""

import errno
import hashlib
import os
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import pytest

from models.errors import FileGone, RetryLater
from services.files import durable, lease
from services.files.directory import Entry
from services.files.lease import WriterState
from services.files.move import Identity, ReadState, move as move_entry
from tests.support import fault_points
from tests.support.by_path import entry_at, folder_at, move
from tests.support.waiting import eventually


def identity(path: Path) -> Identity:
    return Identity.of(path.lstat())


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A dropped file."""
    path = tmp_path / "input" / "a.json"
    path.parent.mkdir()
    path.write_text("new")
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where it goes; it does not exist yet."""
    return tmp_path / "archive" / "flow" / "2026-01-31"


def content(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


@pytest.fixture(
    params=[
        lambda: None,
        fault_points.without_renameat2,
        fault_points.without_links,
        fault_points.two_file_systems,
    ],
    ids=["one file system", "without renameat2", "without links", "two file systems"],
)
def anywhere(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whatever the file systems are."""
    request.param()
    yield
    mock.patch.stopall()


@pytest.fixture
def two_file_systems() -> Iterator[None]:
    fault_points.two_file_systems()
    yield
    mock.patch.stopall()


@pytest.fixture
def without_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing keeps a writer waiting, and nothing tells of one."""
    monkeypatch.setattr(lease, "take", lambda _descriptor: WriterState.UNKNOWN)


@pytest.mark.usefixtures("anywhere")
def test_a_file_moves_into_a_folder_that_is_made(source: Path, folder: Path) -> None:
    os.utime(source, ns=(1, 1_234_567_890_123_456_789))
    source.chmod(0o604)
    assert move(source, folder, "a.json", 7, identity(source)) == folder / "a.json"
    assert content(folder) == {"a.json": "new"}
    assert (folder / "a.json").stat().st_mtime_ns == 1_234_567_890_123_456_789
    assert stat.S_IMODE((folder / "a.json").stat().st_mode) == 0o604
    assert not source.exists()


@pytest.mark.usefixtures("anywhere")
def test_a_name_that_is_taken_gets_the_number_and_one_more_if_need_be(source: Path, folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "a.json").write_text("old")
    (folder / "a.7.json").write_text("a sender called it so")
    assert move(source, folder, "a.json", 7, identity(source)) == folder / "a.7-2.json"
    assert content(folder) == {"a.json": "old", "a.7.json": "a sender called it so", "a.7-2.json": "new"}


@pytest.mark.usefixtures("anywhere")
@pytest.mark.parametrize("taken", ["a folder", "a link", "a dangling link", "a pipe"])
def test_whatever_has_the_name_keeps_it(source: Path, folder: Path, taken: str) -> None:
    folder.mkdir(parents=True)
    target = folder / "a.json"
    match taken:
        case "a folder":
            target.mkdir()
        case "a link":
            target.symlink_to(source)
        case "a dangling link":
            target.symlink_to("nowhere")
        case "a pipe":
            os.mkfifo(target)
    before = target.lstat()
    assert move(source, folder, "a.json", 7, identity(source)) == folder / "a.7.json"
    assert (target.lstat().st_ino, target.lstat().st_mode) == (before.st_ino, before.st_mode)


@pytest.mark.usefixtures("anywhere")
@pytest.mark.parametrize("kind", ["pipe", "socket", "link"])
def test_what_is_no_file_moves_as_it_is(tmp_path: Path, folder: Path, kind: str, source: Path) -> None:
    odd = source.parent / "odd"
    match kind:
        case "pipe":
            os.mkfifo(odd)
        case "socket":
            with socket.socket(socket.AF_UNIX) as server:
                server.bind(os.path.relpath(odd))
        case "link":
            odd.symlink_to(source)
    mode = odd.lstat().st_mode
    target = move(odd, folder, "odd", 7, identity(odd))
    assert (stat.S_IFMT(target.lstat().st_mode), os.path.lexists(odd)) == (stat.S_IFMT(mode), False)
    assert source.read_text() == "new"
    assert [path.name for path in folder.iterdir()] == ["odd"]


@pytest.mark.usefixtures("anywhere")
def test_a_file_that_is_gone_is_said_to_be(source: Path, folder: Path) -> None:
    was = identity(source)
    source.unlink()
    for known in (was, None):
        with pytest.raises(FileGone):
            move(source, folder, "a.json", 7, known)
    assert content(folder) == {}


@pytest.mark.usefixtures("anywhere")
@pytest.mark.parametrize("how", ["replaced", "appended", "touched"])
def test_a_file_that_is_another_by_now_stays(source: Path, folder: Path, how: str) -> None:
    read = identity(source)
    change(source, how)
    with pytest.raises(FileGone, match="another file"):
        move(source, folder, "a.json", 7, read)
    assert source.exists()
    assert content(folder) == {}


def change(source: Path, how: str) -> None:
    match how:
        case "replaced":
            (source.parent / "b").write_text("NEW")
            (source.parent / "b").rename(source)
        case "appended":
            with source.open("a") as file:
                file.write("more")
        case "touched":
            os.utime(source, (1, 1))


@pytest.mark.usefixtures("anywhere", "without_leases")
@pytest.mark.parametrize("how", ["replaced", "appended"])
def test_a_file_that_becomes_another_while_it_moves_goes_back(source: Path, folder: Path, how: str) -> None:
    """Between the look and the rename, or between the copy and the removal of the original."""
    read = identity(source)
    with at_the_last_moment(lambda: change(source, how)), pytest.raises(FileGone, match="another file"):
        move(source, folder, "a.json", 7, read)
    assert content(source.parent) == {"a.json": {"replaced": "NEW", "appended": "newmore"}[how]}
    assert content(folder) == {}


def test_a_third_file_does_not_lose_its_place_to_one_that_goes_back(source: Path, folder: Path) -> None:
    read = identity(source)
    original = durable._rename_exclusively

    def rename_and_drop(entry: Entry, target: Entry, number: int) -> None:
        change(source, "replaced") if entry.path == source else None
        original(entry, target, number)
        if entry.path == source:
            source.write_text("third")

    with mock.patch.object(durable, "_rename_exclusively", rename_and_drop), pytest.raises(FileGone):
        move(source, folder, "a.json", 7, read)
    assert content(source.parent) == {"a.json": "third", "a.7.json": "NEW"}


@pytest.mark.usefixtures("two_file_systems", "without_leases")
@pytest.mark.parametrize("how", ["replaced", "appended"])
def test_a_file_that_becomes_another_while_it_is_copied_stays(source: Path, folder: Path, how: str) -> None:
    read = identity(source)
    with at_the_last_moment(lambda: change(source, how), of=".part"), pytest.raises(FileGone, match="another file"):
        move(source, folder, "a.json", 7, read)
    assert content(source.parent) == {"a.json": {"replaced": "NEW", "appended": "newmore"}[how]}
    assert content(folder) == {}


def at_the_last_moment(happens: Callable[[], None], of: str = "") -> "mock._patch[object]":
    """Right before a file is renamed whose name ends so."""
    original, left = durable._rename_exclusively, [happens]

    def instead(source: Entry, target: Entry, number: int) -> None:
        if source.name.endswith(of) and left:
            left.pop()()
        original(source, target, number)

    return mock.patch.object(durable, "_rename_exclusively", instead)


@pytest.mark.usefixtures("anywhere")
def test_a_folder_that_cannot_take_it_leaves_it_where_it_is(source: Path, tmp_path: Path) -> None:
    gone = tmp_path / "archive"
    with folder_at(gone) as folder, entry_at(source) as entry:
        gone.rmdir()
        with pytest.raises(RetryLater, match="cannot be moved"):
            move_entry(entry, folder, "a.json", 7, ReadState(identity(source)))
    assert source.read_text() == "new"


@pytest.mark.usefixtures("two_file_systems")
def test_a_full_disk_leaves_it_where_it_is_and_no_part_of_it_behind(source: Path, folder: Path) -> None:
    folder.mkdir(parents=True)
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with mock.patch.object(os, "fsync", side_effect=full), pytest.raises(RetryLater, match="No space left"):
        move(source, folder, "a.json", 7, identity(source))
    assert (content(folder), content(source.parent)) == ({}, {"a.json": "new"})
    assert move(source, folder, "a.json", 7, identity(source)) == folder / "a.json"


@pytest.mark.usefixtures("two_file_systems")
def test_a_copy_that_a_crash_left_is_not_made_again(source: Path, folder: Path) -> None:
    unlink = Entry.unlink

    def crash(entry: Entry, *, missing_ok: bool = False) -> None:
        if entry.path == source:
            raise KeyboardInterrupt
        unlink(entry, missing_ok=missing_ok)

    with mock.patch.object(Entry, "unlink", crash), pytest.raises(KeyboardInterrupt):
        move(source, folder, "a.json", 7, identity(source))
    copy = identity(folder / "a.json")
    assert (content(folder), content(source.parent)) == ({"a.json": "new"}, {"a.json": "new"})
    assert move(source, folder, "a.json", 7, identity(source)) == folder / "a.json"
    assert (content(folder), content(source.parent)) == ({"a.json": "new"}, {})
    assert identity(folder / "a.json") == copy


@pytest.mark.usefixtures("two_file_systems")
def test_what_is_on_its_way_from_another_file_system_has_no_name_that_a_reader_takes(
    source: Path, folder: Path
) -> None:
    seen: list[str] = []
    fsync = os.fsync

    def look(descriptor: int) -> None:
        seen.extend(path.name for path in folder.glob("*"))
        fsync(descriptor)

    with mock.patch.object(os, "fsync", look):
        move(source, folder, "a.json", 7, identity(source))
    unfinished = [name for name in seen if name != "a.json"]
    assert unfinished
    assert all(name.startswith(".") and name.endswith(".part") for name in unfinished)
    assert seen[-1] == "a.json"  # the folder is synced once it has its name


# Writers


def look_at_writer(entry: Entry) -> WriterState:
    descriptor = entry.open(os.O_RDONLY)
    try:
        return lease.writer_state(descriptor)
    finally:
        os.close(descriptor)


def test_who_opens_it_while_it_moves_gets_it_back_in_its_place(source: Path, folder: Path) -> None:
    """The lease keeps the writer waiting for the rename, and then the writer has the moved file."""
    rename = durable._rename_exclusively
    writers: list[threading.Thread] = []

    def append() -> None:
        with source.open("a") as file:
            opened.set()
            assert told.wait(30)
            file.write(" and more")

    def instead(entry: Entry, target: Entry, number: int) -> None:
        if not writers:
            writers.append(threading.Thread(target=append))
            writers[0].start()
            with entry_at(source) as looked_at:
                eventually(lambda: look_at_writer(looked_at) is WriterState.WRITING, what="the writer's wait")
            assert not opened.is_set()
        rename(entry, target, number)

    opened, told = threading.Event(), threading.Event()
    with mock.patch.object(durable, "_rename_exclusively", instead), pytest.raises(FileGone, match="written to"):
        move(source, folder, "a.json", 7, identity(source))
    told.set()
    writers[0].join()
    assert (content(source.parent), content(folder)) == ({"a.json": "new and more"}, {})


@pytest.mark.usefixtures("anywhere")
def test_a_file_that_is_open_for_writing_stays(source: Path, folder: Path) -> None:
    with source.open("a"), pytest.raises(FileGone, match="written to"):
        move(source, folder, "a.json", 7, identity(source))
    assert (content(source.parent), content(folder)) == ({"a.json": "new"}, {})


@pytest.mark.usefixtures("anywhere")
def test_a_change_that_its_times_do_not_tell_is_found_by_its_content(source: Path, folder: Path) -> None:
    with entry_at(source) as entry, folder_at(folder) as target:
        read = ReadState(identity(source), hashlib.sha256(b"old").digest())
        with pytest.raises(FileGone, match="written to"):
            move_entry(entry, target, "a.json", 7, read)
        assert (content(source.parent), content(folder)) == ({"a.json": "new"}, {})
        read = ReadState(identity(source), hashlib.sha256(b"new").digest())
        assert move_entry(entry, target, "a.json", 7, read).path == folder / "a.json"


# Links


def test_no_further_link_leads_to_what_is_kept(source: Path, folder: Path) -> None:
    other = source.parent / "other"
    os.link(source, other)
    kept = move(source, folder, "a.json", 7, identity(source))
    other.write_text("changed")
    assert (content(source.parent), content(folder)) == ({"other": "changed"}, {"a.json": "new"})
    assert kept.lstat().st_nlink == 1


def test_a_link_made_at_the_last_moment_brings_it_back(source: Path, folder: Path) -> None:
    read = identity(source)
    with at_the_last_moment(lambda: os.link(source, source.parent / "other")), pytest.raises(FileGone):
        move(source, folder, "a.json", 7, read)
    assert (content(source.parent), content(folder)) == ({"a.json": "new", "other": "new"}, {})


def test_a_folder_that_becomes_a_link_leads_nowhere_else(tmp_path: Path, folder: Path, source: Path) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "a.json").write_text("secret")
    with entry_at(source) as entry, folder_at(folder) as target:
        source.parent.rename(tmp_path / "away")
        source.parent.symlink_to(secret)
        assert move_entry(entry, target, "a.json", 7, None).path == folder / "a.json"
    assert (content(folder), content(secret)) == ({"a.json": "new"}, {"a.json": "secret"})
