"""One JSON document from bytes to objects, strictly, and in plain words where it is not one."""

import re

import jiter

from file_processing.inbound.formats.positions import START, Place
from models.errors import RejectFile

BLANKS = b" \t\r\n"
"""What may stand between two tokens (RFC 8259)."""

BOM = b"\xef\xbb\xbf"

SHOWN_CHARACTERS = 100
"""As much of the sender's own words goes into a reason."""


def check_encoding(head: bytes) -> None:
    """Raise RejectFile for UTF-16 and UTF-32: JSON starts with an ASCII character, and a zero byte beside it tells."""
    start = head[:4]
    zeros = start.count(0)
    if start.startswith((b"\xff\xfe", b"\xfe\xff")) or 0 < zeros < len(start):
        raise RejectFile("the text is UTF-16 or UTF-32, not UTF-8", hint="save it as UTF-8", line=1, column=1)
    if zeros:
        hint = "the sender wrote it while its disk was full or its machine crashed: have it sent again"
        raise RejectFile("the file is filled with zero bytes", hint=hint, line=1, column=1)


def empty() -> RejectFile:
    return RejectFile("the file is empty", hint="no records at all are written as []")


class CutOff(RejectFile):
    """The text ends before its value does; there is no other fault in it."""


def loads(data: bytes, *, exact: bool = False) -> object:
    """One JSON document, strictly; `exact` gives numbers with a fraction as `Decimal`.

    Raises ValueError in the parser's words.
    """
    return jiter.from_json(
        data,
        allow_inf_nan=False,
        cache_mode="keys",  # of values it takes longer to look for an equal one than to make another
        catch_duplicate_keys=True,
        float_mode="decimal" if exact else "float",
    )


def parse(data: bytes, place: Place = START, *, prefix: int = 0, exact: bool = False) -> object:
    """Parse one JSON document (RFC 8259): no duplicate keys, no NaN, valid UTF-8.

    place: where in the file `data` starts, less `prefix` bytes put before it.

    Raises RejectFile with line and column; CutOff when the text only goes on too little.
    """
    try:
        return loads(data, exact=exact)
    except ValueError as error:
        raise _malformed(str(error), data, place, prefix) from None


_AT = re.compile(r"(?P<what>.*) at line (?P<line>\d+) column (?P<column>\d+)", re.DOTALL)

_SURROGATE = r"half of a surrogate pair (\ud800 to \udfff) stands alone in a string"

# The parser's words to ours, and what the sender can do. The first that fits counts.
_PARSER_WORDS = (
    ("trailing characters", "more text follows after the end of the JSON: a second document?",
     "send a list, or one document per line in a .jsonl file"),
    ("recursion limit exceeded", "the JSON is nested deeper than 200 levels", "send flat records"),
    ("invalid unicode code point", "the text is not valid UTF-8", "save the file as UTF-8"),
    ("control character", "a control character stands inside a string", r"write it as \n, \t or \u0000 to \u001f"),
    ("unexpected end of hex escape", _SURROGATE, "write both halves, or the character itself"),
    ("lone leading surrogate", _SURROGATE, "write both halves, or the character itself"),
    ("number out of range", "a number has more than 4,300 digits", "send it as text"),
    ("trailing comma", "not valid JSON: a comma stands before the closing bracket", "take it out"),
)  # fmt: skip


def _malformed(message: str, data: bytes, place: Place, prefix: int) -> RejectFile:
    match = _AT.fullmatch(message)
    if match is None:
        return RejectFile(f"not valid JSON: {message[:SHOWN_CHARACTERS]}")
    what = match["what"]
    if what.startswith("EOF while parsing"):
        at = place.after(data[prefix:].decode("utf-8", "replace"))
        hint = "the sender has to write the file whole, then send it again"
        return CutOff("the JSON is cut off", hint=hint, line=at.line, column=at.column)
    before = b"\n".join(data.split(b"\n", int(match["line"]) - 1)[:-1] + [b""])
    offset = max(len(before) + int(match["column"]) - 1, prefix)
    at = place.after(data[prefix:offset].decode("utf-8", "replace"))
    reason, hint = _in_plain_words(what, data[offset : offset + 40])
    return RejectFile(reason, hint=hint, line=at.line, column=at.column)


def _in_plain_words(what: str, found: bytes) -> tuple[str, str]:
    for sign, reason, hint in _PARSER_WORDS:
        if what.startswith(sign):
            return reason, hint
    if what.startswith("Detected duplicate key "):
        key = what.removeprefix("Detected duplicate key ")[:SHOWN_CHARACTERS]
        return f"the key {key} stands twice in one object", "which of the two counts is for the sender to say"
    word = re.match(r"[\w.+-]+|.?", found.decode("utf-8", "replace"))
    assert word is not None
    hint = "JSON knows no such number: send null" if word[0].strip("+-") in ("NaN", "nan", "Infinity", "inf") else ""
    return f"not valid JSON: {what.replace('`', '')}, found {word[0]!r}", hint
