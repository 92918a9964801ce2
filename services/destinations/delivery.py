"""What waits for a destination, in order: opened, sent, marked, moved away; whatever happens in between.

A file is marked as being sent before it is. If the process ends or no answer comes, that mark
stays; the partner has time to finish, and then the sender knows that it may have the file already.
"""

import asyncio
import hashlib
import time
from collections.abc import Coroutine
from pathlib import Path, PurePath
from typing import Any, TypeVar

from loguru import logger
from psycopg import Connection

from models.connector import Destination
from models.errors import FileGone, RetryLater, StopConnector
from models.flow import Flow
from services.db import sqlstate
from services.db.engine import Connect
from services.destinations.dispatch import OpenSender
from services.destinations.sender import Doubtful, DoubtfulStop, OutgoingFile, Sender, TurnedDown
from services.files import move
from services.files.directory import Folder, OpenFolders
from services.files.folders import on_this_machine
from services.files.move import Identity, ReadState
from services.ledger import clock, deliveries, documents, locks, replay
from services.ledger.deliveries import Deliveries, DueFile, StoredFile
from services.ledger.outbound import is_behind
from services.runtime.blocking import in_thread
from services.runtime.supervisor import Job, Tell
from services.transport.backoff import CONNECTOR
from services.transport.http import LONGEST_RETRY_SECONDS

POLL_SECONDS = 1.0
"""So late, at most, a written file is seen."""

STAND_BY_SECONDS = 5.0
"""How often it is looked whether the daemon that delivers is still there."""

CATCH_UP_SECONDS = 30.0
LOOK_SECONDS = 0.1
"""So long, at most, deliveries wait at their start for the writer, and so often they look."""

FILES_AT_ONCE = 100

UNCERTAIN_SECONDS = 5.0
"""How long a partner that did not answer may still be at it, before it is asked whether it has the file."""

FINISH_SECONDS = 2.0
"""So long the file in hand may still take when the daemon stops."""

DOUBTS = 5
"""So many files in a row without a clear answer: it is the partner, and none of them.

A file that got none so many times is the culprit itself: it holds back no other any more.
"""

DELIVERED = "delivered"
"""The folder below a flow's output folder where files lie that a partner has."""

T = TypeVar("T")


