"""What waits for a destination, in order: opened, sent, marked, filed; whatever happens in between.

A file is marked as being sent before it is. If the process ends or no answer comes, that mark
stays; the partner has time to finish, and then the sender knows that he may have it already.
"""

import asyncio
import hashlib
import math
import os
import re
from collections.abc import Coroutine, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, Protocol, TypeVar

from loguru import logger
from psycopg import Connection
from psycopg.types.json import Jsonb

from models.connector import Destination, Json, RestDestination
from models.errors import FileGone, RetryLater, StopConnector, TidegateError
from models.flow import Flow
from services import filing
from services.db import claims
from services.filing import Identity
from services.supervisor import Tell, in_thread, pause_seconds, printable

POLL_SECONDS = 1.0
"""So late, at most, a written file is seen."""

STAND_BY_SECONDS = 5.0
"""How often it is looked whether the daemon that delivers is still there."""

FILES_AT_ONCE = 100

UNCERTAIN_SECONDS = 5.0
"""How long a partner who did not answer may still be at it, before he is asked whether he has the file."""

FINISH_SECONDS = 2.0
"""So long the file in hand may still take when the daemon stops."""

DOUBTS = 5
"""So many files in a row without a clear answer: it is the partner, and none of them.

A file that got none so many times is the culprit itself: it holds back no other any more.
"""

DELIVERED = "delivered"
"""The folder below a flow's output folder where files lie that a partner has."""

T = TypeVar("T")


class Refused(TidegateError):
    """The partner says no to this file, and will again: it needs a person."""


class Doubtful(RetryLater):
    """The partner may have it: look before it is sent again."""


class DoubtfulStop(StopConnector):
    """The same, and a person has to act before anything is sent again."""


@dataclass(frozen=True, slots=True)
class Parcel:
    """A file on its way.

    doubtful: it was sent before, and nobody knows whether it arrived.
    """

    id: int
    name: str
    content: bytes
    sha256: bytes
    doubtful: bool


class Sender(Protocol):
    """Hands over one file."""

    async def send(self, parcel: Parcel) -> Json:
        """The partner's answer, to be kept.

        Raises Refused; Doubtful; DoubtfulStop; or RetryLater or StopConnector when the partner certainly
        does not have it.
        """


@dataclass(frozen=True, slots=True)
class _Due:
    id: int
    name: str
    sha256: bytes
    attempts: int
    doubtful: bool


