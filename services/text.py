"""Text of others, made safe: on one line of a log, a report or a terminal; in UTF-8, in PostgreSQL, in JSON."""

import html
import json
import math
import re
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Any

SHORTEST_SECRET = 6
"""A shorter one is in too many words that give nothing away."""

HIDDEN = "[secret]"

_secrets: dict[str, frozenset[str]] = {}
"""Ours, the longest first, each with what is left of it where its backslashes are gone."""

_JSON_TOKEN = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[^\s",:\[\]{}]+', re.DOTALL)
"""A string of JSON, or a number or word."""

_ESCAPED = re.compile(
    r"\\+(?:u(?P<pair>d[89ab][0-9a-f]{2}\\+ud[c-f][0-9a-f]{2})|u(?P<unit>[0-9a-f]{4})|x(?P<octet>[0-9a-f]{2})"
    r"|(?P<itself>.)|$)"
    r"|(?P<octets>%[0-7][0-9a-f]|%[cd][0-9a-f]%[89ab][0-9a-f]|%e[0-9a-f](?:%[89ab][0-9a-f]){2}"
    r"|%f[0-7](?:%[89ab][0-9a-f]){3})"
    r"|&(?:\#0*[0-9]{1,7}|\#x0*[0-9a-f]{1,6}|[a-z][a-z0-9]{1,31});",
    re.IGNORECASE | re.DOTALL,
)
"""A character as JSON, an address, a form or HTML may have it, behind any number of backslashes."""

_MOST_TIMES = 8
"""Text within text is escaped so many times at most; any number of backslashes counts once."""

_BEHIND_BACKSLASHES = str.maketrans("\b\f\n\r\t", "bfnrt", "\\")


def hide(secret: str) -> None:
    """From now on what is made safe here does not show this secret: who got it from us may well say it back."""
    if len(secret) < SHORTEST_SECRET or secret in _secrets:
        return
    bare = {secret.replace("\\", ""), secret.translate(_BEHIND_BACKSLASHES)}
    bare |= {one.replace(" ", "+") for one in bare}
    known = _secrets | {secret: frozenset(one for one in bare if len(one) >= SHORTEST_SECRET)}
    _secrets.clear()
    _secrets.update(sorted(known.items(), key=lambda one: len(one[0]), reverse=True))


def hidden(text: str, *, is_json: bool = False) -> str:
    """The text without our secrets, in whatever way they are written there; JSON stays JSON."""
    if not _secrets:
        return text
    if is_json:
        return _JSON_TOKEN.sub(_hidden_in_json, text)
    spans = _escaped_secrets(text)
    spans += [(at, at + len(secret)) for secret in _secrets for at in _occurrences(secret, text)]
    parts, done = [], 0
    for begin, end in sorted(spans):
        if begin >= done:
            parts += [text[done:begin], HIDDEN]
        done = max(done, end)
    return "".join([*parts, text[done:]])


def _hidden_in_json(match: re.Match[str]) -> str:
    token = match[0]
    said = json.loads(token) if "\\" in token else token.strip('"')
    told = hidden(said)
    return token if told == said else json.dumps(told)


def _escaped_secrets(text: str) -> list[tuple[int, int]]:
    """Where they begin and end."""
    found: list[tuple[int, int]] = []
    places: Sequence[int] = range(len(text) + 1)
    for _ in range(_MOST_TIMES):
        before = text
        text, places = _unescaped(text, places)
        if text == before:
            break
        for one in frozenset().union(*_secrets.values()):
            found += [(places[at], places[at + len(one)]) for at in _occurrences(one, text)]
    return found


def _occurrences(one: str, text: str) -> Iterator[int]:
    at = text.find(one)
    while at >= 0:
        yield at
        at = text.find(one, at + len(one))


def _unescaped(text: str, places: Sequence[int]) -> tuple[str, Sequence[int]]:
    """The text with what was escaped in it, once; `places` says for each character where it began, and for the end."""
    parts: list[str] = []
    began: list[int] = []
    done = 0
    for match in _ESCAPED.finditer(text):
        begin = match.start()
        meant = _meant(match)
        parts += [text[done:begin], meant]
        began += places[done:begin]
        began += [places[begin]] * len(meant)
        done = match.end()
    return ("".join([*parts, text[done:]]), [*began, *places[done:]]) if done else (text, places)


def _meant(match: re.Match[str]) -> str:
    match match.lastgroup:
        case "itself":
            return match["itself"]
        case "unit" | "octet" as group:
            return chr(int(match[group], 16))
        case "pair":
            units = bytes.fromhex(match["pair"].replace("\\", "").replace("u", "").replace("U", ""))
            return units.decode("utf-16-be")
        case "octets":
            return bytes.fromhex(match[0].replace("%", "")).decode("utf-8", "replace")
        case _:
            return "" if match[0].startswith("\\") else html.unescape(match[0])


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
