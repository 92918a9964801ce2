"""Where in a JSON text something stands: spans of values, pointers, lines and columns.

Used only where something is wrong, and to find the end of a record in a long file; so
it walks the text with the standard library's scanner, value by value.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_BLANKS = re.compile(r"[ \t\r\n]*")
_BETWEEN = re.compile(r"[ \t\r\n]*,[ \t\r\n]*")
_scan = json.JSONDecoder(parse_int=str, parse_float=str).raw_decode

Steps = Sequence[str | int]
"""The reference tokens of a JSON pointer (RFC 6901), unescaped."""


@dataclass(frozen=True, slots=True)
class Place:
    """Line and column of a character, both from 1; columns count characters."""

    line: int
    column: int

    def after(self, text: str) -> "Place":
        """The place right behind `text`, which starts here."""
        newlines = text.count("\n")
        if not newlines:
            return Place(self.line, self.column + len(text))
        return Place(self.line + newlines, len(text) - text.rfind("\n"))


START = Place(1, 1)


def pointer(steps: Steps) -> str:
    """The steps as a JSON pointer."""
    return "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in steps)


def skip_blanks(text: str, at: int) -> int:
    match = _BLANKS.match(text, at)
    assert match is not None
    return match.end()


def elements(text: str, at: int) -> Iterator[tuple[int, int]]:
    """Start and end of each value of a comma-separated list, up to what is no further value.

    Raises json.JSONDecodeError where a value is malformed or cut off.
    """
    at = skip_blanks(text, at)
    while at < len(text) and text[at] not in "]}":
        end = _scan(text, at)[1]
        yield at, end
        between = _BETWEEN.match(text, end)
        if between is None:
            return
        at = between.end()


def find(text: str, at: int, steps: Steps) -> int:
    """The offset of the value that `steps` lead to from the value at `at`.

    Ends at the last value on the way that exists: a missing field is found as its object.
    """
    for step in steps:
        at = skip_blanks(text, at)
        inner = _element(text, at, step) if isinstance(step, int) else member(text, at, step)
        if inner is None:
            break
        at = inner
    return skip_blanks(text, at)


def _element(text: str, at: int, index: int) -> int | None:
    if text[at : at + 1] != "[":
        return None
    for position, (start, _end) in enumerate(elements(text, at + 1)):
        if position == index:
            return start
    return None


def member(text: str, at: int, key: str) -> int | None:
    """The offset of the value of `key` in the object at `at`; what stands behind it is not looked at."""
    if text[at : at + 1] != "{":
        return None
    for name, start in members(text, at + 1):
        if name == key:
            return start
    return None


def members(text: str, at: int) -> Iterator[tuple[str, int]]:
    """Name and start of value of each member of the object whose brace is before `at`.

    A value is scanned only when the next member is asked for, so the last one may be cut
    off. Raises json.JSONDecodeError where the object is malformed or cut off before.
    """
    at = skip_blanks(text, at)
    while at < len(text) and text[at] == '"':
        name, end = _scan(text, at)
        colon = skip_blanks(text, end)
        if text[colon : colon + 1] != ":":
            raise json.JSONDecodeError("Expecting ':' delimiter", text, colon)
        start = skip_blanks(text, colon + 1)
        yield name, start
        between = _BETWEEN.match(text, _scan(text, start)[1])
        if between is None:
            return
        at = between.end()