class Delivery:
    """Delivers what one flow has for one destination."""

    def __init__(
        self,
        flow: Flow,
        destination: Destination,
        output_dir: Path,
        connect: claims.Connect,
        sender: AbstractAsyncContextManager[Sender],
    ) -> None:
        self._flow = flow.name
        self._folder = output_dir / flow.name
        self._names = names_of(flow, destination.documents)
        self._in_order = destination.in_order
        self._timeout_seconds = destination.timeout_seconds if isinstance(destination, RestDestination) else 0.0
        self._connect = connect
        self._sender = sender
        self.name = f"{flow.name}/{destination.name}"

    async def run(self, tell: Tell) -> float:
        """Deliver until something is in the way. Raises RetryLater, StopConnector."""
        async with claims.held(self._connect, self.name) as connection:
            if connection is None:
                tell("another daemon delivers")
                return STAND_BY_SECONDS
            await in_thread(self._file_the_delivered, connection)
            async with self._sender as sender:
                while True:
                    await self._deliver_all(connection, sender, tell)
                    tell(await in_thread(self._told, connection))
                    await asyncio.sleep(POLL_SECONDS)

    async def _deliver_all(self, connection: Connection, sender: Sender, tell: Tell) -> None:
        doubts = 0
        while due := await in_thread(self._due, connection):
            for file in due:
                error = await _finished(self._deliver(connection, sender, file))
                doubts = doubts + 1 if error else 0
                if error and doubts == DOUBTS:
                    raise RetryLater(error.reason, hint=error.hint, after_seconds=error.after_seconds) from error
                if error and self._in_order:
                    return
                if error is None:
                    tell("delivers")

    def _due(self, connection: Connection) -> list[_Due]:
        rows = connection.execute(_DUE_IN_ORDER if self._in_order else _DUE, self._what | {"limit": FILES_AT_ONCE})
        return [_Due(*row) for row in rows.fetchall()]

    @property
    def _what(self) -> dict[str, Any]:
        return {"flow": self._flow, "names": self._names, "doubts": DOUBTS}

    def _told(self, connection: Connection) -> str:
        """What `status` shows."""
        found = connection.execute(_WAITING, self._what).fetchone()
        count, error = found or (0, None)
        return "delivers" if not count else f"delivers; {count} tried again: {error}"

    async def _deliver(self, connection: Connection, sender: Sender, due: _Due) -> Doubtful | None:
        """Deliver one file; what is doubtful of it is returned, and it is tried again later."""
        parcel = await in_thread(self._opened, connection, due)
        if parcel is None:
            return None
        # If the process ends now, nobody waits for the partner to finish: the next one has to.
        await in_thread(connection.execute, _SENDING, [self._timeout_seconds + UNCERTAIN_SECONDS, due.id])
        said = logger.bind(flow=self._flow, file=due.name, outbound_id=due.id)
        try:
            answer = await sender.send(parcel)
        except Refused as error:
            said.warning("{} refuses #{} {}: {}", self.name, due.id, due.name, error)
            await in_thread(connection.execute, _FAILED, [printable(str(error)), due.id])
        except Doubtful as error:
            seconds = max(pause_seconds(due.attempts), error.after_seconds, UNCERTAIN_SECONDS)
            said.log("WARNING" if due.attempts <= 1 else "DEBUG", "#{} {} is sent again: {}", due.id, due.name, error)
            await in_thread(connection.execute, _LATER, [printable(error.reason), seconds, due.id])
            return error
        except DoubtfulStop as error:
            await in_thread(connection.execute, _LATER, [printable(error.reason), UNCERTAIN_SECONDS, due.id])
            raise
        except (RetryLater, StopConnector) as error:
            await in_thread(connection.execute, _NOT_SENT, [printable(error.reason), due.doubtful, due.id])
            raise
        else:
            await in_thread(connection.execute, _DELIVERED, [Jsonb(_storable(answer)), due.id])
            already = " already" if isinstance(answer, dict) and "found" in answer else ""
            said.info("{} has #{} {}{}", self.name, due.id, due.name, already)
            await in_thread(self._file, connection, due.id, due.name, due.sha256)
        return None

    def _opened(self, connection: Connection, due: _Due) -> Parcel | None:
        """The file as the ledger knows it; None when it is not to be sent, which the ledger then says."""
        content = _read(self._folder / due.name)
        if content is not None and hashlib.sha256(content).digest() == due.sha256:
            return Parcel(due.id, due.name, content, due.sha256, due.doubtful)
        if connection.execute(_SUPERSEDED, {"id": due.id, "flow": self._flow, "name": due.name}).rowcount:
            logger.debug("#{} {} is superseded by a newer state", due.id, due.name)
            return None
        what = "is no longer in the output folder" if content is None else "was changed by someone else"
        logger.bind(flow=self._flow, file=due.name, outbound_id=due.id).warning("#{} {} {}", due.id, due.name, what)
        connection.execute(_FAILED, [f"{printable(due.name)} {what}", due.id])
        return None

    def _file_the_delivered(self, connection: Connection) -> None:
        """A crash may have come between the mark and the move."""
        for number, name, sha256 in connection.execute(_UNFILED, self._what).fetchall():
            self._file(connection, number, name, sha256)

    def _file(self, connection: Connection, number: int, name: str, sha256: bytes) -> None:
        """Move a delivered file away, unless a newer state lies under its name."""
        path = self._folder / name
        target = self._folder / DELIVERED / name
        place = "replaced by a newer state"
        try:
            identity = Identity.of(os.lstat(path))
            content = _read(path)
            if content is not None and hashlib.sha256(content).digest() == sha256:
                place = str(filing.move(path, target.parent, target.name, number, identity))
        except (FileNotFoundError, FileGone):
            pass
        except RetryLater as error:
            logger.warning("#{} {} is delivered, and stays where it is: {}", number, name, error)
            place = str(path)
        connection.execute("update tidegate.outbound_file set filed_as = %s where id = %s", [place, number])


def names_of(flow: Flow, documents: Sequence[str]) -> str:
    """The regular expression, as PostgreSQL reads it, of the names of files that hold these documents."""
    patterns = {outbound.name: _pattern(outbound.name, outbound.file_name) for outbound in flow.outbound}
    named = [pattern for name, pattern in patterns.items() if name]
    wanted = []
    for document in documents:
        pattern = patterns.get(document) or _pattern(document, "")
        # A value in the name of an unnamed document may look like the folder of a named one.
        wanted.append("".join(f"(?!{other}$)" for other in named if not document) + pattern)
    return f"^({'|'.join(wanted)})$"


def _pattern(document: str, file_name: str) -> str:
    folder = f"{re.escape(document)}/" if document else ""
    return f"{folder}.*{re.escape(PurePath(file_name).suffix)}"


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


