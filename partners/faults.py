"""What can go wrong with a partner that speaks HTTP, switched at the start or while it runs, and what it received."""

import asyncio
import random
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field
from starlette.types import ASGIApp, Message, Receive, Scope, Send

Rate = Annotated[float, Field(ge=0, le=1)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]

# What belongs to the stand-in and not to the system that it plays.
OWN_PAGES = ("/_", "/docs", "/redoc", "/openapi.json")


KEPT = 10_000
"""So many requests are remembered, the newest."""


class Switches(BaseModel):
    """Settings of faults; each can be set on the command line, at `PUT /_faults`, or as an attribute in a test."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True)

    times: Annotated[int, Field(ge=0)] | None = Field(None, description="so many faults, then none (default: no end)")

    def strikes(self, rate: float) -> bool:
        """Whether a fault of this rate is due now; it counts against `times`."""
        if self.times == 0 or random.random() >= rate:
            return False
        if self.times is not None:
            self.times -= 1
        return True

    def become(self, wanted: Self) -> None:
        """Take all switches over; `become(Faults())` switches everything off."""
        for name in type(self).model_fields:
            setattr(self, name, getattr(wanted, name))


class Faults(Switches):
    """Faults of an HTTP partner. A rate is the share of requests struck, from 0 to 1."""

    latency_seconds: Seconds = Field(0, description="pause before each request is worked on")
    error_rate: Rate = Field(0, description="answer `error_status`, nothing done")
    error_status: Annotated[int, Field(ge=400, le=599)] = Field(503, description="status of the errors")
    throttle_rate: Rate = Field(0, description="answer 429 with Retry-After, nothing done")
    retry_after_seconds: Annotated[int, Field(ge=0)] = Field(1, description="what Retry-After says")
    cut_rate: Rate = Field(0, description="do it, then close the connection in the middle of the answer")
    garble_rate: Rate = Field(0, description="do it, then answer with half of the body as if it were all")
    lose_rate: Rate = Field(0, description="do it (commit), then answer nothing for `hang_seconds` and hang up")
    hang_seconds: Seconds = Field(30, description="how long a lost answer keeps the client waiting")
    methods: list[str] = Field([], description="only these methods, as in POST (default: all)")


class Received(BaseModel):
    """A request as it came, and what was answered."""

    time: datetime
    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: str
    status: int | None = Field(description="null: the answer was lost")
    fault: str | None = Field(None, description="the fault that struck it")


class FaultyTransport:
    """ASGI middleware: writes down every request, and plays the faults that are due.

    `hang_up` closes the connection of a client (host, port).
    """

    def __init__(
        self, app: ASGIApp, faults: Faults, received: list[Received], hang_up: Callable[[tuple[str, int]], None]
    ) -> None:
        self.app = app
        self.faults = faults
        self.received = received
        self.hang_up = hang_up

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].startswith(OWN_PAGES):
            await self.app(scope, receive, send)
            return
        body = await _read(receive)
        entry = Received(
            time=datetime.now(UTC),
            method=scope["method"],
            path=scope["path"],
            query=scope["query_string"].decode("latin-1"),
            headers={name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]},
            body=body.decode("utf-8", "backslashreplace"),
            status=None,
        )
        self.received.append(entry)
        del self.received[:-KEPT]
        entry.fault = self._due(entry.method)
        if self.faults.latency_seconds:
            await asyncio.sleep(self.faults.latency_seconds)
        start, answer = await self._answer(scope, body, entry.fault)
        match entry.fault:
            case "lose":
                await _until_gone(receive, self.faults.hang_seconds)
                await self._cut(scope)
            case "cut":
                await send(start)
                await send({"type": "http.response.body", "body": answer[: len(answer) // 2], "more_body": True})
                await self._cut(scope)
            case "garble":
                half = answer[: len(answer) // 2]
                entry.status = start["status"]
                headers = [pair for pair in start["headers"] if pair[0] != b"content-length"]
                await send({**start, "headers": [*headers, (b"content-length", str(len(half)).encode())]})
                await send({"type": "http.response.body", "body": half})
            case _:
                entry.status = start["status"]
                await send(start)
                await send({"type": "http.response.body", "body": answer})

    def _due(self, method: str) -> str | None:
        faults = self.faults
        if faults.methods and method not in faults.methods:
            return None
        rates = {
            "throttle": faults.throttle_rate,
            "error": faults.error_rate,
            "lose": faults.lose_rate,
            "cut": faults.cut_rate,
            "garble": faults.garble_rate,
        }
        return next((name for name, rate in rates.items() if faults.strikes(rate)), None)

    async def _answer(self, scope: Scope, body: bytes, fault: str | None) -> tuple[Message, bytes]:
        """The head and the body of the answer."""
        if fault == "error":
            return _plain(self.faults.error_status, b"the stand-in was told to fail\n")
        if fault == "throttle":
            wait = str(self.faults.retry_after_seconds).encode()
            return _plain(429, b"the stand-in was told to throttle\n", (b"retry-after", wait))
        whole = asyncio.Event()
        start: Message = {}
        parts: list[bytes] = []

        async def receive() -> Message:
            if whole.is_set():
                return {"type": "http.disconnect"}
            whole.set()
            return {"type": "http.request", "body": body}

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                start.update(message)
            else:
                parts.append(message.get("body", b""))

        await self.app(scope, receive, send)
        return start, b"".join(parts)

    async def _cut(self, scope: Scope) -> None:
        self.hang_up(tuple(scope["client"]))
        await asyncio.sleep(0.01)  # the server notices that the client has gone, so it misses no answer


async def _read(receive: Receive) -> bytes:
    parts: list[bytes] = []
    while (message := await receive())["type"] == "http.request":
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            break
    return b"".join(parts)


async def _until_gone(receive: Receive, seconds: float) -> None:
    """Wait until the client hangs up, `seconds` at most."""
    try:
        await asyncio.wait_for(receive(), seconds)
    except TimeoutError:
        pass


def _plain(status: int, text: bytes, *headers: tuple[bytes, bytes]) -> tuple[Message, bytes]:
    length = str(len(text)).encode()
    head = [(b"content-type", b"text/plain"), (b"content-length", length), *headers]
    return {"type": "http.response.start", "status": status, "headers": head}, text
