"""The Idempotency-Key header (draft-ietf-httpapi-idempotency-key-header)."""

import re
from collections.abc import Sequence

from services.api.problems import Problem

_MAX_CHARACTERS = 255
# A structured-field string (RFC 9651, section 3.3.3), and parameters, which mean nothing here.
_ITEM = re.compile(r'\s*"((?:[ !#-\[\]-~]|\\["\\])*)"\s*(?:;.*)?')


def key_of(headers: Sequence[str]) -> str | None:
    """The key that the lines of the header give, `None` without any. Raises Problem."""
    if not headers:
        return None
    match = _ITEM.fullmatch(headers[0])
    if len(headers) > 1 or match is None or not 0 < len(match[1]) <= _MAX_CHARACTERS:
        raise Problem(
            400,
            f"Idempotency-Key is not one quoted string of up to {_MAX_CHARACTERS} characters",
            hint='for example Idempotency-Key: "8e03978e-40d5-43dd-bc93-6894a57f9324"',
        )
    return re.sub(r"\\(.)", r"\1", match[1])
