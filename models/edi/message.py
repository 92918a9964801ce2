"""EDI as values: interchanges, messages and segments, in whatever standard they were written."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

from pydantic import BaseModel


class Standard(StrEnum):
    EDIFACT = "edifact"  # ISO 9735
    X12 = "x12"  # ANSI ASC X12


class Endpoint(NamedTuple):
    """Who sends or receives an interchange: its number, and the code that tells whose number it is."""

    id: str
    qualifier: str


class Group(NamedTuple):
    """An X12 functional group: GS01, GS02, GS03, GS06, GS08."""

    functional_id: str
    sender: str
    receiver: str
    reference: str
    version: str


class Segment(NamedTuple):
    """One segment: its tag, and its elements, each a tuple of its components.

    number: its position in the message from 1, as UNT and SE count; 0 outside of messages.
    span: where it stands in the text of the file, terminator included, in characters.
    """

    tag: str
    elements: tuple[tuple[str, ...], ...]
    number: int = 0
    span: tuple[int, int] = (0, 0)

    def get(self, element: int, component: int = 1) -> str:
        """The value at a position, both from 1; empty when the sender left it out."""
        elements = self.elements
        if element > len(elements):
            return ""
        components = elements[element - 1]
        return components[component - 1] if component <= len(components) else ""


@dataclass(frozen=True, slots=True)
class Interchange:
    """The envelope of a file.

    syntax: UNB S001 (`UNOC:3`), or ISA12 (`00401`).
    prepared_at: when the sender wrote it; its clock is taken to be UTC.
    decimal_mark: what separates the fraction of a number.
    """

    standard: Standard
    syntax: str
    sender: Endpoint
    receiver: Endpoint
    reference: str
    prepared_at: datetime
    test: bool = False
    decimal_mark: str = "."


@dataclass(frozen=True, slots=True)
class Message:
    """One message (EDIFACT, UNH to UNT) or transaction set (X12, ST to SE), its envelope included.

    version: UNH S009 behind the type (`D:96A:UN`), or GS08 (`004010`).
    """

    interchange: Interchange
    type: str
    version: str
    reference: str
    segments: tuple[Segment, ...]
    group: Group | None = None

    def all(self, *tags: str) -> Iterator[Segment]:
        return (segment for segment in self.segments if segment.tag in tags)


class SegmentError(ValueError):
    """A segment does not say what it should; raised by what turns messages into records.

    element, component: from 1; 0 when it is the segment, or the element, as a whole.
    """

    def __init__(self, reason: str, segment: Segment, element: int = 0, component: int = 0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.segment = segment
        self.element = element
        self.component = component

    def __reduce__(self) -> tuple[type["SegmentError"], tuple[object, ...]]:
        """From one process to another."""
        return type(self), (self.reason, self.segment, self.element, self.component)

    def __str__(self) -> str:
        return f"{place(self.segment.tag, self.segment.number, self.element, self.component)}: {self.reason}"


def place(tag: str, number: int = 0, element: int = 0, component: int = 0) -> str:
    """`QTY (segment 9), element 1.2`: where in a message something stands."""
    segment = f"{tag} (segment {number})" if number else tag
    return segment + (f", element {element}" + (f".{component}" if component else "") if element else "")


MessageFunction = Callable[[Message], Mapping[str, object]]
"""From a message to its record, as JSON would hold it. Raises SegmentError."""


class Origin(BaseModel):
    """Which message of which interchange a record came from: enough to answer it."""

    standard: Standard
    syntax: str
    sender: Endpoint
    receiver: Endpoint
    interchange: str
    test: bool
    group: Group | None
    message: str
    version: str


def origin(message: Message) -> dict[str, object]:
    """The fields of `Origin`."""
    interchange, group = message.interchange, message.group
    return {
        "standard": interchange.standard.value,
        "syntax": interchange.syntax,
        "sender": list(interchange.sender),
        "receiver": list(interchange.receiver),
        "interchange": interchange.reference,
        "test": interchange.test,
        "group": list(group) if group else None,
        "message": message.reference,
        "version": message.version,
    }
