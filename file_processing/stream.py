"""The list of records of a document too long to stand in memory: batch by batch."""

import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NoReturn

import jiter

from file_processing import positions
from file_processing.batch import Batch
from file_processing.parsing import parse
from file_processing.positions import START, Place, Steps
from models.errors import RejectFile

MAX_RECORD_BYTES = 16 << 20
"""A record may not be longer; it has to stand in memory whole."""


@dataclass(slots=True)
class Stream:
    """The list of records in a document too long to stand in memory."""

    file: io.BufferedIOBase
    buffer: bytes
    envelope_key: str | None
    batch_bytes: int
    place: Place = START
    envelope: Steps = ()
    first: int = 0
    at_end: bool = False

    def batches(self) -> Iterator[Batch]:
        self._enter_list()
        while not self.buffer.lstrip().startswith(b"]"):
            yield self._next()
            while len(self.buffer) < self.batch_bytes and not self.at_end:
                self._read()
        self._leave_list()

    def _read(self) -> None:
        more = self.file.read(self.batch_bytes)
        self.at_end = not more
        self.buffer += more

    def _advance(self, count: int) -> bytes:
        """Take `count` bytes off the buffer, and remember where the rest stands in the file."""
        taken, self.buffer = self.buffer[:count], self.buffer[count:]
        self.place = self.place.after(taken.decode("utf-8", "replace"))
        return taken

    def _enter_list(self) -> None:
        text = self.buffer.decode("utf-8", "surrogateescape")
        at = positions.skip_blanks(text, 0)
        if text[at : at + 1] == "{" and self.envelope_key is not None:
            self.envelope = [self.envelope_key]
            at = self._list_member(text, at + 1)
        if text[at : at + 1] != "[":
            # Not a list within reach: parse what is there for the better message.
            self._read_all()
            parse(self.buffer, self.place)
            raise RejectFile(f"a single record is longer than {self.batch_bytes} bytes")
        self._advance(len(text[: at + 1].encode("utf-8", "surrogateescape")))

    def _list_member(self, text: str, at: int) -> int:
        """The offset of the envelope's value; what stands before it is skipped."""
        try:
            for name, start in positions.members(text, at):
                if name == self.envelope_key:
                    return start
        except json.JSONDecodeError:
            pass  # cut off or malformed: the caller says which
        return len(text)

    def _next(self) -> Batch:
        cut = self._probable_cut()
        records = self._records(cut) if cut else None
        if records is None:
            cut = self._certain_cut()
            records = self._records(cut)
        if records is None:
            self._raise_malformed(cut)
        place, first = self.place, self.first
        text = self._advance(cut)
        self.first += len(records)
        self._drop_comma()
        return Batch(records, first, text, place, envelope=self.envelope)

    def _records(self, cut: int) -> list[object] | None:
        """The records in the first `cut` bytes; `None` when that is not a list of whole records."""
        try:
            parsed = jiter.from_json(b"[" + self.buffer[:cut] + b"]", allow_inf_nan=False, catch_duplicate_keys=True)
        except ValueError:
            return None
        assert isinstance(parsed, list)
        return parsed or None

    def _probable_cut(self) -> int:
        """The comma before the last record that starts as the first one does.

        A guess that is then proved: a list cut anywhere but between two of its elements
        is not valid JSON, because a bracket or a quote stays open.
        """
        opening = re.match(rb'[ \t\r\n]*(\{[ \t\r\n]*"(?:[^"\\]|\\.)*")', self.buffer)
        if opening is None or self.at_end:
            return 0
        last = self.buffer.rfind(opening[1])
        before = self.buffer[: max(last, 0)].rstrip(b" \t\r\n")
        return len(before) - 1 if before.endswith(b",") else 0

    def _certain_cut(self) -> int:
        """The end of the last whole record in the buffer, found by walking; reads on for the first one."""
        while True:
            text = self.buffer.decode("utf-8", "surrogateescape")
            end = 0
            try:
                for span in positions.elements(text, 0):
                    end = span[1]
            except (json.JSONDecodeError, RecursionError):
                pass
            closed = text[positions.skip_blanks(text, end) :][:1]
            # A number at the very end of the buffer may go on in what is not yet read.
            if end and (closed in ("]", ",") or self.at_end):
                return len(text[:end].encode("utf-8", "surrogateescape"))
            if self.at_end or len(self.buffer) > MAX_RECORD_BYTES:
                return len(self.buffer)
            self._read()

    def _drop_comma(self) -> None:
        rest = self.buffer.lstrip(b" \t\r\n")
        if rest.startswith(b","):
            blanks = len(self.buffer) - len(rest)
            self._advance(blanks + 1)
            following = self.buffer.lstrip(b" \t\r\n")
            if following.startswith(b"]"):
                raise self._wrong("not valid JSON: a comma before the closing ]")
        elif not rest.startswith(b"]") and (rest or self.at_end):
            self._raise_malformed(len(self.buffer))

    def _wrong(self, reason: str) -> RejectFile:
        return RejectFile(reason, line=self.place.line, column=self.place.column)

    def _raise_malformed(self, upto: int) -> NoReturn:
        if len(self.buffer) > MAX_RECORD_BYTES:
            raise self._wrong(f"a record is longer than {MAX_RECORD_BYTES} bytes, or malformed")
        parse(b"[" + self.buffer[:upto] + (b"" if self.at_end else b"]"), self.place, prefix=1)
        raise self._wrong("not valid JSON between two records")

    def _read_all(self) -> None:
        while not self.at_end and len(self.buffer) <= MAX_RECORD_BYTES:
            self._read()

    def _leave_list(self) -> None:
        """Check that what follows the list closes the document."""
        self._advance(len(self.buffer) - len(self.buffer.lstrip()) + 1)
        self._read_all()
        if len(self.buffer) > MAX_RECORD_BYTES:
            raise self._wrong("too much text after the list of records")
        rest = self.buffer.strip()
        if not self.envelope:
            if rest:
                raise self._wrong("there is more than one document in the file")
            return
        # The list is replaced by null: so the rest has to read as the end of that object.
        tail = parse(b'{"":null' + self.buffer, self.place, prefix=8)
        if isinstance(tail, dict) and self.envelope_key in tail:
            raise self._wrong(f"the key {self.envelope_key!r} stands twice")
