"""The numbers of outbound files only grow, also where the database goes back to an older backup.

The output folder remembers how far they have got: a number in a file's name, or in an interchange, that a partner
has seen is not given again.
"""

import fcntl
from pathlib import Path

from loguru import logger
from psycopg import Connection

from models.errors import RetryLater, StopDaemon
from services.files import durable
from services.files.directory import Directory, Folder
from services.ledger import outbound as ledger

NAME = ".outbound-numbers"
"""The file in the output folder: the highest number so far, and how far they may have got after a power cut."""

AHEAD = 1000
"""So many numbers are made durable at once: this costs an fsync, and a restore leaves out so many at most."""


class Numbers:
    """The highest number that a file in this output folder has, or may have."""

    def __init__(self, output_dir: Path) -> None:
        self._folder = output_dir

    def note(self, number: int) -> None:
        """Call it before a file of this number gets its name. Raises RetryLater when it cannot be noted."""
        try:
            with Folder(self._folder).open(make=True) as folder:
                fcntl.flock(folder.descriptor, fcntl.LOCK_EX)  # another daemon may write there as well
                highest, durable_to = _read(folder)
                if number > highest:
                    is_ahead = number > durable_to
                    content = f"{number} {number + AHEAD if is_ahead else durable_to}\n".encode()
                    durable.replace(folder, NAME, content, fsync=is_ahead)
                    if is_ahead:
                        folder.sync()
        except (OSError, ValueError) as error:
            raise RetryLater(f"{NAME} in {self._folder} cannot be kept: {error}", hint=_HINT) from error

    def catch_up(self, connection: Connection) -> None:
        """Have the database go on behind the highest number: one restored from a backup knows only lower ones.

        Raises StopDaemon when nobody can tell.
        """
        try:
            with Folder(self._folder).open() as folder:
                durable.remove_abandoned(folder)
                highest, durable_to = _read(folder)
        except (FileNotFoundError, NotADirectoryError):
            return  # nothing was ever written there
        except (OSError, ValueError) as error:
            raise StopDaemon(f"{NAME} in {self._folder} cannot be read: {error}", hint=_HINT) from error
        known = ledger.continue_numbers(connection, highest, durable_to)
        if known is not None:
            logger.warning(
                "the database knows outbound files up to #{}, and {} has some up to #{}: it was restored from a "
                "backup; new ones begin at #{}",
                known,
                self._folder,
                highest,
                durable_to + 1,
            )


_HINT = "make room or mend the permissions there; one that is damaged has to hold the highest number there is, twice"


def _read(folder: Directory) -> tuple[int, int]:
    """Raises OSError or ValueError."""
    try:
        descriptor = folder.entry(NAME).open_to_read()
    except FileNotFoundError:
        return 0, 0
    with open(descriptor, encoding="ascii") as file:
        highest, durable_to = map(int, file.read().split())
    return highest, durable_to
