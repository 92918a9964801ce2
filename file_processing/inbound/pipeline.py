"""The way in: routed → taken in → read → decided → loaded → archived.

Each step takes a group of files and gives a value for each: RoutedFile, InboundFile, ReadResult, LoadDecision,
CommittedFile, FileResult. The daemon (or `ingest`) routes with the router that is here; the others follow one another
in `_handle_group`, save that the loader decides within its transaction, under the lock of the flow.

A step makes a value of what is a file's own fault (`Rejection`, `Wait`). Only RetryLater and StopDaemon reach this
place, and any mistake, for which it splits the group until the file at fault stands alone.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import sqlalchemy
from loguru import logger
from psycopg import Connection

from file_processing.inbound import archive, intake, read, recovery
from file_processing.inbound.archive import FileResult
from file_processing.inbound.deduplicate import Deduplicator
from file_processing.inbound.intake import LeftFile, Wait
from file_processing.inbound.limits import Limits
from file_processing.inbound.load import Loaded, Loader, Progress
from file_processing.inbound.long_file import LongFiles
from file_processing.inbound.marks import Marks, Unmarked
from file_processing.inbound.read import ReadResult
from file_processing.inbound.routing import DroppedFile, RoutedFile, Router
from file_processing.inbound.upsert import Upsert
from file_processing.inbound.validate import Validator
from flows import Flows
from models.errors import RetryLater, StopDaemon
from models.flow import Flow
from services.db import sqlstate
from services.files.directory import Folder
from services.files.folders import Folders


@dataclass(slots=True)
class _Steps:
    """What handling the files of one flow takes; without flow, files that none takes."""

    flow: str | None
    validator: Validator | None
    loader: Loader
    unmarked: Unmarked = field(default_factory=Unmarked)


class InHand:
    """What who has files handled knows of others: here that there are none."""

    def further(self) -> Sequence[RoutedFile]:
        """Files to go on with; asked for each time the last ones are begun."""
        return ()

    def in_order(self, files: Sequence[DroppedFile]) -> bool:
        """Whether no other file of the flow that came before one of these is still to be handled."""
        return bool(files)


_NO_OTHERS = InHand()


@dataclass(slots=True)
class _Group:
    """Files that were taken in and read, and are open as long as `opened` is in use.

    left: those that were not. started: when work on them began, by `time.perf_counter`.
    ahead: the next group, which is read meanwhile.
    """

    reads: Sequence[ReadResult]
    left: Sequence[LeftFile]
    started: float
    opened: ExitStack
    ahead: "Future[_Group] | None" = None


class Pipeline:
    """Handles files of one input folder.

    long_files: has those read that are too long to be read at once.
    root: the resolved input folder; `None` for files anywhere, which stay where they are (`ingest`).
    limits: beyond which a file is rejected.
    room: told to raise RetryLater while there is too little of it to take anything in.
    progress: see `Loader`.
    stopping: ends the loading of a long file between two batches; it stays where it is.
    """

    def __init__(
        self,
        engine: sqlalchemy.Engine,
        flows: Flows,
        folders: Folders,
        long_files: LongFiles,
        *,
        node: str,
        root: Path | None,
        limits: Limits,
        room: Callable[[], None] = lambda: None,
        progress: Progress = lambda _file, _bytes: None,
        stopping: threading.Event | None = None,
    ) -> None:
        self._engine = engine
        self._folders = folders
        self._long_files = long_files
        self._stopping = stopping or threading.Event()
        self._limits = limits
        self._room = room
        self.router = Router(flows, root, limits.max_bytes)
        self.flows: list[str | None] = [*flows, None]
        """The name of every flow, and `None` for the files of none."""
        self._steps = cache(lambda name: self._of_flow(name, flows[name] if name else None, node, progress))

    def build(self) -> None:
        """Build what the files of each flow take, which is otherwise built for the first of them."""
        for name in self.flows:
            self._steps(name)

    def _of_flow(self, name: str | None, flow: Flow | None, node: str, progress: Progress) -> _Steps:
        reports = self._folders.rejected_of(name)
        upsert = Upsert(flow) if flow else None
        loader = Loader(flow, upsert, Deduplicator(flow, node), reports, node, self._limits, progress)
        return _Steps(name, Validator(flow) if flow else None, loader)

    def recover(self, flow: str | None) -> None:
        """Finish what a crash or a fault left half-done. Raises RetryLater or StopDaemon."""
        try:
            with self._connection() as connection:
                root = self.router.root
                inputs = None if root is None else Folder(root) / flow if flow else Folder(root)
                recovery.recover(connection, flow, self._folders, inputs)
        except (RetryLater, StopDaemon):
            raise
        except Exception as error:  # noqa: BLE001  # files are loaded all the same
            logger.opt(exception=error).error("flow {}: what a crash left cannot be put in order", flow)

    def handle(
        self, flow: str | None, files: Sequence[RoutedFile], in_hand: InHand = _NO_OTHERS
    ) -> Iterator[FileResult]:
        """Handle files of one flow, in their order, and then further ones.

        Yields a result for each. Raises RetryLater or StopDaemon when the database or a full disk is the reason,
        RetryLater also when another process loads files of the flow, or this one is stopping: then the files not yet
        told of are where they were, and nothing of them loaded.
        """
        steps = self._steps(flow)
        marks = Marks(self._connection, steps.unmarked)
        try:
            with closing(self._groups(steps, files, in_hand)) as groups:
                for group in groups:
                    yield from self._handle_group(steps, group, marks, in_hand)
        finally:
            marks.wait()

    def _groups(self, steps: _Steps, files: Sequence[RoutedFile], in_hand: InHand) -> Generator[_Group]:
        """The files in groups, each open until the next one is asked for; that is read while the database is at it."""
        ahead: Future[_Group] | None = None
        groups = deque(intake.groups(files))
        with ThreadPoolExecutor(1, "read ahead") as aside:  # which starts no thread before it gets work
            try:
                while groups:
                    self._go_on()
                    self._room()
                    group = groups.popleft()
                    current = self._read(steps, group) if ahead is None else ahead.result()
                    if not groups:
                        groups.extend(intake.groups(in_hand.further()))
                    is_small = bool(groups) and not intake.is_long(groups[0][0].dropped)
                    ahead = current.ahead = aside.submit(self._read, steps, groups[0]) if is_small else None
                    with current.opened:
                        yield current
            finally:
                if ahead is not None:
                    with suppress(Exception):  # its files are where they were
                        ahead.result().opened.close()

    def _read(self, steps: _Steps, group: Sequence[RoutedFile]) -> _Group:
        started, limits = time.perf_counter(), self._limits
        with ExitStack() as opened:
            taken = opened.enter_context(intake.taken_in(group, root=self.router.root, max_bytes=limits.max_bytes))
            reading = read.reading(taken.files, steps.validator, self._long_files, limits=limits, go_on=self._go_on)
            return _Group(opened.enter_context(reading), taken.left, started, opened.pop_all())

    def _handle_group(self, steps: _Steps, group: _Group, marks: Marks, in_hand: InHand) -> Iterator[FileResult]:
        yield from (FileResult.of_left(left, steps.flow) for left in group.left)
        in_order = in_hand.in_order([read.file.dropped for read in group.reads])
        for loaded in self._load(steps, group.reads, marks, in_order):
            if group.ahead is not None:
                wait([group.ahead])  # two that call the system all the time would only wait for each other
            results = archive.archive(loaded.committed, self._folders, steps.flow, started=group.started)
            if self.router.root is not None:
                marks.send(results)
            yield from results
            yield from (FileResult.of_left(left, steps.flow) for left in loaded.left)

    def _load(self, steps: _Steps, reads: Sequence[ReadResult], marks: Marks, in_order: bool) -> Iterator[Loaded]:
        """Load a group; where that fails for no known reason, split it until the file at fault stands alone.

        Raises RetryLater or StopDaemon for what is not the files' fault.
        """
        groups = deque([reads] if reads else [])
        while groups:
            group = groups.popleft()
            marks.wait()
            try:
                yield self._load_once(steps.loader, group, in_order)
            except (RetryLater, StopDaemon):
                raise
            except Exception as error:  # noqa: BLE001  # a mistake, ours or the flow's: find the file at fault
                if len(group) > 1:
                    logger.debug("a group of {} files fails ({}): splitting it", len(group), error)
                    middle = len(group) // 2
                    groups.extendleft([group[middle:], group[:middle]])
                else:
                    wait = Wait(f"it can be neither loaded nor rejected: {error}")
                    yield Loaded((), (LeftFile(group[0].file.dropped, wait),))

    def _load_once(self, loader: Loader, reads: Sequence[ReadResult], in_order: bool) -> Loaded:
        with self._connection() as connection:
            return loader.load(connection, reads, in_order=in_order)

    def _go_on(self) -> None:
        """Raises RetryLater."""
        if self._stopping.is_set():
            raise RetryLater("the daemon is stopping")

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
