"""What lies in a folder tree."""

import os
from collections import Counter
from collections.abc import Callable, Container, Iterator
from pathlib import Path, PurePath

from services.files.names import is_finished

ROOT = "(by content)"
"""Stands for the flow's folder of files that lie in the input root itself."""


def is_descended(name: str) -> bool:
    """Whether a folder of this name is looked into."""
    return not name.startswith(".")


def scan(
    folder: str,
    *,
    enter: Callable[[str], None],
    failed: Callable[[str, OSError], None],
    skip: Container[str] = (),
) -> Iterator[os.DirEntry[str]]:
    """Yield every input entry at or below `folder` that is not itself a folder; follow no symlink.

    Folders in `skip` are passed over. `enter` is called with each folder before it is read: a watch set there
    misses nothing that the reading does not see. A folder that vanished is passed over, one that cannot be read
    goes to `failed`.
    """
    folders = [folder]
    while folders:
        here = folders.pop()
        try:
            enter(here)
            with os.scandir(here) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        if is_descended(entry.name) and entry.path not in skip:
                            folders.append(entry.path)
                    elif is_finished(entry.name):
                        yield entry
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            failed(here, error)


def count(root: Path) -> Counter[str]:
    """The files in the input folder by the flow's folder that they lie in."""
    counts: Counter[str] = Counter()
    for entry in scan(str(root), enter=lambda _folder: None, failed=lambda _folder, _error: None):
        parts = PurePath(entry.path).relative_to(root).parts
        counts[parts[0] if len(parts) > 1 else ROOT] += 1
    return counts
