"""What a dropped path means: open, route, validate, load, file. The one place that decides on errors."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePath
from typing import Protocol

import sqlalchemy
from loguru import logger
from psycopg import Connection

from file_processing import filing, ledger, opening, prefetch, records, routing
from file_processing.filing import Cabinet
from file_processing.landing import Lander
from file_processing.ledger import Entry
from file_processing.loader import Incoming, Loaded, Loader
from file_processing.opening import Identity, OpenFile
from file_processing.validation import Checked, Validator
from flows import Flows
from models.errors import FileGone, RejectFile, RetryLater, TidegateError
from models.flow import Flow
from models.ledger import FileStatus
from services.db import sqlstate

GROUP_FILES = 512
GROUP_BYTES = 4 << 20
"""Small files share a transaction up to these limits."""

SMALL_BYTES = 1 << 20
SMALL_PACKED_BYTES = 16 << 10
"""A file up to this size is read at once; a larger one streams, in a transaction of its own."""


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


@dataclass(slots=True)
class _Room:
    """What handling the files of one flow takes."""

    loader: Loader
    validator: Validator | None


class Handler:
    """Handles paths of one input folder.

    root: the resolved input folder; `None` for files anywhere (`ingest`).
    keep: leave the originals where they are.
    progress: told the bytes of content read, as it goes.
    stopping: ends the loading of a long file between two batches; it stays where it is.
    """

    def __init__(
        self,
        engine: sqlalchemy.Engine,
        flows: Flows,
        cabinet: Cabinet,
        *,
        node: str,
        root: Path | None,
        max_bytes: int,
        keep: bool = False,
        progress: Callable[[int], None] | None = None,
        stopping: threading.Event | None = None,
    ) -> None:
        self._engine = engine
        self._flows = flows
        self._cabinet = cabinet
        self._node = node
        self._root = root
        self._max_bytes = max_bytes
        self._keep = keep
        self._progress = progress or (lambda _bytes: None)
        self._stopping = stopping or threading.Event()
        self._rooms = {
            flow.name: _Room(Loader(flow, Lander(flow), cabinet, node), Validator(flow)) for flow in flows.values()
        }
        self._nowhere = _Room(Loader(None, None, cabinet, node), None)

    def route(self, dropped: Dropped) -> Flow | RejectFile:
        """The flow of a dropped path, or why there is none. Raises FileGone or RetryLater."""
        try:
            flow = routing.by_folder(PurePath(dropped.relative), self._flows)
        except RejectFile as error:
            return error
        return flow or self.route_by_content(dropped)

    def route_by_content(self, dropped: Dropped) -> Flow | RejectFile:
        """The same by name and content alone."""
        try:
            with opening.opened(dropped.path, root=self._root, max_bytes=self._max_bytes) as source:
                head = opening.content(source, max_bytes=self._max_bytes).read(routing.PEEK_BYTES)
            return routing.by_content(dropped.path.name, head, self._flows)
        except RejectFile as error:
            return error

    def handle(self, flow: Flow | None, files: Sequence[Dropped], why: RejectFile | None = None) -> Iterator[Outcome]:
        """Handle files of one flow, in their order; `why` refuses all of them.

        Yields an outcome for each. Raises RetryLater or StopDaemon when the database is the
        reason: then the files not yet told of are where they were, and nothing of them loaded.
        """
        room = self._rooms[flow.name] if flow else self._nowhere
        for group in _groups(files):
            if self._stopping.is_set():
                raise RetryLater("the daemon is stopping")
            yield from self._handle_group(room, group, why)

    def _handle_group(self, room: _Room, group: Sequence[Dropped], why: RejectFile | None) -> Iterator[Outcome]:
        started = time.perf_counter()
        flow_name = room.loader.flow_name
        with ExitStack() as open_files:
            incoming: dict[int, Incoming] = {}
            for index, dropped in enumerate(group):
                try:
                    incoming[index] = self._prepare(room, dropped, why, open_files)
                except (FileGone, RetryLater) as error:
                    yield self._waiting(dropped, flow_name, error)
            ready = list(incoming.values())
            try:
                loaded = self._load(room, ready)
            except TidegateError:
                raise
            except Exception as error:  # noqa: BLE001  # a mistake, ours or the flow's: find the file at fault
                if len(group) == 1:
                    ready[0].refuse(_unexpected(ready[0].name, error))
                    loaded = self._load(room, ready)
                else:
                    logger.warning("a group of {} files fails ({}): splitting it", len(group), error)
                    for part in (group[: len(group) // 2], group[len(group) // 2 :]):
                        yield from self._handle_group(room, part, why)
                    return
        yield from self._file(room, [group[index] for index in incoming], loaded, started)

    def _prepare(self, room: _Room, dropped: Dropped, why: RejectFile | None, open_files: ExitStack) -> Incoming:
        """Open and, where it is small, validate a file. Raises FileGone or RetryLater."""
        path = dropped.path
        name = routing.printable(path.name)
        try:
            status = path.lstat()
        except OSError as error:
            raise filing.explained(error, path, path.parent) from None
        incoming = Incoming(path, name, dropped.seen_at, Identity.of(status))
        with ExitStack() as this_file:
            try:
                source = this_file.enter_context(opening.opened(path, root=self._root, max_bytes=self._max_bytes))
                incoming.identity, incoming.sha256 = source.identity, source.sha256()
                if why is not None or room.validator is None:
                    incoming.refuse(why or RejectFile("it belongs to no flow"))
                    return incoming
                batches = self._batches(room.validator, source, incoming)
                if _streams(path, source.identity.bytes):
                    incoming.batches = reading = prefetch.ahead(batches)
                    open_files.enter_context(this_file.pop_all())
                    open_files.callback(reading.close)
                else:
                    incoming.batches = list(batches)
            except RejectFile as error:
                incoming.refuse(error)
            except TidegateError:
                raise
            except Exception as error:  # noqa: BLE001  # refused with its traceback in the log
                incoming.refuse(_unexpected(name, error))
        return incoming

    def _batches(self, validator: Validator, source: OpenFile, incoming: Incoming) -> Iterator[Checked]:
        content = opening.content(source, max_bytes=self._max_bytes)
        for batch in records.batches(content, name=source.path.name, envelope=validator.flow.envelope):
            checked = validator.check(batch)
            incoming.take(checked)
            self._progress(len(batch.text))
            yield checked
            if self._stopping.is_set():
                raise RetryLater("the daemon is stopping")
        source.check_unchanged()

    def _load(self, room: _Room, files: Sequence[Incoming]) -> list[Loaded]:
        """Raises RetryLater or StopDaemon for what is not the files' fault."""
        if not files:
            return []
        try:
            with _psycopg(self._engine) as connection:
                return room.loader.load(connection, files, filed_at=datetime.now(UTC) if self._keep else None)
        except OSError as error:
            raise RetryLater(
                f"the report of a refused file cannot be written: {error}", hint="make room in REJECTED_DIR"
            ) from error
        except Exception as error:
            fault = sqlstate.translate(error)
            if fault is None or isinstance(fault, RejectFile):
                raise
            raise fault from error

    def _file(
        self, room: _Room, dropped: Sequence[Dropped], loaded: Sequence[Loaded], started: float
    ) -> Iterator[Outcome]:
        """Move what is committed out of the input folder."""
        places: list[tuple[int, str | None]] = []
        outcomes = []
        day = datetime.now(UTC)
        for drop, result in zip(dropped, loaded, strict=True):
            waits: TidegateError | None = None
            try:
                place = self._move(room.loader, result, day)
                places.append((result.ledger_id, str(place) if place else None))
            except FileGone:
                places.append((result.ledger_id, None))
            except RetryLater as error:
                waits = error
            outcomes.append(Outcome(drop, room.loader.flow_name, result.status, result.ledger_id, result.entry, waits))
            result.file.refusals.close()
        milliseconds = (time.perf_counter() - started) * 1000 / max(len(loaded), 1)
        for outcome in outcomes:
            _log(outcome, milliseconds)
        if places and not self._keep:
            self._mark_filed(places)
        yield from outcomes

    def _move(self, loader: Loader, loaded: Loaded, day: datetime) -> Path | None:
        file, reports = loaded.file, loader.reports(loaded.file, loaded.ledger_id)
        if self._keep:
            reports.publish(file.path.name)
            return None
        refused = loaded.status is FileStatus.REJECTED
        folder = self._cabinet.refused(loader.flow_name) if refused else self._cabinet.archived(loader.flow_name, day)
        place = filing.move(file.path, folder, file.path.name, loaded.ledger_id, file.identity)
        reports.publish(place.name)
        return place

    def _mark_filed(self, places: Sequence[tuple[int, str | None]]) -> None:
        try:
            with _psycopg(self._engine) as connection, connection.transaction():
                ledger.mark_filed(connection, places)
        except Exception as error:
            if sqlstate.classify(error) is None:
                raise
            logger.debug("not marked as filed, which does no harm: {}", error)

    def _waiting(self, dropped: Dropped, flow: str | None, error: TidegateError) -> Outcome:
        return Outcome(dropped, flow, waits=None if isinstance(error, FileGone) else error)


