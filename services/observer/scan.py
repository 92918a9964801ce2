"""What lies in a folder tree."""

import os
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator
from pathlib import Path, PurePath
from typing import NamedTuple

from services.files.directory import Folder, LeadsOut
from services.files.names import is_finished

ROOT = "(by content)"
"""Stands for the flow's folder of files that lie in the input root itself."""


def is_descended(name: str) -> bool:
    """Whether a folder of this name is looked into."""
    return not name.startswith(".")


class Listed(NamedTuple):
    """An input entry, as its folder has it; asking it for its status goes by the folder that was read."""

    path: str
    entry: os.DirEntry[str]


def scan(
    folder: str,
    *,
    enter: Callable[[str], None] = lambda _folder: None,
    failed: Callable[[str, OSError], None] = lambda _folder, _error: None,
) -> Iterator[Listed]:
    """Yield every input entry at or below `folder` that is not itself a folder, as `walk` does."""
    for step in walk([folder], root=folder, enter=enter, failed=failed):
        if step is not None:
            yield step


def walk(
    folders: Iterable[str],
    *,
    root: str,
    enter: Callable[[str], None] = lambda _folder: None,
    failed: Callable[[str, OSError], None] = lambda _folder, _error: None,
    skip: Container[str] = (),
) -> Iterator[Listed | None]:
    """Go through all at or below `folders`, and yield a step for each folder and each entry of one.

    Where the step comes to an input entry that is not itself a folder it is that; else it is None, so that nothing
    makes much work between two steps. No symlink below `root` is followed.

    Folders in `skip` are passed over. `enter` is called with each folder
    before it is read: a watch set there misses nothing that the reading does not see. A folder that vanished, or
    became a link, is passed over, one that cannot be read goes to `failed`.
    """
    left = list(folders)
    while left:
        here = left.pop()
        yield None
        try:
            enter(here)
            with Folder(Path(root), os.path.relpath(here, root)).open() as opened:
                with os.scandir(opened.descriptor) as entries:
                    for entry in entries:
                        path = os.path.join(here, entry.name)  # noqa: PTH118  # a million times
                        if entry.is_dir(follow_symlinks=False):
                            if is_descended(entry.name) and path not in skip:
                                left.append(path)
                            yield None
                        else:
                            yield Listed(path, entry) if is_finished(entry.name) else None
        except (FileNotFoundError, NotADirectoryError, LeadsOut):
            continue
        except OSError as error:
            failed(here, error)


def count(root: Path) -> Counter[str]:
    """The files in the input folder by the flow's folder that they lie in."""
    counts: Counter[str] = Counter()
    for listed in scan(str(root)):
        parts = PurePath(listed.path).relative_to(root).parts
        counts[parts[0] if len(parts) > 1 else ROOT] += 1
    return counts
