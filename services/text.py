"""Text of others, made safe: on one line of a log, a report or a terminal; in UTF-8, in PostgreSQL, in JSON."""

import json
import math
from decimal import Decimal
from typing import Any


def printable(text: str) -> str:
    """The text on one line: whatever does not print, bytes that are no UTF-8 among it, is escaped.

    File names may hold any bytes, and what partners say any characters; neither gets to a terminal as it is.
    """
    return text if text.isprintable() else "".join(map(_escaped, text))


def _escaped(character: str) -> str:
    if character.isprintable():
        return character
    if "\udc80" <= character <= "\udcff":  # a byte of a file name that is no UTF-8, as `os.fsdecode` gives it
        return f"\\x{ord(character) - 0xDC00:02x}"
    return ascii(character)[1:-1]


def one_line(text: str) -> str:
    """The same for what was meant to have several lines: they are put one behind the other."""
    return printable(" ".join(text.split()))


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
