"""From a file's bytes to its records: array, envelope, single record, JSON Lines, EDI.

A document that fits into one batch is parsed at once; a longer one streams, and the
memory needed is bounded by the batch, not by the file.
"""

import io
from collections.abc import Iterator, Mapping
from types import MappingProxyType

from file_processing import positions
from file_processing.batch import Batch, Malformed
from file_processing.edi import reading as edi
from file_processing.edi.received import GoOn
from file_processing.parsing import BLANKS, parse
from file_processing.positions import START
from file_processing.stream import MAX_RECORD_BYTES, Stream
from models.edi import MessageFunction
from models.errors import RejectFile

BATCH_BYTES = 4 << 20
"""Text parsed at a time: some 30,000 records, and ten times as much in Python objects."""

LINE_SUFFIXES = (".jsonl", ".ndjson")
BOM = b"\xef\xbb\xbf"


def batches(
    file: io.BufferedIOBase,
    *,
    name: str,
    envelope: str | None,
    batch_bytes: int = BATCH_BYTES,
    exact: bool = False,
    messages: Mapping[str, MessageFunction] = MappingProxyType({}),
    go_on: GoOn = lambda: None,
) -> Iterator[Batch]:
    """Read every record of `file`.

    envelope: the key under which the records stand, for `{"<envelope>": [...]}`.
    exact: numbers with a fraction come as `Decimal`.
    messages: what makes records of EDI messages, by their type.
    go_on: called while an interchange is read, which is one batch however long it takes.

    Raises RejectFile, possibly after some batches, when the document is malformed.
    """
    head = file.read(batch_bytes)
    _check_encoding(head)
    if messages and edi.recognised(name, head):
        return iter([edi.batch(head + file.read(edi.MAX_BYTES), messages, go_on)])
    if head.startswith(BOM):
        head = head[len(BOM) :] + file.read(len(BOM))
    if _is_lines(name):
        return _lines(head, file, batch_bytes, exact)
    further = file.read(1)
    if not further:
        return iter([_document(head, envelope, exact)])
    stream = Stream(file, head + further, envelope, batch_bytes, exact)
    if stream.enter_list():
        return stream.batches()
    return iter([_document(stream.buffer, envelope, exact)])


def _check_encoding(head: bytes) -> None:
    """JSON starts with an ASCII character: a zero byte beside it gives UTF-16 and UTF-32 away."""
    start = head[:4]
    if start.startswith((b"\xff\xfe", b"\xfe\xff")) or 0 < start.count(0) < len(start):
        raise RejectFile("the text is UTF-16 or UTF-32, not UTF-8", hint="save it as UTF-8", line=1, column=1)
    if start and not any(start):
        hint = "the sender wrote it while its disk was full or its machine crashed: have it sent again"
        raise RejectFile("the file is filled with zero bytes", hint=hint, line=1, column=1)


def _is_lines(name: str) -> bool:
    return name.lower().removesuffix(".gz").endswith(LINE_SUFFIXES)


def _empty() -> RejectFile:
    return RejectFile("the file is empty", hint="no records at all are written as []")


def _document(data: bytes, envelope: str | None, exact: bool) -> Batch:
    if not data.strip(BLANKS):
        raise _empty()
    document = parse(data, exact=exact)
    if isinstance(document, dict) and envelope is not None and envelope in document:
        records = document[envelope]
        if not isinstance(records, list):
            raise _no_list(data, envelope, records)
        return Batch(records, 0, data, to_list=(envelope,), envelope=(envelope,))
    if isinstance(document, list):
        return Batch(document, 0, data, to_list=())
    if isinstance(document, dict):
        return Batch([document], 0, data, single=True)
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


def _lines(buffer: bytes, file: io.BufferedIOBase, batch_bytes: int, exact: bool) -> Iterator[Batch]:
    first, place = 0, START
    while buffer:
        more = file.read(batch_bytes)
        end = buffer.rfind(b"\n") + 1 if more else len(buffer)
        if not end and len(buffer) > MAX_RECORD_BYTES:
            raise RejectFile(f"a line is longer than {MAX_RECORD_BYTES >> 20} MB", line=place.line, column=1)
        text, buffer = buffer[:end], buffer[end:] + more
        records = [_line(line, exact) for line in text.split(b"\n") if line.strip(BLANKS)]
        if records:
            yield Batch(records, first, text, place, lines=True)
        first += len(records)
        place = place.after(text.decode("utf-8", "replace"))
    if not first:
        raise _empty()


def _line(line: bytes, exact: bool) -> object:
    try:
        return parse(line, exact=exact)
    except RejectFile as error:
        return Malformed(error.reason, error.column or 1)