class Delivery:
    """Delivers what one flow has for one destination."""

    def __init__(
        self, flow: Flow, destination: Destination, output_dir: Path, connect: Connect, sender: OpenSender
    ) -> None:
        self._declared = flow
        self._flow = flow.name
        self._folder = Folder(output_dir / flow.name)
        self._in_order = destination.in_order
        self._here = on_this_machine(output_dir)
        self._deliveries = Deliveries(
            flow.name,
            destination.documents,
            in_order=destination.in_order,
            doubts=DOUBTS,
            longest_seconds=max(
                CONNECTOR.longest_seconds, LONGEST_RETRY_SECONDS, destination.answer_seconds + UNCERTAIN_SECONDS
            ),
            folder=self._here,
        )
        self._answer_seconds = destination.answer_seconds
        self._connect = connect
        self._sender = sender
        self.name = f"{flow.name}/{destination.name}"

    @property
    def jobs(self) -> list[Job]:
        return [Job(self.name, self.run)]

    async def run(self, tell: Tell) -> float:
        """Deliver until something is in the way. Raises RetryLater, StopConnector."""
        async with locks.try_connector(self._connect, self.name) as connection:
            if connection is None:
                await in_thread(self._stand_by)
                tell("another daemon delivers")
                return STAND_BY_SECONDS
            await in_thread(documents.tell, connection, self._declared)
            await in_thread(self._deliveries.open, connection, self.name)
            await in_thread(self._file_delivered, connection)
            await self._let_the_writer_catch_up(connection, tell)
            async with self._sender as sender:
                while True:
                    await self._deliver_all(connection, sender, tell)
                    tell(await in_thread(self._in_words, connection))
                    await asyncio.sleep(POLL_SECONDS)

    async def _let_the_writer_catch_up(self, connection: Connection, tell: Tell) -> None:
        """What changed while nobody ran, or behind the backup that was restored, supersedes what is due now."""
        began = await in_thread(clock.now, connection)
        deadline = time.monotonic() + CATCH_UP_SECONDS
        while time.monotonic() < deadline and await in_thread(is_behind, connection, self._declared, began):
            tell("waits until what changed before is written")
            await asyncio.sleep(LOOK_SECONDS)

    async def _deliver_all(self, connection: Connection, sender: Sender, tell: Tell) -> None:
        doubts = 0
        await in_thread(documents.tell, connection, self._declared)
        while due := await in_thread(self._deliveries.due, connection, FILES_AT_ONCE):
            for file in due:
                error = await _finished(self._deliver(connection, sender, file))
                doubts = doubts + 1 if error else 0
                if error and doubts == DOUBTS:
                    raise RetryLater(error.reason, hint=error.hint, after_seconds=error.after_seconds) from error
                if error and self._in_order:
                    return
                if error is None:
                    tell("delivers")

    def _in_words(self, connection: Connection) -> str:
        """What `status` shows."""
        count, error = self._deliveries.waiting(connection)
        return "delivers" if not count else f"delivers; {count} tried again: {error}"

    async def _deliver(self, connection: Connection, sender: Sender, due: DueFile) -> Doubtful | None:
        """Deliver one file; what is doubtful of it is returned, and it is tried again later."""
        outgoing = await in_thread(self._opened, connection, due)
        if outgoing is None:
            return None
        # If the process ends now, nobody waits for the partner to finish: the next one has to.
        await in_thread(deliveries.sending, connection, due.id, self._answer_seconds + UNCERTAIN_SECONDS)
        said = logger.bind(flow=self._flow, file=due.name, outbound_id=due.id)
        try:
            answer = await sender.send(outgoing)
        except TurnedDown as error:
            said.warning("{} turns down #{} {}: {}", self.name, due.id, due.name, error)
            await in_thread(deliveries.failed, connection, due.id, str(error))
        except Doubtful as error:
            asked = max(error.after_seconds, UNCERTAIN_SECONDS)
            seconds = CONNECTOR.pause_seconds(due.attempts, at_least=asked)
            said.log("WARNING" if due.attempts <= 1 else "DEBUG", "#{} {} is sent again: {}", due.id, due.name, error)
            await in_thread(deliveries.later, connection, due.id, error.reason, seconds)
            return error
        except DoubtfulStop as error:
            await in_thread(deliveries.later, connection, due.id, error.reason, UNCERTAIN_SECONDS)
            raise
        except (RetryLater, StopConnector) as error:
            await in_thread(_not_sent, connection, due, error.reason)
            raise
        else:
            await in_thread(deliveries.delivered, connection, due.id, answer)
            already = " already" if isinstance(answer, dict) and "found" in answer else ""
            said.info("{} has #{} {}{}", self.name, due.id, due.name, already)
            await in_thread(self._move_away, connection, due)
        return None

    def _opened(self, connection: Connection, due: DueFile) -> OutgoingFile | None:
        """The file as it was sealed; None when it is not to be sent, which the ledger then says."""
        if deliveries.superseded(connection, due.id):
            logger.debug("#{} {} is superseded by a newer state", due.id, due.name)
            return None
        content = deliveries.content(connection, due.id)
        if content is not None:
            return OutgoingFile(due.id, due.name, content, due.sha256, due.doubtful)
        # It was written before any daemon delivered.
        content = read(self._folder, due.name)
        if content is not None and hashlib.sha256(content).digest() == due.sha256:
            return OutgoingFile(due.id, due.name, content, due.sha256, due.doubtful)
        what = "was changed by someone else"
        if content is None:
            what = "is no longer in the output folder" if due.folder == self._here else f"lies in {due.folder}"
        logger.bind(flow=self._flow, file=due.name, outbound_id=due.id).warning("#{} {} {}", due.id, due.name, what)
        deliveries.failed(connection, due.id, f"{due.name} {what}")
        return None

    def _stand_by(self) -> None:
        """File what another daemon has delivered of that which was written here."""
        with sqlstate.translated(), self._connect() as connection:
            self._file_delivered(connection)

    def _file_delivered(self, connection: Connection) -> None:
        """A crash may have come between the mark and the move; or another daemon delivered it."""
        for file in self._deliveries.unfiled(connection):
            self._move_away(connection, file)

    def _move_away(self, connection: Connection, file: StoredFile) -> None:
        """Move a delivered file to its folder, unless something else lies under its name."""
        parent, place = PurePath(file.name).parent, None
        try:
            with OpenFolders() as opened:
                source = opened.open(self._folder / parent).entry(PurePath(file.name).name)
                state = ReadState(Identity.of(source.status()))
                content = read(self._folder, file.name)
                if content is not None and hashlib.sha256(content).digest() == file.sha256:
                    target = opened.open(self._folder / DELIVERED / parent, make=True)
                    place = str(move.move(source, target, source.name, file.id, state).path)
        except (FileNotFoundError, FileGone):
            pass
        except (OSError, RetryLater) as error:
            logger.warning("#{} {} is delivered, and stays where it is: {}", file.id, file.name, error)
            place = str(self._folder.path / file.name)
        if place is not None or file.folder == self._here:
            deliveries.filed(connection, file.id, place or "no longer in the output folder, or replaced there")


def _not_sent(connection: Connection, due: DueFile, reason: str) -> None:
    deliveries.not_sent(connection, due.id, reason, doubtful=due.doubtful)


async def _finished(work: Coroutine[Any, Any, T]) -> T:
    """Its result; when the daemon stops, it has a few seconds left to end by itself."""
    task = asyncio.create_task(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task], timeout=FINISH_SECONDS)
        task.cancel()
        await asyncio.wait([task])
        raise


def read(folder: Folder, name: str) -> bytes | None:
    """What a file in an output folder holds. Raises RetryLater when it cannot be read although it is there."""
    try:
        with (
            (folder / PurePath(name).parent).open() as opened,
            open(opened.entry(PurePath(name).name).open_to_read(), "rb") as file,
        ):
            return file.read()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RetryLater(
            f"{folder.path / name} cannot be read: {error.strerror}", hint="mend its permissions"
        ) from error


def deliver_again(connection: Connection, output_dir: Path, file_id: int) -> bool:
    """Have a dead letter delivered once more; whether it is such a one, still there, and the newest of its name."""
    found = replay.dead_letter(connection, file_id)
    if found is None:
        return False
    if not found.is_kept:
        content = read(Folder(output_dir / found.flow), found.name)
        if content is None or hashlib.sha256(content).digest() != found.sha256:
            return False
    return replay.deliver_again(connection, file_id)
