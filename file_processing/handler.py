"""What a dropped path means: open, route, validate, load, file. The one place that decides on errors."""

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePath

import sqlalchemy
from loguru import logger
from psycopg import Connection

from file_processing import healing, ledger, opening, prefetch, records, routing
from file_processing.filer import Filer
from file_processing.landing import Lander
from file_processing.loader import Loaded, Loader, Skipped
from file_processing.opening import OpenFile
from file_processing.outcome import Dropped, Outcome
from file_processing.planning import Incoming
from file_processing.validation import Checked, Validator
from flows import Flows
from models.errors import FileGone, RejectFile, RetryLater, StopDaemon, TidegateError
from models.flow import Flow
from services.db import sqlstate
from services.filing import Cabinet, Identity

GROUP_FILES = 512
GROUP_BYTES = 4 << 20
"""Small files share a transaction up to these limits."""

SMALL_BYTES = 1 << 20
SMALL_PACKED_BYTES = 16 << 10
"""A file up to this size is read at once; a larger one streams, in a transaction of its own."""


@dataclass(slots=True)
class _Room:
    """What handling the files of one flow takes."""

    validator: Validator | None
    loader: Loader
    filer: Filer


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
        self._root = root
        self._max_bytes = max_bytes
        self._keep = keep
        self._progress = progress or (lambda _bytes: None)
        self._stopping = stopping or threading.Event()
        self._rooms = {flow.name if flow else None: self._room(flow, node) for flow in self.flows}

    def _room(self, flow: Flow | None, node: str) -> _Room:
        loader = Loader(flow, Lander(flow) if flow else None, self._cabinet, node)
        return _Room(Validator(flow) if flow else None, loader, Filer(loader, self._cabinet, keep=self._keep))

    @property
    def flows(self) -> list[Flow | None]:
        """Every flow, and `None` for the files of none."""
        return [*self._flows.values(), None]

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
        except OSError as error:
            raise _unreadable(error) from error

    def heal(self, flow: Flow | None) -> None:
        """Finish what a crash or a fault left half-done. Raises RetryLater or StopDaemon."""
        try:
            with self._connection() as connection:
                healing.heal(connection, flow.name if flow else None, self._cabinet)
        except (RetryLater, StopDaemon):
            raise
        except Exception as error:  # noqa: BLE001  # files are loaded all the same
            logger.opt(exception=error).error("flow {}: what a crash left cannot be put in order", flow and flow.name)

    def handle(self, flow: Flow | None, files: Sequence[Dropped], why: RejectFile | None = None) -> Iterator[Outcome]:
        """Handle files of one flow, in their order; `why` refuses all of them.

        Yields an outcome for each. Raises RetryLater or StopDaemon when the database is the
        reason: then the files not yet told of are where they were, and nothing of them loaded.
        """
        room = self._rooms[flow.name if flow else None]
        groups: deque[Sequence[Dropped]] = deque(_groups(files))
        while groups:
            self._go_on()
            outcomes, again = self._handle_group(room, groups.popleft(), why)
            yield from outcomes
            groups.extendleft(reversed(again))

    def _handle_group(
        self, room: _Room, group: Sequence[Dropped], why: RejectFile | None
    ) -> tuple[list[Outcome], list[Sequence[Dropped]]]:
        """The outcomes, and groups of the files that have none yet and are to be handled anew."""
        started = time.perf_counter()
        outcomes: list[Outcome] = []
        files: list[Incoming] = []
        again: list[Dropped] = []
        with ExitStack() as open_files:
            for dropped in group:
                try:
                    files.append(self._prepare(room, dropped, why, open_files, alone=len(group) == 1))
                except (FileGone, RetryLater) as error:
                    outcomes.append(_passed_over(dropped, room, error))
            try:
                loaded = self._load(room, files)
            except Skipped:
                loaded, again = [], [file.dropped for file in files if file.skipped is None]
            except (RetryLater, StopDaemon):
                raise
            except Exception as error:  # noqa: BLE001  # a mistake, ours or the flow's: find the file at fault
                if len(group) > 1:
                    logger.debug("a group of {} files fails ({}): splitting it", len(group), error)
                    middle = len(group) // 2
                    return [], [group[:middle], group[middle:]]
                loaded = self._load_refused(room, files[0], error)
        outcomes += [_passed_over(file.dropped, room, file.skipped) for file in files if file.skipped]
        outcomes += room.filer.file(loaded, started)
        self._mark_filed(room)
        return outcomes, [again] if again else []

    def _prepare(
        self, room: _Room, dropped: Dropped, why: RejectFile | None, open_files: ExitStack, *, alone: bool
    ) -> Incoming:
        """Open and, where it is small, validate a file. Raises FileGone or RetryLater."""
        with ExitStack() as this_file:
            try:
                source = this_file.enter_context(
                    opening.opened(dropped.path, root=self._root, max_bytes=self._max_bytes)
                )
            except RejectFile as error:
                return _unread(dropped, error)
            incoming = Incoming(dropped, source.identity, source.sha256())
            if why is not None or room.validator is None:
                incoming.refuse(why or RejectFile("it belongs to no flow"))
                return incoming
            batches = self._batches(room.validator, source, incoming)
            if _streams(dropped.path.name, source.identity.bytes):
                if not alone:
                    raise RetryLater("the file grew since it was seen", hint="it is read when it is at rest")
                incoming.batches = reading = prefetch.ahead(batches)
                open_files.enter_context(this_file.pop_all())
                open_files.callback(reading.close)
                return incoming
            try:
                incoming.batches = list(batches)
            except RejectFile as error:
                incoming.refuse(error)
            except TidegateError:
                raise
            except Exception as error:  # noqa: BLE001  # refused with its traceback in the log
                incoming.refuse(_unexpected(incoming.name, error))
            return incoming

    def _batches(self, validator: Validator, source: OpenFile, incoming: Incoming) -> Iterator[Checked]:
        try:
            content = opening.content(source, max_bytes=self._max_bytes)
            flow = validator.flow
            for batch in records.batches(
                content,
                name=source.path.name,
                envelope=flow.envelope,
                exact=flow.exact_numbers,
                messages=flow.messages,
                go_on=self._go_on,
            ):
                checked = validator.check(batch)
                incoming.take(checked)
                self._progress(len(batch.text))
                yield checked
                self._go_on()
            source.check_unchanged()
        except RejectFile:
            source.check_unchanged()  # what is half written is not refused: it waits
            raise
        except OSError as error:
            raise _unreadable(error) from error

    def _go_on(self) -> None:
        """Raises RetryLater."""
        if self._stopping.is_set():
            raise RetryLater("the daemon is stopping")

    def _load(self, room: _Room, files: Sequence[Incoming]) -> list[Loaded]:
        """Raises RetryLater or StopDaemon for what is not the files' fault, and what Loader.load raises."""
        if not files:
            return []
        with self._connection() as connection:
            return room.loader.load(connection, files, filed_at=datetime.now(UTC) if self._keep else None)

    def _load_refused(self, room: _Room, file: Incoming, error: Exception) -> list[Loaded]:
        """Write down that a file is refused whose rows do not commit."""
        file.refuse(error if isinstance(error, RejectFile) else _unexpected(file.name, error))
        try:
            return self._load(room, [file])
        except (RetryLater, StopDaemon):
            raise
        except Exception as again:  # noqa: BLE001  # then it waits, and the others do not
            file.skipped = file.skipped or RetryLater(f"it can be neither loaded nor refused: {again}")
            return []

    def _mark_filed(self, room: _Room) -> None:
        """Tell the ledger; what it cannot take now is told with the next group, or after the next start."""
        if not room.filer.moved:
            return
        try:
            with self._connection() as connection, connection.transaction():
                ledger.mark_filed(connection, room.filer.moved)
            room.filer.moved.clear()
        except TidegateError as error:
            logger.debug("{} files are not marked as filed yet: {}", len(room.filer.moved), error)

    @contextmanager
    def _connection(self) -> Iterator[Connection]:
        """A psycopg connection out of the pool: COPY is not to be had through SQLAlchemy.

        The database's errors come out as ours.
        """
        with sqlstate.translated(), self._engine.connect() as pooled:
            connection = pooled.connection.driver_connection
            assert isinstance(connection, Connection)
            try:
                yield connection
            finally:
                if connection.closed:
                    pooled.invalidate()


