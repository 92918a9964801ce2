"""Loading files now, wherever they lie, and leaving them there."""

import os
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

from loguru import logger
from psycopg import errors

from file_processing.inbound.archive import FileResult
from file_processing.inbound.intake import LeftFile
from file_processing.inbound.pipeline import Pipeline
from file_processing.inbound.routing import RoutedFile
from models.errors import FileGone, RetryLater, TidegateError
from models.flow import Flow
from services.observer.scan import scan
from services.transport.backoff import INBOUND

PATIENCE_SECONDS = 600.0
"""How long another process may load files of the same flow before `ingest` gives up."""

_BUSY = (errors.LockNotAvailable, errors.DeadlockDetected, errors.SerializationFailure)
_DAY = re.compile(r"\d{4}-\d\d-\d\d")


@dataclass(frozen=True, slots=True)
class GivenFile:
    """A file that a person named, or that lies in a folder that a person named.

    folders: the names that may tell its flow, the nearest last. arrival: now, one after another.
    """

    path: Path
    relative: str
    seen_at: datetime
    folders: tuple[str, ...] = ()
    size: int = 0
    mtime_ns: int = 0
    arrival: int = 0

    @property
    def place(self) -> str:
        return str(self.path)


def collect(paths: Sequence[Path]) -> list[GivenFile]:
    """The files named, in that order, and those of the folders named at any depth, in the order in which they came.

    In an archive the folder of its day tells when a file came, and within it when it was moved there; elsewhere
    when it was last written.
    Raises TidegateError when a path does not exist, or a folder cannot be read.
    """
    now, arrivals = datetime.now(UTC), count(time.time_ns())
    given: list[GivenFile] = []
    for path in paths:
        is_folder = path.is_dir()
        if is_folder:
            inside = sorted((Path(listed.path) for listed in scan(str(path), failed=_unreadable)), key=came)
        elif os.path.lexists(path):
            inside = [path]
        else:
            raise TidegateError(f"{path} does not exist")
        # A named folder's own parent counts (archive/FLOW/DAY), what is above it says nothing.
        near = max(len(path.absolute().parts) - (2 if is_folder else 3), 0)
        for file in inside:
            folders = file.absolute().parent.parts[near:]
            try:
                status = os.lstat(file)
            except OSError:
                given.append(GivenFile(file, str(file), now, folders))  # gone by now: the pipeline says so
            else:
                size, mtime_ns = status.st_size, status.st_mtime_ns
                given.append(GivenFile(file, str(file), now, folders, size, mtime_ns, next(arrivals)))
    return given


def came(path: Path) -> tuple[str, int, str]:
    """When a file came: the day, and the moment within it, in nanoseconds.

    Of one that lies where it was archived that is when it got there. One that was copied since tells by when it was
    last written.
    """
    day = path.parent.name if _DAY.fullmatch(path.parent.name) else ""
    try:
        status = path.lstat()
    except OSError:
        return day, 0, str(path)  # gone by now: the pipeline says so
    moved_on = datetime.fromtimestamp(status.st_ctime, UTC).date().isoformat()
    return day, status.st_ctime_ns if moved_on == day else status.st_mtime_ns, str(path)


def _unreadable(folder: str, error: OSError) -> None:
    raise TidegateError(f"{folder} cannot be read: {error.strerror}")


def ingest(pipeline: Pipeline, given: Sequence[GivenFile], flow: Flow | None) -> Iterator[FileResult]:
    """Load the files, each by `flow` or by what it and its folders are called and hold.

    Raises RetryLater or StopDaemon when the database is the reason; what was told of is loaded.
    """
    by_flow: dict[str | None, list[RoutedFile]] = {}
    for file in given:
        try:
            routed = RoutedFile(file, flow.name) if flow else _route(pipeline, file)
        except (FileGone, RetryLater) as error:
            yield FileResult.of_left(LeftFile.because(file, error), None)
            continue
        by_flow.setdefault(routed.flow, []).append(routed)
    for name, files in by_flow.items():
        yield from _patiently(pipeline, name, files)


def _route(pipeline: Pipeline, file: GivenFile) -> RoutedFile:
    known = [name for name in file.folders if name in pipeline.router.flows]
    return RoutedFile(file, known[-1]) if known else pipeline.router.route_by_content(file)


def _patiently(pipeline: Pipeline, flow: str | None, files: Sequence[RoutedFile]) -> Iterator[FileResult]:
    """Handle the files, waiting for a daemon that loads files of the same flow."""
    left = {id(file.dropped): file for file in files}
    deadline = time.monotonic() + PATIENCE_SECONDS
    while left:
        try:
            for result in pipeline.handle(flow, [*left.values()]):
                del left[id(result.dropped)]
                yield result
        except RetryLater as error:
            if not isinstance(error.__cause__, _BUSY) or time.monotonic() > deadline:
                raise
            logger.info("waiting for another process that loads files of {}: {}", flow, error)
            time.sleep(INBOUND.pause_seconds(0))
