"""What lies in a folder tree, and which names are input at all."""

import os
from collections.abc import Callable, Iterator

_UNFINISHED = (".tmp", ".part", ".partial", ".filepart", "~", ".swp", ".crdownload")


def is_input(name: str) -> bool:
    """Whether a file of this name is input; hidden ones and those a tool still works on never are."""
    return not name.startswith(".") and not name.endswith(_UNFINISHED)


def is_descended(name: str) -> bool:
    """Whether a folder of this name is looked into."""
    return not name.startswith(".")


def scan(
    folder: str, *, enter: Callable[[str], None], failed: Callable[[str, OSError], None]
) -> Iterator[os.DirEntry[str]]:
    """Yield every input entry at or below `folder` that is not itself a folder; follow no symlink.

    `enter` is called with each folder before it is read: a watch set there misses nothing that the
    reading does not see. A folder that vanished is passed over, one that cannot be read goes to `failed`.
    """
    folders = [folder]
    while folders:
        here = folders.pop()
        try:
            enter(here)
            with os.scandir(here) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        if is_descended(entry.name):
                            folders.append(entry.path)
                    elif is_input(entry.name):
                        yield entry
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            failed(here, error)
