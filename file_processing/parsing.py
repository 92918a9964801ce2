"""One JSON document from bytes to objects, strictly, and in plain words where it is not one."""

import re

import jiter

from file_processing.positions import START, Place
from models.errors import RejectFile


def parse(data: bytes, place: Place = START, *, prefix: int = 0) -> object:
    """Parse one JSON document (RFC 8259): no duplicate keys, no NaN, valid UTF-8.

    place: where in the file `data` starts, less `prefix` bytes put before it.

    Raises RejectFile with line and column.
    """
    try:
        return jiter.from_json(data, allow_inf_nan=False, catch_duplicate_keys=True)
    except ValueError as error:
        raise _malformed(str(error), data, place, prefix) from None


_AT = re.compile(r"^(?P<what>.*) at line (?P<line>\d+) column (?P<column>\d+)$", re.DOTALL)

_PLAIN_WORDS = {
    "EOF while parsing": ("the JSON is cut off", "the sender has to write the file whole, then send it again"),
    "trailing characters": (
        "there is more than one document in the file",
        "send a list, or one document per line in a .jsonl file",
    ),
    "recursion limit exceeded": ("the JSON is nested deeper than 200 levels", ""),
    "invalid unicode code point": ("not valid UTF-8", "save the file as UTF-8"),
    "control character": ("a control character stands inside a string", r"write it as \n, \t or \u0000 to \u001f"),
    "Detected duplicate key": ("a key stands twice in one object", ""),
    "unexpected end of hex escape": ("half of a surrogate pair stands alone in a string", ""),
    "lone leading surrogate": ("half of a surrogate pair stands alone in a string", ""),
    "number out of range": ("a number has too many digits", ""),
}


def _malformed(message: str, data: bytes, place: Place, prefix: int) -> RejectFile:
    match = _AT.match(message)
    what = match["what"] if match else message
    reason, hint = f"not valid JSON: {what}", ""
    for sign, words in _PLAIN_WORDS.items():
        if sign in what:
            reason, hint = words
            reason += f" ({what})"
    if match is None:
        return RejectFile(reason, hint=hint)
    before = b"\n".join(data.split(b"\n", int(match["line"]) - 1)[:-1] + [b""])
    offset = max(len(before) + int(match["column"]) - 1, prefix)
    at = place.after(data[prefix:offset].decode("utf-8", "replace"))
    return RejectFile(reason, hint=hint, line=at.line, column=at.column)
