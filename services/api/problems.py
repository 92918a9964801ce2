"""What the API says when it refuses: problem details (RFC 9457), whatever went wrong."""

import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict
from starlette.exceptions import HTTPException

from models.errors import RefusedByPartner, RetryLater, StopConnector, TidegateError
from services.text import hidden

MEDIA_TYPE = "application/problem+json"
RETRY_SECONDS = 5
"""So late a client should come again when the reason is ours and passes."""


class Problem(Exception):
    """A refusal: `detail` says what is wrong with this request, `hint` what to do next.

    members: further members of the answer, as the problem has them.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        hint: str = "",
        headers: Mapping[str, str] | None = None,
        members: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.hint = hint
        self.headers = headers
        self.members = members or {}


class ProblemDetails(BaseModel):
    """The members of RFC 9457, section 3.1, and `hint`; some problems have more."""

    model_config = ConfigDict(extra="allow")

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    instance: str
    hint: str | None = None


def described(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """These refusals for the OpenAPI page of an operation."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemDetails"}}}
    return {status: {"description": HTTPStatus(status).phrase, "content": content} for status in statuses}


class ProblemApp(FastAPI):
    """An application that answers every error as a problem."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        handlers: dict[type[Exception], Any] = {
            Problem: _problem,
            HTTPException: _http,
            RequestValidationError: _invalid,
            RetryLater: _later,
            StopConnector: _unusable,
            RefusedByPartner: _refused,
            TidegateError: _ours,
            Exception: _mistake,
        }
        for kind, handler in handlers.items():
            self.add_exception_handler(kind, handler)

    def openapi(self) -> dict[str, Any]:
        described = super().openapi()
        schemas = described.setdefault("components", {}).setdefault("schemas", {})
        schemas["ProblemDetails"] = ProblemDetails.model_json_schema()
        return described


async def _problem(request: Request, error: Problem) -> Response:
    return answer(request, error)


async def _http(request: Request, error: HTTPException) -> Response:
    hint = "see /docs for what there is" if error.status_code in (404, 405) else ""
    return answer(request, Problem(error.status_code, str(error.detail), hint=hint, headers=error.headers))


async def _invalid(request: Request, error: RequestValidationError) -> Response:
    wrong = [_wrong(one["loc"], one["msg"]) for one in error.errors()]
    said = "; ".join(f"{one.get('parameter') or one['pointer']}: {one['detail']}" for one in wrong)
    return answer(request, Problem(422, said, members={"errors": wrong}))


async def _later(request: Request, error: RetryLater) -> Response:
    seconds = max(math.ceil(error.after_seconds), RETRY_SECONDS)
    return answer(request, Problem(503, error.reason, hint=error.hint, headers={"Retry-After": str(seconds)}))


async def _unusable(request: Request, error: StopConnector) -> Response:
    return answer(request, Problem(502, error.reason, hint=error.hint))


async def _refused(request: Request, error: RefusedByPartner) -> Response:
    """With the partner's own status, when it is one of a refusal."""
    status = error.status if 400 <= error.status < 500 else 502
    headers = {"Retry-After": str(math.ceil(error.after_seconds))} if error.after_seconds else None
    members = {"fields": error.fields} if error.fields else None
    return answer(request, Problem(status, error.reason, hint=error.hint, headers=headers, members=members))


async def _ours(request: Request, error: TidegateError) -> Response:
    return answer(request, Problem(500, error.reason, hint=error.hint))


async def _mistake(request: Request, _error: Exception) -> Response:
    # The server logs it with its traceback, which belongs in no answer.
    return answer(request, Problem(500, "a mistake of Tidegate's", hint="its log tells more"))


def _wrong(where: tuple[int | str, ...], message: str) -> dict[str, str]:
    """As RFC 9457, section 3, shows it; a parameter of the address has no pointer."""
    place, *parts = map(str, where)
    if place != "body":
        return {"detail": message, "parameter": "/".join(parts)}
    pointer = "".join("/" + part.replace("~", "~0").replace("/", "~1") for part in parts)
    return {"detail": message, "pointer": f"#{pointer}"}


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:  # a partner's own
        return "Refused"


def answer(request: Request, problem: Problem) -> Response:
    """The answer that says it."""
    details = ProblemDetails(
        title=_phrase(problem.status),
        status=problem.status,
        detail=problem.detail,
        instance=request.url.path,
        hint=problem.hint or None,
        **problem.members,
    )
    return Response(
        hidden(details.model_dump_json(exclude_none=True), is_json=True),  # a partner may have said it
        problem.status,
        dict(problem.headers or {}),
        MEDIA_TYPE,
    )
