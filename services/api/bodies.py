"""A request's body as it comes, at the client's pace and never more of it than is allowed."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

from fastapi import Request
from starlette.requests import ClientDisconnect

from services.api.problems import Problem

SILENT_SECONDS = 30
"""A client that sends nothing for so long has gone."""

MAX_OBJECT_BYTES = 1 << 20


def refuse_announced(request: Request, max_bytes: int, limit: str) -> None:
    """Refuse a body by the length it announces, before any of it is read. limit: what `max_bytes` is."""
    announced = request.headers.get("content-length", "0")
    if announced.isdecimal() and int(announced) > max_bytes:
        raise Problem(413, f"{announced} bytes are more than {limit} ({max_bytes})")


async def pieces(request: Request) -> AsyncIterator[bytes]:
    """The body, piece by piece. Raises Problem."""
    stream = request.stream()
    try:
        while True:
            async with asyncio.timeout(SILENT_SECONDS):
                piece = await anext(stream, None)
            if piece is None:
                return
            yield piece
    except TimeoutError:
        raise Problem(408, f"nothing came for {SILENT_SECONDS} seconds", headers={"Connection": "close"}) from None
    except ClientDisconnect:
        raise Problem(400, "the body was cut off") from None


async def json_object(request: Request) -> dict[str, Any]:
    """The body as a JSON object that can be sent on. Raises Problem.

    A dependency, not a parameter of FastAPI's: that would read the body before the token is looked at, all of it.
    """
    refuse_announced(request, MAX_OBJECT_BYTES, "an object may have")
    body = bytearray()
    async for piece in pieces(request):
        body += piece
        if len(body) > MAX_OBJECT_BYTES:
            raise Problem(413, f"the body is larger than an object may be ({MAX_OBJECT_BYTES} bytes)")
    try:
        found = json.loads(body)
        # NaN and half a surrogate pair are read, and could be written to nobody.
        json.dumps(found, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError) as error:
        raise Problem(422, f"the body is no JSON that can be sent on: {error}", hint="send a JSON object") from None
    if not isinstance(found, dict):
        raise Problem(422, "the body is not a JSON object", hint='for example {"name": "…"}')
    return found
