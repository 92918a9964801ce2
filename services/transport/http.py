"""Talking to a partner over HTTP: one client each, and every answer sorted by what it means for us."""

import asyncio
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx
from pydantic import SecretStr

from models.errors import RetryLater, StopConnector
from services.text import one_line, read_exact_json

CONNECT_SECONDS = 10.0
CONNECTIONS = 8
"""At most so many connections to one partner at the same time."""

LONGEST_REDIRECT = 3
WHOLE_ANSWER = 10
"""A time-out holds for each piece of an answer; the whole may take so many times as long."""

EXCERPT_BYTES, EXCERPT_CHARACTERS = 1 << 20, 300
DEEPEST = 100
"""So deep may JSON be nested; what Python can read is deeper than what it can write again."""

TOO_DEEP = f"JSON that is nested deeper than {DEEPEST} levels"

LONGEST_RETRY_SECONDS = 3600.0
"""A partner may ask for more patience by mistake; it costs little to ask once an hour."""

BAD_CREDENTIALS = frozenset({401, 403})
PASSING = frozenset({408, 425, 429})
"""Beside 5xx: what these say may be otherwise in a moment (RFC 9110, RFC 8470, RFC 6585)."""

NOT_NOW = PASSING | {503}
"""Certainly nothing was done."""


class NotSent(RetryLater):
    """The partner was not reached: it certainly did not get the request."""


class Uncertain(RetryLater):
    """Sent, and no answer came: the partner may have it."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A partner's whole answer.

    excerpt: the start of its body, for messages.
    """

    url: str
    status: int
    headers: httpx.Headers
    body: bytes

    @property
    def excerpt(self) -> str:
        # Made safe before it is cut: half a secret is still some of it.
        return one_line(self.body[:EXCERPT_BYTES].decode("utf-8", "replace"))[:EXCERPT_CHARACTERS]

    def json(self, *, exact: bool = False) -> Any:
        """What it says; exact: a number with a fraction is a `Decimal`.

        Raises ValueError when it is no JSON, or nested deeper than anybody agreed to.
        """
        try:
            found = read_exact_json(self.body) if exact else json.loads(self.body)
        except RecursionError:
            raise ValueError(TOO_DEEP) from None
        level = [found]
        for _ in range(DEEPEST):
            level = [inner for one in level for inner in _inside(one) if isinstance(inner, dict | list)]
            if not level:
                return found
        raise ValueError(TOO_DEEP)

    @property
    def place(self) -> str:
        """The address without its query, which may hold secrets."""
        return self.url.partition("?")[0]

    @property
    def is_good(self) -> bool:
        return 200 <= self.status < 300

    @property
    def is_passing(self) -> bool:
        """Whether the same request may well be answered otherwise later."""
        return self.status >= 500 or self.status in PASSING


def _inside(one: Any) -> Iterable[Any]:
    return one.values() if isinstance(one, dict) else one if isinstance(one, list) else ()


def client(address: str, token: SecretStr | None, timeout_seconds: float) -> httpx.AsyncClient:
    """A client for one partner. It follows no redirect by itself, so the token never goes elsewhere."""
    url = httpx.URL(address)
    # What is packed may be a thousand times as large as it looks.
    headers = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "Tidegate"}
    if token is not None:
        headers["Authorization"] = f"Bearer {token.get_secret_value()}"
    return httpx.AsyncClient(
        base_url=url,
        headers=headers,
        timeout=httpx.Timeout(timeout_seconds, connect=min(CONNECT_SECONDS, timeout_seconds)),
        limits=httpx.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS),
        follow_redirects=False,
        trust_env=url.scheme == "https",  # a proxy of the environment would read what goes by plain http
    )


