"""Dropped files come out of the inbox: each, once, complete, whatever happens to the events."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, strategies as st
from loguru import logger

from services.files.lease import WriterState
from services.observer import inbox as inbox_module, lanes, watch, watch_supervisor
from services.observer.completeness import FileKind
from services.observer.hints import Hints
from services.observer.inbox import Inbox
from services.observer.paths import FoundFile
from services.observer.scan import Listed, is_descended, scan, walk
from services.transport.backoff import Backoff
from settings import ObserverKind
from tests.support.waiting import eventually

SETTLE = 0.2


@dataclass
class Drop:
    """An input folder and the inboxes on it."""

    root: Path
    inboxes: contextlib.ExitStack

    def open(self, **options: object) -> Inbox:
        inbox = Inbox(self.root, **{"rescan_seconds": 60, "settle_seconds": SETTLE, **options})  # type: ignore[arg-type]
        inbox.start()
        self.inboxes.callback(inbox.stop)
        eventually(lambda: inbox.status().scans > 0)
        return inbox

    def expect(self, inbox: Inbox, *names: str) -> list[FoundFile]:
        """Take until these came, and nothing else."""
        came: list[FoundFile] = []

        def all_came() -> bool:
            came.extend(inbox.take(100, 0.05))
            return len(came) >= len(names)

        eventually(all_came)
        assert sorted(found.relative for found in came) == sorted(names)
        assert inbox.take(1, 0) == []
        return came

    def reason(self, inbox: Inbox, name: str) -> str:
        return dict(inbox.waiting()).get(name, "")


@pytest.fixture
def drop(tmp_path: Path) -> Iterator[Drop]:
    with contextlib.ExitStack() as inboxes:
        yield Drop(Path(os.path.realpath(tmp_path)) / "input", inboxes)


def write(path: Path, text: str = "{}") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def file_away(inbox: Inbox, found: Iterable[FoundFile]) -> None:
    for one in found:
        one.path.unlink(missing_ok=True)
        inbox.done([one.path])


def came_in_order(inbox: Inbox, files: int) -> list[str]:
    """Names of so many files, in the order in which they were handed out; each is filed then."""
    came: list[str] = []
    while len(came) < files:
        taken = inbox.take(3, 5)
        assert taken
        came.extend(found.relative for found in taken)
        file_away(inbox, taken)
    return came


def sh(script: str, folder: Path) -> None:
    subprocess.run(["sh", "-ec", script], cwd=folder, check=True)


# Without events in the way: a scan once a minute, so whatever comes sooner was noticed.


def test_files_already_there_come_oldest_first(drop: Drop) -> None:
    for name, mtime in (("b", 3), ("a", 2), ("sub/c", 1), ("d", 2)):
        os.utime(write(drop.root / name), (mtime, mtime))
    inbox = drop.open()
    eventually(lambda: inbox.status().ready == 4)
    found = inbox.take(10, 0)
    assert [f.relative for f in found] == ["sub/c", "a", "d", "b"]
    assert found[0] == FoundFile(
        str(drop.root / "sub/c"), "sub/c", 2, 1_000_000_000, found[0].arrival, found[0].seen_at, FileKind.FILE
    )
    assert found[0].seen_at.utcoffset() is not None


@pytest.mark.parametrize(
    "script",
    [
        "echo {} > x.json",
        "cp ../outside/x.json x.json",
        "mv ../outside/x.json x.json",
        "echo {} > .x.json && mv .x.json x.json",
        "echo {} > x.json.part && mv x.json.part x.json",
        "mkdir away && echo {} > away/.x && mv away/.x x.json",
    ],
)
def test_a_file_is_noticed_however_it_comes(drop: Drop, script: str) -> None:
    write(drop.root.parent / "outside" / "x.json")
    inbox = drop.open()
    sh(script, drop.root)
    drop.expect(inbox, "x.json")
    assert inbox.status().scans == 1


@pytest.mark.parametrize(
    ("script", "names"),
    [
        ("mkdir -p a/b/c && echo {} > a/b/c/x", ["a/b/c/x"]),
        ("mkdir x.json && echo {} > x.json/x.json", ["x.json/x.json"]),
        ("mv ../outside inside", ["inside/1", "inside/deep/2"]),
        ("cp -r ../outside inside", ["inside/1", "inside/deep/2"]),
        ("mkdir a && mv a b && echo {} > b/x && mkdir a && echo {} > a/x", ["a/x", "b/x"]),
        ("mkdir .a && echo {} > .a/x && mv .a a", ["a/x"]),
        ("mkdir a && rmdir a && mkdir a && echo {} > a/x", ["a/x"]),
    ],
)
def test_new_folders_are_noticed_at_once(drop: Drop, script: str, names: list[str]) -> None:
    write(drop.root.parent / "outside" / "1")
    write(drop.root.parent / "outside" / "deep" / "2")
    inbox = drop.open()
    sh(script, drop.root)
    drop.expect(inbox, *names)
    assert inbox.status().scans == 1


def test_a_renamed_folder_stays_watched(drop: Drop) -> None:
    write(drop.root / "a/deep/1")
    inbox = drop.open()
    file_away(inbox, drop.expect(inbox, "a/deep/1"))
    (drop.root / "a").rename(drop.root / "b")
    write(drop.root / "b/2")
    file_away(inbox, drop.expect(inbox, "b/2"))
    write(drop.root / "b/deep/3")
    file_away(inbox, drop.expect(inbox, "b/deep/3"))
    (drop.root / "b").rename(drop.root.parent / "outside")
    inbox.rescan()
    eventually(lambda: inbox.status().scans == 2)
    write(drop.root.parent / "outside/deep/4")
    write(drop.root / "5")
    drop.expect(inbox, "5")


def test_a_long_way_down(drop: Drop) -> None:
    inbox = drop.open()
    below = "/".join(["f" * 100] * 30)
    write(drop.root / below / "x")
    drop.expect(inbox, f"{below}/x")


@pytest.mark.parametrize(
    "name",
    ["n" * 255, "new\nline", "em\N{GRINNING FACE}ji", "qu\"o'te", " ", "-", "*", "\\", "\udcff\udc80", "x.JSON~1"],
)
@pytest.mark.parametrize("there_before", [True, False])
def test_any_name_works(drop: Drop, name: str, there_before: bool) -> None:
    drop.root.mkdir()
    if there_before:
        write(drop.root / name / name)
    inbox = drop.open()
    if not there_before:
        write(drop.root / name / name)
    (found,) = drop.expect(inbox, f"{name}/{name}")
    assert found.path.read_text() == "{}"
    found.path.unlink()
    inbox.done([found.path])
    assert (inbox.status().out, inbox.waiting()) == (0, [])


@given(st.text(st.characters(exclude_characters="/\0", exclude_categories=()), min_size=1, max_size=60))
def test_a_hidden_folder_is_not_looked_into(name: str) -> None:
    assert not is_descended("." + name)
    assert is_descended(name) == (not name.startswith("."))


def test_hidden_and_unfinished_files_are_left_alone(drop: Drop) -> None:
    hidden = [".x", "x.tmp", "x.part", "x.partial", "x.filepart", "x~", "x.swp", "x.crdownload", ".folder/x"]
    for name in hidden:
        write(drop.root / name)
    inbox = drop.open()
    for name in hidden:
        write(drop.root / ("2" + name if not name.startswith(".") else ".2" + name))
    write(drop.root / "x")
    drop.expect(inbox, "x")
    assert inbox.waiting() == []


# Complete files only.

_WRITER = """
import sys
with open(sys.argv[1], "a") as file:
    while line := sys.stdin.readline():
        file.write(line)
        file.flush()
        print("written", flush=True)
