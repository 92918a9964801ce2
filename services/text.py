"""Text of others, made safe: on one line of a log, a report or a terminal; in UTF-8, in PostgreSQL, in JSON."""

import json
import math
import re
from collections.abc import Iterable
from decimal import Decimal
from typing import Any
from urllib.parse import quote

SHORTEST_SECRET = 6
"""A shorter one is in too many words that give nothing away."""

HIDDEN = "[secret]"

_secrets: dict[bool, re.Pattern[str]] = {}
"""What our secrets look like in text, and in JSON; nothing before there are any."""

_known: set[str] = set()


def hide(secret: str) -> None:
    """From now on what is made safe here does not show this secret: who got it from us may well say it back."""
    if len(secret) < SHORTEST_SECRET or secret in _known:
        return
    _known.add(secret)
    in_json = {json.dumps(one, ensure_ascii=is_ascii)[1:-1] for one in _known for is_ascii in (True, False)}
    in_json |= {quote(one, safe="", errors="backslashreplace") for one in _known}
    _secrets[False] = re.compile(f"({_any_of(_known | in_json)})")
    # An escape is passed over whole: what begins within it only looks like a secret.
    _secrets[True] = re.compile(rf"({_any_of(in_json)})|\\u[0-9a-fA-F]{{4}}|\\.")


def _any_of(forms: Iterable[str]) -> str:
    return "|".join(map(re.escape, sorted(forms, key=len, reverse=True)))


def hidden(text: str, *, is_json: bool = False) -> str:
    """The text without our secrets, in whatever way they are written there; JSON stays JSON."""
    pattern = _secrets.get(is_json)
    return text if pattern is None else pattern.sub(lambda match: HIDDEN if match[1] else match[0], text)


def printable(text: str) -> str:
    """The text on one line: whatever does not print, bytes that are no UTF-8 among it, is escaped.

    File names may hold any bytes, and what partners say any characters and our secrets; neither gets to a terminal
    as it is.
    """
    text = hidden(text)
    return text if text.isprintable() else "".join(map(_escaped, text))


def _escaped(character: str) -> str:
    if character.isprintable():
        return character
    if "\udc80" <= character <= "\udcff":  # a byte of a file name that is no UTF-8, as `os.fsdecode` gives it
        return f"\\x{ord(character) - 0xDC00:02x}"
    return ascii(character)[1:-1]


def one_line(text: str) -> str:
    """The same for what was meant to have several lines: they are put one behind the other."""
    return printable(" ".join(hidden(text).split()))


def storable(text: str) -> str:
    """Text that UTF-8 and PostgreSQL can hold: NUL and halves of surrogate pairs are escaped."""
    return text.replace("\0", r"\u0000").encode("utf-8", "backslashreplace").decode()


def storable_json(value: Any) -> Any:
    """A JSON value that JSONB can hold; it knows no infinity either."""
    match value:
        case str():
            return storable(value)
        case float() if not math.isfinite(value):
            return str(value)
        case list():
            return [storable_json(item) for item in value]
        case dict():
            return {storable_json(key): storable_json(item) for key, item in value.items()}
        case _:
            return value


def exact_json(value: Any, **options: Any) -> str:
    """As `json.dumps`, and a `Decimal` is a number with all of its digits; raises what that raises."""
    try:
        return json.dumps(value, **options)
    except TypeError:  # in the way of the many values without one it would be slow
        return _exact(value, options)


def _exact(value: Any, options: dict[str, Any]) -> str:
    match value:
        case Decimal():
            return str(value)
        case list():
            return f"[{', '.join(_exact(item, options) for item in value)}]"
        case dict():
            items = (f"{json.dumps(key, **options)}: {_exact(item, options)}" for key, item in value.items())
            return f"{{{', '.join(items)}}}"
        case _:
            return json.dumps(value, **options)


def read_exact_json(text: str | bytes) -> Any:
    """As `json.loads`, and a number with a fraction is a `Decimal`."""
    return json.loads(text, parse_float=Decimal)