def _read(path: Path) -> bytes | None:
    """Raises RetryLater when it cannot be read although it is there."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RetryLater(f"{path} cannot be read: {error.strerror}", hint="mend its permissions") from error


def _storable(value: Json) -> Json:
    """JSONB takes neither NUL nor half a surrogate pair, and knows no infinity."""
    match value:
        case str():
            return value.encode("utf-8", "replace").decode().replace("\0", "")
        case float() if not math.isfinite(value):
            return str(value)
        case list():
            return [_storable(item) for item in value]
        case dict():
            return {_storable(key): _storable(item) for key, item in value.items()}
        case _:
            return value


def refused(connection: Connection, flow: str | None) -> list[int]:
    """The files that partners refuse, of one flow or of all."""
    rows = connection.execute(
        "select id from tidegate.outbound_file where status = 'failed' and flow = coalesce(%s, flow) order by id",
        [flow],
    ).fetchall()
    return [number for (number,) in rows]


def deliver_again(connection: Connection, output_dir: Path, file_id: int) -> bool:
    """Have a file that a partner refused delivered once more; whether it is such a one, and there as it was."""
    found = connection.execute(_REFUSED, [file_id]).fetchone()
    if found is None:
        return False
    flow, name, sha256 = found
    content = _read(output_dir / flow / name)
    if content is None or hashlib.sha256(content).digest() != sha256:
        return False
    return bool(connection.execute(_AGAIN, [file_id]).rowcount)


def give_up(connection: Connection, file_id: int, *, goes_out_anew: bool) -> bool:
    """Have done with a refused file whose rows go out in another; False when they do not, and it stays refused."""
    connection.execute(_GIVEN_UP, {"id": file_id, "anew": goes_out_anew})
    return connection.execute(_REFUSED, [file_id]).fetchone() is None


_DUE = """
select id, name, sha256, attempts, sent_at is not null from tidegate.outbound_file
where flow = %(flow)s and status = 'written' and name ~ %(names)s
    and (next_attempt_at is null or next_attempt_at <= now())
order by id limit %(limit)s
"""

_DUE_IN_ORDER = """
select id, name, sha256, attempts, sent_at is not null from tidegate.outbound_file
where flow = %(flow)s and status = 'written' and name ~ %(names)s and id < coalesce(
    (select min(id) from tidegate.outbound_file
     where flow = %(flow)s and status = 'written' and name ~ %(names)s
        and next_attempt_at > now() and attempts < %(doubts)s), 9223372036854775807)
    and (next_attempt_at is null or next_attempt_at <= now())
order by id limit %(limit)s
"""

_WAITING = """
select count(*), (array_agg(coalesce(last_error, 'sent before the daemon ended, not answered') order by id))[1]
from tidegate.outbound_file
where flow = %(flow)s and status = 'written' and name ~ %(names)s and next_attempt_at > now()
"""

_UNFILED = """
select id, name, sha256 from tidegate.outbound_file
where flow = %(flow)s and status = 'delivered' and filed_as is null and name ~ %(names)s order by id
"""

_SENDING = """
update tidegate.outbound_file
set attempts = attempts + 1, sent_at = now(), next_attempt_at = now() + %s * interval '1 second' where id = %s
"""

_LATER = """
update tidegate.outbound_file set last_error = %s, next_attempt_at = now() + %s * interval '1 second' where id = %s
"""

_NOT_SENT = """
update tidegate.outbound_file
set last_error = %s, sent_at = case when %s then sent_at end, next_attempt_at = null where id = %s
"""

_FAILED = """
update tidegate.outbound_file
set status = 'failed', last_error = %s, sent_at = null, next_attempt_at = null where id = %s
"""

_DELIVERED = """
update tidegate.outbound_file
set status = 'delivered', delivered_at = now(), delivered_as = %s, last_error = null, next_attempt_at = null
where id = %s
"""

# The newer row is there before its content takes the name.
_SUPERSEDED = """
update tidegate.outbound_file o set status = 'superseded', last_error = null, next_attempt_at = null
where id = %(id)s and exists (
    select 1 from tidegate.outbound_file n where n.flow = %(flow)s and n.name = %(name)s and n.id > %(id)s)
"""

_REFUSED = """
select flow, name, sha256 from tidegate.outbound_file where id = %s and status = 'failed'
"""

_GIVEN_UP = """
update tidegate.outbound_file o set status = 'superseded'
where id = %(id)s and status = 'failed' and (%(anew)s or exists (
    select 1 from tidegate.outbound_file n where n.flow = o.flow and n.name = o.name and n.id > o.id))
"""

_AGAIN = """
update tidegate.outbound_file set status = 'written', attempts = 0, last_error = null
where id = %s and status = 'failed'
"""
