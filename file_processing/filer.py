"""After the commit: files out of the input folder, reports into place."""

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from loguru import logger

from file_processing import outcome, routing
from file_processing.loader import Loaded, Loader
from file_processing.outcome import Outcome
from models.errors import FileGone, RetryLater
from models.ledger import FileStatus
from services import filing
from services.filing import Cabinet


class Filer:
    """Files what a loader has loaded.

    keep: leave the originals where they are.
    moved: ledger id and new place of the files that the ledger does not know as filed yet.
    """

    def __init__(self, loader: Loader, cabinet: Cabinet, *, keep: bool) -> None:
        self._loader = loader
        self._cabinet = cabinet
        self._keep = keep
        self.moved: list[tuple[int, str | None]] = []

    def file(self, loaded: Sequence[Loaded], started: float) -> list[Outcome]:
        """Move the files and tell of each; one that cannot be moved has an outcome that waits.

        started: when work on them began, by `time.perf_counter`.
        """
        flow, day = self._loader.flow_name, datetime.now(UTC)
        archived, refused = self._cabinet.archived(flow, day), self._cabinet.refused(flow)
        milliseconds = (time.perf_counter() - started) * 1000 / max(len(loaded), 1)
        outcomes = []
        for done in loaded:
            place, waits = None, None
            try:
                place = self._put(done, refused if done.status is FileStatus.REJECTED else archived)
            except RetryLater as error:
                waits = error
            done.file.refusals.close()
            outcomes.append(Outcome(done.file.dropped, flow, done.status, done.ledger_id, done.entry, waits))
            if done.entry is not None or place is not None:
                outcome.log(outcomes[-1], milliseconds)
        return outcomes

    def _put(self, done: Loaded, folder: Path) -> Path | None:
        """The file's new place; `None` when it stays, or somebody else has moved it. Raises RetryLater."""
        path = done.file.dropped.path
        name, place = path.name, None
        if not self._keep:
            try:
                place = filing.move(path, folder, _storable(name), done.ledger_id, done.file.identity)
                name = place.name
            except FileGone:
                pass  # somebody else has moved it, or put another one into its place
            self.moved.append((done.ledger_id, str(place) if place else None))
        if done.status in (FileStatus.PARTIAL, FileStatus.REJECTED):
            try:
                self._loader.reports(done.file, done.ledger_id).publish(name)
            except OSError as error:
                logger.warning("{}: its report stays under a hidden name until the next start: {}", name, error)
        return place


def _storable(name: str) -> str:
    """A name that the ledger can hold as well: one that is no UTF-8 is spelled out."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return filing.with_suffix(routing.printable(name), "")
    return name
