"""The seam: what a format owes to the pipeline, which knows files by nothing else.

A format recognises its files, reads them in batches of records, tells where each record and each value in it
stands, and writes rejected records back in the form that their sender uses. A new format is a module here, and
a line in detect.py; the conformance suite in tests/unit says whether it keeps what is promised here.
"""

import io
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import IO, NamedTuple, Protocol

from file_processing.inbound.formats.positions import Place, Steps
from models.errors import RejectFile
from models.flow import Flow

BATCH_BYTES = 1 << 20
"""Text parsed at a time: some 8,000 records, and ten times as much in Python objects.

250,000 records are read in 0.39 s of CPU; by 4 MB at a time, which caches hold less well, in 0.49 s.
"""

MAX_RECORD_BYTES = 16 << 20
"""A record may not be longer, nor what stands around the records: it has to stand in memory whole."""

GoOn = Callable[[], None]
"""Called all along a long way; raises RetryLater when the daemon stops."""


class Reading(NamedTuple):
    """How a file is to be read.

    name: the file's. flow: it declares what its files look like.
    batch_bytes: so much content at a time; memory is bounded by it, not by the file.
    """

    name: str
    flow: Flow
    batch_bytes: int = BATCH_BYTES
    go_on: GoOn = lambda: None


@dataclass(frozen=True, slots=True)
class Malformed:
    """Stands in a batch for what is no record; it never validates.

    column: where in its line it goes wrong, from 1, where the format knows.
    at: where in its text it goes wrong, in characters from its start.
    cause: what the format wants to remember of it for its answer.
    """

    reason: str
    column: int | None = None
    at: int = 0
    cause: Exception | None = None


@dataclass(frozen=True, slots=True)
class RecordText:
    """A record in the words of its file.

    index: in its batch. place: where in the file the text starts.
    locate: from the steps to a value in the record to where that stands.
    """

    index: int
    text: str
    place: Place
    locate: Callable[[Steps], Place]


class Batch(Protocol):
    """Records that stand one after another in a file.

    first: position of the first record in the file, from 0.
    size: bytes of content that it was read from.
    """

    @property
    def records(self) -> Sequence[object]: ...
    @property
    def first(self) -> int: ...
    @property
    def size(self) -> int: ...

    @property
    def form(self) -> "RecordForm":
        """How records stand in this file; the same for all its batches."""

    @property
    def exchange(self) -> "Exchange | None":
        """What the file is beyond its records, where its sender numbered it and wants an answer."""

    def pointer(self, index: int, steps: Steps) -> str:
        """The path to a value of record `index`, in the file's own terms."""

    def texts(self, indexes: Container[int]) -> Iterator[RecordText]:
        """The text of each of these records, in order; the file's text is walked once."""

    def misfit(self, known: frozenset[str]) -> str | None:
        """What to say of a file of which nothing is a record's, `known` being a record's fields; else None."""


GZIP_SUFFIX = ".gz"
"""How the name of a packed file ends, behind the suffix of its format."""


class RecordForm(Protocol):
    """How a sender writes records down, so that rejected ones come back ready to be mended and dropped again.

    suffix: of a file in this form, before `.gz`. advice: what to do with the rejected records, a sentence in
    which `{suffix}` stands for how their file's name ends, and `{folder}` for where it is to be dropped.
    """

    @property
    def suffix(self) -> str: ...
    @property
    def advice(self) -> str: ...

    def write(self, file: IO[bytes], texts: Iterable[str]) -> None:
        """Records, word for word, in the form of their file."""


class Reference(NamedTuple):
    """The number that a sender gives a file, and never gives another one."""

    standard: str
    sender: str
    receiver: str
    number: str


class Exchange(Protocol):
    """A file that its sender numbered, and that is answered: accepted, or rejected and why."""

    @property
    def reference(self) -> Reference: ...

    @property
    def is_test(self) -> bool:
        """Whether its sender marks it as a test: it is checked and answered, and nothing of it loads."""

    def repeated(self, earlier: int) -> "RejectExchange":
        """What to raise when the reference was used before, in the file with this ledger id."""

    def notices(self) -> Sequence[str]:
        """What it says of files of ours, and the operator has to know."""

    def answer(self, rejected: Container[int] | None, now: datetime) -> "AnswerFile | None":
        """What the sender is told; None where nothing may be.

        rejected: the positions of rejected records; None when nothing of the file loads.
        """


@dataclass(frozen=True, slots=True)
class AnswerFile:
    """A file for the sender.

    document: the name of its kind. partner: whom it is for. records: how many it holds.
    render: its bytes, given its number in the ledger.
    """

    document: str
    partner: str
    suffix: str
    records: int
    render: Callable[[int], bytes]


class RejectExchange(RejectFile):
    """Rejected as a whole, and the sender is told so.

    exchange: what tells it; none where it cannot be known who sent the file.
    """

    def __init__(
        self,
        reason: str,
        *,
        exchange: Exchange | None,
        hint: str = "",
        line: int | None = None,
        column: int | None = None,
    ) -> None:
        super().__init__(reason, hint=hint, line=line, column=column)
        self.exchange = exchange


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why a whole file is rejected, as its report and the ledger say it; see `RejectFile`."""

    reason: str
    hint: str = ""
    pointer: str | None = None
    line: int | None = None
    column: int | None = None
    exchange: Exchange | None = None

    @classmethod
    def of(cls, error: RejectFile) -> "Rejection":
        exchange = error.exchange if isinstance(error, RejectExchange) else None
        return cls(error.reason, error.hint, error.pointer, error.line, error.column, exchange)


class Format(Protocol):
    """One way to write records into a file.

    name: for messages. suffixes: of its files' names, in lower case, before `.gz`.
    media_types: what HTTP calls it, each with the suffix that such a body's file gets.
    """

    @property
    def name(self) -> str: ...
    @property
    def suffixes(self) -> tuple[str, ...]: ...
    @property
    def media_types(self) -> Mapping[str, str]: ...

    def serves(self, flow: Flow) -> bool:
        """Whether the flow declares all that is needed to make records of such files."""

    def recognises(self, name: str, head: bytes) -> bool:
        """Whether a file is of this format, by its name without `.gz`, in lower case, or its first bytes."""

    def signs(self, head: bytes) -> frozenset[str]:
        """What the first bytes say of the file: envelope keys, message types; none when it is of another format."""

    def signs_of(self, flow: Flow) -> frozenset[str]:
        """The signs by which a file is known to belong to the flow."""

    def describe(self, signs: frozenset[str]) -> str:
        """The signs of a file that belongs to no flow, in words."""

    def read(self, file: io.BufferedIOBase, reading: Reading) -> Iterator[Batch]:
        """Every record of the file, in batches.

        Raises RejectFile, possibly after some batches, when the file is malformed.
        """
