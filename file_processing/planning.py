"""What is to be done with each file of a group, by what the ledger knows of its content."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from file_processing import routing
from file_processing.batch import Batch
from file_processing.edi.received import Received, RejectInterchange
from file_processing.ledger import Known
from file_processing.outcome import Dropped
from file_processing.report import Refusals
from file_processing.validation import Checked
from models.errors import FileGone, RejectFile, RetryLater
from services.filing import Identity


@dataclass(slots=True)
class Incoming:
    """A file on its way into the database.

    batches: what its records came to; a long file gives them only once.
    refused: why it is refused as a whole, known from the start or found on the way.
    skipped: why nothing is done with it now.
    lands: whether its good records may load.
    messages: the batch that holds them, where it is an interchange.
    """

    dropped: Dropped
    identity: Identity
    sha256: bytes | None = None
    batches: Iterable[Checked] = ()
    refused: RejectFile | None = None
    skipped: FileGone | RetryLater | None = None
    lands: bool = True
    records: int = 0
    refusals: Refusals = field(default_factory=Refusals)
    drift: Counter[str] = field(default_factory=Counter)
    messages: Batch | None = None

    @property
    def interchange(self) -> Received | None:
        """As far as it could be read; `None` where the file is none."""
        if isinstance(self.refused, RejectInterchange) and self.refused.received is not None:
            return self.refused.received
        return self.messages.edi if self.messages else None

    @property
    def name(self) -> str:
        """As the sender called it, printable."""
        return routing.printable(self.dropped.path.name)

    @property
    def place(self) -> str:
        """Where it lies, printable."""
        return routing.printable(str(self.dropped.path))

    def take(self, checked: Checked) -> None:
        """Count a batch in."""
        self.records += checked.records
        self.drift.update(checked.drift)
        self.refusals.add(checked.refused, checked.batch)
        if checked.batch.edi is not None:
            self.messages = checked.batch

    @property
    def is_test(self) -> bool:
        """Whether its sender marks it as a test: it is checked and acknowledged, and nothing of it loads."""
        return self.interchange is not None and self.interchange.interchange.test

    def all_bad(self, further: int = 0) -> bool:
        """Whether no record of it is good, `further` ones being bad too; an empty list is."""
        bad = self.refusals.records + further
        return bool(bad) and bad == self.records

    def refuse(self, error: RejectFile) -> None:
        self.refused, self.lands = error, False


@dataclass(frozen=True, slots=True)
class Plan:
    """What the ledger says is to be done with a file."""

    file: Incoming
    file_id: int
    resumes: Known | None = None
    duplicate_of: int | None = None
    supersedes: int | None = None

    @property
    def lands(self) -> bool:
        return self.file.lands and self.resumes is None and self.duplicate_of is None


def plan(files: Iterable[tuple[Incoming, int]], known: Iterable[Known], *, moves: bool) -> list[Plan]:
    """A plan for each file, in their order.

    files: each with its id in the ledger.
    known: the ledger's lines of these contents.
    moves: the files are moved when they are done, so that a line not filed yet may be theirs.
    """
    loaded: dict[bytes | None, Known] = {}
    unfiled: dict[tuple[bytes | None, str | None], Known] = {}
    for line in known:
        if moves and not line.filed:
            unfiled[line.sha256, line.path] = line
        if line.loaded:
            loaded[line.sha256] = line
    first: dict[bytes | None, int] = {}
    plans = []
    for file, file_id in files:
        before, resumes = loaded.get(file.sha256), unfiled.get((file.sha256, file.place))
        if resumes is not None:
            made = Plan(file, file_id, resumes=resumes)
        elif file.sha256 in first:
            made = Plan(file, file_id, duplicate_of=first[file.sha256])
        elif before is not None and before.reload:
            made = Plan(file, file_id, supersedes=before.id)
        else:
            made = Plan(file, file_id, duplicate_of=before.id if before else None)
        if made.lands and file.sha256 is not None:
            first[file.sha256] = file_id
        plans.append(made)
    return plans
