"""EDIFACT (ISO 9735, syntax versions 1 to 4): an interchange from bytes to messages.

The text is cut by patterns, a segment at a time; pydifact, against which the tests hold it, goes character by
character, and takes seven times as long.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import NamedTuple

from file_processing.inbound.formats.base import GoOn
from file_processing.inbound.formats.edi.received import ACKNOWLEDGEMENTS, EnvelopeError, Received, Rejected, check_size
from models.edi.message import Endpoint, Interchange, Message, Segment, Standard
from models.edi.text import CHARSETS

_ADVICE_CHARACTERS = 9
_BLANKS = " \r\n"
_NEVER = "\uffff"
_TAG = re.compile(r"[A-Z][A-Z0-9]{2}")
_COUNT = re.compile(r"[0-9]{1,10}")

# Data element 0085: the syntax error codes of CONTRL.
_VALUE, _MISSING, _NOT_SUPPORTED, _MISPLACED, _CHARACTER = "12", "13", "14", "15", "21"
_MISMATCH, _COUNT_DIFFERS, _EMPTY, _TOO_MANY, _NO_TERMINATOR = "28", "29", "32", "35", "30"


def read(data: bytes, go_on: GoOn = lambda: None) -> Received | Rejected:
    """The messages of the one interchange that the file holds.

    Raises what `go_on` raises.
    """
    text, charset, undecodable = _decoded(data)
    reader = _Reader(text, charset, Marks())
    try:
        reader.marks, start = _service_advice(text)
        check_size(text, reader.marks.terminator, reader.marks.component + reader.marks.element)
        for tag, elements, span in cut(text, start, reader.marks):
            go_on()
            if undecodable is not None and span[1] > undecodable:
                reason = f"a character that {charset} does not have, or not there"
                hint = "UNB names the character set: UNOC is ISO 8859-1, UNOY is UTF-8"
                raise EnvelopeError(reason, undecodable, code=_CHARACTER, tag=tag, hint=hint)
            reader.take(Segment(tag, elements, reader.number, span))
        reader.end()
    except EnvelopeError as error:
        return Rejected(error, text, reader.received)
    assert reader.received is not None
    return reader.received


def _decoded(data: bytes) -> tuple[str, str, int | None]:
    """The text, its encoding by UNB, and the offset of the first character that is none of it."""
    start = data[:200].decode("latin-1")
    syntax = re.search(r"UNB.(UNO[A-Z])", start)
    charset = CHARSETS.get(syntax[1], "latin-1") if syntax else "latin-1"
    try:
        return data.decode(charset), charset, None
    except UnicodeDecodeError as error:
        return data.decode(charset, "surrogateescape"), charset, len(data[: error.start].decode(charset))


class Marks(NamedTuple):
    """What separates, by UNA or the standard's own. Behind the release character a mark is text."""

    component: str = ":"
    element: str = "+"
    decimal: str = "."
    release: str = "?"
    terminator: str = "'"


def _service_advice(text: str) -> tuple[Marks, int]:
    """The separators, by UNA where there is one, and the offset behind it."""
    start = len(text) - len(text.lstrip(_BLANKS))
    if not text.startswith("UNA", start):
        return Marks(), start
    marks = text[start + 3 : start + _ADVICE_CHARACTERS]
    separating = marks[:2] + marks[3:4].strip() + marks[5:]
    distinct = len(set(separating)) == len(separating)
    if len(marks) < 6 or not distinct or any(mark.isalnum() or mark in " \0" for mark in separating):
        reason = "six characters that can be told apart should follow, such as :+.? '"
        raise EnvelopeError(reason, start, code="", tag="UNA")
    if marks[2] not in ".,":
        raise EnvelopeError(f"the decimal mark is {marks[2]!r}, not . or ,", start, code="", tag="UNA")
    release = marks[3].strip() or _NEVER  # a blank says that there is none
    return Marks(marks[0], marks[1], marks[2], release, marks[5]), start + _ADVICE_CHARACTERS


Elements = tuple[tuple[str, ...], ...]