"""


@pytest.fixture
def slow_writer() -> Iterator[Callable[[Path], Callable[[str | None], None]]]:
    """A process that keeps a file open, writes what it is told, and closes on None."""
    with contextlib.ExitStack() as processes:

        def begin(path: Path) -> Callable[[str | None], None]:
            process = processes.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", _WRITER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
                )
            )

            def tell(line: str | None) -> None:
                assert process.stdin is not None
                assert process.stdout is not None
                if line is None:
                    process.stdin.close()
                    return
                process.stdin.write(line + "\n")
                process.stdin.flush()
                assert process.stdout.readline() == "written\n"

            processes.callback(process.kill)
            return tell

        yield begin


@pytest.mark.parametrize("by_scan", [True, False])
def test_a_file_comes_when_its_writer_closed_it(
    drop: Drop, slow_writer: Callable[[Path], Callable[[str | None], None]], by_scan: bool
) -> None:
    drop.root.mkdir()
    inbox = None if by_scan else drop.open()
    tell = slow_writer(drop.root / "slow")
    tell("{")
    inbox = inbox or drop.open()
    if by_scan:
        eventually(lambda: drop.reason(inbox, "slow") == "still being written")
    assert inbox.take(1, 2 * SETTLE) == []
    tell("}")
    assert inbox.take(1, 0) == []
    tell(None)
    (found,) = drop.expect(inbox, "slow")
    assert found.size == 4


def test_a_moved_in_file_still_being_written_waits(
    drop: Drop, slow_writer: Callable[[Path], Callable[[str | None], None]]
) -> None:
    inbox = drop.open()
    tell = slow_writer(drop.root / ".slow")
    tell("{")
    (drop.root / ".slow").rename(drop.root / "slow")
    eventually(lambda: drop.reason(inbox, "slow") == "still being written")
    tell(None)
    drop.expect(inbox, "slow")


def test_an_empty_file_must_rest(drop: Drop) -> None:
    inbox = drop.open(settle_seconds=0.5)
    (drop.root / "filled").touch()
    (drop.root / "empty").touch()
    eventually(lambda: inbox.waiting() == [("filled", "empty"), ("empty", "empty")])
    write(drop.root / "filled")
    drop.expect(inbox, "filled")
    assert drop.reason(inbox, "empty") == "empty"
    (found,) = drop.expect(inbox, "empty")
    assert found.size == 0


def test_without_a_lease_only_rest_tells(drop: Drop, monkeypatch: pytest.MonkeyPatch) -> None:
    """One writer has closed it, and another one may still be at it; or it is opened again and half written."""
    monkeypatch.setattr("services.observer.completeness.writer_state", lambda _: WriterState.UNKNOWN)
    now = [0.0]
    inbox = drop.open(settle_seconds=2, clock=lambda: now[0])
    write(drop.root / "closed")
    (drop.root / "x").touch()
    eventually(lambda: drop.reason(inbox, "closed") == "settling")
    eventually(lambda: drop.reason(inbox, "x") == "empty")
    with (drop.root / "x").open("w") as file:
        file.write("{")
        file.flush()
        now[0] = 2.5
        inbox.rescan()
        drop.expect(inbox, "closed")
        eventually(lambda: drop.reason(inbox, "x") == "settling")
    now[0] = 5
    drop.expect(inbox, "x")


def test_on_a_share_a_file_must_rest(drop: Drop) -> None:
    """Nobody there tells who writes: only rest counts, and any change begins it anew."""
    now = [0.0]
    drop.root.mkdir()
    inbox = drop.open(observer_kind=ObserverKind.POLLING, settle_seconds=2, clock=lambda: now[0])
    assert not inbox.status().watching
    write(drop.root / "x")
    inbox.rescan()
    eventually(lambda: drop.reason(inbox, "x") == "settling")
    now[0] = 1.9
    write(drop.root / "x", "{ }")
    now[0] = 2.1
    inbox.rescan()
    eventually(lambda: inbox.status().scans == 3)
    assert drop.reason(inbox, "x") == "settling"
    now[0] = 4.2
    inbox.rescan()
    drop.expect(inbox, "x")


def test_polling_notices_by_itself(drop: Drop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.observer.inbox.POLL_SECONDS", 0.05)
    inbox = drop.open(observer_kind=ObserverKind.POLLING, settle_seconds=0.05)
    sh("mkdir -p a/b && echo {} > a/b/x && ln -s .. a/loop", drop.root)
    drop.expect(inbox, "a/b/x", "a/loop")


def test_what_is_no_file_comes_with_its_kind(drop: Drop, monkeypatch: pytest.MonkeyPatch) -> None:
    outside = write(drop.root.parent / "outside" / "secret")
    drop.root.mkdir()
    monkeypatch.chdir(drop.root)
    os.mkfifo("fifo")
    Path("in").symlink_to(write(drop.root / "file"))
    Path("out").symlink_to(outside)
    Path("folder").symlink_to(outside.parent)
    Path("dangling").symlink_to("nowhere")
    Path("loop").symlink_to("loop")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
    inbox = drop.open()
    names = ["file", "fifo", "in", "out", "folder", "dangling", "loop", "socket"]
    kinds = {found.relative: found.kind for found in drop.expect(inbox, *names)}
    assert kinds.pop("file") is FileKind.FILE
    assert (kinds.pop("fifo"), kinds.pop("socket")) == (FileKind.FIFO, FileKind.SOCKET)
    assert set(kinds.values()) == {FileKind.SYMLINK}


# Once each.


def test_a_path_comes_once_until_it_is_done(drop: Drop) -> None:
    inbox = drop.open()
    path = write(drop.root / "x")
    drop.expect(inbox, "x")
    write(path, "[]")
    inbox.rescan()
    eventually(lambda: inbox.status().scans == 2)
    assert inbox.take(1, 0) == []
    assert inbox.status().out == 1
    path.unlink()
    inbox.done([path])
    write(path)
    drop.expect(inbox, "x")


def test_a_new_file_of_the_same_name_is_not_missed_while_the_old_one_is_out(drop: Drop) -> None:
    inbox = drop.open()
    path = write(drop.root / "x")
    drop.expect(inbox, "x")
    path.rename(drop.root.parent / "filed")
    before = inbox.status().events
    write(path, "[1]")
    eventually(lambda: inbox.status().events > before)
    inbox.done([path])
    (found,) = drop.expect(inbox, "x")
    assert found.size == 3


def test_later_comes_again_after_the_delay(drop: Drop) -> None:
    inbox = drop.open()
    path = write(drop.root / "x")
    (first,) = drop.expect(inbox, "x")
    inbox.later([path], 60)
    assert inbox.waiting() == [("x", "retry in 60 s")]
    inbox.later([path], 0.1)
    (second,) = drop.expect(inbox, "x")
    assert second == first


def test_a_file_that_vanishes_is_forgotten(drop: Drop) -> None:
    inbox = drop.open(settle_seconds=60)
    empty = drop.root / "empty"
    empty.touch()
    eventually(lambda: inbox.status().waiting == 1)
    empty.unlink()
    inbox.later([empty], 0)
    eventually(lambda: inbox.status().waiting == 0)
    assert inbox.take(1, 0) == []


def test_two_inboxes_may_share_a_folder(drop: Drop) -> None:
    inboxes = [drop.open(), drop.open()]
    names = [str(number) for number in range(50)]
    for name in names:
        write(drop.root / name)
    for inbox, found in [(inbox, drop.expect(inbox, *names)) for inbox in inboxes]:
        file_away(inbox, found)
        assert (inbox.status().out, inbox.waiting()) == (0, [])


def test_the_folder_is_the_buffer(drop: Drop) -> None:
    for number in range(100):
        os.utime(write(drop.root / f"{number:03}"), (number, number))
    inbox = drop.open(capacity=10)
    for number in range(100, 130):
        write(drop.root / f"{number:03}")
    came: list[str] = []

    def take() -> bool:
        status = inbox.status()
        assert status.ready + status.out + status.waiting <= 10
        taken = inbox.take(3, 0.1)
        came.extend(found.relative for found in taken)
        file_away(inbox, taken)
        return len(came) == 130

    eventually(take)
    assert sorted(came) == [f"{number:03}" for number in range(130)]
    assert came[:100] == sorted(came[:100])
    assert not inbox.status().more_in_folder


# Room of its own for each folder.


@contextlib.contextmanager
def held_open(folder: Path, names: int) -> Iterator[None]:
    """So many names of one file that is being written as long as this is in use."""
    first = write(folder / ".first")
    with first.open("a"):
        for number in range(names):
            os.link(first, folder / f"{number:03}")
        yield


def test_a_full_folder_keeps_no_file_out_of_another(drop: Drop) -> None:
    inbox = drop.open(folders=("a", "b"), capacity=10)
    for number in range(30):
        write(drop.root / f"a/{number}")
    eventually(lambda: inbox.status().ready == 10)
    write(drop.root / "b/x")
    write(drop.root / "other/y")
    write(drop.root / "z")
    eventually(lambda: inbox.status().ready == 13)
    assert {"b/x", "other/y", "z"} < {found.relative for found in inbox.take(100, 0)}


@pytest.mark.parametrize("by_scan", [True, False])
def test_files_that_only_wait_keep_no_file_out(drop: Drop, by_scan: bool) -> None:
    with held_open(drop.root / "a", 50):
        if by_scan:
            write(drop.root / "a/x")
        inbox = drop.open(capacity=10)
        if not by_scan:
            write(drop.root / "a/x")
        drop.expect(inbox, "a/x")
        assert inbox.status().waiting == 10


def test_more_files_may_wait_than_are_remembered(drop: Drop) -> None:
    with held_open(drop.root, 30):
        inbox = drop.open(capacity=10, rescan_seconds=0.3, settle_seconds=0.05)
        (drop.root / "empty").touch()
        drop.expect(inbox, "empty")
    assert len(set(came_in_order(inbox, 30))) == 30


def test_a_backlog_that_must_settle_keeps_its_order(drop: Drop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.observer.inbox.POLL_SECONDS", 0.02)
    for number in range(60):
        os.utime(write(drop.root / f"{number:03}"), (number, number))
    inbox = drop.open(observer_kind=ObserverKind.POLLING, settle_seconds=0.05, capacity=10)
    assert came_in_order(inbox, 60) == [f"{number:03}" for number in range(60)]


def test_a_backlog_is_listed_once(drop: Drop, monkeypatch: pytest.MonkeyPatch) -> None:
    folders: list[str] = []

    def counted(below: Iterable[str], **options: Any) -> Iterator[Listed | None]:
        folders.extend(below)
        return walk(below, **options)

    monkeypatch.setattr(inbox_module, "walk", counted)
    for number in range(500):
        os.utime(write(drop.root / f"a/{number:03}"), (number, number))
    inbox = drop.open(folders=("a",), capacity=10)
    assert came_in_order(inbox, 500) == [f"a/{number:03}" for number in range(500)]
    assert folders.count(str(drop.root / "a")) == 1


@pytest.mark.parametrize("entries", [3, 512])
def test_a_listing_that_is_cut_off_is_gone_on_with(drop: Drop, monkeypatch: pytest.MonkeyPatch, entries: int) -> None:
    monkeypatch.setattr(lanes, "NAMES_LISTED", 7)
    monkeypatch.setattr(inbox_module, "LISTED_AT_ONCE", entries)
    for number in range(40):
        os.utime(write(drop.root / f"a/{number:03}"), (number - 20, number - 20))
    inbox = drop.open(folders=("a",), capacity=4)
    assert came_in_order(inbox, 40) == [f"a/{number:03}" for number in range(40)]
    eventually(lambda: not inbox.status().more_in_folder)


def test_a_listing_gives_names_back_as_they_are(drop: Drop) -> None:
    names = ["a b", os.fsdecode(b"\xff\xfe"), "deep/er/\U0001f69a", "x" * 200]
    for name in names:
        os.utime(write(drop.root / name), (1, 1))
    listing = lanes.Listing(str(drop.root))
    entries = scan(str(drop.root))
    assert not listing.fill(entries)
    assert len(listing) == 4
    assert sorted(listing.pop(3) + listing.pop(3)) == sorted(str(drop.root / name) for name in names)
    assert listing.pop(1) == []


def test_a_listing_takes_any_time_of_change() -> None:
    times = {"past": -(10**30), "epoch": 0, "future": 10**30, "later": 10**40}
    entries = [
        (f"/in/{name}", SimpleNamespace(stat=lambda *, time=time, **_: SimpleNamespace(st_mtime_ns=time)))
        for name, time in reversed(times.items())
    ]
    listing = lanes.Listing("/in")
    listing.fill(entries)  # type: ignore[arg-type]
    assert listing.pop(9) == [f"/in/{name}" for name in times]


def test_a_folder_with_room_of_its_own_is_watched_whenever_it_appears(drop: Drop) -> None:
    inbox = drop.open(folders=("a", "b"))
    write(drop.root / "a/deep/1")
    drop.expect(inbox, "a/deep/1")
    write(drop.root / "a/deep/2")
    drop.expect(inbox, "a/deep/2")
    sh("mkdir -p ../away/deep && echo {} > ../away/deep/3 && mv ../away b", drop.root)
    drop.expect(inbox, "b/deep/3")
    inbox.rescan()
    eventually(lambda: inbox.status().scans == 2)
    write(drop.root / "b/deep/4")
    drop.expect(inbox, "b/deep/4")


def test_a_link_in_the_place_of_a_folder_is_not_followed(drop: Drop) -> None:
    write(drop.root.parent / "outside/secret")
    drop.root.mkdir()
    (drop.root / "a").symlink_to(drop.root.parent / "outside")
    inbox = drop.open(folders=("a",), settle_seconds=0.05)
    (found,) = drop.expect(inbox, "a")
    assert found.kind is FileKind.SYMLINK


def test_a_crowd_is_told_once(drop: Drop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "MANY_WAITING", 10)
    told: list[str] = []
    number = logger.add(told.append, level="WARNING", format="{message}")
    now = [0.0]
    with held_open(drop.root / "a", 20):
        inbox = drop.open(folders=("a",), clock=lambda: now[0])
        write(drop.root / "b/x")
        drop.expect(inbox, "b/x")
        assert (told, inbox.status().crowds) == ([], {})
        now[0] = 11
        inbox.rescan()
        eventually(lambda: inbox.status().crowds == {str(drop.root / "a"): 20})
        inbox.rescan()
        eventually(lambda: inbox.status().scans == 3)
    now[0] = 60
    inbox.rescan()
    eventually(lambda: inbox.status().crowds == {})
    logger.remove(number)
    assert [line.split(",")[0] for line in told] == [f"very many files wait in '{drop.root}/a'"]


def test_one_of_very_many_files_that_are_put_off_is_no_news(drop: Drop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "MANY_WAITING", 2)
    inbox = drop.open()
    for name in ("a", "b", "c"):
        write(drop.root / name)
    a, b, c = (found.path for found in drop.expect(inbox, "a", "b", "c"))
    assert [inbox.later([path], 60, "unreadable") for path in (a, a, b, c)] == [True, False, True, False]
    assert inbox.waiting()[0] == ("a", "unreadable, retry in 60 s")


def entered(monkeypatch: pytest.MonkeyPatch, note: Callable[[str], None]) -> None:
    """Have `note` called with each folder that is to be watched."""
    enter = watch_supervisor.WatchSupervisor.enter

    def noted(self: watch_supervisor.WatchSupervisor, folder: str) -> None:
        note(folder)
        enter(self, folder)

    monkeypatch.setattr(watch_supervisor.WatchSupervisor, "enter", noted)


@pytest.mark.parametrize("name", ["b/x", "a/x"])
def test_a_large_tree_keeps_no_noticed_file_waiting(drop: Drop, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Of the tree's own lane it waits for its end, as older files may come yet; and for no second listing."""
    monkeypatch.setattr(inbox_module, "LISTED_AT_ONCE", 20)
    for number in range(300):
        (drop.root / f"a/{number}").mkdir(parents=True)
    (drop.root / "b").mkdir()
    inbox = drop.open(folders=("a", "b"))
    below: list[str] = []
    came: list[int] = []

    def note(folder: str) -> None:
        if folder.startswith(f"{drop.root}/a/"):
            below.append(folder)
            if len(below) == 50:
                before = inbox.status().events
                write(drop.root / name)
                eventually(lambda: inbox.status().events > before)
            if len(below) == 300:
                status = inbox.status()
                came.append(status.ready + status.out)

    entered(monkeypatch, note)
    inbox.rescan()
    drop.expect(inbox, name)
    eventually(lambda: inbox.status().scans == 2)
    assert came == [1 if name == "b/x" else 0]
    assert len(below) == 300
    assert not inbox.status().more_in_folder


