"""What lies in a folder tree."""

import os
from collections import Counter
from collections.abc import Callable, Container, Iterator
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
    root: str | None = None,
    enter: Callable[[str], None] = lambda _folder: None,
    failed: Callable[[str, OSError], None] = lambda _folder, _error: None,
    skip: Container[str] = (),
) -> Iterator[Listed]:
    """Yield every input entry at or below `folder` that is not itself a folder; follow no symlink below `root`.

    root: `folder` where it is not given. Folders in `skip` are passed over. `enter` is called with each folder
    before it is read: a watch set there misses nothing that the reading does not see. A folder that vanished, or
    became a link, is passed over, one that cannot be read goes to `failed`.
    """
    root = root or folder
    folders = [folder]
    while folders:
        here = folders.pop()
        try:
            enter(here)
            with Folder(Path(root), os.path.relpath(here, root)).open() as opened:
                with os.scandir(opened.descriptor) as entries:
                    for entry in entries:
                        path = os.path.join(here, entry.name)  # noqa: PTH118  # a million times
                        if entry.is_dir(follow_symlinks=False):
                            if is_descended(entry.name) and path not in skip:
                                folders.append(path)
                        elif is_finished(entry.name):
                            yield Listed(path, entry)
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
