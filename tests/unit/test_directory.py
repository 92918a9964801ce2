"""Folders by their descriptors: nothing below a root leads out of it."""

import ctypes
import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from services.files import directory
from services.files.directory import Folder, LeadsOut, OpenFolders, within


@pytest.fixture(params=["openat2", "no such call", "a sandbox"], autouse=True)
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the kernel can do."""

    def fails(*_: object) -> int:
        ctypes.set_errno(errno.ENOSYS if request.param == "no such call" else errno.EPERM)
        return -1

    if request.param != "openat2":
        monkeypatch.setattr(directory, "_syscall", fails)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    (folder / "a" / "b").mkdir(parents=True)
    (folder / "a" / "file").write_text("here")
    return folder


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    folder = tmp_path / "outside"
    (folder / "b").mkdir(parents=True)
    (folder / "b" / "file").write_text("theirs")
    return folder


@pytest.mark.parametrize("make", [False, True])
def test_a_folder_below_is_opened(root: Path, make: bool) -> None:
    with (Folder(root) / "a" / "b").open(make=make) as folder:
        assert os.path.samestat(os.fstat(folder.descriptor), (root / "a" / "b").stat())
    with Folder(root).open(make=make) as folder:
        assert [entry.name for entry in folder.entries()] == ["a"]


@pytest.mark.parametrize("make", [False, True])
@pytest.mark.parametrize(
    "plant",
    [
        lambda root, outside: (root / "link").symlink_to(outside),
        lambda root, outside: (root / "link").symlink_to(os.path.relpath(outside, root)),
        lambda root, outside: (root / "link").symlink_to("a"),
        lambda root, outside: (root / "link").symlink_to("/proc/self/cwd"),
        lambda root, outside: (root / "link").symlink_to("link"),
    ],
    ids=["absolute", "relative", "inside", "magic", "loop"],
)
def test_no_link_is_followed(root: Path, outside: Path, plant: Callable[[Path, Path], None], make: bool) -> None:
    plant(root, outside)
    for below in ("link", "link/b"):
        with pytest.raises(LeadsOut):
            (Folder(root) / below).open(make=make)
    assert sorted(path.name for path in outside.iterdir()) == ["b"]


@pytest.mark.parametrize("below", ["..", "../outside", "a/../../outside", "/etc"])
@pytest.mark.parametrize("make", [False, True])
def test_no_path_leads_above(root: Path, outside: Path, below: str, make: bool) -> None:
    with pytest.raises(LeadsOut):
        Folder(root, below).open(make=make)


def test_what_is_missing_is_made_or_said_to_be(root: Path) -> None:
    with pytest.raises(FileNotFoundError):
        (Folder(root) / "x" / "y").open()
    with pytest.raises(NotADirectoryError):
        (Folder(root) / "a" / "file").open()
    (Folder(root / "new") / "x" / "y").open(make=True).close()
    assert (root / "new" / "x" / "y").is_dir()


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/etc/passwd", "a\0b"])
def test_a_name_is_no_path(root: Path, name: str) -> None:
    with Folder(root).open() as folder, pytest.raises(LeadsOut):
        folder.entry(name)


def test_an_open_folder_stays_the_one_that_was_opened(root: Path, outside: Path) -> None:
    with (Folder(root) / "a").open() as folder:
        (root / "a").rename(root / "moved")
        (root / "a").symlink_to(outside / "b")
        with open(folder.entry("file").open(os.O_RDONLY)) as file:
            assert file.read() == "here"
        folder.entry("file").rename(folder.entry("other"))
        folder.entry("other").unlink()
    assert (outside / "b" / "file").read_text() == "theirs"


def test_a_link_is_no_file(root: Path, outside: Path) -> None:
    (root / "link").symlink_to(outside / "b" / "file")
    with Folder(root).open() as folder:
        with pytest.raises(OSError, match="symbolic links"):
            folder.entry("link").open(os.O_RDONLY)
        folder.entry("link").unlink()
    assert (outside / "b" / "file").exists()


def test_the_folders_of_a_group_are_opened_once(root: Path) -> None:
    with OpenFolders() as folders:
        one, other = folders.entry(f"{root}/a/x", str(root)), folders.entry(f"{root}/a/y", str(root))
        assert one.folder is other.folder
        assert folders.entry(f"{root}/z", str(root)).path == root / "z"
        for path in (f"{root}2/z", "/etc/passwd"):
            with pytest.raises(LeadsOut):
                folders.entry(path, str(root))
    with pytest.raises(OSError, match="Bad file descriptor"):
        one.status()


def test_a_path_that_was_written_down_is_contained_again(root: Path) -> None:
    assert within(root, f"{root}/a/file") == (Folder(root) / "a", "file")
    assert within(root, f"{root}/file") == (Folder(root), "file")
    for path in ("file", f"{root}", f"{root}/", f"{root}/../x", f"{root}/a/../../x", "/etc/passwd", f"{root}2/x"):
        with pytest.raises(LeadsOut):
            within(root, path)


_PARTS = st.lists(st.sampled_from(["a", "b", "..", ".", "link", "up", "x", ""]), max_size=6)


@settings(max_examples=200)
@given(_PARTS)
def test_whatever_the_path_it_ends_below_the_root(tmp_path_factory: pytest.TempPathFactory, parts: list[str]) -> None:
    root = tmp_path_factory.mktemp("any") / "root"
    (root / "a" / "b").mkdir(parents=True)
    (root / "link").symlink_to("/")
    (root / "a" / "up").symlink_to("../..")
    try:
        folder = Folder(root, "/".join(parts) or ".").open()
    except OSError:
        return
    with folder:
        real = os.readlink(f"/proc/self/fd/{folder.descriptor}")
        assert Path(real).is_relative_to(root)
