"""Who may do what: the token of API_TOKEN."""

import hmac
from collections.abc import Callable
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import SecretStr

from services.api.problems import Problem

_SAFE = frozenset({"GET", "HEAD"})
_Bearer = Annotated[
    HTTPAuthorizationCredentials | None, Depends(HTTPBearer(auto_error=False, description="The value of API_TOKEN"))
]


def guard(token: SecretStr | None) -> Callable[..., None]:
    """A dependency that lets a request pass: what changes anything needs the token.

    So does what only looks, once there is a token: records stand in the answers.
    """

    def check(request: Request, given: _Bearer) -> None:
        if token is None:
            if request.method in _SAFE:
                return
            raise Problem(403, "no API_TOKEN is set, so nothing may be changed", hint="set API_TOKEN and start again")
        # Bytes, in constant time: how long it takes tells nothing of the token.
        if given is None or not hmac.compare_digest(given.credentials.encode(), token.get_secret_value().encode()):
            raise Problem(
                401,
                "the token is missing or wrong",
                hint="send Authorization: Bearer and the value of API_TOKEN",
                headers={"WWW-Authenticate": "Bearer"},
            )

    return check
