"""What an EDI file came to: an interchange with its messages, whole or rejected at some place."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from models.edi.message import Group, Interchange, Message, Segment, place

ACKNOWLEDGEMENTS = frozenset({"CONTRL", "997", "999"})
"""Message types that answer an interchange, and are never answered themselves."""

ACKNOWLEDGING_GROUP = "FA"
"""GS01 of the X12 groups that hold them."""


MAX_SEGMENTS = 300_000
MAX_VALUES = 1_500_000
"""More than any order of MAX_BYTES has: each takes some hundred bytes of memory."""


@dataclass(frozen=True, slots=True)
class Received:
    """An interchange as far as it could be read.

    text: the file, decoded from `charset`.
    head, tail: the envelope around the messages; between the two parts of the tail goes their number.
    messages: those that are no acknowledgement, the last one perhaps cut off.
    groups: the X12 groups that hold messages, each with the number of them that its GE tells.
    acknowledgements: messages that answer what we sent.
    """

    interchange: Interchange
    text: str
    charset: str
    head: str
    tail: tuple[str, str]
    messages: tuple[Message, ...] = ()
    groups: Mapping[Group, int] = field(default_factory=dict)
    acknowledgements: tuple[Message, ...] = ()

    @property
    def answerable(self) -> bool:
        """An acknowledgement is never answered, or two partners would never come to an end."""
        return bool(self.messages) or not self.acknowledgements

    def enclosed(self, messages: Sequence[str]) -> bytes:
        """Some of the messages, word for word, in the envelope of all."""
        before, after = self.tail
        text = f"{self.head}{''.join(messages)}{before}{len(messages)}{after}"
        return text.encode(self.charset, "surrogateescape")


@dataclass(frozen=True, slots=True)
class EnvelopeFault:
    """Why an interchange is rejected as a whole, as its acknowledgement says it.

    code: the standard's own (EDIFACT 0085; X12 716 for a group, 718 for a message).
    tag, element: the segment at fault. message: the reference of the message it belongs to.
    """

    code: str = ""
    tag: str = ""
    element: int = 0
    message: str = ""


def check_size(text: str, terminator: str, separators: str) -> None:
    """Raises EnvelopeError, before anything is built, for a text of nothing but separators."""
    for what, marks, most in (("segments", terminator, MAX_SEGMENTS), ("values", separators, MAX_VALUES)):
        if sum(map(text.count, marks)) > most:
            reason = f"the interchange has more than {most} {what}"
            raise EnvelopeError(reason, 0, code="", hint="split it into several interchanges")


class EnvelopeError(Exception):
    """Found while the segments are walked; the format makes a rejection of it.

    at: where in the text, in characters from its start.
    """

    def __init__(
        self,
        reason: str,
        at: int,
        *,
        code: str,
        tag: str = "",
        number: int = 0,
        element: int = 0,
        message: str = "",
        hint: str = "",
    ) -> None:
        super().__init__(reason)
        self.reason = f"{place(tag, number, element)}: {reason}" if tag else reason
        self.at = at
        self.fault = EnvelopeFault(code, tag, element, message)
        self.hint = hint

    @classmethod
    def of(
        cls, segment: Segment, reason: str, code: str = "", element: int = 0, *, message: str = "", hint: str = ""
    ) -> "EnvelopeError":
        """What is wrong with a segment, or with one of its elements."""
        return cls(
            reason,
            segment.span[0],
            code=code,
            tag=segment.tag,
            number=segment.number,
            element=element,
            message=message,
            hint=hint,
        )


@dataclass(frozen=True, slots=True)
class Rejected:
    """An interchange whose envelope is wrong.

    received: what could be read; None where it cannot be told who sent it.
    """

    error: EnvelopeError
    text: str
    received: Received | None