def cut(text: str, start: int, marks: Marks) -> Iterator[tuple[str, Elements, tuple[int, int]]]:
    """The tag of each segment, its elements, and its span with the blanks behind it. Raises EnvelopeError."""
    release, terminator = re.escape(marks.release), re.escape(marks.terminator)
    # A release character before the end of a line is a mistake, one at the very end of the text is none.
    segment = re.compile(
        rf"((?:[^{release}{terminator}]++|{release}[^\n])*+){terminator}"
        rf"(?:[{_BLANKS}]|{release}(?:[ \r]|\Z))*+(?!{release}\n)"
    )
    values = _values(marks)
    start += len(text[start:]) - len(text[start:].lstrip(_BLANKS))
    while found := segment.match(text, start):
        tag, *elements = map(tuple, values(found[1]))
        if (len(tag) > 1 or not _TAG.fullmatch(tag[0])) and tag[0] != "UNA":
            raise EnvelopeError(f"{':'.join(tag)[:20]!r} is no segment tag", start, code=_VALUE)
        end = found.end()
        yield tag[0], tuple(elements), (start, end)
        start = end
    if line_end := re.compile(rf"(?:[^{release}]++|{release}[^\n])*+{release}\n").match(text, start):
        raise EnvelopeError("a line ends behind the release character", line_end.end() - 1, code=_CHARACTER)
    if text[start : start + 2] not in ("", marks.release):
        reason = f"the text ends within a segment, which {marks.terminator} should close"
        hint = "the sender has to write the file whole, then send it again"
        raise EnvelopeError(reason, start, code=_NO_TERMINATOR, hint=hint)


def _values(marks: Marks) -> Callable[[str], Sequence[Sequence[str]]]:
    """From the text of a segment to its tag and its elements, each in its components."""
    component, element, _, release, _ = marks
    released, separators = re.escape(release), re.escape(component + element)
    tokens = re.compile(rf"{released}(.)|([{separators}])|([^{released}{separators}]++)", re.DOTALL)

    def values(segment: str) -> Sequence[Sequence[str]]:
        if release not in segment:
            return [value.split(component) for value in segment.split(element)]
        elements = [[""]]
        for letter, separator, plain in tokens.findall(segment):
            if separator == element:
                elements.append([""])
            elif separator:
                elements[-1].append("")
            else:
                elements[-1][-1] += letter or plain
        return elements

    return values


@dataclass(slots=True)
class _Reader:
    """Walks the segments: UNB, then messages from UNH to UNT, then UNZ."""

    text: str
    charset: str
    marks: Marks
    interchange: Interchange | None = None
    messages: list[Message] = field(default_factory=list)
    header: Segment | None = None  # UNH of the message that is open
    body: list[Segment] = field(default_factory=list)
    references: set[str] = field(default_factory=set)
    head_end: int = 0
    closed: bool = False

    @property
    def number(self) -> int:
        """Of the segment that comes, in its message."""
        return len(self.body) + 1 if self.header else 0

    def take(self, segment: Segment) -> None:
        """Raises EnvelopeError."""
        if self.closed:
            what = "a second interchange" if segment.tag in ("UNA", "UNB") else "a segment"
            reason, hint = f"{what} follows behind UNZ", "one file holds one interchange: split it"
            raise EnvelopeError.of(segment, reason, _TOO_MANY, hint=hint)
        if self.interchange is None:
            self.interchange = _interchange(segment, self.marks.decimal)
            self.head_end = segment.span[1]
        elif self.header is not None:
            self._take_in_message(segment)
        elif segment.tag == "UNH":
            self._open(segment)
        elif segment.tag == "UNZ":
            self._close(segment, self.interchange)
        elif segment.tag == "UNG":
            raise EnvelopeError.of(
                segment, "functional groups are not read", _NOT_SUPPORTED, hint="send the messages without"
            )
        else:
            raise EnvelopeError.of(segment, "stands outside of a message", _MISPLACED)

    def end(self) -> None:
        """Raises EnvelopeError."""
        if self.interchange is None:
            raise EnvelopeError("the file holds no interchange", 0, code=_MISSING, tag="UNB")
        if not self.closed:
            missing = "UNT" if self.header else "UNZ"
            hint = "the sender has to write the file whole, then send it again"
            raise EnvelopeError("it is missing", len(self.text), code=_MISSING, tag=missing, hint=hint)

    @property
    def received(self) -> Received | None:
        """What was read so far; `None` as long as that tells no sender."""
        if self.interchange is None:
            return None
        open_one = [self._message(self.header, self.interchange)] if self.header else []
        messages = [*self.messages, *open_one]
        separator, terminator = self.marks.element, self.marks.terminator
        return Received(
            interchange=self.interchange,
            text=self.text,
            charset=self.charset,
            head=self.text[: self.head_end],
            tail=(f"UNZ{separator}", f"{separator}{self.interchange.reference}{terminator}\n"),
            messages=tuple(message for message in messages if message.type not in ACKNOWLEDGEMENTS),
            acknowledgements=tuple(message for message in messages if message.type in ACKNOWLEDGEMENTS),
        )

    def _open(self, segment: Segment) -> None:
        header = segment._replace(number=1)
        if not header.get(1):
            raise EnvelopeError.of(header, "a message needs a reference", _MISSING, 1)
        if header.get(1) in self.references:
            raise EnvelopeError.of(header, f"the reference {header.get(1)} is used twice", _VALUE, 1)
        for component, name in enumerate(("type", "version", "release"), start=1):
            if not header.get(2, component):
                raise EnvelopeError.of(header, f"a message needs a {name}", _MISSING, 2)
        self.references.add(header.get(1))
        self.header, self.body = header, [header]

    def _take_in_message(self, segment: Segment) -> None:
        assert self.header is not None
        assert self.interchange is not None
        message = self.header.get(1)
        if segment.tag in ("UNA", "UNB", "UNH", "UNZ", "UNG", "UNE"):
            reason = f"stands within message {message}, which UNT does not close"
            raise EnvelopeError.of(segment, reason, _MISSING, message=message)
        self.body.append(segment)
        if segment.tag != "UNT":
            return
        if not _same_count(segment.get(1), len(self.body)):
            reason = f"counts {segment.get(1) or 'nothing'}, the message has {len(self.body)} segments"
            raise EnvelopeError.of(segment, reason, _COUNT_DIFFERS, 1, message=message)
        if segment.get(2) != message:
            raise EnvelopeError.of(segment, f"says {segment.get(2)!r}, UNH {message!r}", _MISMATCH, 2, message=message)
        self.messages.append(self._message(self.header, self.interchange))
        self.header = None

    def _message(self, header: Segment, interchange: Interchange) -> Message:
        kind, *version = header.elements[1] if len(header.elements) > 1 else ("",)
        return Message(interchange, kind, ":".join(version[:3]), header.get(1), tuple(self.body))

    def _close(self, segment: Segment, interchange: Interchange) -> None:
        if not self.messages:
            raise EnvelopeError.of(segment, "the interchange holds no message", _EMPTY)
        if not _same_count(segment.get(1), len(self.messages)):
            reason = f"counts {segment.get(1) or 'nothing'}, the interchange has {len(self.messages)} messages"
            raise EnvelopeError.of(segment, reason, _COUNT_DIFFERS, 1)
        if segment.get(2) != interchange.reference:
            raise EnvelopeError.of(segment, f"says {segment.get(2)!r}, UNB {interchange.reference!r}", _MISMATCH, 2)
        self.closed = True


