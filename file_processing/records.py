"""From a file's bytes to its records: array, envelope, single record, JSON Lines.

A document that fits into one batch is parsed at once; a longer one streams, and the
memory needed is bounded by the batch, not by the file.
"""

import io
from collections.abc import Iterator

from file_processing import positions
from file_processing.batch import Batch, Malformed
from file_processing.parsing import parse
from file_processing.positions import START
from file_processing.stream import MAX_RECORD_BYTES, Stream
from models.errors import RejectFile

BATCH_BYTES = 4 << 20
"""Text parsed at a time: some 30,000 records, and ten times as much in Python objects."""

LINE_SUFFIXES = (".jsonl", ".ndjson")
_BOM = b"\xef\xbb\xbf"


def batches(
    file: io.BufferedIOBase, *, name: str, envelope: str | None, batch_bytes: int = BATCH_BYTES
) -> Iterator[Batch]:
    """Read every record of `file`.

    envelope: the key under which the records stand, for `{"<envelope>": [...]}`.

    Raises RejectFile, possibly after some batches, when the document is malformed.
    """
    head = file.read(batch_bytes)
    if head[:2] in (b"\xff\xfe", b"\xfe\xff") or (len(head) > 1 and 0 in head[:2]):
        raise RejectFile("the text is UTF-16 or UTF-32, not UTF-8", hint="save it as UTF-8")
    if head.startswith(_BOM):
        head = head[len(_BOM) :] + file.read(len(_BOM))
    if _is_lines(name):
        return _lines(head, file, batch_bytes)
    further = file.read(1)
    if not further:
        return iter([_document(head, envelope)])
    return Stream(file, head + further, envelope, batch_bytes).batches()


def _is_lines(name: str) -> bool:
    return name.lower().removesuffix(".gz").endswith(LINE_SUFFIXES)


def _document(data: bytes, envelope: str | None) -> Batch:
    if not data.strip():
        raise RejectFile("the file is empty", hint="an empty list is written as []")
    document = parse(data)
    if isinstance(document, dict) and envelope is not None and envelope in document:
        records = document[envelope]
        if not isinstance(records, list):
            raise RejectFile(f"{envelope!r} does not hold a list", pointer=positions.pointer([envelope]))
        return Batch(records, 0, data, to_list=[envelope], envelope=[envelope])
    if isinstance(document, list):
        return Batch(document, 0, data, to_list=[])
    if isinstance(document, dict):
        return Batch([document], 0, data, single=True)
    raise RejectFile(
        f"the top level is {_kind(document)}, not a record or a list of records", pointer="", line=1, column=1
    )


def _kind(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "true or false"
        case str():
            return "a string"
        case _:
            return "a number"


def _lines(buffer: bytes, file: io.BufferedIOBase, batch_bytes: int) -> Iterator[Batch]:
    first, place = 0, START
    while buffer:
        more = file.read(batch_bytes)
        cut = len(buffer) if not more else buffer.rfind(b"\n") + 1
        if not cut and len(buffer) > MAX_RECORD_BYTES:
            raise RejectFile(f"a line is longer than {MAX_RECORD_BYTES} bytes", line=place.line)
        text, buffer = buffer[:cut], buffer[cut:] + more
        records = [_line(line) for line in text.split(b"\n") if line.strip()]
        if records:
            yield Batch(records, first, text, place, lines=True)
        first += len(records)
        place = place.after(text.decode("utf-8", "replace"))
    if not first:
        raise RejectFile("the file is empty")


def _line(line: bytes) -> object:
    try:
        return parse(line)
    except RejectFile as error:
        return Malformed(error.reason)