def test_hidden_names_are_counted_as_entries(drop: Drop) -> None:
    write(drop.root / "a/.hidden")
    write(drop.root / "a/x")
    (drop.root / "a/deep").mkdir()
    steps = list(walk([str(drop.root)], root=str(drop.root)))
    assert [step.path for step in steps if step] == [f"{drop.root}/a/x"]
    assert len(steps) == 7  # four entries and three folders


def test_each_flows_folder_is_watched_before_those_below_another(drop: Drop, monkeypatch: pytest.MonkeyPatch) -> None:
    add = watch.Watch.add

    def add_few(self: watch.Watch, folder: str) -> None:
        if folder not in self._folders and len(self._folders) == 4:
            raise OSError(28, "inotify watch limit reached")
        add(self, folder)

    monkeypatch.setattr(watch.Watch, "add", add_few)
    for number in range(20):
        (drop.root / f"a/{number}").mkdir(parents=True)
    (drop.root / "b").mkdir()
    inbox = drop.open(folders=("a", "b"))
    write(drop.root / "b/x")
    write(drop.root / "y")
    drop.expect(inbox, "b/x", "y")
    assert inbox.status().scans == 1


def test_so_many_folders_of_a_lane_are_watched(drop: Drop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "WATCHED_FOLDERS", 5)
    told: list[str] = []
    number = logger.add(told.append, level="WARNING", format="{message}")
    watched: set[str] = set()
    entered(monkeypatch, watched.add)
    for folder in range(20):
        (drop.root / f"a/{folder}").mkdir(parents=True)
    inbox = drop.open(folders=("a", "b"))
    inbox.rescan()
    eventually(lambda: inbox.status().scans == 2)
    below = {Path(folder) for folder in watched if folder.startswith(f"{drop.root}/a/")}
    assert len(below) == 4  # and the lane's own
    assert inbox.status().unwatched == 16
    assert [line.split(":")[0] for line in told] == [f"more than 5 folders lie in '{drop.root}/a'"]
    unwatched = next(folder for folder in (drop.root / "a").iterdir() if folder not in below)
    write(unwatched / "x")
    write(drop.root / "b/x")
    file_away(inbox, drop.expect(inbox, "b/x"))
    inbox.rescan()
    drop.expect(inbox, f"a/{unwatched.name}/x")
    for path in below:
        path.rmdir()
    inbox.rescan()
    eventually(lambda: inbox.status().scans == 4)
    inbox.rescan()  # what was given up makes room
    eventually(lambda: inbox.status().scans == 5)
    logger.remove(number)
    assert inbox.status().unwatched == 12
    assert len([folder for folder in watched if folder.startswith(f"{drop.root}/a/")]) == 8