def _interchange(segment: Segment, decimal_mark: str) -> Interchange:
    if segment.tag != "UNB":
        reason = "stands twice" if segment.tag == "UNA" else "stands where UNB should"
        raise EnvelopeError.of(segment, reason, _MISPLACED)
    syntax, version = segment.get(1, 1), segment.get(1, 2)
    if syntax not in CHARSETS or version not in ("1", "2", "3", "4"):
        hint = f"there are {', '.join(CHARSETS)}, versions 1 to 4"
        raise EnvelopeError.of(segment, f"the syntax {syntax}:{version} is not known", _NOT_SUPPORTED, 1, hint=hint)
    for element, name in ((2, "sender"), (3, "receiver"), (5, "control reference")):
        told = "".join(segment.elements[element - 1]) if len(segment.elements) >= element else ""
        if not segment.get(element).strip() or not told.isprintable():
            raise EnvelopeError.of(segment, f"an interchange needs a {name}", _MISSING, element)
    day, minute = segment.get(4, 1), segment.get(4, 2)
    try:
        if not re.fullmatch(r"([0-9]{2}){3,4}[0-9]{4}", day + minute):
            raise ValueError
        form = "%Y%m%d%H%M" if len(day) == 8 else "%y%m%d%H%M"
        prepared_at = datetime.strptime(day + minute, form).replace(tzinfo=UTC)
    except ValueError:
        raise EnvelopeError.of(segment, f"{day}:{minute} is no date and time", _VALUE, 4) from None
    return Interchange(
        Standard.EDIFACT,
        f"{syntax}:{version}",
        Endpoint(segment.get(2, 1).strip(), segment.get(2, 2)),
        Endpoint(segment.get(3, 1).strip(), segment.get(3, 2)),
        segment.get(5),
        prepared_at,
        test=segment.get(11) == "1",
        decimal_mark=decimal_mark,
    )


def _same_count(told: str, count: int) -> bool:
    return _COUNT.fullmatch(told) is not None and int(told) == count
