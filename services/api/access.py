"""Who may ask, and under which name: the Host header, the token, and what browsers are told about each answer."""

import hashlib
import hmac
from collections.abc import Iterable
from urllib.parse import urlsplit

from pydantic import SecretStr
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.api import problems
from services.api.problems import Problem
from services.transport.hosts import is_loopback

COOKIE = "tidegate"
SIGN_IN = "/sign-in"
OPEN = frozenset({"/healthz", "/readyz", SIGN_IN})
"""All else needs the token."""

_SAFE = frozenset({"GET", "HEAD"})

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""Of every answer that has no other of that name: it holds records, and no page of anybody else's may show it."""


class Access:
    """Knows the token, and the names that are ours."""

    def __init__(self, token: SecretStr, hosts: Iterable[str]) -> None:
        """hosts: names under which the API may be asked for, beside those of this machine itself."""
        self._token = token.get_secret_value().encode()
        self._hosts = frozenset(host.strip().strip("[]").lower() for host in hosts)
        self.session = hmac.digest(self._token, b"tidegate session", hashlib.sha256).hex()

    def is_token(self, given: str) -> bool:
        # Bytes, in constant time: how long it takes tells nothing of the token.
        return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), self._token)

    def knows(self, request: Request) -> bool:
        """Whether it carries the token; to look at something, the cookie of who signed in will do.

        A browser sends cookies along with what other pages make it ask, the token it does not.
        """
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self.is_token(given.strip()):
            return True
        cookie = request.cookies.get(COOKIE, "")
        return request.method in _SAFE and hmac.compare_digest(cookie.encode(), self.session.encode())

    def is_ours(self, host: str) -> bool:
        """Whether the Host header names us: a page can make its own name lead here (DNS rebinding)."""
        try:
            name = (urlsplit(f"//{host}").hostname or "").removesuffix(".")
        except ValueError:
            return False
        return name in self._hosts or is_loopback(name)


class Gate:
    """Lets requests through to the application, and sends every answer with HEADERS.

    `request.state.is_known` tells the application whether an open request came with the token.
    """

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        request = Request(scope)
        refusal = self._refusal(request)
        await (self._app if refusal is None else _said(request, refusal))(scope, receive, send_guarded)

    def _refusal(self, request: Request) -> Problem | None:
        host = request.headers.get("host", "")
        if not self._access.is_ours(host):
            return Problem(421, f"{host[:255]!r} is no name of this API", hint="API_ALLOWED_HOSTS lists further ones")
        request.state.is_known = self._access.knows(request)
        if request.state.is_known or request.url.path in OPEN:
            return None
        return Problem(
            401,
            "the token is missing or wrong",
            hint="send Authorization: Bearer and the value of API_TOKEN, or else what stands in DATA_DIR/api-token",
            headers={"WWW-Authenticate": "Bearer"},
        )


def _said(request: Request, refusal: Problem) -> Response:
    """A person with a browser is asked for the token."""
    looks = request.method in _SAFE and "text/html" in request.headers.get("accept", "")
    return RedirectResponse(SIGN_IN, 303) if looks and refusal.status == 401 else problems.answer(request, refusal)
