"""What became of one dropped path, and how the log tells it."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from loguru import logger

from file_processing import routing
from file_processing.ledger import Entry
from models.errors import TidegateError
from models.ledger import FileStatus

_COUNTS = ("records", "inserted", "updated", "unchanged", "stale", "rejected")


class Dropped(Protocol):
    """A path that was found complete."""

    @property
    def path(self) -> Path: ...
    @property
    def relative(self) -> str: ...
    @property
    def seen_at(self) -> datetime: ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one path.

    status: the ledger's word; `None` when the file is gone or still waits where it is.
    waits: why it waits; it has to be handed in again.
    """

    dropped: Dropped
    flow: str | None
    status: FileStatus | None = None
    ledger_id: int | None = None
    entry: Entry | None = None
    waits: TidegateError | None = None


def log(outcome: Outcome, milliseconds: float) -> None:
    """One line for a file that has a line in the ledger."""
    entry = outcome.entry
    name = routing.printable(outcome.dropped.relative)
    what = f"{outcome.flow or '(no flow)'} #{outcome.ledger_id} {name}"
    bound = {"flow": outcome.flow, "file": name, "ledger_id": outcome.ledger_id}
    if entry is None:
        logger.bind(**bound).info("{}: was {} before, filed now", what, outcome.status)
        return
    counts = {count: getattr(entry, count) for count in _COUNTS}
    told = "".join(f" {count}={value}" for count, value in counts.items() if value)
    level = "WARNING" if entry.status in (FileStatus.REJECTED, FileStatus.PARTIAL) else "INFO"
    error = f": {entry.error}" if entry.error else ""
    line = logger.bind(**bound, **counts, milliseconds=round(milliseconds, 1))
    line.log(level, "{}: {}{} {:.1f} ms{}", what, entry.status.value, told, milliseconds, error)
    if entry.drift:
        line.warning("{}: fields this flow does not know: {}", what, dict(entry.drift))