# When events fail.


def test_lost_events_only_delay(drop: Drop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch.Watch, "on_event", lambda *_: None)
    inbox = drop.open(rescan_seconds=0.1)
    write(drop.root / "a/b/x")
    drop.expect(inbox, "a/b/x")


def test_an_overflow_of_the_kernels_queue_loses_nothing(drop: Drop, monkeypatch: pytest.MonkeyPatch) -> None:
    reading, go_on = threading.Event(), threading.Event()
    hint = Hints.file

    def hold_up(self: Hints, path: str) -> None:
        reading.set()
        go_on.wait()
        hint(self, path)

    monkeypatch.setattr(Hints, "file", hold_up)
    inbox = drop.open()
    write(drop.root / "first")
    assert reading.wait(5)
    room = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    if room > 100_000:  # too many for a test
        inbox._hints.overflow()
    else:
        for number in range(room + 1):  # the kernel merges equal events that follow one another
            os.close(os.open(drop.root / ("a", "b")[number % 2], os.O_WRONLY | os.O_CREAT))
    names = ["x", "new/x", "new/deep/x"]
    for name in names:
        write(drop.root / name)
    go_on.set()
    drop.expect(inbox, "first", "a", "b", *names)
    assert inbox.status().overflows == 1
    write(drop.root / "new/deep/y")
    drop.expect(inbox, "new/deep/y")


