"""Open folders: what is done in one goes by its descriptor, and follows no link.

A path is looked up anew each time it is used, and whoever may write to a folder on it can put a link there
meanwhile. An open folder stays the one that was opened. Everything here raises OSError.
"""

import contextlib
import ctypes
import errno
import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path, PurePath
from types import TracebackType
from typing import Any, NamedTuple, Self

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_ITSELF = os.O_NOFOLLOW | os.O_CLOEXEC
_TO_READ = os.O_RDONLY | os.O_NONBLOCK | _ITSELF

_NO_NAMES = frozenset({"", ".", ".."})

# openat2(2): Python has no function for it, and it has the same number on every architecture.
_OPENAT2 = 437
_NO_MAGICLINKS, _NO_SYMLINKS, _BENEATH = 0x02, 0x04, 0x08
_TRIES = 100

_syscall: Any = getattr(ctypes.CDLL(None, use_errno=True), "syscall", None)


class LeadsOut(OSError):
    """A path that a link, or `..`, would lead out of its root."""

    def __init__(self, path: str) -> None:
        super().__init__(errno.ELOOP, "a folder on the way is a link, or the path leads out", path)


class _How(ctypes.Structure):
    """`struct open_how`."""

    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


_BENEATH_ONLY = _How(_FOLDER, 0, _BENEATH | _NO_SYMLINKS | _NO_MAGICLINKS)


