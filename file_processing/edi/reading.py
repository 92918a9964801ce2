"""From an EDI file to records: which files are EDI, and the flow's own functions on their messages."""

import re
from collections.abc import Mapping

from file_processing.batch import Batch, Malformed
from file_processing.edi.received import ACKNOWLEDGEMENTS, GoOn, Received
from models.edi import Message, MessageFunction, SegmentError
from models.errors import RejectFile

SUFFIXES = (".edi", ".edifact", ".x12")

MAX_BYTES = 4 << 20
"""An interchange stands in memory whole; four thousand orders take some 4 MB."""

_BOM = b"\xef\xbb\xbf"
_EDIFACT = re.compile(rb"\s*UN[AB][^A-Za-z0-9]")
_X12 = re.compile(rb"\s*ISA[^A-Za-z0-9]")
_EDIFACT_TYPE = re.compile(rb"UNH[^A-Za-z0-9][^\r\n]{1,20}?[^A-Za-z0-9]([A-Z]{6})[^A-Za-z0-9]D")
_X12_TYPE = re.compile(rb"[^A-Za-z0-9]ST[^A-Za-z0-9]([0-9]{3})[^A-Za-z0-9]")


def recognised(name: str, head: bytes) -> bool:
    """Whether a file is EDI, by the end of its name or its first bytes."""
    return name.lower().removesuffix(".gz").endswith(SUFFIXES) or _standard(head) is not None


def message_types(head: bytes) -> frozenset[str]:
    """The types of messages that the start of a file shows; none when it is no EDI."""
    standard = _standard(head)
    if standard is None:
        return frozenset()
    types = _EDIFACT_TYPE if standard is _EDIFACT else _X12_TYPE
    return frozenset(found.decode() for found in types.findall(head))


def batch(data: bytes, messages: Mapping[str, MessageFunction], go_on: GoOn = lambda: None) -> Batch:
    """The records of an interchange, one for each message that is no acknowledgement.

    Raises RejectFile, RejectInterchange among it, and what `go_on` raises.
    """
    if len(data) > MAX_BYTES:
        raise RejectFile(
            f"the interchange is larger than {MAX_BYTES >> 20} MB", hint="split it into several interchanges"
        )
    data = data.removeprefix(_BOM)
    standard = _standard(data)
    if standard is None:
        reason = "neither EDIFACT (UNA or UNB) nor X12 (ISA) starts here"
        raise RejectFile(reason, hint="the end of its name says that it is EDI", line=1, column=1)
    received = _read(data, standard, go_on)
    records = []
    for message in received.messages:
        go_on()
        records.append(_record(message, messages))
    return Batch(records, 0, data, edi=received)


def _standard(head: bytes) -> "re.Pattern[bytes] | None":
    head = head.removeprefix(_BOM)
    return next((standard for standard in (_EDIFACT, _X12) if standard.match(head)), None)


def _read(data: bytes, standard: "re.Pattern[bytes]", go_on: GoOn) -> Received:
    # pydifact takes as long to import as a small file to load.
    if standard is _EDIFACT:
        from file_processing.edi import edifact

        return edifact.read(data, go_on)
    from file_processing.edi import x12

    return x12.read(data, go_on)


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


def is_acknowledgement(types: frozenset[str]) -> bool:
    """Whether nothing but acknowledgements is in sight."""
    return bool(types) and types <= ACKNOWLEDGEMENTS
