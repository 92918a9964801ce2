"""A batch: records that stand one after another in a file, and the text that they stand in."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from file_processing import positions
from file_processing.edi.received import Received
from file_processing.positions import START, Place, Steps
from models.edi import SegmentError

_LINE = re.compile(r"[^ \t\r\n](?:[^\n]*[^ \t\r\n])?")
"""A line that is not blank, without the blanks around it."""


@dataclass(frozen=True, slots=True)
class Malformed:
    """Stands for a line of a JSON Lines file that is not JSON, or a message that is no record; it never validates.

    column: where in the line it goes wrong, from 1.
    at: where in the message it goes wrong, in characters from its start; `cause` names the segment.
    """

    reason: str
    column: int | None = None
    at: int = 0
    cause: SegmentError | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """Records that stand one after another in a file.

    first: position of the first record in the file, from 0.
    text: the JSON text with these records in it, as bytes.
    place: where in the file the text starts.
    to_list: steps from the text's root value to the list that holds the records, or
        `None` when the text is no document but the records themselves, comma-separated.
    envelope: steps from the document's root to the list of records.
    single: the document is one record and not a list.
    lines: each record is a document on a line of its own.
    edi: the interchange whose messages became the records; the text is no JSON then.
    """

    records: Sequence[object]
    first: int
    text: bytes
    place: Place = START
    to_list: Steps | None = None
    envelope: Steps = ()
    single: bool = False
    lines: bool = False
    edi: Received | None = None

    def steps(self, index: int) -> Steps:
        """The steps from the root of the record's document to record `index` of this batch."""
        return () if self.single or self.lines else (*self.envelope, self.first + index)

    def spans(self) -> Iterator[tuple[int, int]]:
        """Start and end of every record within `decoded`."""
        text = self.decoded
        if self.edi is not None:
            for message in self.edi.messages:
                yield message.segments[0].span[0], message.segments[-1].span[1]
        elif self.lines:
            yield from (match.span() for match in _LINE.finditer(text))
        elif self.single:
            yield positions.skip_blanks(text, 0), len(text.rstrip())
        elif self.to_list is None:
            yield from positions.elements(text, 0)
        else:
            yield from positions.elements(text, positions.find(text, 0, self.to_list) + 1)

    @property
    def decoded(self) -> str:
        return self.edi.text if self.edi else self.text.decode("utf-8", "replace")
