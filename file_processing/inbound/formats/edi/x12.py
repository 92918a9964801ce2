"""ASC X12: an interchange from bytes to transaction sets, strictly.

ISA is 106 characters long and fixes the separators by position: for elements behind the tag, for
components at 105, and the segment terminator at 106.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

from file_processing.inbound.formats.base import GoOn
from file_processing.inbound.formats.edi.received import (
    ACKNOWLEDGEMENTS,
    ACKNOWLEDGING_GROUP,
    EnvelopeError,
    Received,
    Rejected,
    check_size,
)
from models.edi.message import Endpoint, Group, Interchange, Message, Segment, Standard

_ISA_WIDTHS = (2, 10, 2, 10, 2, 15, 2, 15, 6, 4, 1, 5, 9, 1, 1, 1)
_ISA_CHARACTERS = 106
_TAG = re.compile(r"[A-Z][A-Z0-9]{1,2}")
_COUNT = re.compile(r"[0-9]{1,10}")
_HINT_WHOLE = "the sender has to write the file whole, then send it again"

# Syntax error codes of 997: data elements 716 (AK905) for groups, 718 (AK502) for transaction sets.
_GROUP_TRAILER_MISSING, _GROUP_NUMBER, _GROUP_COUNT, _GROUP_NUMBER_INVALID = "3", "4", "5", "6"
_SET_TRAILER_MISSING, _SET_NUMBER, _SET_COUNT, _SET_TYPE, _SET_NUMBER_INVALID = "2", "3", "4", "6", "7"


def read(data: bytes, go_on: GoOn = lambda: None) -> Received | Rejected:
    """The transaction sets of the one interchange that the file holds.

    Raises what `go_on` raises.
    """
    # X12 names no character set: what is valid UTF-8 beyond ASCII is hardly ever meant as anything else.
    try:
        text, charset = data.decode(), "utf-8"
    except UnicodeDecodeError:
        text, charset = data.decode("latin-1"), "latin-1"
    reader = _Reader(text, charset)
    try:
        for segment in reader.start():
            go_on()
            reader.take(segment)
        reader.end()
    except EnvelopeError as error:
        return Rejected(error, text, reader.received)
    assert reader.received is not None
    return reader.received


@dataclass(slots=True)
class _Reader:
    """Walks the segments: ISA, then groups from GS to GE of sets from ST to SE, then IEA."""

    text: str
    charset: str
    separator: str = "*"
    component: str = ">"
    terminator: str = "~"
    interchange: Interchange | None = None
    messages: list[Message] = field(default_factory=list)
    groups: dict[Group, int] = field(default_factory=dict)
    group: Group | None = None
    of_group: int = 0
    header: Segment | None = None  # ST of the set that is open
    body: list[Segment] = field(default_factory=list)
    references: set[str] = field(default_factory=set)  # of the sets in the group
    head_end: int = 0
    closed: bool = False

    def start(self) -> Iterator[Segment]:
        """Read ISA, and give the segments behind it. Raises EnvelopeError."""
        start = len(self.text) - len(self.text.lstrip())
        isa = self.text[start : start + _ISA_CHARACTERS]
        if not isa.startswith("ISA"):
            raise EnvelopeError("stands where ISA should", start, code="", tag=isa[:3])
        if len(isa) < _ISA_CHARACTERS:
            reason = f"{len(isa)} characters, it has {_ISA_CHARACTERS}"
            raise EnvelopeError(reason, start, code="", tag="ISA", hint=_HINT_WHOLE)
        self.separator = isa[3]
        at, values = 3, []
        for element, width in enumerate(_ISA_WIDTHS, start=1):
            value = isa[at + 1 : at + 1 + width]
            if isa[at] != self.separator or (self.separator in value and element < 16):
                reason = f"its elements have fixed widths, this one or the one before has not (it is {width} long)"
                raise EnvelopeError(reason, start + at, code="", tag="ISA", element=element)
            values.append(value)
            at += 1 + width
        self.component, self.terminator = isa[104], isa[105]
        marks = (self.separator, self.component, self.terminator)
        if len(set(marks)) < 3 or any(mark.isalnum() or mark in " \0" for mark in marks):
            shown = f"{self.separator!r}, {self.component!r} and {self.terminator!r}"
            reason = f"the separators {shown} cannot be told apart"
            raise EnvelopeError(reason, start, code="", tag="ISA", element=16)
        check_size(self.text, self.terminator, self.separator + self.component)
        self.interchange = _interchange(values, start)
        yield from self._segments(start + _ISA_CHARACTERS)

    def _segments(self, start: int) -> Iterator[Segment]:
        while True:
            start += len(self.text[start : start + 1000]) - len(self.text[start : start + 1000].lstrip("\r\n"))
            end = self.text.find(self.terminator, start)
            if end < 0:
                break
            tag, *values = self.text[start:end].split(self.separator)
            if not _TAG.fullmatch(tag):
                raise EnvelopeError(f"{tag[:20]!r} is no segment tag", start, code="")
            elements = tuple(tuple(value.split(self.component)) for value in values)
            number = len(self.body) + 1 if self.header else 0
            yield Segment(tag, elements, number, (start, end + 1))
            start = end + 1
        if self.text[start:].strip():
            reason = f"the text ends within a segment, which {self.terminator!r} should close"
            raise EnvelopeError(reason, start, code="", hint=_HINT_WHOLE)

    def take(self, segment: Segment) -> None:
        """Raises EnvelopeError."""
        if self.closed:
            what = "a second interchange" if segment.tag == "ISA" else "a segment"
            hint = "one file holds one interchange: split it"
            raise EnvelopeError.of(segment, f"{what} follows behind IEA", hint=hint)
        if self.header is not None:
            self._take_in_set(segment)
        elif self.group is not None:
            self._take_in_group(segment, self.group)
        elif segment.tag == "GS":
            self._open_group(segment)
        elif segment.tag == "IEA":
            self._close(segment)
        elif segment.tag != "TA1":
            raise EnvelopeError.of(segment, "stands outside of a functional group")

    def end(self) -> None:
        """Raises EnvelopeError."""
        if self.closed:
            return
        missing = "SE" if self.header else "GE" if self.group else "IEA"
        code = {"SE": _SET_TRAILER_MISSING, "GE": _GROUP_TRAILER_MISSING, "IEA": ""}[missing]
        message = self.header.get(2) if self.header else ""
        raise EnvelopeError("it is missing", len(self.text), code=code, tag=missing, message=message, hint=_HINT_WHOLE)

    @property
    def received(self) -> Received | None:
        """What was read so far; `None` as long as that tells no sender."""
        if self.interchange is None:
            return None
        open_one = [self._set(self.header)] if self.header else []
        messages = [*self.messages, *open_one]
        groups = self.groups | ({self.group: self.of_group} if self.group else {})
        separator, terminator = self.separator, self.terminator
        first = next(iter(groups)).reference if groups else ""
        closing = f"{separator}{first}{terminator}IEA{separator}1{separator}{self.interchange.reference}{terminator}\n"
        return Received(
            interchange=self.interchange,
            text=self.text,
            charset=self.charset,
            head=self.text[: self.head_end],
            tail=(f"GE{separator}", closing),
            messages=tuple(message for message in messages if message.type not in ACKNOWLEDGEMENTS),
            groups={group: count for group, count in groups.items() if group.functional_id != ACKNOWLEDGING_GROUP},
            acknowledgements=tuple(message for message in messages if message.type in ACKNOWLEDGEMENTS),
        )

    def _open_group(self, segment: Segment) -> None:
        group = Group(*(segment.get(element) for element in (1, 2, 3, 6, 8)))
        for element in (1, 2, 3, 6, 8):
            if not segment.get(element):
                raise EnvelopeError.of(segment, "it is missing", _GROUP_NUMBER_INVALID, element)
        if group in self.groups:
            raise EnvelopeError.of(
                segment, f"the group number {group.reference} is used twice", _GROUP_NUMBER_INVALID, 6
            )
        self.group, self.of_group = group, 0
        self.references.clear()
        self.head_end = self.head_end or segment.span[1]

    def _take_in_group(self, segment: Segment, group: Group) -> None:
        if segment.tag == "ST":
            header = segment._replace(number=1)
            if not re.fullmatch(r"[0-9]{3}", header.get(1)):
                raise EnvelopeError.of(header, f"{header.get(1)!r} is no transaction set", _SET_TYPE, 1)
            if not header.get(2):
                raise EnvelopeError.of(header, "a transaction set needs a control number", _SET_NUMBER_INVALID, 2)
            if header.get(2) in self.references:
                raise EnvelopeError.of(
                    header, f"the control number {header.get(2)} is used twice", _SET_NUMBER_INVALID, 2
                )
            self.references.add(header.get(2))
            self.header, self.body = header, [header]
        elif segment.tag == "GE":
            if not _same_number(segment.get(1), str(self.of_group)):
                reason = f"counts {segment.get(1) or 'nothing'}, the group has {self.of_group} transaction sets"
                raise EnvelopeError.of(segment, reason, _GROUP_COUNT, 1)
            if not _same_number(segment.get(2), group.reference):
                raise EnvelopeError.of(segment, f"says {segment.get(2)!r}, GS {group.reference!r}", _GROUP_NUMBER, 2)
            self.groups[group] = self.of_group
            self.group = None
        elif segment.tag in ("ISA", "GS", "IEA"):
            raise EnvelopeError.of(segment, "stands within a group, which GE does not close", _GROUP_TRAILER_MISSING)
        else:
            raise EnvelopeError.of(segment, "stands outside of a transaction set")

    def _take_in_set(self, segment: Segment) -> None:
        assert self.header is not None
        message = self.header.get(2)
        if segment.tag in ("ISA", "GS", "ST", "GE", "IEA"):
            reason = f"stands within transaction set {message}, which SE does not close"
            raise EnvelopeError.of(segment, reason, _SET_TRAILER_MISSING, message=message)
        self.body.append(segment)
        if segment.tag != "SE":
            return
        if not _same_number(segment.get(1), str(len(self.body))):
            reason = f"counts {segment.get(1) or 'nothing'}, the transaction set has {len(self.body)} segments"
            raise EnvelopeError.of(segment, reason, _SET_COUNT, 1, message=message)
        if segment.get(2) != message:
            raise EnvelopeError.of(segment, f"says {segment.get(2)!r}, ST {message!r}", _SET_NUMBER, 2, message=message)
        self.messages.append(self._set(self.header))
        self.of_group += 1
        self.header = None

    def _set(self, header: Segment) -> Message:
        assert self.interchange is not None
        version = self.group.version if self.group else ""
        return Message(self.interchange, header.get(1), version, header.get(2), tuple(self.body), self.group)

    def _close(self, segment: Segment) -> None:
        assert self.interchange is not None
        if not self.messages:
            raise EnvelopeError.of(segment, "the interchange holds no transaction set")
        if not _same_number(segment.get(1), str(len(self.groups))):
            reason = f"counts {segment.get(1) or 'nothing'}, the interchange has {len(self.groups)} groups"
            raise EnvelopeError.of(segment, reason, "", 1)
        if segment.get(2) != self.interchange.reference:
            raise EnvelopeError.of(segment, f"says {segment.get(2)!r}, ISA {self.interchange.reference!r}", "", 2)
        self.closed = True


def _interchange(values: list[str], start: int) -> Interchange:
    """values: the sixteen elements of ISA."""
    day, minute, reference = values[8], values[9], values[12]
    try:
        if not re.fullmatch(r"[0-9]{10}", day + minute):
            raise ValueError
        prepared_at = datetime.strptime(day + minute, "%y%m%d%H%M").replace(tzinfo=UTC)
    except ValueError:
        raise EnvelopeError(f"{day} {minute} is no date and time", start, code="", tag="ISA", element=9) from None
    if not re.fullmatch(r"[0-9]{9}", reference):
        reason = f"the control number {reference!r} is not nine digits"
        raise EnvelopeError(reason, start, code="", tag="ISA", element=13)
    for element in (6, 8):
        if not values[element - 1].strip() or not "".join(values[element - 2 : element]).isprintable():
            raise EnvelopeError("it is blank, or no text", start, code="", tag="ISA", element=element)
    return Interchange(
        Standard.X12,
        values[11],
        Endpoint(values[5].strip(), values[4].strip()),
        Endpoint(values[7].strip(), values[6].strip()),
        reference,
        prepared_at,
        test=values[14] == "T",
    )


def _same_number(told: str, wanted: str) -> bool:
    """Numbers may have leading zeros."""
    if _COUNT.fullmatch(told) and _COUNT.fullmatch(wanted):
        return int(told) == int(wanted)
    return told == wanted and bool(told)
