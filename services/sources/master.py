"""Keeping a flow's table equal to its master, Intempus, both ways: changes and walks from there, writes to there.

Whatever is learned of an object becomes a file, and files load in the order in which they were placed. So each
look at the master is placed before the next one begins (`_observing`), or an older look could undo a newer one.
"""

import asyncio
import itertools
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import ExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from loguru import logger
from psycopg import Connection

from models.connector import IntempusSource
from models.errors import RefusedByPartner, RetryLater, TidegateError
from models.flow import Flow
from services.db import claims, sqlstate
from services.sources.intempus import Intempus, Object, Page, Session
from services.sources.mirror import Mirror, Placed
from services.supervisor import Tell, in_thread
from settings import Settings

LOAD_SECONDS = 10.0
"""After a write we take so long, at most, to look at it again and to see it loaded here."""

OBSERVED_AT_ONCE = 50
"""So many objects are looked at one by one before other looks may come between."""


@dataclass(frozen=True, slots=True)
class Written:
    """What the master made of a write.

    document: the object as it has it now. local: the ledger's status of the file that brings it
    here, or `waiting`.
    """

    document: Object
    local: str


@dataclass(frozen=True, slots=True)
class Walked:
    """What a full walk found."""

    seen: int
    missed: int
    deleted: int


