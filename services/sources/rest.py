"""Polling a partner's REST API: each page that says something new becomes a file in the input folder."""

import hashlib
import itertools
import json
import random
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import httpx
from loguru import logger
from psycopg import Connection
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt

from models.connector import Page, RestSource
from models.errors import RetryLater
from services import filing, rest
from services.db import claims
from services.supervisor import Tell, in_thread
from settings import Settings

LONGEST_WAIT_SECONDS = 30.0
"""A partner who wants us to come back later than that has the whole walk wait, not a request."""

KNOWN_PAGES = 1000
"""So many pages of a walk are remembered by their digest."""


class RestPoller:
    """Walks through the pages of one source, again and again.

    The bookmark moves when the last page of a walk is on disk. Until then its pages are remembered
    by digest, so that a walk that was cut short writes no page a second time.
    """

    def __init__(self, flow: str, source: RestSource, settings: Settings, connect: claims.Connect) -> None:
        self._flow = flow
        self._source = source
        self._folder = settings.input_dir.resolve() / flow
        self._address = settings.text(source.address)
        self._token = settings.secret(source.token) if source.token else None
        self._interval_seconds = float(settings.text(source.interval))
        self._connect = connect

    @property
    def name(self) -> str:
        return f"{self._flow}/{self._source.name}"

    async def poll(self, tell: Tell) -> float:
        """One walk; the seconds until the next."""
        async with claims.held(self._connect, self.name) as connection:
            if connection is None:
                tell("another daemon polls")
            else:
                pages = await self._walk(connection)
                tell(f"polls every {self._interval_seconds:g} s; {pages} new at {datetime.now(UTC):%H:%M:%S}Z")
        return self._interval_seconds

    async def _walk(self, connection: Connection) -> int:
        """The number of pages that became files."""
        state = await in_thread(claims.bookmark, connection, self._flow, self._source.name)
        since, known = state.get("since"), dict.fromkeys(state.get("pages", ()))
        query = dict(self._source.query)
        if self._source.since and since:
            query[self._source.since] = since
        seen: list[str] = []
        asked: list[Mapping[str, str]] = []
        bookmark, written = None, 0
        async with rest.client(self._address, self._token, self._source.timeout_seconds) as client:
            for number in itertools.count(1):
                body, page = await self._fetch(client, query)
                bookmark = page.bookmark if number == 1 else bookmark
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
        await self._remember(connection, bookmark or since, seen)
        return written

    async def _remember(self, connection: Connection, since: str | None, pages: list[str]) -> None:
        state = {"since": since, "pages": pages[-KNOWN_PAGES:]}
        await in_thread(claims.move_bookmark, connection, self._flow, self._source.name, state)

    async def _fetch(self, client: httpx.AsyncClient, query: Mapping[str, str]) -> tuple[bytes, Page]:
        """A page, asked for again when the partner stumbles. Raises RetryLater, StopConnector."""
        tries = AsyncRetrying(
            stop=stop_after_attempt(self._source.tries),
            retry=retry_if_exception(_may_pass),
            wait=self._pause_seconds,
            reraise=True,
        )
        return await tries(self._fetch_once, client, query)

    async def _fetch_once(self, client: httpx.AsyncClient, query: Mapping[str, str]) -> tuple[bytes, Page]:
        answer = await rest.get(client, self._source.path, query, self._source.max_bytes)
        place = answer.url.partition("?")[0]
        if answer.status in rest.BAD_CREDENTIALS:
            raise rest.refused_credentials(answer, (self._source.token or self._source.address).name)
        if answer.is_passing:
            raise rest.passing_fault(answer)
        if not answer.is_good:
            raise RetryLater(
                f"{place} answers {answer.status} {answer.excerpt}".rstrip(),
                hint=f"is {self._source.address.name} the right address?",
            )
        try:
            return answer.body, self._source.read(json.loads(answer.body))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RetryLater(
                f"{place} answers with something else than was agreed: {type(error).__name__}: {error}",
                hint=f"it begins with {answer.excerpt[:80]!r}",
            ) from error

    def _pause_seconds(self, tried: RetryCallState) -> float:
        error = tried.outcome.exception() if tried.outcome else None
        pause: float = self._source.pause_seconds * 2 ** (tried.attempt_number - 1) * random.uniform(0.5, 1)  # noqa: S311
        return max(pause, error.after_seconds if isinstance(error, RetryLater) else 0.0)

    def _place(self, connection: Connection, body: bytes, number: int, records: int) -> None:
        """Put a page into the input folder."""
        name = f"{self._source.name}-{datetime.now(UTC):%Y%m%dT%H%M%S%f}Z-{number:05}.json"
        claims.let_load_again(connection, self._flow, hashlib.sha256(body).digest())
        path: Path = filing.arrive(self._folder, name, body, number)
        logger.bind(flow=self._flow, file=path.name).info(
            "{} fetched {}: {} records, {} bytes", self.name, path.name, records, len(body)
        )


def _may_pass(error: BaseException) -> bool:
    return isinstance(error, RetryLater) and error.after_seconds <= LONGEST_WAIT_SECONDS
