"""JSON Lines: a JSON document on each line, one record each."""

import io
import re
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import IO, NamedTuple

from file_processing.inbound.formats import positions
from file_processing.inbound.formats.base import MAX_RECORD_BYTES, Batch, Malformed, Reading, RecordForm, RecordText
from file_processing.inbound.formats.json import MEND_RECORDS, record_texts, write_lines
from file_processing.inbound.formats.json_parse import BLANKS, BOM, check_encoding, empty, parse
from file_processing.inbound.formats.positions import START, Place, Steps
from models.errors import RejectFile
from models.flow import Flow

_LINE = re.compile(r"[^ \t\r\n](?:[^\n]*[^ \t\r\n])?")
"""A line that is not blank, without the blanks around it."""


@dataclass(frozen=True, slots=True)
class LinesForm:
    """A record on each line."""

    suffix: str = ".jsonl"
    advice: str = MEND_RECORDS

    def write(self, file: IO[bytes], texts: Iterable[str]) -> None:
        write_lines(file, texts)


class LinesBatch(NamedTuple):
    """Records that stand on lines of their own; text: these lines, which start at `place` of the file."""

    records: Sequence[object]
    first: int
    text: bytes
    place: Place
    form: RecordForm
    exchange: None = None

    @property
    def size(self) -> int:
        return len(self.text)

    def pointer(self, index: int, steps: Steps) -> str:
        return positions.pointer(steps)

    def texts(self, indexes: Container[int]) -> Iterator[RecordText]:
        text = self.text.decode("utf-8", "replace")
        return record_texts(text, self.place, (match.span() for match in _LINE.finditer(text)), indexes)

    def misfit(self, known: frozenset[str]) -> str | None:
        return None


class JsonLinesFormat:
    """JSON Lines, told by the file's name: their first line alone may be any JSON document."""

    name = "JSON Lines"
    suffixes = (".jsonl", ".ndjson")
    media_types: Mapping[str, str] = MappingProxyType(
        {"application/x-ndjson": ".jsonl", "application/ndjson": ".jsonl", "application/jsonl": ".jsonl"}
    )

    def serves(self, flow: Flow) -> bool:
        return True

    def recognises(self, name: str, head: bytes) -> bool:
        return name.endswith(self.suffixes)

    def signs(self, head: bytes) -> frozenset[str]:
        return frozenset()

    def signs_of(self, flow: Flow) -> frozenset[str]:
        return frozenset()

    def describe(self, signs: frozenset[str]) -> str:
        return "envelope key"

    def read(self, file: io.BufferedIOBase, reading: Reading) -> Iterator[Batch]:
        suffix = next((known for known in self.suffixes if reading.name.endswith(known)), self.suffixes[0])
        form = LinesForm(suffix)
        buffer = file.read(reading.batch_bytes)
        check_encoding(buffer)
        if buffer.startswith(BOM):
            buffer = buffer[len(BOM) :] + file.read(len(BOM))
        first, place = 0, START
        while buffer:
            more = file.read(reading.batch_bytes)
            end = buffer.rfind(b"\n") + 1 if more else len(buffer)
            if not end and len(buffer) > MAX_RECORD_BYTES:
                raise RejectFile(f"a line is longer than {MAX_RECORD_BYTES >> 20} MB", line=place.line, column=1)
            text, buffer = buffer[:end], buffer[end:] + more
            exact = reading.flow.exact_numbers
            records = [_record(line, exact) for line in text.split(b"\n") if line.strip(BLANKS)]
            if records:
                yield LinesBatch(records, first, text, place, form)
            first += len(records)
            place = place.after(text.decode("utf-8", "replace"))
        if not first:
            raise empty()


def _record(line: bytes, exact: bool) -> object:
    try:
        return parse(line, exact=exact)
    except RejectFile as error:
        return Malformed(error.reason, error.column or 1)