def _unexpected(name: str, error: Exception) -> RejectFile:
    """A mistake of ours or of the flow's: the file is kept as refused, the log has the traceback."""
    logger.opt(exception=error).error("{}: cannot be handled", name)
    return RejectFile(f"unexpected {type(error).__name__}: {error}", hint="see the log for the traceback")


def _unreadable(error: OSError) -> RetryLater:
    return RetryLater(f"cannot be read: {error.strerror or error}")


def _unread(dropped: Dropped, error: RejectFile) -> Incoming:
    """What cannot even be opened: a link, a pipe, a file too large."""
    try:
        incoming = Incoming(dropped, Identity.of(os.lstat(dropped.path)))
    except OSError as gone:
        raise FileGone("the file is no longer there") from gone
    incoming.refuse(error)
    return incoming


def _passed_over(dropped: Dropped, room: _Room, error: FileGone | RetryLater) -> Outcome:
    return Outcome(dropped, room.loader.flow_name, waits=None if isinstance(error, FileGone) else error)


def _streams(name: str, size: int) -> bool:
    """Whether a file is too large to be read at once."""
    return size > (SMALL_PACKED_BYTES if opening.is_packed(name) else SMALL_BYTES)


def _groups(files: Sequence[Dropped]) -> Iterator[list[Dropped]]:
    """Small files together, a large one alone, all in their order."""
    group: list[Dropped] = []
    total = 0
    for dropped in files:
        try:
            size = os.lstat(dropped.path).st_size
        except OSError:
            size = 0
        large = _streams(dropped.path.name, size)
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