@pytest.mark.parametrize("damage", ["rm -r input", "mv input away", "mkdir new && rm -r input && mv -T new input"])
def test_the_root_may_be_replaced(drop: Drop, damage: str) -> None:
    inbox = drop.open()
    scans = inbox.status().scans
    sh(damage, drop.root.parent)
    eventually(lambda: drop.root.is_dir() and inbox.status().scans > scans)
    write(drop.root / "a/x")
    drop.expect(inbox, "a/x")


def test_a_root_that_cannot_be_made_is_waited_for(drop: Drop) -> None:
    drop.root.write_text("in the way")
    inbox = drop.open(rescan_seconds=0.05)
    eventually(lambda: inbox.status().scans > 2)
    drop.root.unlink()
    eventually(drop.root.is_dir)
    write(drop.root / "x")
    drop.expect(inbox, "x")


def test_a_watch_that_dies_is_replaced(drop: Drop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_supervisor, "WATCH", Backoff(first_seconds=0.05, longest_seconds=0.05))
    monkeypatch.setattr("services.observer.inbox.POLL_SECONDS", 0.05)
    died: list[object] = []
    monkeypatch.setattr(threading, "excepthook", died.append)
    inbox = drop.open(rescan_seconds=0.05)
    with monkeypatch.context() as broken:
        broken.setattr(watch.Watch, "on_event", None)
        (drop.root / "x").touch()
        eventually(lambda: inbox.status().watch_restarts == 1)
    eventually(lambda: inbox.status().watching)
    assert died
    write(drop.root / "x")
    drop.expect(inbox, "x")