@contextmanager
def _psycopg(engine: sqlalchemy.Engine) -> Iterator[Connection]:
    """A psycopg connection out of the pool: COPY is not to be had through SQLAlchemy."""
    with engine.connect() as pooled:
        connection = pooled.connection.driver_connection
        assert isinstance(connection, Connection)
        yield connection


def _unexpected(name: str, error: Exception) -> RejectFile:
    """A mistake of ours or of the flow's: the file is kept as refused, the log has the traceback."""
    logger.opt(exception=error).error("{}: cannot be handled", name)
    return RejectFile(f"unexpected {type(error).__name__}: {error}", hint="see the log for the traceback")


def _streams(path: Path, size: int) -> bool:
    """Whether a file is too large to be read at once."""
    return size > (SMALL_PACKED_BYTES if opening.is_packed(path.name) else SMALL_BYTES)


def _groups(files: Sequence[Dropped]) -> Iterator[list[Dropped]]:
    """Small files together, a large one alone, all in their order."""
    group: list[Dropped] = []
    total = 0
    for dropped in files:
        try:
            size = dropped.path.lstat().st_size
        except OSError:
            size = 0
        large = _streams(dropped.path, size)
        if group and (large or len(group) == GROUP_FILES or total + size > GROUP_BYTES):
            yield group
            group, total = [], 0
        group.append(dropped)
        total += size
        if large:
            yield group
            group, total = [], 0
    if group:
        yield group


