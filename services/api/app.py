"""The application: routes, who may use them, and how errors are said."""

import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from fastapi import Depends, Request
from fastapi.security import HTTPBearer
from loguru import logger
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flows import Flows
from services.api import inbound, page
from services.api.access import Access, Gate
from services.api.inbound import Lend, MediaTypes
from services.api.problems import Problem, ProblemApp, described
from services.api.resources import Resource, router
from services.runtime.status_file import DaemonState

_ABOUT = """
Bodies that become files of a flow (`/inbound`), and the resources of master systems.

Whatever is refused is answered as problem details (RFC 9457): `detail` says what is wrong, `hint` what to do.
"""


def create_app(
    flows: Flows,
    lend: Lend,
    media_types: MediaTypes,
    *,
    input_dir: Path,
    max_bytes: int,
    access: Access,
    state: Callable[[], DaemonState],
    room: Callable[[], None] = lambda: None,
    resources: Iterable[Resource] = (),
) -> ASGIApp:
    """The API over these flows.

    max_bytes: of a body; of its content, when compressed, the loader takes care.
    room: raises RetryLater while there is too little of it to take a body.
    state: how the daemon is now.
    """
    app = ProblemApp(title="Tidegate", description=_ABOUT, docs_url=None, redoc_url=None)
    page.add(app, access)
    # The gate has looked at the token already: this tells the page that there is one.
    told = [Depends(HTTPBearer(auto_error=False, description="The value of API_TOKEN, or of DATA_DIR/api-token"))]
    app.include_router(
        inbound.router(flows, lend, media_types, input_dir=input_dir, max_bytes=max_bytes, room=room),
        dependencies=told,
    )
    for resource in resources:
        app.include_router(router(resource, lend), dependencies=told)
    _add_health(app, state)
    return _AccessLog(Gate(app, access))


def _add_health(app: ProblemApp, state: Callable[[], DaemonState]) -> None:
    def look(request: Request, problems: Callable[[DaemonState], list[str]], what: str) -> None:
        """Raises Problem; only who has the token hears why."""
        if found := problems(state()):
            raise Problem(503, "; ".join(found) if request.state.is_known else what, hint="`status` tells more")

    @app.get("/healthz", tags=["health"], responses=described(503))
    async def healthz(request: Request) -> Mapping[str, str]:
        """The daemon lives."""
        look(request, DaemonState.why_not_alive, "the daemon does not live")
        return {"status": "alive"}

    @app.get("/readyz", tags=["health"], responses=described(503))
    async def readyz(request: Request) -> Mapping[str, str]:
        """The daemon loads what comes; it may well live and wait for its database."""
        look(request, DaemonState.why_not_ready, "the daemon is not ready")
        return {"status": "ready"}


class _AccessLog:
    """A line for each request at DEBUG: no header and no query, which may hold secrets."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begin, status = time.monotonic(), 500

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watch)
        finally:
            milliseconds = (time.monotonic() - begin) * 1000
            logger.debug("{} {} {} in {:.0f} ms", scope["method"], scope["path"], status, milliseconds)