def test_nobody_can_plant_what_the_canary_runs_into(drop: Drop) -> None:
    """Opening a pipe would wait for ever, and following a link would make a file elsewhere."""
    inbox = drop.open()
    eventually(lambda: inbox.status().watching)
    os.mkfifo(drop.root / ".tidegate-canary")
    inbox.fly_canary()
    write(drop.root / "x")
    drop.expect(inbox, "x")
    assert inbox.is_alive()
    assert inbox.status().watch_restarts == 0


def test_a_turn_that_hangs_is_no_life(drop: Drop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox_module, "HANGS_SECONDS", 0.3)
    monkeypatch.setattr(inbox_module, "STOP_SECONDS", 0.1)
    hangs, go_on = threading.Event(), threading.Event()

    def hang(*_: Any, **__: Any) -> None:
        hangs.set()
        go_on.wait(30)

    inbox = drop.open()
    eventually(lambda: inbox.status().watching)
    monkeypatch.setattr(inbox, "_look", hang)
    write(drop.root / "x")
    assert hangs.wait(10)
    eventually(lambda: not inbox.is_alive())
    inbox.stop()
    go_on.set()


def test_lanes_take_turns(drop: Drop) -> None:
    for number in range(20):
        write(drop.root / "a" / f"{number:02}")
    inbox = drop.open(folders=("a", "b"))
    eventually(lambda: inbox.status().ready == 20)
    write(drop.root / "b" / "late")
    eventually(lambda: inbox.status().ready == 21)
    assert [found.relative for found in inbox.take(3, 1)] == ["a/00", "b/late", "a/01"]


