"""The ledger is told which files are filed, while the next ones are read: losing that costs nothing but a look."""

import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack

from loguru import logger
from psycopg import Connection

from file_processing.inbound.archive import FileResult
from models.errors import TidegateError
from services.ledger import inbound as ledger


class Unmarked:
    """Files of one flow that the ledger does not know as filed yet: their ledger ids and new places."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._files: list[tuple[int, str | None]] = []

    def add(self, files: Sequence[tuple[int, str | None]]) -> None:
        with self._lock:
            self._files += files

    def take(self) -> list[tuple[int, str | None]]:
        with self._lock:
            files, self._files = self._files, []
        return files


class Marks:
    """Marks files as filed, for one who handles files of a flow. connect: gives a connection of the pool."""

    def __init__(self, connect: Callable[[], AbstractContextManager[Connection]], unmarked: Unmarked) -> None:
        self._connect = connect
        self._unmarked = unmarked
        self._sent: list[tuple[int, str | None]] = []
        self._marking: ExitStack | None = None

    def send(self, results: Sequence[FileResult]) -> None:
        """Tell the ledger what is filed; the database is at it while the next files are read."""
        self._sent = self._unmarked.take()
        self._sent += [
            (result.ledger_id, result.place)
            for result in results
            if result.wait is None and result.ledger_id is not None
        ]
        if not self._sent:
            return
        try:
            with ExitStack() as marking:
                connection = marking.enter_context(self._connect())
                marking.enter_context(connection.transaction())
                marking.enter_context(connection.pipeline())  # nothing waits for an answer until it is left
                ledger.mark_filed(connection, self._sent)
                self._marking = marking.pop_all()
        except TidegateError as error:
            self._failed(error)

    def wait(self) -> None:
        """What the ledger could not take is told with the next group, or after the next start."""
        if self._marking is None:
            return
        marking, self._marking = self._marking, None
        try:
            marking.close()
        except TidegateError as error:
            self._failed(error)

    def _failed(self, error: TidegateError) -> None:
        logger.debug("{} files are not marked as filed yet: {}", len(self._sent), error)
        self._unmarked.add(self._sent)
