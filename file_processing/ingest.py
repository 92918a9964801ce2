"""Loading files now, wherever they lie, and leaving them there."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from loguru import logger
from psycopg import errors

from file_processing.handler import Handler
from file_processing.outcome import Outcome
from flows import Flows
from models.errors import FileGone, RejectFile, RetryLater, TidegateError
from models.flow import Flow
from services.observer.scan import scan

PATIENCE_SECONDS = 600.0
"""How long another process may load files of the same flow before `ingest` gives up."""

_BUSY = (errors.LockNotAvailable, errors.DeadlockDetected, errors.SerializationFailure)
_PAUSE_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Given:
    """A file that a person named, or that lies in a folder that a person named.

    folders: the names that may tell its flow, the nearest last.
    """

    path: Path
    relative: str
    seen_at: datetime
    folders: tuple[str, ...] = ()
    bytes: int = 0


def collect(paths: Sequence[Path]) -> list[Given]:
    """The files named, and those of the folders named at any depth, in order of names.

    Raises TidegateError when a path does not exist, or a folder cannot be read.
    """
    now = datetime.now(UTC)
    given: list[Given] = []
    for path in paths:
        inside = [path]
        if path.is_dir():
            inside = sorted(Path(e.path) for e in scan(str(path), enter=lambda _folder: None, failed=_unreadable))
        elif not path.is_symlink() and not path.exists():
            raise TidegateError(f"{path} does not exist")
        # A named folder's own parent counts (archive/FLOW/DAY), what is above it says nothing.
        near = max(len(path.absolute().parts) - (2 if path.is_dir() else 3), 0)
        for file in inside:
            try:
                size = file.lstat().st_size
            except OSError:
                size = 0  # gone by now: the handler says so
            given.append(Given(file, str(file), now, file.absolute().parent.parts[near:], size))
    return given


def _unreadable(folder: str, error: OSError) -> None:
    raise TidegateError(f"{folder} cannot be read: {error.strerror}")


def ingest(handler: Handler, flows: Flows, given: Sequence[Given], flow: Flow | None) -> Iterator[Outcome]:
    """Load the files, each by `flow` or by what it and its folders are called and hold.

    Raises RetryLater or StopDaemon when the database is the reason; what was told of is loaded.
    """
    by_flow: dict[str, list[Given]] = {}
    for file in given:
        chosen = flow
        if chosen is None:
            try:
                routed = _route(handler, flows, file)
            except (FileGone, RetryLater) as error:
                yield Outcome(file, None, waits=error)
                continue
            if isinstance(routed, RejectFile):
                yield from _patiently(handler, None, [file], routed)
                continue
            chosen = routed
        by_flow.setdefault(chosen.name, []).append(file)
    for name, files in by_flow.items():
        yield from _patiently(handler, flows[name], files)


def _patiently(
    handler: Handler, flow: Flow | None, files: Sequence[Given], why: RejectFile | None = None
) -> Iterator[Outcome]:
    """Handle the files, waiting for a daemon that loads files of the same flow."""
    left = {id(file): file for file in files}
    deadline = time.monotonic() + PATIENCE_SECONDS
    while left:
        try:
            for outcome in handler.handle(flow, [*left.values()], why):
                del left[id(outcome.dropped)]
                yield outcome
        except RetryLater as error:
            if not isinstance(error.__cause__, _BUSY) or time.monotonic() > deadline:
                raise
            logger.info("waiting for another process that loads files of {}: {}", flow and flow.name, error)
            time.sleep(_PAUSE_SECONDS)


def _route(handler: Handler, flows: Flows, file: Given) -> Flow | RejectFile:
    folders = [flows[name] for name in file.folders if name in flows]
    return folders[-1] if folders else handler.route_by_content(file)