async def get(client: httpx.AsyncClient, path: str, query: Mapping[str, str], max_bytes: int) -> Answer:
    """GET; redirects are followed within the partner's own origin. Raises as `send` does."""
    answer = await send(client, client.build_request("GET", path.lstrip("/"), params=query), max_bytes)
    for _ in range(LONGEST_REDIRECT):
        if answer.status not in (301, 302, 303, 307, 308):
            break
        target = joined(httpx.URL(answer.url), answer.headers.get("Location", ""))
        if _origin(target) != _origin(client.base_url):
            raise StopConnector(
                f"{answer.url} redirects to another place, {target.scheme}://{target.host}",
                hint="credentials go to no other place than the configured one: set the address to it",
            )
        answer = await send(client, client.build_request("GET", target), max_bytes)
    return answer


def joined(url: httpx.URL, target: str) -> httpx.URL:
    """Where `target` leads to from `url`. Raises RetryLater when it is no address."""
    try:
        return url.join(target)
    except (httpx.InvalidURL, ValueError):  # half a surrogate pair is only a ValueError
        raise RetryLater(
            f"{url.copy_with(query=None)} leads on to {one_line(target)[:300]!r}, which is no address"
        ) from None


async def send(client: httpx.AsyncClient, request: httpx.Request, max_bytes: int) -> Answer:
    """Send a request and read the whole answer, whatever its status.

    Raises NotSent, Uncertain, and StopConnector on an answer of more than `max_bytes`, or a packed one.
    """
    place = f"{request.method} {request.url.copy_with(query=None)}"
    limit = (client.timeout.read or CONNECT_SECONDS) * WHOLE_ANSWER
    try:
        async with asyncio.timeout(limit):
            response = await client.send(request, stream=True)
            try:
                if (packed := response.headers.get("Content-Encoding", "identity")).lower() != "identity":
                    raise StopConnector(f"{place} answers packed as {one_line(packed)}, which it was not asked for")
                body = bytearray()
                async for piece in response.aiter_raw():
                    body += piece
                    if len(body) > max_bytes:
                        raise StopConnector(f"{place} answers with more than {max_bytes} bytes")
            finally:
                await response.aclose()
    except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError) as error:
        raise NotSent(f"{place} cannot be reached: {_told(error)}") from error
    except (httpx.TimeoutException, TimeoutError) as error:
        raise Uncertain(f"{place} did not answer in time") from error
    except httpx.LocalProtocolError:
        # Its text, and the error itself, hold the header: that may be the token.
        raise StopConnector(
            f"{place} cannot be sent: a header, the token perhaps, holds what HTTP does not allow",
            hint="correct the credentials and start the daemon anew",
        ) from None
    except httpx.HTTPError as error:
        raise Uncertain(f"{place} broke off: {_told(error)}") from error
    return Answer(str(request.url), response.status_code, response.headers, bytes(body))


def _told(error: Exception) -> str:
    return str(error) or type(error).__name__


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port


def refused_credentials(answer: Answer, setting: str) -> StopConnector:
    """What to say when a partner does not let us in. setting: the name of the one with the credentials."""
    return StopConnector(
        f"bad credentials: {answer.place} answers {answer.status}",
        hint=f"correct {setting} and start the daemon anew",
    )


def passing_fault(answer: Answer) -> RetryLater:
    """The error for an answer that `is_passing`, with what it says of when to come back."""
    return RetryLater(
        f"{answer.place} answers {answer.status} {answer.excerpt}".rstrip(),
        after_seconds=retry_after_seconds(answer.headers, datetime.now(UTC)),
    )


def retry_after_seconds(headers: Mapping[str, str], now: datetime) -> float:
    """`Retry-After` from `now`, a number or a date (RFC 9110, section 10.2.3); 0 without a valid one.

    Never more than LONGEST_RETRY_SECONDS.
    """
    value = headers.get("Retry-After", "").strip()
    if value.isdecimal():
        return min(float(value), LONGEST_RETRY_SECONDS)
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return 0.0
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return min(max(0.0, (moment - now).total_seconds()), LONGEST_RETRY_SECONDS)
