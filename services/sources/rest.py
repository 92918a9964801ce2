"""Polling a partner's REST API: each page that says something new becomes a file in the input folder."""

import hashlib
import itertools
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial

import httpx
from loguru import logger
from psycopg import Connection

from models.connector import RestSource, SourcePage
from models.errors import RetryLater
from services.db.engine import Connect
from services.files.directory import Folder
from services.ledger import cursors, locks
from services.runtime.blocking import in_thread
from services.runtime.supervisor import Job, Tell
from services.sources.arrival import arrive
from services.transport import http
from services.transport.backoff import source_requests
from settings import Settings

KNOWN_PAGES = 1000
"""So many pages of a poll are remembered by their digest."""


class RestPoller:
    """Polls the pages of one source, again and again.

    The cursor moves when the last page of a poll is on disk. Until then its pages are remembered
    by digest, so that a poll that was cut short writes no page a second time.
    """

    def __init__(self, flow: str, source: RestSource, settings: Settings, connect: Connect) -> None:
        self._flow = flow
        self._source = source
        self._folder = Folder(settings.input_dir.resolve()) / flow
        self._address = settings.text(source.address)
        self._token = settings.secret(source.token) if source.token else None
        self._interval_seconds = float(settings.text(source.interval))
        self._retries = source_requests(source.tries, source.pause_seconds)
        self._connect = connect

    @property
    def jobs(self) -> list[Job]:
        return [Job(self.name, self.poll)]

    @property
    def name(self) -> str:
        return f"{self._flow}/{self._source.name}"

    async def poll(self, tell: Tell) -> float:
        """One poll; the seconds until the next."""
        async with locks.try_connector(self._connect, self.name) as connection:
            if connection is None:
                tell("another daemon polls")
            else:
                pages = await self._poll_pages(connection)
                tell(f"polls every {self._interval_seconds:g} s; {pages} new at {datetime.now(UTC):%H:%M:%S}Z")
        return self._interval_seconds

    async def _poll_pages(self, connection: Connection) -> int:
        """The number of pages that became files."""
        state = await in_thread(cursors.read, connection, self._flow, self._source.name)
        since, known = state.get("since"), dict.fromkeys(state.get("pages", ()))
        query = dict(self._source.query)
        if self._source.since and since:
            query[self._source.since] = since
        seen: list[str] = []
        asked: list[Mapping[str, str]] = []
        reached, written = None, 0
        async with http.client(self._address, self._token, self._source.timeout_seconds) as client:
            for number in itertools.count(1):
                body, page = await self._fetch(client, query)
                reached = page.cursor if number == 1 else reached
                digest = hashlib.sha256(json.dumps(page.records, sort_keys=True).encode()).hexdigest()
                if page.records and digest not in known:
                    await in_thread(self._place, connection, body, number, len(page.records))
                    written += 1
                seen.append(digest)
                asked.append(query)
                if page.next is None:
                    break
                query = {**query, **page.next}
                if query in asked:
                    raise RetryLater(f"{self._address} names page {number} as the next one again: {page.next}")
                await self._remember(connection, since, [*known, *seen])
        await self._remember(connection, reached or since, seen)
        return written

    async def _remember(self, connection: Connection, since: str | None, pages: list[str]) -> None:
        state = {"since": since, "pages": pages[-KNOWN_PAGES:]}
        await in_thread(cursors.move, connection, self._flow, self._source.name, state)

    async def _fetch(self, client: httpx.AsyncClient, query: Mapping[str, str]) -> tuple[bytes, SourcePage]:
        """A page, asked for again when the partner stumbles. Raises RetryLater, StopConnector."""
        return await self._retries(partial(self._fetch_once, client, query))

    async def _fetch_once(self, client: httpx.AsyncClient, query: Mapping[str, str]) -> tuple[bytes, SourcePage]:
        answer = await http.get(client, self._source.path, query, self._source.max_bytes)
        place = answer.url.partition("?")[0]
        if answer.status in http.BAD_CREDENTIALS:
            raise http.refused_credentials(answer, (self._source.token or self._source.address).name)
        if answer.is_passing:
            raise http.passing_fault(answer)
        if not answer.is_good:
            raise RetryLater(
                f"{place} answers {answer.status} {answer.excerpt}".rstrip(),
                hint=f"is {self._source.address.name} the right address?",
            )
        try:
            return answer.body, self._source.read(answer.json())
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RetryLater(
                f"{place} answers with something else than was agreed: {type(error).__name__}: {error}",
                hint=f"it begins with {answer.excerpt[:80]!r}",
            ) from error

    def _place(self, connection: Connection, body: bytes, number: int, records: int) -> None:
        """Put a page into the input folder."""
        name = f"{self._source.name}-{datetime.now(UTC):%Y%m%dT%H%M%S%f}Z-{number:05}.json"
        path = arrive(connection, self._folder, name, body, number)
        logger.bind(flow=self._flow, file=path.name).info(
            "{} fetched {}: {} records, {} bytes", self.name, path.name, records, len(body)
        )
