"""Interchanges behind the seam: their messages as records, their envelope as a form, their answer."""

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import IO

from file_processing.inbound.formats import positions
from file_processing.inbound.formats.base import AnswerFile, Malformed, Reading, RecordText, Reference, RejectExchange
from file_processing.inbound.formats.edi import acknowledgement
from file_processing.inbound.formats.edi.received import EnvelopeFault, Received, Rejected
from file_processing.inbound.formats.positions import START, Place, Steps
from models.edi import text as edi_text
from models.edi.message import Message, MessageFunction, SegmentError, Standard

MEND_MESSAGES = (
    "the other messages are loaded: have the sender send these again, or mend them in the file ending in {suffix}, "
    "give that interchange a control reference of its own (head and end), and drop it into {folder}"
)

SUFFIXES = {Standard.EDIFACT: ".edi", Standard.X12: ".x12"}

_DUPLICATE = "26"
"""Of data element 0085: duplicate detected."""


@dataclass(frozen=True, slots=True)
class InterchangeForm:
    """Messages in the envelope of their interchange."""

    received: Received
    suffix: str
    advice: str = MEND_MESSAGES

    def write(self, file: IO[bytes], texts: Iterable[str]) -> None:
        file.write(self.received.enclosed(list(texts)))


@dataclass(frozen=True, slots=True)
class InterchangeExchange:
    """An interchange as its sender hears of it.

    records: what its messages came to, in their order. fault: why all of it is rejected, where it is.
    """

    received: Received
    records: Sequence[object] = ()
    fault: EnvelopeFault | None = None

    @property
    def reference(self) -> Reference:
        interchange = self.received.interchange
        sender, receiver = ":".join(interchange.sender), ":".join(interchange.receiver)
        return Reference(interchange.standard.value, sender, receiver, interchange.reference)

    @property
    def is_test(self) -> bool:
        return self.received.interchange.test

    def repeated(self, earlier: int) -> RejectExchange:
        interchange = self.received.interchange
        is_edifact = interchange.standard is Standard.EDIFACT
        fault = EnvelopeFault(_DUPLICATE, "UNB", 5) if is_edifact else EnvelopeFault("", "ISA", 13)
        return RejectExchange(
            f"{interchange.sender.id} used the control reference {interchange.reference} before, in #{earlier}",
            exchange=replace(self, fault=fault),
            hint="the sender has to give every interchange a control reference of its own",
        )

    def notices(self) -> Sequence[str]:
        sender = self.received.interchange.sender.id
        told = [f"{told} of {sender}" for told in acknowledgement.rejections(self.received.acknowledgements)]
        if self.is_test and self.received.messages:
            told.append(f"it is a test of {sender}: it is answered, nothing of it loads")
        return told

    def answer(self, rejected: Container[int] | None, now: datetime) -> AnswerFile | None:
        reply = acknowledgement.acknowledge(self.received, self.fault, self._faults(rejected), now)
        if reply is None:
            return None
        return AnswerFile(
            document=reply.type.lower(),
            partner=self.received.interchange.sender.id,
            suffix=SUFFIXES[reply.standard],
            records=len(reply.messages),
            render=partial(edi_text.render, reply),
        )

    def _faults(self, rejected: Container[int] | None) -> acknowledgement.Faults:
        if rejected is None:
            return dict.fromkeys(range(len(self.received.messages)))
        bad = {position: record for position, record in enumerate(self.records) if position in rejected}
        return {position: _cause(record) for position, record in bad.items()}


def _cause(record: object) -> SegmentError | None:
    cause = record.cause if isinstance(record, Malformed) else None
    return cause if isinstance(cause, SegmentError) else None


@dataclass(frozen=True, slots=True)
class InterchangeBatch:
    """The messages of one interchange, which is always read whole."""

    records: Sequence[object]
    size: int
    form: InterchangeForm
    exchange: InterchangeExchange
    first: int = 0

    @property
    def _received(self) -> Received:
        return self.exchange.received

    def pointer(self, index: int, steps: Steps) -> str:
        return positions.pointer((index, *steps))

    def texts(self, indexes: Container[int]) -> Iterator[RecordText]:
        text, place, placed = self._received.text, START, 0
        for index, message in enumerate(self._received.messages):
            if index not in indexes:
                continue
            start, end = message.segments[0].span[0], message.segments[-1].span[1]
            place, placed = place.after(text[placed:start]), start
            # Where the value of a record's field stands in the message only the flow could tell.
            yield RecordText(index, text[start:end], place, partial(_at, place))

    def misfit(self, known: frozenset[str]) -> str | None:
        return None


def _at(place: Place, _steps: Steps) -> Place:
    return place


def batch(received: Received, size: int, suffix: str, reading: Reading) -> InterchangeBatch:
    """The records of an interchange, one for each message that is no acknowledgement."""
    records: list[object] = []
    for message in received.messages:
        reading.go_on()
        records.append(_record(message, reading.flow.messages))
    exchange = InterchangeExchange(received, records)
    return InterchangeBatch(records, size, InterchangeForm(received, suffix), exchange)


def rejection(rejected: Rejected) -> RejectExchange:
    """An interchange whose envelope is wrong, as what to raise."""
    error, received = rejected.error, rejected.received
    where = START.after(rejected.text[: error.at])
    exchange = None if received is None else InterchangeExchange(received, fault=error.fault)
    return RejectExchange(error.reason, exchange=exchange, hint=error.hint, line=where.line, column=where.column)


def _record(message: Message, messages: Mapping[str, MessageFunction]) -> object:
    function = messages.get(message.type)
    if function is None:
        known = ", ".join(messages)
        return Malformed(f"message {message.reference} is of type {message.type}: this flow takes {known}")
    try:
        return function(message)
    except SegmentError as error:
        at = error.segment.span[0] - message.segments[0].span[0]
        return Malformed(f"message {message.reference}, {error}", at=at, cause=error)
    except Exception as error:  # noqa: BLE001  # the flow's own function may fail in any way
        return Malformed(f"message {message.reference} cannot be read: {type(error).__name__}: {error}")
