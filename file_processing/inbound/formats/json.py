"""JSON (RFC 8259): an array of records, an envelope around one, or a single record.

A document that fits into one batch is parsed at once; a longer one streams.
"""

import io
import json
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import IO, NamedTuple

import jiter

from file_processing.inbound.formats import positions
from file_processing.inbound.formats.base import Batch, Reading, RecordForm, RecordText
from file_processing.inbound.formats.json_parse import BLANKS, BOM, check_encoding, empty, parse
from file_processing.inbound.formats.json_stream import Stream
from file_processing.inbound.formats.positions import START, Place, Steps
from models.errors import RejectFile
from models.flow import Flow

MEND_RECORDS = "the other records are loaded: mend these in the file ending in {suffix}, and drop it into {folder}"

_SHOWN_KEYS, _SHOWN_KEY_CHARACTERS = 5, 200


@dataclass(frozen=True, slots=True)
class JsonForm:
    """Records in an array, in an envelope, or a single one."""

    envelope: Steps = ()
    single: bool = False
    suffix: str = ".json"
    advice: str = MEND_RECORDS

    def write(self, file: IO[bytes], texts: Iterable[str]) -> None:
        if self.single:
            write_lines(file, texts)
            return
        key = "".join(f"{json.dumps(step)}: " for step in self.envelope)
        file.write((f"{{{key}[" if key else "[").encode())
        between = "\n  "
        for text in texts:
            file.write((between + text).encode("utf-8", "surrogatepass"))
            between = ",\n  "
        file.write(b"\n]}\n" if key else b"\n]\n")


def write_lines(file: IO[bytes], texts: Iterable[str]) -> None:
    for text in texts:
        file.write(text.encode("utf-8", "surrogatepass") + b"\n")


class JsonBatch(NamedTuple):
    """Records of one JSON document.

    text: the JSON text with these records in it, which starts at `place` of the file.
    to_list: steps from the text's root value to the list that holds the records, or
        `None` when the text is no document but the records themselves, comma-separated.
    envelope: steps from the document's root to the list of records.
    single: the document is one record and not a list.
    flow: whose single record it is.
    """

    records: Sequence[object]
    first: int
    text: bytes
    place: Place = START
    to_list: Steps | None = None
    envelope: Steps = ()
    single: bool = False
    flow: Flow | None = None
    exchange: None = None

    @property
    def size(self) -> int:
        return len(self.text)

    @property
    def form(self) -> RecordForm:
        return JsonForm(self.envelope, self.single)

    def pointer(self, index: int, steps: Steps) -> str:
        to_record = () if self.single else (*self.envelope, self.first + index)
        return positions.pointer((*to_record, *steps))

    def texts(self, indexes: Container[int]) -> Iterator[RecordText]:
        text = self.text.decode("utf-8", "replace")
        return record_texts(text, self.place, self._spans(text), indexes)

    def _spans(self, text: str) -> Iterator[tuple[int, int]]:
        """Start and end of every record."""
        if self.single:
            yield positions.skip_blanks(text, 0), len(text.rstrip())
        elif self.to_list is None:
            yield from positions.elements(text, 0)
        else:
            yield from positions.elements(text, positions.find(text, 0, self.to_list) + 1)

    def misfit(self, known: frozenset[str]) -> str | None:
        record = self.records[0] if self.single else None
        if self.flow is None or not isinstance(record, dict) or not known.isdisjoint(record):
            return None
        form = "a list of records" if self.flow.envelope is None else f'{{"{self.flow.envelope}": [record, …]}}'
        keys = ", ".join(json.dumps(k[:_SHOWN_KEY_CHARACTERS], ensure_ascii=False) for k in list(record)[:_SHOWN_KEYS])
        has = f"its keys are {keys}" + (", …" if len(record) > _SHOWN_KEYS else "") if record else "it is empty"
        return f"neither a record of {self.flow.name} nor {form}: {has}"


def record_texts(
    text: str, place: Place, spans: Iterable[tuple[int, int]], indexes: Container[int]
) -> Iterator[RecordText]:
    """Records of a JSON text that starts at `place`, each with where its values stand."""
    placed = 0
    for index, (start, end) in enumerate(spans):
        if index in indexes:
            place, placed = place.after(text[placed:start]), start
            record = text[start:end]
            yield RecordText(index, record, place, partial(_locate, record, place))


def _locate(record: str, place: Place, steps: Steps) -> Place:
    return place.after(record[: positions.find(record, 0, steps)])


class JsonFormat:
    """JSON documents; what no other format recognises is taken for one."""

    name = "JSON"
    suffixes = (".json",)
    media_types: Mapping[str, str] = MappingProxyType({"application/json": ".json"})

    def serves(self, flow: Flow) -> bool:
        return True

    def recognises(self, name: str, head: bytes) -> bool:
        return True

    def signs(self, head: bytes) -> frozenset[str]:
        """The keys of the outermost object, as far as `head` shows them; none when it is no object."""
        try:
            start = jiter.from_json(head.removeprefix(BOM), partial_mode=True)
        except ValueError:
            return frozenset()
        return frozenset(start) if isinstance(start, dict) else frozenset()

    def signs_of(self, flow: Flow) -> frozenset[str]:
        return frozenset({flow.envelope} if flow.envelope is not None else ())

    def describe(self, signs: frozenset[str]) -> str:
        return "envelope key"

    def read(self, file: io.BufferedIOBase, reading: Reading) -> Iterator[Batch]:
        flow = reading.flow
        head = file.read(reading.batch_bytes)
        check_encoding(head)
        if head.startswith(BOM):
            head = head[len(BOM) :] + file.read(len(BOM))
        further = file.read(1)
        if not further:
            yield _document(head, flow)
            return
        stream = Stream(file, head + further, flow.envelope, reading.batch_bytes, flow.exact_numbers)
        if not stream.enter_list():
            yield _document(stream.buffer, flow)
            return
        for part in stream.parts():
            yield JsonBatch(part.records, part.first, part.text, part.place, envelope=stream.envelope)


def _document(data: bytes, flow: Flow) -> JsonBatch:
    if not data.strip(BLANKS):
        raise empty()
    document, envelope = parse(data, exact=flow.exact_numbers), flow.envelope
    if isinstance(document, dict) and envelope is not None and envelope in document:
        records = document[envelope]
        if not isinstance(records, list):
            raise _no_list(data, envelope, records)
        return JsonBatch(records, 0, data, to_list=(envelope,), envelope=(envelope,))
    if isinstance(document, list):
        return JsonBatch(document, 0, data, to_list=())
    if isinstance(document, dict):
        return JsonBatch([document], 0, data, single=True, flow=flow)
    raise RejectFile(
        f"the file holds {_kind(document)}, not a record or a list of records",
        hint=_shape(envelope),
        pointer="",
        line=1,
        column=1,
    )


def _no_list(data: bytes, envelope: str, value: object) -> RejectFile:
    text = data.decode()
    at = START.after(text[: positions.find(text, 0, (envelope,))])
    return RejectFile(
        f'"{envelope}" holds {_kind(value)}, not a list of records',
        hint=_shape(envelope),
        pointer=positions.pointer((envelope,)),
        line=at.line,
        column=at.column,
    )


def _shape(envelope: str | None) -> str:
    return "send [record, …]" if envelope is None else f'send {{"{envelope}": [record, …]}}'


def _kind(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "true or false"
        case str():
            return "a string"
        case dict():
            return "an object"
        case _:
            return "a number"