class Master:
    """Intempus as the master of one flow."""

    def __init__(self, flow: Flow, source: IntempusSource, settings: Settings, connect: claims.Connect) -> None:
        """Raises StopDaemon when the address would send the key in the clear."""
        self._source = source
        self._flow = flow.name
        self._connect = connect
        self._intempus = Intempus(settings.text(source.uri), settings.text(source.user), settings.secret(source.key))
        self._mirror = Mirror(flow, settings.input_dir.resolve())
        self._lock = asyncio.Lock()
        self._walking = asyncio.Lock()
        self.name = f"{flow.name}/{source.name}"
        self.walk_name = f"{flow.name}/{source.name} walk"
        self._look_name = f"{flow.name}/{source.name} look"

    @asynccontextmanager
    async def _observing(self, connection: Connection) -> AsyncIterator[None]:
        """One look at a time, of this daemon and of the others on this database."""
        async with self._lock, claims.alone(connection, self._look_name):
            yield

    # from there

    async def changes(self, tell: Tell) -> float:
        """Look for what changed, again and again."""
        async with self._intempus.session() as session:
            while True:
                async with claims.held(self._connect, self.name) as connection:
                    if connection is None:
                        tell("another daemon looks for changes")
                    else:
                        await self._fetch_changes(session, connection)
                        tell(f"looked for changes at {datetime.now(UTC):%H:%M:%S}Z")
                await asyncio.sleep(self._source.changes_seconds)

    async def walks(self, tell: Tell) -> float:
        """A full walk when one is due; the seconds until the next."""
        every = self._source.walk_seconds
        async with claims.held(self._connect, self.walk_name) as connection:
            if connection is None:
                tell("another daemon walks")
                return every
            state = await in_thread(claims.bookmark, connection, self._flow, self.walk_name)
            if not state:  # the first look for changes brings everything by itself
                await self._remember_walk(connection)
                return every
            due = datetime.fromisoformat(state["walked_at"]) + timedelta(seconds=every) - datetime.now(UTC)
            if due > timedelta(0):
                return min(every, due.total_seconds())
            async with self._walking, self._intempus.session() as session:
                walked = await self._walk(session, connection)
        tell(f"saw {walked.seen}, missed {walked.missed}, deleted {walked.deleted} at {datetime.now(UTC):%H:%M:%S}Z")
        return every

    async def sync(self) -> Walked:
        """Look for changes and walk, now; raises what the session raises."""
        async with self._walking, self._intempus.session() as session:
            with sqlstate.translated(), await in_thread(self._connect) as connection:
                await self._fetch_changes(session, connection)
                return await self._walk(session, connection)

    async def _fetch_changes(self, session: Session, connection: Connection) -> None:
        """Place each page of what changed since the bookmark, then move it.

        The bookmark is how far the master was at the first page: what changes while the later
        ones are read comes again next time.
        """
        state = await in_thread(claims.bookmark, connection, self._flow, self._source.name)
        since = int(state.get("reached", 0))
        reached: int | None = None
        async with aclosing(session.pages(self._source.resource, {"logical_timestamp__gt": str(since)})) as pages:
            for number in itertools.count():
                async with self._observing(connection):
                    page = await _listed(pages)
                    if page is None:
                        break
                    if number == 0:
                        reached = page.reached
                    if page.objects:
                        what = f"{self._source.resource}-changes"
                        await in_thread(self._mirror.place, connection, what, page.body)
        if reached is None:
            raise RetryLater(f"{self.name}: the first page comes without a Logical-Timestamp header")
        await in_thread(claims.move_bookmark, connection, self._flow, self._source.name, {"reached": reached})

    async def _walk(self, session: Session, connection: Connection) -> Walked:
        """Read every object: place those that we missed, and delete here those that are gone there.

        Gone is what was here when the walk began, was on none of its pages, and is answered with
        404 when asked for by itself. A walk that breaks off gets to no deletes.
        """
        before = await in_thread(self._mirror.alive, connection)
        seen: set[int] = set()
        total: int | None = None
        missed = 0
        async with aclosing(session.pages(self._source.resource, {})) as pages:
            while True:
                async with self._observing(connection):
                    page = await _listed(pages)
                    if page is None:
                        break
                    seen.update(int(one["id"]) for one in page.objects)
                    total = page.total
                    news = await in_thread(self._mirror.missing, connection, page.objects)
                    missed += await self._repair(connection, news)
        if total is not None and len(seen) < total:
            raise RetryLater(f"{self.name}: the pages hold {len(seen)} of {total} objects", hint="nothing is deleted")
        deleted = await self._delete_gone(session, connection, sorted(before - seen))
        await self._remember_walk(connection)
        return Walked(len(seen), missed, deleted)

    async def _remember_walk(self, connection: Connection) -> None:
        state = {"walked_at": datetime.now(UTC).isoformat()}
        await in_thread(claims.move_bookmark, connection, self._flow, self.walk_name, state)

    async def _repair(self, connection: Connection, news: Sequence[Object]) -> int:
        """Place objects that are missing here; not those that are missing because they were refused."""
        content = self._mirror.envelope(news)
        if not news or await in_thread(self._mirror.was_refused, connection, content):
            return 0
        await in_thread(self._mirror.place, connection, f"{self._source.resource}-missed", content)
        return len(news)

    async def _delete_gone(self, session: Session, connection: Connection, unseen: Sequence[int]) -> int:
        deleted = 0
        for start in range(0, len(unseen), OBSERVED_AT_ONCE):
            some = unseen[start : start + OBSERVED_AT_ONCE]
            async with self._observing(connection):
                gone = [number for number in some if await self._is_gone(session, number)]
                deleted += len(gone)
                await self._bury(connection, gone)
        return deleted

    async def _is_gone(self, session: Session, number: int) -> bool:
        try:
            return await session.get(self._source.resource, number) is None
        except RefusedByPartner as error:
            logger.debug("{}: {} stays here: {}", self.name, number, error)
            return False

    async def _bury(self, connection: Connection, gone: Sequence[int]) -> Placed | None:
        """Place the tombstones of these objects, of those that are not deleted here yet."""
        tombstones = await in_thread(self._mirror.tombstones, connection, gone)
        if not tombstones:
            return None
        what, content = f"{self._source.resource}-deleted", self._mirror.envelope(tombstones)
        return await in_thread(self._mirror.place, connection, what, content)

    # to there

    async def create(self, fields: Object, key: str | None) -> Written:
        """Create an object; the same `key` or `creation_id` again gives the one that was created."""
        if not fields.get("creation_id"):
            made = uuid.uuid5(uuid.NAMESPACE_URL, f"{self.name}/{key}") if key else uuid.uuid4()
            fields = {**fields, "creation_id": str(made)}
        async with self._intempus.session() as session:
            answered = await session.create(self._source.resource, fields)
            return await self._look_again(session, int(answered["id"]), answered)

    async def update(self, number: int, fields: Object) -> Written:
        async with self._intempus.session() as session:
            answered = await session.update(self._source.resource, number, fields)
            return await self._look_again(session, number, answered)

    async def delete(self, number: int) -> None:
        """Delete an object; one that is gone there already is only deleted here."""
        async with self._intempus.session() as session:
            await session.delete(self._source.resource, number)
            await self._look_again(session, number, {})

    async def _look_again(self, session: Session, number: int, answered: Object) -> Written:
        """The object as the master has it after a write, loaded here where that goes well.

        The master said yes, so whatever goes wrong from here on is no failure: the next look
        for changes, or the next walk, brings it here.
        """
        found: Object | None = None
        placed: Placed | None = None
        local = "waiting"
        try:
            async with asyncio.timeout(LOAD_SECONDS):
                with sqlstate.translated(), ExitStack() as stack:
                    async with self._lock:  # before connecting: many may wait for it
                        connection = await in_thread(lambda: stack.enter_context(self._connect()))
                        async with claims.alone(connection, self._look_name):
                            found = await session.get(self._source.resource, number)
                            placed = await self._place_found(connection, number, found)
                    local = await self._loaded(connection, placed) if placed else "unchanged"
        except TimeoutError:
            pass  # it follows
        except TidegateError as error:
            logger.warning("{}: {} is written there and not yet here: {}", self.name, number, error)
            return Written(found or answered, "waiting")
        if local in ("waiting", "rejected"):
            file = placed.name if placed else "to come"
            logger.warning("{}: {} is written there, and here its file ({}) is {}", self.name, number, file, local)
        return Written(found or answered, local)

    async def _place_found(self, connection: Connection, number: int, found: Object | None) -> Placed | None:
        if found is None:
            return await self._bury(connection, [number])
        what, content = f"{self._source.resource}-written", self._mirror.envelope([found])
        return await in_thread(self._mirror.place, connection, what, content)

    async def _loaded(self, connection: Connection, placed: Placed) -> str:
        pause = 0.02
        while (status := await in_thread(self._mirror.became, connection, placed)) is None:
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, 0.5)
        return status


async def _listed(pages: AsyncGenerator[Page, None]) -> Page | None:
    """The next page of a list, None behind the last. Raises RetryLater when the list itself is refused."""
    try:
        return await anext(pages, None)
    except RefusedByPartner as error:
        raise RetryLater(error.reason, hint="is INTEMPUS_API_URI right?", after_seconds=error.after_seconds) from error