def _log(outcome: Outcome, milliseconds: float) -> None:
    entry = outcome.entry
    name = routing.printable(outcome.dropped.relative)
    line = logger.bind(flow=outcome.flow, file=name, ledger_id=outcome.ledger_id)
    if outcome.waits is not None:
        line.warning("{} #{} {}: {}", outcome.flow, outcome.ledger_id, name, outcome.waits)
    if entry is None:
        line.info("{} #{} {}: was {} before a crash, filed now", outcome.flow, outcome.ledger_id, name, outcome.status)
        return
    counts = {
        "records": entry.records,
        "inserted": entry.inserted,
        "updated": entry.updated,
        "unchanged": entry.unchanged,
        "stale": entry.stale,
        "rejected": entry.rejected,
    }
    told = " ".join(f"{key}={value}" for key, value in counts.items() if value)
    level = "WARNING" if entry.status in (FileStatus.REJECTED, FileStatus.PARTIAL) else "INFO"
    line.bind(**counts, milliseconds=round(milliseconds, 1)).log(
        level,
        "{} #{} {}: {} {} {:.1f} ms{}",
        outcome.flow, entry.id, name, entry.status.value, told, milliseconds,
        f": {entry.error}" if entry.error else "",
    )  # fmt: skip
    if entry.drift:
        line.warning("{} #{} {}: fields this flow does not know: {}", outcome.flow, entry.id, name, dict(entry.drift))
