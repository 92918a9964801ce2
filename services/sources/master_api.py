"""The REST API of a master: lists page by page, single objects, writes; paced, and its refusals in one form."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import httpx
from pydantic import SecretStr

from models.connector import JsonObject, MasterPage, RestMaster
from models.errors import RefusedByPartner, RetryLater, StopConnector
from services.text import exact_json, hide
from services.transport import http
from services.transport.backoff import MASTER_REQUESTS
from services.transport.http import Answer
from settings import Settings

MAX_ANSWER_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class ListedPage:
    """One page of a list.

    body: as it came. reached: how far the master was when it answered, by its own clock.
    """

    body: bytes
    objects: list[JsonObject]
    reached: int | None
    total: int | None


class MasterApi:
    """The API as one user. `session` opens connections; all of them keep its rate together."""

    def __init__(self, master: RestMaster, settings: Settings) -> None:
        self._master = master
        self._uri = settings.text(master.uri).rstrip("/")
        credentials = (settings.text(setting) for setting in master.credentials)
        self._authorization = SecretStr(master.authorization(*credentials))
        for word in (self._authorization.get_secret_value(), *self._authorization.get_secret_value().split(" ")[1:]):
            hide(word)  # it need not look like the credentials it is made of
        self._pace = _Pace(master.requests_per_minute, 60)

    @asynccontextmanager
    async def session(self) -> AsyncIterator["MasterSession"]:
        async with http.client(self._uri, None, self._master.timeout_seconds) as client:
            client.headers["Authorization"] = self._authorization.get_secret_value()
            yield MasterSession(client, self._master, self._pace)


class MasterSession:
    """Requests over one client.

    All of them raise RetryLater while the master cannot be had, StopConnector when it refuses the
    credentials, and RefusedByPartner for what else it refuses.
    """

    def __init__(self, client: httpx.AsyncClient, master: RestMaster, pace: "_Pace") -> None:
        self._client = client
        self._master = master
        self._pace = pace

    async def pages(self, since: int | None = None) -> AsyncGenerator[ListedPage, None]:
        """Every page of the list of all objects, or of those that changed behind a timestamp."""
        changed = {} if since is None else self._master.changed_since(since)
        first = {**self._master.list_query, **changed}
        url: httpx.URL | None = httpx.URL(f"{self._client.base_url}{self._master.resource}/", params=first)
        asked: set[httpx.URL] = set()
        while url is not None:
            asked.add(url)
            answer = await self._ask("GET", url)
            if not answer.is_good:
                raise self._refusal(answer)
            page, following = self._page(answer)
            yield page
            url = self._next(url, following)
            if url in asked:
                raise RetryLater(f"{answer.place}: its next page is one that was read")

    async def get(self, number: int) -> JsonObject | None:
        """One object, `None` when there is none."""
        answer = await self._ask("GET", self._of(number))
        return None if answer.status in (404, 410) else self._object(answer)

    async def create(self, fields: JsonObject) -> JsonObject:
        """What tells the creation apart makes a repeat harmless; what the answer says of it may be provisional."""
        url = httpx.URL(f"{self._client.base_url}{self._master.resource}/")
        return self._object(await self._ask("POST", url, fields))

    async def update(self, number: int, fields: JsonObject) -> JsonObject:
        return self._object(await self._ask("PUT", self._of(number), fields))

    async def delete(self, number: int) -> None:
        """One that is gone already is deleted as well."""
        answer = await self._ask("DELETE", self._of(number))
        if not answer.is_good and answer.status not in (404, 410):
            raise self._refusal(answer)

    def _of(self, number: int) -> httpx.URL:
        return httpx.URL(f"{self._client.base_url}{self._master.resource}/{number}/")

    def _next(self, url: httpx.URL, following: str | None) -> httpx.URL | None:
        if following is None:
            return None
        target = http.joined(url, following)
        if (target.scheme, target.host, target.port) != (url.scheme, url.host, url.port):
            raise StopConnector(
                f"{url.copy_with(query=None)}: its next page is at {target.scheme}://{target.netloc.decode()}",
                hint=f"credentials go to no other place than {self._master.uri.name}",
            )
        return target

    async def _ask(self, method: str, url: httpx.URL, fields: JsonObject | None = None) -> Answer:
        try:
            return await MASTER_REQUESTS(partial(self._ask_once, method, url, fields))
        except _Busy as busy:
            if busy.answer.status == 429 and fields is not None:
                refusal = self._refusal(busy.answer)
                raise RefusedByPartner(
                    refusal.reason, status=busy.answer.status, after_seconds=busy.after_seconds
                ) from None
            raise

    async def _ask_once(self, method: str, url: httpx.URL, fields: JsonObject | None) -> Answer:
        await self._pace.turn()
        request = self._client.build_request(method, url, json=fields)
        answer = await http.send(self._client, request, MAX_ANSWER_BYTES)
        if answer.status == 401:
            names = " and ".join(setting.name for setting in self._master.credentials)
            raise http.refused_credentials(answer, names)
        if answer.is_passing:
            raise _Busy(answer)
        return answer

    def _page(self, answer: Answer) -> tuple[ListedPage, str | None]:
        """A page, and where the next one is."""
        body = _decoded(answer)
        try:
            page: MasterPage = self._master.read(body)
            if not all(isinstance(one[self._master.id_field], int | str) for one in page.objects):
                raise TypeError
            stamp = answer.headers.get(self._master.reached_header, "")
            reached = int(stamp) if stamp.isdecimal() else None
            following = page.next if page.next is None else str(page.next)
            return ListedPage(answer.body, page.objects, reached, page.total), following
        except (KeyError, TypeError, ValueError, AttributeError):
            raise RetryLater(f"{answer.place} answers with no page of objects: {answer.excerpt}") from None

    def _object(self, answer: Answer) -> JsonObject:
        if not answer.is_good:
            raise self._refusal(answer)
        body = _decoded(answer)
        try:
            # NaN and half a surrogate pair can be read, and passed on to nobody.
            exact_json(body, ensure_ascii=False, allow_nan=False).encode()
            if isinstance(body[self._master.id_field], int | str):
                return dict(body)
        except (KeyError, TypeError, ValueError):
            pass
        raise RetryLater(f"{answer.place} answers with no object: {answer.excerpt}")

    def _refusal(self, answer: Answer) -> RefusedByPartner:
        """What it says no with; or nothing at all."""
        try:
            body = answer.json()
        except ValueError:
            body = None
        said, fields = self._master.refusal(body)
        said = said or ("" if isinstance(body, dict) else answer.excerpt)
        who = self._master.name.capitalize()
        reason = f"{who} refuses: {said}" if said else f"{who} refuses with {answer.status} and no reason"
        return RefusedByPartner(reason, status=answer.status, fields=fields)


class _Busy(RetryLater):
    """The master answers that it cannot answer now."""

    def __init__(self, answer: Answer) -> None:
        fault = http.passing_fault(answer)
        super().__init__(fault.reason, hint=fault.hint, after_seconds=fault.after_seconds)
        self.answer = answer


class _Pace:
    """At most so many turns within any `seconds`."""

    def __init__(self, turns: int, seconds: float) -> None:
        self._seconds = seconds
        self._taken: deque[float] = deque(maxlen=turns)

    async def turn(self) -> None:
        while len(self._taken) == self._taken.maxlen:
            wait = self._taken[0] + self._seconds - time.monotonic()
            if wait <= 0:
                break
            await asyncio.sleep(wait)
        self._taken.append(time.monotonic())


def _decoded(answer: Answer) -> Any:
    try:
        return answer.json(exact=True)
    except ValueError:
        raise RetryLater(f"{answer.place} answers with no JSON: {answer.excerpt}") from None
