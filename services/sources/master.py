"""Keeping a local replica equal to its master, both ways: changes and full syncs from there, writes to there.

Whatever is learned of an object becomes a file, and files load in the order in which they were placed. So each
look at the master is placed before the next one begins (`_looking`), or an older look could undo a newer one.
"""

import asyncio
import itertools
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import ExitStack, aclosing, asynccontextmanager
from datetime import UTC, datetime

from loguru import logger
from psycopg import Connection

from models.connector import JsonObject, RestMaster
from models.errors import RefusedByPartner, RetryLater, TidegateError
from models.flow import Flow
from models.ledger import UNCHANGED, WAITING, FileStatus, LocalStatus
from models.master import FullSync, MasterWrite
from services.db import sqlstate
from services.db.engine import Connect
from services.ledger import clock, cursors, locks
from services.runtime.blocking import in_thread
from services.runtime.supervisor import Job, Tell
from services.sources.local_replica import LocalReplica, PlacedFile
from services.sources.master_api import ListedPage, MasterApi, MasterSession
from settings import Settings

LOAD_SECONDS = 10.0
"""After a write we take so long, at most, to look at it again and to see it loaded here."""

LOOKED_AT_ONCE = 50
"""So many objects are looked at one by one before other looks may come between."""


class Master:
    """The master of one flow."""

    def __init__(self, flow: Flow, source: RestMaster, settings: Settings, connect: Connect) -> None:
        """Raises StopDaemon when the address would send the credentials in the clear."""
        self._source = source
        self._flow = flow.name
        self._connect = connect
        self._api = MasterApi(source, settings)
        self._replica = LocalReplica(flow, source, settings.input_dir.resolve())
        self._lock = asyncio.Lock()
        self._syncing = asyncio.Lock()
        self.name = f"{flow.name}/{source.name}"
        self._sync_name = f"{self.name} full sync"
        self._look_name = f"{self.name} look"

    @property
    def jobs(self) -> list[Job]:
        return [Job(self.name, self.changes), Job(self._sync_name, self.full_syncs)]

    @asynccontextmanager
    async def _looking(self, connection: Connection) -> AsyncIterator[None]:
        """One look at a time, of this daemon and of the others on this database."""
        async with self._lock, locks.wait_for_turn(connection, self._look_name):
            yield

    # from there

    async def changes(self, tell: Tell) -> float:
        """Look for what changed, again and again."""
        async with self._api.session() as session:
            while True:
                async with locks.try_connector(self._connect, self.name) as connection:
                    if connection is None:
                        tell("another daemon looks for changes")
                    else:
                        await self._fetch_changes(session, connection)
                        tell(f"looked for changes at {datetime.now(UTC):%H:%M:%S}Z")
                await asyncio.sleep(self._source.changes_seconds)

    async def full_syncs(self, tell: Tell) -> float:
        """A full sync when one is due; the seconds until the next."""
        every = self._source.full_sync_seconds
        async with locks.try_connector(self._connect, self._sync_name) as connection:
            if connection is None:
                tell("another daemon does the full sync")
                return every
            state = await in_thread(cursors.read, connection, self._flow, self._sync_name)
            if not state:  # the first look for changes brings everything by itself
                await self._remember_sync(connection)
                return every
            last = datetime.fromisoformat(state["synced_at"])
            waited = await in_thread(clock.age_seconds, connection, last)
            if 0 <= waited < every:  # what is dated behind now is of before the clock was set back
                return every - waited
            async with self._syncing, self._api.session() as session:
                found = await self._full_sync(session, connection)
        tell(f"saw {found.seen}, missed {found.missed}, deleted {found.deleted} at {datetime.now(UTC):%H:%M:%S}Z")
        return every

    async def sync(self) -> FullSync:
        """Look for changes and compare everything, now; raises what the session raises."""
        async with self._syncing, self._api.session() as session:
            with sqlstate.translated(), await in_thread(self._connect) as connection:
                await self._fetch_changes(session, connection)
                return await self._full_sync(session, connection)

    async def _fetch_changes(self, session: MasterSession, connection: Connection) -> None:
        """Place each page of what changed since the cursor, then move it.

        The cursor is how far the master was at the first page: what changes while the later
        ones are read comes again next time.
        """
        state = await in_thread(cursors.read, connection, self._flow, self._source.name)
        reached: int | None = None
        async with aclosing(session.pages(since=int(state.get("reached", 0)))) as pages:
            for number in itertools.count():
                async with self._looking(connection):
                    page = await self._listed(pages)
                    if page is None:
                        break
                    if number == 0:
                        reached = page.reached
                    if page.objects:
                        what = f"{self._source.resource}-changes"
                        await in_thread(self._replica.place, connection, what, page.body)
        if reached is None:
            raise RetryLater(f"{self.name}: the first page comes without a {self._source.reached_header} header")
        await in_thread(cursors.move, connection, self._flow, self._source.name, {"reached": reached})

    async def _full_sync(self, session: MasterSession, connection: Connection) -> FullSync:
        """Read every object: place those that we missed, and delete here those that are gone there.

        Gone is what was here when the sync began, was on none of its pages, and is answered with
        404 when asked for by itself. A sync that breaks off gets to no deletes.
        """
        before = await in_thread(self._replica.alive, connection)
        seen: set[int] = set()
        total: int | None = None
        missed = 0
        async with aclosing(session.pages()) as pages:
            while True:
                async with self._looking(connection):
                    page = await self._listed(pages)
                    if page is None:
                        break
                    seen.update(map(self._replica.id_of, page.objects))
                    total = page.total
                    news = await in_thread(self._replica.missing, connection, page.objects)
                    missed += await self._place_missed(connection, news)
        if total is not None and len(seen) < total:
            raise RetryLater(f"{self.name}: the pages hold {len(seen)} of {total} objects", hint="nothing is deleted")
        deleted = await self._delete_gone(session, connection, sorted(before - seen))
        await self._remember_sync(connection)
        return FullSync(len(seen), missed, deleted)

    async def _listed(self, pages: AsyncGenerator[ListedPage, None]) -> ListedPage | None:
        """The next page of a list, None behind the last. Raises RetryLater when the list itself is refused."""
        try:
            return await anext(pages, None)
        except RefusedByPartner as error:
            hint = f"is {self._source.uri.name} right?"
            raise RetryLater(error.reason, hint=hint, after_seconds=error.after_seconds) from error

    async def _remember_sync(self, connection: Connection) -> None:
        state = {"synced_at": (await in_thread(clock.now, connection)).isoformat()}
        await in_thread(cursors.move, connection, self._flow, self._sync_name, state)

    async def _place_missed(self, connection: Connection, news: Sequence[JsonObject]) -> int:
        """Place objects that are missing here; not those that are missing because they were rejected."""
        content = self._replica.envelope(news)
        if not news or await in_thread(self._replica.had_rejections, connection, content):
            return 0
        await in_thread(self._replica.place, connection, f"{self._source.resource}-missed", content)
        return len(news)

    async def _delete_gone(self, session: MasterSession, connection: Connection, unseen: Sequence[int]) -> int:
        deleted = 0
        for start in range(0, len(unseen), LOOKED_AT_ONCE):
            some = unseen[start : start + LOOKED_AT_ONCE]
            async with self._looking(connection):
                gone = [number for number in some if await self._is_gone(session, number)]
                deleted += len(gone)
                await self._place_deletions(connection, gone)
        return deleted

    async def _is_gone(self, session: MasterSession, number: int) -> bool:
        try:
            return await session.get(number) is None
        except RefusedByPartner as error:
            logger.debug("{}: {} stays here: {}", self.name, number, error)
            return False

    async def _place_deletions(self, connection: Connection, gone: Sequence[int]) -> PlacedFile | None:
        """Place the tombstones of these objects, of those that are not deleted here yet."""
        tombstones = await in_thread(self._replica.tombstones, connection, gone)
        if not tombstones:
            return None
        what, content = f"{self._source.resource}-deleted", self._replica.envelope(tombstones)
        return await in_thread(self._replica.place, connection, what, content)

    # to there

    async def create(self, fields: JsonObject, key: str | None) -> MasterWrite:
        """Create an object; the same `key`, or the same `creation_field`, again gives the one that was created."""
        name = self._source.creation_field
        if not fields.get(name):
            made = uuid.uuid5(uuid.NAMESPACE_URL, f"{self.name}/{key}") if key else uuid.uuid4()
            fields = {**fields, name: str(made)}
        async with self._api.session() as session:
            answered = await session.create(fields)
            return await self._look_again(session, self._replica.id_of(answered), answered)

    async def update(self, number: int, fields: JsonObject) -> MasterWrite:
        async with self._api.session() as session:
            answered = await session.update(number, fields)
            return await self._look_again(session, number, answered)

    async def delete(self, number: int) -> None:
        """Delete an object; one that is gone there already is only deleted here."""
        async with self._api.session() as session:
            await session.delete(number)
            await self._look_again(session, number, {})

    async def _look_again(self, session: MasterSession, number: int, answered: JsonObject) -> MasterWrite:
        """The object as the master has it after a write, loaded here where that goes well.

        The master said yes, so whatever goes wrong from here on is no failure: the next look
        for changes, or the next full sync, brings it here.
        """
        found: JsonObject | None = None
        placed: PlacedFile | None = None
        local: LocalStatus = WAITING
        try:
            async with asyncio.timeout(LOAD_SECONDS):
                with sqlstate.translated(), ExitStack() as stack:
                    async with self._lock:  # before connecting: many may wait for it
                        connection = await in_thread(lambda: stack.enter_context(self._connect()))
                        async with locks.wait_for_turn(connection, self._look_name):
                            found = await session.get(number)
                            placed = await self._place_found(connection, number, found)
                    local = await self._loaded(connection, placed) if placed else UNCHANGED
        except TimeoutError:
            pass  # it follows
        except TidegateError as error:
            logger.warning("{}: {} is written there and not yet here: {}", self.name, number, error)
            return MasterWrite(number, found or answered, WAITING)
        if local in (WAITING, FileStatus.REJECTED):
            file = placed.name if placed else "to come"
            logger.warning("{}: {} is written there, and here its file ({}) is {}", self.name, number, file, local)
        return MasterWrite(number, found or answered, local)

    async def _place_found(self, connection: Connection, number: int, found: JsonObject | None) -> PlacedFile | None:
        if found is None:
            return await self._place_deletions(connection, [number])
        what, content = f"{self._source.resource}-written", self._replica.envelope([found])
        return await in_thread(self._replica.place, connection, what, content)

    async def _loaded(self, connection: Connection, placed: PlacedFile) -> FileStatus:
        pause = 0.02
        while (status := await in_thread(self._replica.became, connection, placed)) is None:
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, 0.5)
        return status