def test_a_watch_that_notices_nothing_is_replaced(drop: Drop, monkeypatch: pytest.MonkeyPatch) -> None:
    """The service is still green, and no file comes: the canary tells."""
    monkeypatch.setattr(watch_supervisor, "WATCH", Backoff(first_seconds=0.05, longest_seconds=0.05))
    monkeypatch.setattr(watch_supervisor, "CANARY_SECONDS", 0.3)
    inbox = drop.open()
    inbox.fly_canary()
    assert inbox.take(1, 0.5) == []
    assert inbox.status().watch_restarts == 0
    with monkeypatch.context() as deaf:
        deaf.setattr(watch.Watch, "on_event", lambda *_: None)
        inbox.fly_canary()
        eventually(lambda: inbox.status().watch_restarts > 0)
    eventually(lambda: inbox.status().watching)
    write(drop.root / "x")
    drop.expect(inbox, "x")
    assert list(drop.root.iterdir()) == [drop.root / "x"]


def test_without_inotify_scans_do_it(drop: Drop, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(24, "inotify instance limit reached")

    monkeypatch.setattr(watch, "InotifyFD", fail)
    monkeypatch.setattr("services.observer.inbox.POLL_SECONDS", 0.05)
    inbox = drop.open()
    write(drop.root / "a/x")
    drop.expect(inbox, "a/x")
    assert not inbox.status().watching


def test_a_stumble_ends_nothing(drop: Drop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.observer.inbox._STUMBLE_SECONDS", 0.05)
    stumbled = threading.Event()

    def stumble(*_: object, **__: object) -> None:
        stumbled.set()
        raise MemoryError

    inbox = drop.open()
    with monkeypatch.context() as broken:
        broken.setattr("services.observer.inbox.look", stumble)
        write(drop.root / "x")
        assert stumbled.wait(5)
    drop.expect(inbox, "x")


def test_a_folder_that_cannot_be_read_hides_no_other(drop: Drop) -> None:
    write(drop.root / "bad/x")
    write(drop.root / "good/x")
    faults: list[str] = []

    def enter(folder: str) -> None:
        if folder.endswith("bad"):
            raise PermissionError(13, "Permission denied", folder)
        if folder.endswith("gone"):
            shutil.rmtree(folder)

    (drop.root / "gone").mkdir()
    entries = scan(str(drop.root), enter=enter, failed=lambda folder, _: faults.append(folder))
    assert [entry.path for entry in entries] == [str(drop.root / "good/x")]
    assert faults == [str(drop.root / "bad")]


def test_stopping_leaves_the_files(drop: Drop) -> None:
    inbox = Inbox(drop.root)
    inbox.start()
    write(drop.root / "x")
    inbox.stop()
    assert not inbox.is_alive()
    assert (drop.root / "x").exists()
