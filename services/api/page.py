"""The pages for people: all operations with examples, and signing in to look at them."""

import asyncio
import base64
import hashlib
import re
from pathlib import Path
from urllib.parse import parse_qs

import fastapi_offline
from fastapi import APIRouter, FastAPI, Request
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.staticfiles import StaticFiles

from services.api import bodies
from services.api.access import COOKIE, SIGN_IN, Access
from services.api.problems import Problem

DOCS = "/docs"
SIGN_IN_SECONDS = 10
_SIGN_IN_BYTES = 4096

_FORM = """\
<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Tidegate</title>
<form method="post" action="{action}">
<p><label>Token <input type="password" name="token" autocomplete="current-password" required autofocus></label>
<button>Sign in</button> {said}
</form>
<p>It is the value of API_TOKEN, else what stands in DATA_DIR/api-token.
</html>
"""
_FORM_POLICY = {"Content-Security-Policy": "default-src 'none'; form-action 'self'; frame-ancestors 'none'"}


def add(app: FastAPI, access: Access) -> None:
    """Add the pages, with scripts of our own: a page that takes a token loads nothing from elsewhere."""
    static = Path(fastapi_offline.__file__).parent / "static"
    app.mount("/static", StaticFiles(directory=static), name="static")
    routes = APIRouter(include_in_schema=False)
    docs = get_swagger_ui_html(
        openapi_url="/openapi.json",
        title="Tidegate",
        swagger_js_url="/static/swagger-ui-bundle.js",
        swagger_css_url="/static/swagger-ui.css",
        swagger_favicon_url="/static/favicon.png",
        swagger_ui_parameters={"validatorUrl": None},
    )
    docs.headers["Content-Security-Policy"] = _policy(bytes(docs.body).decode())

    @routes.get(DOCS)
    async def page() -> HTMLResponse:
        return docs

    @routes.get(SIGN_IN)
    async def form() -> HTMLResponse:
        return _form("", 200)

    @routes.post(SIGN_IN)
    async def sign_in(request: Request) -> Response:
        if not access.is_token(await _given(request)):
            return _form("This is not the token.", 401)
        answer = RedirectResponse(DOCS, 303)
        secure = request.url.scheme == "https"
        answer.set_cookie(COOKIE, access.session, httponly=True, samesite="strict", secure=secure)
        return answer

    app.include_router(routes)


async def _given(request: Request) -> str:
    """The token of the form. Raises Problem."""
    body = bytearray()
    try:
        async with asyncio.timeout(SIGN_IN_SECONDS):
            async for piece in bodies.pieces(request):
                body += piece
                if len(body) > _SIGN_IN_BYTES:
                    raise Problem(413, "that is more than a token")
    except TimeoutError:
        raise Problem(408, f"the form took longer than {SIGN_IN_SECONDS} seconds") from None
    return parse_qs(body.decode("utf-8", "replace")).get("token", [""])[0].strip()


def _form(said: str, status: int) -> HTMLResponse:
    return HTMLResponse(_FORM.format(action=SIGN_IN, said=said), status, _FORM_POLICY)


def _policy(html: str) -> str:
    """Scripts out of our own folder, and the one of this page by its digest; Swagger UI sets styles as it goes."""
    digests = (
        hashlib.sha256(script.encode()).digest() for script in re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    )
    scripts = " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
    return (
        f"default-src 'none'; script-src 'self' {scripts}; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
