"""EDIFACT and X12 as formats: how they are recognised, and from an interchange to records."""

import io
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from file_processing.inbound.formats.base import Batch, GoOn, Reading
from file_processing.inbound.formats.edi.received import ACKNOWLEDGEMENTS, Received, Rejected
from models.errors import RejectFile
from models.flow import Flow

MAX_BYTES = 4 << 20
"""An interchange stands in memory whole; four thousand orders take some 4 MB."""

_BOM = b"\xef\xbb\xbf"


def _read_edifact(data: bytes, go_on: GoOn) -> Received | Rejected:
    from file_processing.inbound.formats.edi import edifact

    return edifact.read(data, go_on)


def _read_x12(data: bytes, go_on: GoOn) -> Received | Rejected:
    from file_processing.inbound.formats.edi import x12

    return x12.read(data, go_on)


@dataclass(frozen=True, slots=True)
class EdiFormat:
    """One of the two standards.

    start: how its files begin. message_type: finds the types of messages in a file's first bytes.
    reader: from the whole file to what it came to.
    """

    name: str
    suffixes: tuple[str, ...]
    start: re.Pattern[bytes]
    message_type: re.Pattern[bytes]
    reader: Callable[[bytes, GoOn], Received | Rejected]
    media_types: Mapping[str, str] = field(default_factory=dict)

    def serves(self, flow: Flow) -> bool:
        return bool(flow.messages)

    def recognises(self, name: str, head: bytes) -> bool:
        return self._starts(head) or (name.endswith(self.suffixes) and not _is_edi(head))

    def _starts(self, head: bytes) -> bool:
        return self.start.match(head.removeprefix(_BOM)) is not None

    def signs(self, head: bytes) -> frozenset[str]:
        """The types of messages that the start of a file shows."""
        types = self.message_type.findall(head) if self._starts(head) else []
        return frozenset(found.decode() for found in types)

    def signs_of(self, flow: Flow) -> frozenset[str]:
        return frozenset(flow.messages) | (ACKNOWLEDGEMENTS if flow.messages else frozenset())

    def describe(self, signs: frozenset[str]) -> str:
        return f"message type {', '.join(sorted(signs))}"

    def read(self, file: io.BufferedIOBase, reading: Reading) -> Iterator[Batch]:
        """One batch. Raises RejectFile, RejectExchange among it, and what `go_on` raises."""
        from file_processing.inbound.formats.edi import interchanges  # every start of the program pays for the formats

        data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise RejectFile(
                f"the interchange is larger than {MAX_BYTES >> 20} MB", hint="split it into several interchanges"
            )
        if not self._starts(data):
            raise RejectFile(
                "neither EDIFACT (UNA or UNB) nor X12 (ISA) starts here",
                hint="the end of its name says that it is EDI",
                line=1,
                column=1,
            )
        received = self.reader(data.removeprefix(_BOM), reading.go_on)
        if isinstance(received, Rejected):
            raise interchanges.rejection(received)
        suffix = next((known for known in self.suffixes if reading.name.endswith(known)), self.suffixes[0])
        yield interchanges.batch(received, len(data), suffix, reading)


EDIFACT = EdiFormat(
    name="EDIFACT",
    suffixes=(".edi", ".edifact"),
    start=re.compile(rb"\s*UN[AB][^A-Za-z0-9]"),
    message_type=re.compile(rb"UNH[^A-Za-z0-9][^\r\n]{1,20}?[^A-Za-z0-9]([A-Z]{6})[^A-Za-z0-9]D"),
    reader=_read_edifact,
    media_types={"application/edifact": ".edifact"},  # RFC 1767
)

X12 = EdiFormat(
    name="X12",
    suffixes=(".x12", ".edi"),
    start=re.compile(rb"\s*ISA[^A-Za-z0-9]"),
    message_type=re.compile(rb"[^A-Za-z0-9]ST[^A-Za-z0-9]([0-9]{3})[^A-Za-z0-9]"),
    reader=_read_x12,
    media_types={"application/edi-x12": ".x12"},  # RFC 1767
)


def _is_edi(head: bytes) -> bool:
    """Whether either of them starts here: then the first bytes decide, whatever the name says."""
    return any(known.start.match(head.removeprefix(_BOM)) for known in (EDIFACT, X12))
