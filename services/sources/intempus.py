"""The client of Intempus: lists by cursor, single objects, writes; paced, and its refusals in one form."""

import asyncio
import ipaddress
import json
import random
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx
from pydantic import SecretStr

from models.errors import RefusedByPartner, RetryLater, StopConnector, StopDaemon
from services import rest
from services.rest import Answer

Object = dict[str, Any]
"""An object as Intempus sends it; only the flow knows its fields."""

REQUESTS_PER_MINUTE = 500
PAGE_OBJECTS = 1000
MAX_ANSWER_BYTES = 64 << 20
TIMEOUT_SECONDS = 30
TRIES = 4
FIRST_PAUSE_SECONDS = 0.5
PATIENCE_SECONDS = 10
"""A longer Retry-After is not waited for here: whoever asked decides."""

_CREDENTIALS = "INTEMPUS_API_USER (case-sensitive) and INTEMPUS_API_KEY"


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a list.

    body: as it came. reached: how far Intempus was when it answered, by its own clock.
    total: how many objects the whole list has.
    """

    body: bytes
    objects: list[Object]
    reached: int | None
    total: int | None


class Intempus:
    """Intempus as one user. `session` opens connections; all of them keep its rate together."""

    def __init__(self, uri: str, user: str, key: SecretStr) -> None:
        """Raises StopDaemon when the key would go over the network in the clear."""
        self._uri = uri.rstrip("/")
        self._authorization = SecretStr(f"ApiKey {user}:{key.get_secret_value()}")
        self._pace = _Pace(REQUESTS_PER_MINUTE, 60)
        parts = urlsplit(uri)
        if parts.scheme != "https" and not _is_loopback(parts.hostname or ""):
            raise StopDaemon(f"INTEMPUS_API_URI {uri} would send the key unencrypted", hint="set it to https://…")

    @asynccontextmanager
    async def session(self) -> AsyncIterator["Session"]:
        async with rest.client(self._uri, None, TIMEOUT_SECONDS) as client:
            client.headers["Authorization"] = self._authorization.get_secret_value()
            yield Session(client, self._pace)


class Session:
    """Requests over one client.

    All of them raise RetryLater while Intempus cannot be had, StopConnector when it refuses the
    credentials, and RefusedByPartner for what else it refuses.
    """

    def __init__(self, client: httpx.AsyncClient, pace: "_Pace") -> None:
        self._client = client
        self._pace = pace

    async def pages(self, resource: str, query: Mapping[str, str]) -> AsyncGenerator[Page, None]:
        """Every page of a list, by cursor: an offset would skip objects while others are deleted."""
        first = {"limit": str(PAGE_OBJECTS), "pagination_type": "cursor", **query}
        url: httpx.URL | None = httpx.URL(f"{self._client.base_url}{resource}/", params=first)
        asked: set[httpx.URL] = set()
        while url is not None:
            asked.add(url)
            answer = await self._ask("GET", url)
            if not answer.is_good:
                raise _refusal(answer)
            page, following = _page(answer)
            yield page
            url = self._next(url, following)
            if url in asked:
                raise RetryLater(f"{_place(answer)}: meta.next leads back to a page that was read")

    async def get(self, resource: str, number: int) -> Object | None:
        """One object, `None` when there is none."""
        answer = await self._ask("GET", self._of(resource, number))
        return None if answer.status in (404, 410) else _object(answer)

    async def create(self, resource: str, fields: Object) -> Object:
        """Its `creation_id` makes a repeat harmless. The timestamp in the answer is only a placeholder."""
        return _object(await self._ask("POST", httpx.URL(f"{self._client.base_url}{resource}/"), fields))

    async def update(self, resource: str, number: int, fields: Object) -> Object:
        return _object(await self._ask("PUT", self._of(resource, number), fields))

    async def delete(self, resource: str, number: int) -> None:
        """One that is gone already is deleted as well."""
        answer = await self._ask("DELETE", self._of(resource, number))
        if not answer.is_good and answer.status not in (404, 410):
            raise _refusal(answer)

    def _of(self, resource: str, number: int) -> httpx.URL:
        return httpx.URL(f"{self._client.base_url}{resource}/{number}/")

    def _next(self, url: httpx.URL, following: str | None) -> httpx.URL | None:
        if following is None:
            return None
        target = rest.joined(url, following)
        if (target.scheme, target.host, target.port) != (url.scheme, url.host, url.port):
            raise StopConnector(
                f"{url.copy_with(query=None)}: meta.next leads to {target.scheme}://{target.netloc.decode()}",
                hint="the key goes to no other place than INTEMPUS_API_URI",
            )
        return target

    async def _ask(self, method: str, url: httpx.URL, fields: Object | None = None) -> Answer:
        """Every request may be repeated: reads and deletes anyway, writes by their id or `creation_id`."""
        pause = FIRST_PAUSE_SECONDS
        for left in reversed(range(TRIES)):
            await self._pace.turn()
            try:
                request = self._client.build_request(method, url, json=fields)
                answer = await rest.send(self._client, request, MAX_ANSWER_BYTES)
                if answer.status == 401:
                    raise rest.refused_credentials(answer, _CREDENTIALS)
                if not answer.is_passing:
                    return answer
                fault = rest.passing_fault(answer)
                if fault.after_seconds > PATIENCE_SECONDS or not left:
                    raise _busy(answer, fault) if answer.status == 429 and fields is not None else fault
            except (rest.NotSent, rest.Uncertain) as error:
                if not left:
                    raise
                fault = error
            await asyncio.sleep(max(fault.after_seconds, pause * random.uniform(0.5, 1)))  # noqa: S311
            pause *= 2
        raise AssertionError


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


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _page(answer: Answer) -> tuple[Page, str | None]:
    """A page, and where the next one is."""
    body = _decoded(answer)
    try:
        meta, objects = body["meta"], body["objects"]
        following, total = meta.get("next"), meta.get("total_count")
        if not all(isinstance(one["id"], int | str) for one in objects):
            raise TypeError
        stamp = answer.headers.get("Logical-Timestamp", "")
        page = Page(answer.body, objects, int(stamp) if stamp.isdecimal() else None, total)
        return page, following if following is None else str(following)
    except (KeyError, TypeError, AttributeError):
        raise RetryLater(f"{_place(answer)} answers with no page of meta and objects: {answer.excerpt}") from None


def _object(answer: Answer) -> Object:
    if not answer.is_good:
        raise _refusal(answer)
    body = _decoded(answer)
    try:
        # NaN and half a surrogate pair can be read, and passed on to nobody.
        json.dumps(body, ensure_ascii=False, allow_nan=False).encode()
        if isinstance(body["id"], int | str):
            return dict(body)
    except (KeyError, TypeError, ValueError):
        pass
    raise RetryLater(f"{_place(answer)} answers with no object: {answer.excerpt}")


def _decoded(answer: Answer) -> Any:
    try:
        return json.loads(answer.body)
    except (ValueError, RecursionError):
        raise RetryLater(f"{_place(answer)} answers with no JSON: {answer.excerpt}") from None


def _refusal(answer: Answer) -> RefusedByPartner:
    """What it says no with: `error`, `error_message`, or fields keyed by resource; or nothing at all."""
    try:
        body = json.loads(answer.body)
    except (ValueError, RecursionError):
        body = None
    said, fields = answer.excerpt, {}
    if isinstance(body, dict):
        error = body.get("error", body.get("error_message"))
        if error is None:
            # {"case": {"name": [...]}}: the fields of the one resource that was written.
            inner = next(iter(body.values()), None) if len(body) == 1 else None
            fields = inner if isinstance(inner, dict) else body
            said = "; ".join(f"{name}: {_sentence(what)}" for name, what in fields.items())
        else:
            said = _sentence(error)
    reason = f"Intempus refuses: {said}" if said else f"Intempus refuses with {answer.status} and no reason"
    return RefusedByPartner(reason, status=answer.status, fields=fields)


def _busy(answer: Answer, fault: RetryLater) -> RefusedByPartner:
    refusal = _refusal(answer)
    return RefusedByPartner(refusal.reason, status=answer.status, after_seconds=fault.after_seconds)


def _sentence(said: object) -> str:
    return ", ".join(map(str, said)) if isinstance(said, list) else str(said)


def _place(answer: Answer) -> str:
    return answer.url.partition("?")[0]
