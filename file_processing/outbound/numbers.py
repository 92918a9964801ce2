"""The numbers of outbound files only grow, also where the database goes back to an older backup.

The output folder remembers how far they have got: a number in a file's name, or in an interchange, that a partner
has seen is not given again.
"""

import fcntl
from contextlib import suppress
from pathlib import Path

from loguru import logger
from psycopg import Connection

from models.errors import RetryLater
from services.files import durable
from services.files.directory import Folder
from services.ledger import outbound as ledger

NAME = ".outbound-numbers"
"""The file in the output folder; it holds one number."""

AHEAD = 1000
"""So many numbers are noted at once: this costs an fsync, and a restore leaves out so many at most."""


class Numbers:
    """The highest number that a file in this output folder may have."""

    def __init__(self, output_dir: Path) -> None:
        self._folder = output_dir
        self._noted = 0

    def note(self, number: int) -> None:
        """Call it before a file of this number gets its name. Raises RetryLater when it cannot be noted."""
        if number <= self._noted:
            return
        try:
            with Folder(self._folder).open(make=True) as folder:
                fcntl.flock(folder.descriptor, fcntl.LOCK_EX)  # another daemon may write there as well
                self._noted = self._read()
                if number > self._noted:
                    self._noted = number + AHEAD
                    durable.replace(folder, NAME, f"{self._noted}\n".encode(), fsync=True)
                    folder.sync()
        except OSError as error:
            self._noted = 0
            raise RetryLater(
                f"{NAME} cannot be written to {self._folder}: {error.strerror or error}",
                hint="make room or mend the permissions there; it is tried again",
            ) from error

    def catch_up(self, connection: Connection) -> None:
        """Have the database go on behind the highest number: one restored from a backup knows only lower ones."""
        noted = self._read()
        known = ledger.continue_numbers(connection, noted)
        if known is not None:
            logger.warning(
                "the database knows outbound files up to #{}, and {} may hold some up to #{}: it was restored from a "
                "backup; new ones begin at #{}",
                known,
                self._folder,
                noted,
                noted + 1,
            )

    def _read(self) -> int:
        with suppress(OSError, ValueError):
            return int((self._folder / NAME).read_text(encoding="ascii"))
        return 0
