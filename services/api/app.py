"""The application: routes, who may use them, and how errors are said."""

import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import fastapi_offline
from fastapi import Depends, FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from loguru import logger
from pydantic import SecretStr
from starlette.responses import HTMLResponse
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flows import Flows
from services.api import inbound
from services.api.access import guard
from services.api.inbound import Lend, MediaTypes
from services.api.problems import ProblemApp
from services.api.resources import Resource, router

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
    room: Callable[[], None] = lambda: None,
    token: SecretStr | None,
    resources: Iterable[Resource] = (),
) -> FastAPI:
    """The API over these flows.

    max_bytes: of a body; of its content, when compressed, the loader takes care.
    room: raises RetryLater while there is too little of it to take a body.
    """
    app = ProblemApp(title="Tidegate", description=_ABOUT, docs_url=None, redoc_url=None)
    _add_page(app)
    guarded = [Depends(guard(token))]
    app.include_router(
        inbound.router(flows, lend, media_types, input_dir=input_dir, max_bytes=max_bytes, room=room),
        dependencies=guarded,
    )
    for resource in resources:
        app.include_router(router(resource, lend), dependencies=guarded)

    @app.get("/health", tags=["health"])
    async def health() -> Mapping[str, str]:
        """The daemon lives. `status` of the command line knows more."""
        return {"status": "alive"}

    app.add_middleware(_AccessLog)
    return app


def _add_page(app: FastAPI) -> None:
    """The OpenAPI page, with scripts of our own: a page that takes a token loads nothing from elsewhere."""
    static = Path(fastapi_offline.__file__).parent / "static"
    app.mount("/static", StaticFiles(directory=static), name="static")

    @app.get("/docs", include_in_schema=False)
    async def page() -> HTMLResponse:
        return get_swagger_ui_html(
            openapi_url="/openapi.json",
            title="Tidegate",
            swagger_js_url="/static/swagger-ui-bundle.js",
            swagger_css_url="/static/swagger-ui.css",
            swagger_favicon_url="/static/favicon.png",
        )


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
