"""The list of records of a document too long to stand in memory: batch by batch.

The text before the list (`{"sent": "…", "records": `) is kept: in the end the document, with
`null` for its records, is checked like any other.
"""

import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

from file_processing.inbound.formats import positions
from file_processing.inbound.formats.base import MAX_RECORD_BYTES
from file_processing.inbound.formats.json_parse import BLANKS, CutOff, loads, parse
from file_processing.inbound.formats.positions import START, Place, Steps
from models.errors import RejectFile

_FIRST_KEY = re.compile(rb'\{[ \t\r\n]*"(?:[^"\\]|\\.)*"')
_GUESSES = 3


@dataclass(frozen=True, slots=True)
class Part:
    """Records of the list, the first at this position, and their text, which starts at this place of the file."""

    records: list[object]
    first: int
    text: bytes
    place: Place


@dataclass(slots=True)
class Stream:
    """A document on its way in: `buffer` is the text at `place`, read and not yet taken."""

    file: io.BufferedIOBase
    buffer: bytes
    envelope_key: str | None
    batch_bytes: int
    exact: bool = False
    place: Place = START
    head: bytes = b""
    envelope: Steps = ()
    at_end: bool = False

    def enter_list(self) -> bool:
        """Go to the first record. False, with all of it in `buffer`, when the document holds no list of records."""
        while (start := self._start_of_list()) is None:
            if self.at_end:
                return False
            self._read_on(what="a single record, or what stands before the list,")
        self.head = self._take(start)
        try:
            parse(self.head + b"null")
        except CutOff:
            pass  # the envelope is still open
        self._take(1)
        return True

    def parts(self) -> Iterator[Part]:
        """The records, after `enter_list`. Raises RejectFile where the document is malformed."""
        first = 0
        while self._next_byte() != b"]":
            while len(self.buffer) < self.batch_bytes // 2 and not self.at_end:
                self._read()
            end, records = self._whole_records()
            place = self.place
            yield Part(records, first, self._take(end), place)
            first += len(records)
            self._go_over_comma()
        self._take(1)
        self._leave_list()

    def _start_of_list(self) -> int | None:
        """The offset of the bracket that opens the list of records; `None` while it is not in sight."""
        text = self.buffer.decode("utf-8", "surrogateescape")  # so that characters can be turned into bytes again
        at = positions.skip_blanks(text, 0)
        if text[at : at + 1] == "{" and self.envelope_key is not None:
            self.envelope = (self.envelope_key,)
            try:
                at = positions.member(text, at, self.envelope_key) or len(text)
            except (json.JSONDecodeError, RecursionError):
                return None  # malformed, or cut off by the end of the buffer
        return len(text[:at].encode("utf-8", "surrogateescape")) if text[at : at + 1] == "[" else None

    def _whole_records(self) -> tuple[int, list[object]]:
        """The records that stand whole in the buffer, at least one, and the offset where the last one ends."""
        while True:
            for end in self._likely_ends():
                records = self._parsed(end)
                if records:
                    return end, records
            self._read_on(what="a record", before=b"[")

    def _likely_ends(self) -> Iterator[int]:
        """Offsets where a record may end: guesses first, as a walk over all values is ten times slower.

        The guess is the comma before a record that starts like the first one. Parsing proves it: a list
        cut anywhere but between two of its elements is malformed, as a bracket or a quote stays open.
        """
        opening = _FIRST_KEY.match(self.buffer)
        start = len(self.buffer) if opening else 0
        for _ in range(_GUESSES):
            start = self.buffer.rfind(opening[0], 0, start) if opening else 0
            if start <= 0:
                break
            before = self.buffer[:start].rstrip(BLANKS)
            if before.endswith(b","):
                yield len(before) - 1
        yield self._walked_end()

    def _walked_end(self) -> int:
        text = self.buffer.decode("latin-1")  # one character for each byte
        last = before_last = 0
        try:
            for _, end in positions.elements(text, 0):
                last, before_last = end, last
        except (json.JSONDecodeError, RecursionError):
            pass  # malformed, or cut off by the end of the buffer
        # A number at the very end of the buffer may go on in what is not yet read.
        return last if text[positions.skip_blanks(text, last) :][:1] in ("]", ",") else before_last

    def _parsed(self, end: int) -> list[object]:
        """The records in the first `end` bytes; none when that is not a list of whole records."""
        try:
            parsed = loads(b"[" + self.buffer[:end] + b"]", exact=self.exact)
        except ValueError:
            return []
        assert isinstance(parsed, list)
        return parsed

    def _go_over_comma(self) -> None:
        before = b"[null"
        if self._next_byte() == b",":
            self._take(1)
            before += b","
        # After a record the list ends, after a comma it does not.
        if (self._next_byte() == b"]") == before.endswith(b","):
            self._parse(before)

    def _leave_list(self) -> None:
        """Check that what follows the list closes the document."""
        self._next_byte()
        while not self.at_end:
            self._read_on(what="what stands after the list", before=self.head + b"null")
        self._parse(self.head + b"null")

    def _parse(self, before: bytes) -> None:
        """Parse the buffer as if `before` stood before it. Raises RejectFile, CutOff too, at the right place."""
        parse(before + self.buffer, self.place, prefix=len(before))

    def _read_on(self, *, what: str, before: bytes = b"") -> None:
        """Read more, unless the buffer shows that this would not help."""
        try:
            self._parse(before)
        except CutOff:
            if self.at_end:
                raise
        if len(self.buffer) > MAX_RECORD_BYTES:
            reason = f"{what} is longer than {MAX_RECORD_BYTES >> 20} MB"
            raise RejectFile(reason, line=self.place.line, column=self.place.column)
        self._read()

    def _read(self) -> None:
        more = self.file.read(self.batch_bytes)
        self.at_end = not more
        self.buffer += more

    def _next_byte(self) -> bytes:
        """The first byte that is no blank, which then starts the buffer; none at the end of the file."""
        while True:
            self._take(len(self.buffer) - len(self.buffer.lstrip(BLANKS)))
            if self.buffer or self.at_end:
                return self.buffer[:1]
            self._read()

    def _take(self, count: int) -> bytes:
        """Take `count` bytes off the buffer, and remember where the rest stands in the file."""
        taken, self.buffer = self.buffer[:count], self.buffer[count:]
        self.place = self.place.after(taken.decode("utf-8", "replace"))
        return taken