class Directory:
    """An open folder. path: where it lay when it was opened, for people to read."""

    __slots__ = ("descriptor", "path")

    def __init__(self, descriptor: int, path: Path) -> None:
        self.descriptor = descriptor
        self.path = path

    def entry(self, name: str) -> "Entry":
        """What has this name here. Raises LeadsOut when it is more than a name."""
        if name in _NO_NAMES or "/" in name or "\0" in name:
            raise LeadsOut(name)
        return Entry(self, name)

    def entries(self) -> "list[Entry]":
        """What lies here, in order of names."""
        return [Entry(self, name) for name in sorted(os.listdir(self.descriptor))]  # noqa: PTH208  # of what is open

    def sync(self) -> None:
        """Have the names in it on disk."""
        os.fsync(self.descriptor)

    def close(self) -> None:
        os.close(self.descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Entry(NamedTuple):
    """A name in an open folder, and whatever it stands for at the time."""

    folder: Directory
    name: str

    @property
    def path(self) -> Path:
        """For people to read."""
        return self.folder.path / self.name

    @property
    def place(self) -> str:
        """The same as text."""
        return f"{self.folder.path!s}/{self.name}"

    def status(self) -> os.stat_result:
        """Of what has the name, never of what a link there leads to."""
        return os.stat(self.name, dir_fd=self.folder.descriptor, follow_symlinks=False)

    def open(self, flags: int, mode: int = 0) -> int:
        """A descriptor of the file itself; a link fails with ELOOP."""
        return os.open(self.name, flags | _ITSELF, mode, dir_fd=self.folder.descriptor)

    def open_to_read(self) -> int:
        """The same for reading; a pipe is not waited for."""
        return os.open(self.name, _TO_READ, dir_fd=self.folder.descriptor)

    def rename(self, target: "Entry") -> None:
        """Over whatever has the other name."""
        os.rename(self.name, target.name, src_dir_fd=self.folder.descriptor, dst_dir_fd=target.folder.descriptor)

    def unlink(self, *, missing_ok: bool = False) -> None:
        try:
            os.unlink(self.name, dir_fd=self.folder.descriptor)
        except FileNotFoundError:
            if not missing_ok:
                raise


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder, open or not, there or not: one of ours, or one below it that others may write to.

    below: its path from the root; no link on that way is followed. Links on the way to the root are the
    administrator's.
    """

    root: Path
    below: str = "."

    @property
    def path(self) -> Path:
        return self.root / self.below

    def __truediv__(self, name: str | PurePath) -> "Folder":
        return Folder(self.root, str(PurePath(self.below, name)))

    def open(self, *, make: bool = False) -> Directory:
        """make: it, and those above it, where they are missing. Raises LeadsOut."""
        if make:
            with contextlib.suppress(FileNotFoundError):
                return self.open()
            _make_root(self.root)
        root = os.open(self.root, _FOLDER)
        if self.below == ".":
            return Directory(root, self.root)
        try:
            return Directory((_making if make else _beneath)(root, self.below), self.path)
        finally:
            os.close(root)


class OpenFolders(ExitStack):
    """Folders that are open as long as this is in use, each opened once."""

    def __init__(self) -> None:
        super().__init__()
        self._open: dict[Folder, Directory] = {}
        self._parents: dict[tuple[str, str | None], Directory] = {}

    def open(self, folder: Folder, *, make: bool = False) -> Directory:
        """Raises LeadsOut."""
        opened = self._open.get(folder)
        if opened is None:
            opened = self._open[folder] = self.enter_context(folder.open(make=make))
        return opened

    def entry(self, path: str, root: str | None) -> Entry:
        """What `path` stands for; every folder on the way from `root`, where one is given, is a folder.

        Raises LeadsOut.
        """
        parent, _, name = path.rpartition("/")
        opened = self._parents.get((parent, root))
        if opened is None:
            opened = self._parents[parent, root] = self.open(_folder_of(path, root))
        return opened.entry(name)


def _folder_of(path: str, root: str | None) -> Folder:
    """The folder in which `path` lies. Raises LeadsOut."""
    parent = os.path.dirname(path)  # noqa: PTH120
    if root is None:
        return Folder(Path(parent or "."))
    if parent != root and not parent.startswith(root.rstrip("/") + "/"):
        raise LeadsOut(path)
    return Folder(Path(root), parent[len(root) :].lstrip("/") or ".")


def within(root: Path, path: str) -> tuple[Folder, str]:
    """The folder and the name of a path that was written down: it need not lie below `root` any more.

    Raises LeadsOut.
    """
    pure = PurePath(path)
    below = pure.relative_to(root) if pure.is_relative_to(root) else None
    if below is None or not below.name or ".." in below.parts:
        raise LeadsOut(path)
    return Folder(root, str(below.parent)), below.name


def _make_root(root: Path) -> None:
    if not root.exists():
        _make_root(root.parent)
        root.mkdir(exist_ok=True)
        with Folder(root.parent).open() as above:
            above.sync()


def _beneath(root: int, below: str) -> int:
    """A descriptor of the folder at `below`. Raises LeadsOut."""
    if _syscall is not None:
        for _ in range(_TRIES):
            opened: int = _syscall(_OPENAT2, root, os.fsencode(below), ctypes.byref(_BENEATH_ONLY), ctypes.sizeof(_How))
            if opened >= 0:
                return opened
            code = ctypes.get_errno()
            if code in {errno.ELOOP, errno.EXDEV}:
                raise LeadsOut(below)
            if code in {errno.ENOSYS, errno.EPERM}:
                break  # an old kernel, or a sandbox that does not know the call
            if code != errno.EAGAIN:  # somebody renames a folder on the way
                raise OSError(code, os.strerror(code), below)
    return _by_components(root, below)


def _by_components(root: int, below: str) -> int:
    here = os.dup(root)
    for part in _parts(below):
        here = _step(here, part, below)
    return here


def _making(root: int, below: str) -> int:
    here = os.dup(root)
    for part in _parts(below):
        try:
            os.mkdir(part, dir_fd=here)
            os.fsync(here)
        except FileExistsError:
            pass
        except OSError:
            os.close(here)
            raise
        here = _step(here, part, below)
    return here


def _parts(below: str) -> Iterator[str]:
    parts = PurePath(below).parts
    if PurePath(below).is_absolute() or ".." in parts:
        raise LeadsOut(below)
    return iter(parts)


def _step(here: int, part: str, below: str) -> int:
    """The folder `part` in the open folder `here`, which is closed."""
    try:
        return os.open(part, _FOLDER | os.O_NOFOLLOW, dir_fd=here)
    except OSError as error:
        if error.errno == errno.ELOOP or (error.errno == errno.ENOTDIR and _is_link(here, part)):
            raise LeadsOut(below) from None
        raise
    finally:
        os.close(here)


def _is_link(here: int, part: str) -> bool:
    try:
        os.readlink(part, dir_fd=here)
    except OSError:
        return False
    return True
