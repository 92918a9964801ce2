"""Text of others, made safe: on one line of a log, a report or a terminal; in UTF-8 and in PostgreSQL."""

import math
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
