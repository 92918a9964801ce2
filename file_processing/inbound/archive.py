"""After the commit: files out of the input folder, reports into place, and what became of each told."""

import os
import time
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from operator import attrgetter
from typing import NamedTuple

from loguru import logger

from file_processing.inbound.intake import LeftFile, Wait
from file_processing.inbound.load import CommittedFile
from file_processing.inbound.routing import DroppedFile
from models.errors import FileGone, RetryLater
from models.ledger import FileStatus
from services.files import move, names
from services.files.directory import Directory, Folder
from services.files.folders import Folders
from services.ledger.inbound import COUNTS, LedgerEntry
from services.runtime import log
from services.runtime.log import Line
from services.text import printable

_counts = attrgetter(*COUNTS)


class FileResult(NamedTuple):
    """What became of one dropped path.

    status: the ledger's word; `None` of a file of which it has no line, gone or left for later.
    wait: why it is still where it was, and has to be handed in again; also one that is in the ledger and could
        not be moved.
    place: where it lies now, as far as this process has moved it.
    """

    dropped: DroppedFile
    flow: str | None
    status: FileStatus | None = None
    ledger_id: int | None = None
    entry: LedgerEntry | None = None
    wait: Wait | None = None
    place: str | None = None

    @classmethod
    def of_left(cls, left: LeftFile, flow: str | None) -> "FileResult":
        return cls(left.dropped, flow, wait=left.wait)


def archive(
    committed: Sequence[CommittedFile], folders: Folders, flow: str | None, *, started: float
) -> list[FileResult]:
    """Move committed files of a flow to where they belong, and their reports beside them.

    A file that cannot be moved has a result that waits.

    started: when work on them began, by `time.perf_counter`.
    """
    with ExitStack() as opened:
        archived = _Target(folders.archive_on(flow, datetime.now(UTC)), opened)
        rejected = _Target(folders.rejected_of(flow), opened)
        results = [
            _archive(done, rejected if done.status is FileStatus.REJECTED else archived, flow) for done in committed
        ]
    milliseconds = (time.perf_counter() - started) * 1000 / max(len(committed), 1)
    log.several([line for result in results for line in _told(result, milliseconds)])
    return results


class _Target:
    """A folder that files are moved to, opened for the first of them."""

    __slots__ = ("_directory", "_opened", "folder")

    def __init__(self, folder: Folder, opened: ExitStack) -> None:
        self.folder = folder
        self._opened = opened
        self._directory: Directory | None = None

    def open(self) -> Directory:
        """Raises OSError."""
        if self._directory is None:
            self._directory = self._opened.enter_context(self.folder.open(make=True))
        return self._directory


def _archive(done: CommittedFile, target: _Target, flow: str | None) -> FileResult:
    entry = done.file.entry
    place, wait = None, None
    if not done.file.stays:
        try:
            place = _moved(done, target)
        except FileGone:
            pass  # somebody else has moved it, or put another one into its place
        except RetryLater as error:
            wait = Wait.of(error)
    if done.report is not None and wait is None:
        name = os.path.basename(place) if place is not None else entry.name  # noqa: PTH119
        try:
            done.report.publish(name)
        except OSError as error:
            logger.warning("{}: its report stays under a hidden name until the next start: {}", printable(name), error)
    return FileResult(done.file.dropped, flow, done.status, done.ledger_id, done.entry, wait, place)


def _moved(done: CommittedFile, target: _Target) -> str:
    """Where it lies now. Raises FileGone or RetryLater."""
    entry = done.file.entry
    try:
        folder = target.open()
    except OSError as error:
        raise move.not_moved(error, entry, target.folder.path) from None
    return move.move(entry, folder, names.storable(entry.name), done.ledger_id, done.file.state).place


def _told(result: FileResult, milliseconds: float) -> Sequence[Line]:
    """What the log says of a file that has a line in the ledger, where it is news."""
    entry = result.entry
    if entry is None and result.place is None:
        return ()
    name = printable(result.dropped.relative)
    what = f"{result.flow or '(no flow)'} #{result.ledger_id} {name}"
    fields: dict[str, object] = {"flow": result.flow, "file": name, "ledger_id": result.ledger_id}
    if entry is None:
        return (Line("INFO", f"{what}: was {result.status} before, archived now", fields),)
    counts = dict(zip(COUNTS, _counts(entry), strict=True))
    told = "".join([f" {count}={value}" for count, value in counts.items() if value])
    level = "WARNING" if entry.status in (FileStatus.REJECTED, FileStatus.PARTIAL) else "INFO"
    error = f": {entry.error}" if entry.error else ""
    fields |= counts
    fields["milliseconds"] = round(milliseconds, 1)
    line = Line(level, f"{what}: {entry.status.value}{told} {milliseconds:.1f} ms{error}", fields)
    if not entry.drift:
        return (line,)
    return line, Line("WARNING", f"{what}: fields this flow does not know: {dict(entry.drift)}", fields)
