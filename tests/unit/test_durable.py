"""Files of ours: whole or not there at all, on disk when they are said to be, over no other."""

import errno
import fcntl
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import pytest

from services.files import durable
from services.files.directory import Entry, Folder
from services.files.durable import Temporary
from services.files.names import is_finished
from tests.support import fault_points
from tests.support.by_path import entry_at, folder_at, place, rename, replace

ROOT = Path(__file__).parents[2]
FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """It does not exist yet."""
    return tmp_path / "output" / "flow"


def content(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


@pytest.fixture(
    params=[lambda: None, fault_points.without_renameat2, fault_points.without_links],
    ids=["renameat2", "links", "neither"],
)
def anywhere(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whatever the file system can do."""
    request.param()
    yield
    mock.patch.stopall()


@pytest.fixture
def without_renameat2() -> Iterator[None]:
    fault_points.without_renameat2()
    yield
    mock.patch.stopall()


@pytest.fixture
def without_links() -> Iterator[None]:
    fault_points.without_links()
    yield
    mock.patch.stopall()


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What happens to the disk: `sync NAME`, `rename NAME`."""
    done: list[str] = []
    fsync, rename, replace = os.fsync, durable._rename_exclusively, Entry.rename

    def synced(descriptor: int) -> None:
        done.append(f"sync {Path(os.readlink(f'/proc/self/fd/{descriptor}')).name}")
        fsync(descriptor)

    def renamed(source: Entry, target: Entry, number: int) -> None:
        rename(source, target, number)
        done.append(f"rename {target.name}")

    def replaced(source: Entry, target: Entry) -> None:
        done.append(f"rename {target.name}")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(durable, "_rename_exclusively", renamed)
    monkeypatch.setattr(Entry, "rename", replaced)
    return done


def part(steps: list[str]) -> list[str]:
    """The steps, with the name that nobody can guess called `part`."""
    return ["sync part" if step.endswith(".part") else step for step in steps]


@pytest.mark.usefixtures("anywhere")
def test_a_file_is_placed_over_no_other(folder: Path) -> None:
    assert place(folder, "a.json", b"one", 1) == folder / "a.json"
    assert place(folder, "a.json", b"two", 2) == folder / "a.2.json"
    assert place(folder, "a.json", b"again", 2) == folder / "a.2-2.json"
    assert content(folder) == {"a.json": "one", "a.2.json": "two", "a.2-2.json": "again"}


def test_a_file_is_on_disk_before_it_has_its_name_and_its_name_before_it_is_told(
    folder: Path, steps: list[str]
) -> None:
    folder.mkdir(parents=True)
    place(folder, "a.json", b"whole", 1)
    assert part(steps) == ["sync part", "rename a.json", "sync flow"]


def test_a_folder_that_is_made_is_on_disk_with_those_above_it(folder: Path, tmp_path: Path, steps: list[str]) -> None:
    for wanted in (Folder(folder), Folder(tmp_path / "input") / "flow" / "day"):
        steps.clear()
        wanted.open(make=True).close()
        assert wanted.path.is_dir()
        above = [path.name for path in reversed(wanted.path.parents) if path.is_relative_to(tmp_path)]
        assert steps == [f"sync {name}" for name in above]
        wanted.open(make=True).close()
        assert len(steps) == len(above)


@pytest.mark.parametrize("fsync", [True, False])
def test_a_file_replaces_an_older_state_of_it(folder: Path, steps: list[str], fsync: bool) -> None:
    folder.mkdir(parents=True)
    (folder / "a.json").write_text("old")
    assert replace(folder, "a.json", b"new", fsync=fsync) == folder / "a.json"
    assert content(folder) == {"a.json": "new"}
    assert part(steps) == ["sync part"] * fsync + ["rename a.json"]


def test_who_opened_the_older_state_reads_it_to_its_end(folder: Path) -> None:
    replace(folder, "a.json", b"old", fsync=False)
    with (folder / "a.json").open() as reader:
        replace(folder, "a.json", b"new, and longer", fsync=False)
        assert reader.read() == "old"


def test_only_its_owner_and_group_may_read_a_file(folder: Path) -> None:
    path = place(folder, "a.json", b"", 1)
    assert stat.S_IMODE(path.stat().st_mode) == durable.MODE


def test_two_who_share_a_folder_do_not_share_a_temporary_file(folder: Path) -> None:
    with folder_at(folder) as opened, Temporary(opened) as others:
        others.file.write(b"half of it")
        others.file.flush()
        assert place(folder, "a.json", b"whole", 1) == folder / "a.json"
        assert content(folder) == {"a.json": "whole", others.entry.name: "half of it"}
    assert content(folder) == {"a.json": "whole"}


def test_no_reader_takes_a_temporary_file_for_a_finished_one(folder: Path) -> None:
    names = {durable.temporary_name() for _ in range(100)}
    assert len(names) == 100
    assert not any(map(is_finished, names))


@pytest.mark.parametrize("where", ["fsync", "_rename_exclusively"])
def test_a_file_that_does_not_fit_leaves_nothing(folder: Path, where: str) -> None:
    folder.mkdir(parents=True)
    owner = os if where == "fsync" else durable
    with mock.patch.object(owner, where, side_effect=FULL), pytest.raises(OSError, match="No space left"):
        place(folder, "a.json", b"whole", 1)
    assert content(folder) == {}


def test_a_disk_that_is_full_when_the_rest_is_written_leaves_nothing(folder: Path) -> None:
    def write() -> None:
        with folder_at(folder) as opened, Temporary(opened) as file, open("/dev/full", "wb") as full:
            os.dup2(full.fileno(), file.file.fileno())
            file.file.write(b"whole")
            file.place("a.json", 1)

    with pytest.raises(OSError, match="No space left"):
        write()
    assert content(folder) == {}


def test_what_is_left_without_a_name_is_removed(folder: Path) -> None:
    made: list[Temporary] = []

    def write(*, then: Callable[[], object]) -> None:
        with folder_at(folder) as opened, Temporary(opened) as file:
            made.append(file)
            file.file.write(b"half")
            then()

    write(then=lambda: None)
    with pytest.raises(KeyboardInterrupt):
        write(then=mock.Mock(side_effect=KeyboardInterrupt))
    assert content(folder) == {}
    assert [file.file.closed for file in made] == [True, True]


def test_nobody_makes_us_write_elsewhere(folder: Path, tmp_path: Path) -> None:
    folder.mkdir(parents=True)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("theirs")
    for taken in (folder / "link", folder / "dangling", folder / "file"):
        match taken.name:
            case "link":
                taken.symlink_to(elsewhere)
            case "dangling":
                taken.symlink_to(tmp_path / "nowhere")
            case _:
                taken.write_text("there")
        with pytest.raises(FileExistsError):
            create(taken)
    assert (elsewhere.read_text(), (tmp_path / "nowhere").exists()) == ("theirs", False)


def remove_abandoned(folder: Path) -> None:
    with folder_at(folder) as opened:
        durable.remove_abandoned(opened)


def create(path: Path) -> None:
    with entry_at(path) as entry:
        os.close(durable.create(entry))


# What a crash leaves.


@pytest.mark.usefixtures("without_links")
def test_a_name_kept_free_before_a_crash_is_used(tmp_path: Path, folder: Path) -> None:
    source = tmp_path / "a.json"
    source.write_text("new")
    with mock.patch.object(Entry, "rename", side_effect=KeyboardInterrupt), mock.patch.object(Entry, "unlink"):
        with pytest.raises(KeyboardInterrupt):
            rename(source, folder, "a.json", 7)
    assert list(content(folder)) == ["a.json"]
    assert rename(source, folder, "a.json", 8) == folder / "a.8.json"
    source.write_text("newer")
    assert rename(source, folder, "a.json", 7) == folder / "a.json"
    assert content(folder) == {"a.json": "newer", "a.8.json": "new"}


@pytest.mark.usefixtures("without_links")
def test_a_name_that_was_kept_free_in_vain_is_given_back(tmp_path: Path, folder: Path) -> None:
    source = tmp_path / "a.json"
    source.write_text("new")
    with mock.patch.object(Entry, "rename", side_effect=FULL), pytest.raises(OSError, match="No space left"):
        rename(source, folder, "a.json", 7)
    assert (content(folder), source.read_text()) == ({}, "new")


@pytest.mark.usefixtures("without_renameat2")
def test_a_file_with_two_names_after_a_crash_keeps_the_new_one(tmp_path: Path, folder: Path) -> None:
    source = tmp_path / "a.json"
    source.write_text("new")
    with mock.patch.object(Entry, "unlink", side_effect=KeyboardInterrupt), pytest.raises(KeyboardInterrupt):
        rename(source, folder, "a.json", 7)
    assert (content(folder), source.read_text()) == ({"a.json": "new"}, "new")
    assert rename(source, folder, "a.json", 7) == folder / "a.json"
    assert (content(folder), source.exists()) == ({"a.json": "new"}, False)


_MAKER = """
import sys
from pathlib import Path
from services.files.directory import Folder
from services.files.durable import Temporary
with Folder(Path(sys.argv[1])).open() as folder, Temporary(folder) as file:
    print(file.entry.name, flush=True)
    sys.stdin.readline()
"""


def test_what_a_crash_left_is_removed_and_nothing_else(folder: Path) -> None:
    folder.mkdir(parents=True)
    theirs = folder / ".someone.part"
    theirs.touch()
    with (
        subprocess.Popen(
            [sys.executable, "-c", _MAKER, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        ) as maker,
        folder_at(folder) as opened,
        Temporary(opened) as ours,
    ):
        assert maker.stdout is not None
        name = maker.stdout.readline().strip()
        remove_abandoned(folder)
        assert set(content(folder)) == {ours.entry.name, name, theirs.name}
        maker.send_signal(signal.SIGKILL)
        maker.wait()
        remove_abandoned(folder)
        assert set(content(folder)) == {ours.entry.name, theirs.name}
    assert set(content(folder)) == {theirs.name}


def test_a_file_of_another_node_is_abandoned_when_it_is_old(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network folder may hold locks of which this node knows nothing."""
    folder.mkdir(parents=True)
    with monkeypatch.context() as patch:
        patch.setattr(socket, "gethostname", lambda: "another")
        theirs = folder / durable.temporary_name()
    theirs.touch()
    remove_abandoned(folder)
    assert theirs.exists()
    monkeypatch.setattr(durable, "ABANDONED_SECONDS", -1)
    remove_abandoned(folder)
    assert not theirs.exists()


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_locks_takes_files(folder: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    monkeypatch.setattr(fcntl, "flock", mock.Mock(side_effect=OSError(code, os.strerror(code))))
    place(folder, "a.json", b"whole", 1)
    left = folder / durable.temporary_name()
    left.touch()
    remove_abandoned(folder)
    assert content(folder) == {"a.json": "whole", left.name: ""}
    monkeypatch.setattr(durable, "ABANDONED_SECONDS", -1)
    remove_abandoned(folder)
    assert content(folder) == {"a.json": "whole"}


def test_a_lock_that_fails_leaves_neither_file_nor_descriptor(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", mock.Mock(side_effect=OSError(errno.EIO, os.strerror(errno.EIO))))
    before = [*Path("/proc/self/fd").iterdir()]
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        place(folder, "a.json", b"whole", 1)
    assert content(folder) == {}
    assert len([*Path("/proc/self/fd").iterdir()]) == len(before)


def test_what_only_looks_like_a_temporary_file_does_no_harm(folder: Path, tmp_path: Path) -> None:
    folder.mkdir(parents=True)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("theirs")
    (folder / durable.temporary_name()).symlink_to(elsewhere)
    (folder / durable.temporary_name()).mkdir()
    before = sorted(folder.iterdir())
    remove_abandoned(folder)
    assert (sorted(folder.iterdir()), elsewhere.read_text()) == (before, "theirs")


def test_a_file_taken_for_abandoned_before_it_was_locked_is_made_anew(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.mkdir(parents=True)
    flock, removed = fcntl.flock, [False]

    def raced(descriptor: int, how: int) -> None:
        if not removed[0]:
            removed[0] = True
            remove_abandoned(folder)
        flock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", raced)
    assert place(folder, "a.json", b"whole", 1).read_text() == "whole"
    assert removed[0]
    assert content(folder) == {"a.json": "whole"}
