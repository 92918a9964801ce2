"""Names of files: which are input at all, how one is made safe, unique, and short enough."""

import hashlib
import os
import re

from services.text import printable

MAX_BYTES = 255
"""Of a name on every file system that we know."""

MAX_PART_BYTES = 200
"""Of a name made from a value: leaves room for what a temporary name or a delivery puts around it."""

UNFINISHED = (".tmp", ".part", ".partial", ".filepart", "~", ".swp", ".crdownload")
"""How names end that tools give to files they still work on."""

_PORTABLE = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")

_DIGESTED = re.compile(r"-[0-9a-f]{16}(?=\.|$)")


def is_finished(name: str) -> bool:
    """Whether a file of this name is for others to take: it is neither hidden nor still worked on."""
    return not name.startswith(".") and not name.lower().endswith(UNFINISHED)


def with_suffix(name: str, suffix: str) -> str:
    """`name` with something put behind it, shortened where the file system needs it."""
    return _cut(name, MAX_BYTES - len(os.fsencode(suffix))) + suffix


def numbered(name: str, number: int | str) -> str:
    """`name` made its owner's alone: `report.json` → `report.7.json`."""
    stem, dot, suffix = name.partition(".")
    if not stem or len(os.fsencode(suffix)) > MAX_BYTES // 2:
        return with_suffix(name, f".{number}")
    return with_suffix(stem, f".{number}{dot}{suffix}")


def portable(value: str) -> str:
    """A value as part of a path anywhere: letters, digits, `-`, `_`, `.`.

    One that had to be changed for it gets a digest, and so does one that looks as if it had one: two values never
    share a name.
    """
    made = "".join(character if character in _PORTABLE else "_" for character in value).lstrip(".")
    if made == value and 0 < len(made) <= MAX_PART_BYTES and not _DIGESTED.search(made):
        return made
    return f"{made[: MAX_PART_BYTES - 17]}-{_digest(value)}"


def local(name: str) -> str:
    """A partner's file name as one of ours: its letters and its suffix stay; what had to be changed gets a digest.

    So does one that looks as if it had one: two names never become one.
    """
    made = "".join(c if c.isprintable() and c not in "/\\" and not "\udc80" <= c <= "\udcff" else "_" for c in name)
    made = made.lstrip(".") or "_"
    if made == name and len(os.fsencode(made)) <= MAX_PART_BYTES and not _DIGESTED.search(made):
        return made
    stem, dot, suffix = made.partition(".")
    return f"{_cut(stem, MAX_PART_BYTES // 2)}-{_digest(name)}{dot}{_cut(suffix, 60)}"


def storable(name: str) -> str:
    """A name that the ledger can hold as well: one that is no UTF-8 is spelled out."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return with_suffix(printable(name), "")
    return name


def _digest(value: str) -> str:
    return hashlib.sha256(value.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _cut(name: str, most_bytes: int) -> str:
    """At most so many bytes of it; a character cut in two would make the name undecodable, so it is left out."""
    data = os.fsencode(name)
    return name if len(data) <= most_bytes else data[:most_bytes].decode("utf-8", "ignore")
