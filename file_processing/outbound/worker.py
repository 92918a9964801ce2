"""The companion writer: changed rows go out as files, whoever changed them."""

import hashlib
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from loguru import logger
from psycopg import Connection

from file_processing.outbound.numbers import Numbers
from file_processing.outbound.outbox import Outbox, SealedBatch
from file_processing.outbound.write import Outcome, OutputFolder, Unwritable
from flows import Flows
from models.errors import RetryLater, TidegateError
from models.flow import Flow
from services.db import sqlstate
from services.db.engine import Connect
from services.files.directory import Entry, Folder
from services.files.folders import on_this_machine
from services.ledger import held
from services.ledger.locks import AnotherWriter, try_writer
from services.ledger.outbound import SealedFile, listen
from services.runtime import prefetch
from services.transport.backoff import DATABASE, OUTBOUND

ALL_FLOWS = "all flows"
"""Stands for a flow's name where the writer itself is at fault."""

POLL_SECONDS = 5.0
"""A notification may be lost with its connection: so late, at most, a change is seen."""


@dataclass(frozen=True, slots=True)
class WrittenFile:
    """A file that went out."""

    flow: str
    id: int
    path: Path
    records: int


@dataclass(frozen=True, slots=True)
class _WrittenBatch:
    """Files of a batch that are in their folder for good, and those that could not be put there.

    fault: why the folder takes no file at all; then the last of these is the one that told.
    """

    files: tuple[tuple[SealedFile, Entry], ...]
    due_seconds: float
    held: tuple[tuple[SealedFile, RetryLater], ...] = ()
    fault: RetryLater | None = None


class FlowWriter:
    """Writes the outbound files of one flow.

    tell: told of each file when it is there for good.
    """

    def __init__(
        self,
        flow: Flow,
        output_dir: Path,
        node: str,
        stopping: threading.Event,
        tell: Callable[[WrittenFile], None] | None = None,
    ) -> None:
        self.flow = flow
        self._outbox = Outbox(flow, node)
        self._folder = Folder(output_dir / flow.name)
        self._place = on_this_machine(output_dir)
        self._numbers = Numbers(output_dir)
        self._fsync = any(outbound.fsync for outbound in flow.outbound)
        self._stopping = stopping
        self._tell = tell

    def emit(self, marking: Connection, sealing: Connection, *, lingers: bool = True) -> float:
        """Write what has to go out: first what was sealed before, so that a crash ends with the very same files.

        Returns the seconds until more may be due, 0 after anything was written. Raises RetryLater
        when the folder cannot take a file, for then rows stay unsynced; AnotherWriter when another
        process is at it. A file that alone cannot be written is held, and the others go on.

        sealing: seals the next batch while the one before is written and marked. It holds the
            lock, so whoever seals rows is the only one, also when a connection is lost.
        """
        with try_writer(sealing, self.flow.name):
            beside_held = held.are_open(marking, self.flow.name) and self._write_sealed(marking)
            batches = self._outbox.seal(sealing, lingers=lingers, beside_held=beside_held)
            return self._write_batches(marking, batches)

    def _write_sealed(self, marking: Connection) -> bool:
        """Write what was sealed before; whether some of it is still held."""
        self._outbox.rows.give_up_held(marking)
        while (files := held.due(marking, self.flow.name, OUTBOUND.longest_seconds)) and not self._stopping.is_set():
            with OutputFolder(self._folder) as folder:
                folder.remove_abandoned([file.name for file in files])
            self._mark(marking, self._write(marking, SealedBatch(files)))
        some_held, _ = held.count(marking, self.flow.name)
        return some_held > 0

    def _write_batches(self, marking: Connection, batches: Iterator[SealedBatch]) -> float:
        """Rows are sealed, files written and rows marked at the same time, each a batch ahead of the next."""
        first = next(batches)
        if first.due_seconds:
            return first.due_seconds  # each look ends so: no thread is started for it
        sealed = prefetch.ahead(chain([first], batches))
        with (
            closing(sealed),
            closing(prefetch.ahead(self._write(marking, batch) for batch in sealed)) as written,
        ):
            for batch in written:
                if batch.due_seconds:
                    break
                self._mark(marking, batch)
                if self._stopping.is_set() or batch.held:
                    break  # what is sealed from now on has to know of those that are held
        return 0.0

    def _write(self, marking: Connection, batch: SealedBatch) -> _WrittenBatch:
        """Put the files of a batch into their folder, but for those that cannot be written."""
        if not batch.files:
            return _WrittenBatch((), batch.due_seconds)
        with OutputFolder(self._folder) as folder:
            try:
                self._numbers.note(max(file.id for file in batch.files))
            except RetryLater as error:
                return _WrittenBatch((), batch.due_seconds, fault=error)
            strangers = self._strangers(marking, folder, batch)
            outcomes: list[tuple[SealedFile, Outcome]] = [
                (file, self._none_of_ours(file)) for file in batch.files if file.name in strangers
            ]
            outcomes += folder.write((file for file in batch.files if file.name not in strangers), fsync=self._fsync)
            files = tuple((file, outcome) for file, outcome in outcomes if isinstance(outcome, Entry))
            not_written = tuple((file, outcome) for file, outcome in outcomes if isinstance(outcome, RetryLater))
            if self._fsync:
                folder.sync([file.name for file, _ in files])
        fault = next((why for _, why in not_written if not isinstance(why, Unwritable)), None)
        return _WrittenBatch(files, batch.due_seconds, not_written, fault)

    def _none_of_ours(self, file: SealedFile) -> Unwritable:
        return Unwritable(
            f"{file.name} in {self._folder.path} is none of ours, and nothing is written over it",
            hint="move it away; it may be newer than this database, where that was restored",
        )

    def _strangers(self, marking: Connection, folder: OutputFolder, batch: SealedBatch) -> set[str]:
        """The names under which something lies that is neither an earlier file of ours nor the same."""
        there = folder.states([file.name for file in batch.files])
        for file in batch.files:
            if file.name in there and hashlib.sha256(file.content).digest() == there[file.name]:
                del there[file.name]
        return there.keys() - held.ours(marking, self.flow.name, there)

    def _mark(self, marking: Connection, batch: _WrittenBatch) -> None:
        """Tell the ledger what is there for good, and what is not. Raises RetryLater when the folder takes nothing."""
        if batch.files:
            self._outbox.rows.mark_written(marking, [file.id for file, _ in batch.files], self._place)
        for file, entry in batch.files:
            logger.bind(flow=self.flow.name, file=file.name, outbound_id=file.id).info(
                "{} out #{} {}: records={}", self.flow.name, file.id, file.name, file.records
            )
            if self._tell is not None:
                self._tell(WrittenFile(self.flow.name, file.id, entry.path, file.records))
        if batch.held:
            held.hold(marking, [(error.reason, _pause_seconds(file, error), file.id) for file, error in batch.held])
        for file, error in batch.held:
            if isinstance(error, Unwritable):
                said = logger.bind(flow=self.flow.name, file=file.name, outbound_id=file.id)
                said.log("DEBUG" if file.attempts else "WARNING", "#{} waits, trying again: {}", file.id, error)
        if batch.fault is not None:
            raise batch.fault


def _pause_seconds(file: SealedFile, error: RetryLater) -> float:
    """How long this file is held; where the folder is at fault, the whole flow rests."""
    return OUTBOUND.pause_seconds(file.attempts) if isinstance(error, Unwritable) else 0.0


class Writer:
    """Keeps the outbound files of all flows up to date: woken by NOTIFY, and now and then by itself."""

    def __init__(
        self,
        flows: Flows,
        output_dir: Path,
        *,
        node: str,
        connect: Connect,
        recover: Callable[[], None],
        stopping: threading.Event,
    ) -> None:
        self._writers = {
            flow.name: FlowWriter(flow, output_dir, node, stopping) for flow in flows.values() if flow.outbound
        }
        self._numbers = Numbers(output_dir)
        self._connect = connect
        self._recover = recover
        self._stopping = stopping
        self._fault: TidegateError | None = None
        self._faults: dict[str, tuple[TidegateError, int]] = {}
        self._wake, self._woken = socket.socketpair()
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def join(self) -> None:
        """Wait for the batch in hand; `stopping` is set before."""
        self._wake.send(b".")
        if self._thread.ident is not None:
            self._thread.join()
        self._wake.close()
        self._woken.close()

    def is_alive(self) -> bool:
        """Whether the writer's thread is at work."""
        return self._thread.is_alive()

    def faults(self) -> dict[str, str]:
        """Why files of a flow cannot be written now, or those of all flows."""
        if self._fault is not None:
            return {ALL_FLOWS: str(self._fault)}
        return {flow: str(fault[0]) for flow, fault in self._faults.copy().items()}

    def _run(self) -> None:
        failures = 0
        while not self._stopping.is_set():
            try:
                with self._connect() as connection, self._connect() as sealing:
                    listen(connection)
                    self._numbers.catch_up(connection)
                    failures, self._fault = 0, None
                    self._serve(connection, sealing)
            except Exception as error:  # noqa: BLE001  # supervised: it starts over, whatever it was
                fault = _fault(error)
                if self._fault is None or self._fault.reason != fault.reason:
                    logger.warning("outbound files wait, connecting again: {}", fault)
                self._fault = fault
                self._stopping.wait(DATABASE.pause_seconds(failures))
                failures += 1
                self._try_to_recover()

    def _try_to_recover(self) -> None:
        """Whatever is in the way of that, connecting again will tell whether it is still needed."""
        try:
            self._recover()
        except Exception as error:  # noqa: BLE001
            logger.debug("not recovered yet: {}", _fault(error))

    def _serve(self, connection: Connection, sealing: Connection) -> None:
        due_at = dict.fromkeys(self._writers, 0.0)
        while not self._stopping.is_set():
            for name, at in due_at.items():
                if time.monotonic() >= at:
                    due_at[name] = time.monotonic() + self._emit(connection, sealing, name)
            for notification in self._notified(connection, min(due_at.values()) - time.monotonic()):
                if notification in due_at and notification not in self._faults:
                    due_at[notification] = 0.0

    def _notified(self, connection: Connection, seconds: float) -> list[str]:
        """The flows that the database told of, waiting for the first; none when time is up or the writer is to stop."""
        told = [notification.payload for notification in connection.notifies(timeout=0)]
        if not told:
            select.select([connection.fileno(), self._woken.fileno()], [], [], max(seconds, 0))
            told = [notification.payload for notification in connection.notifies(timeout=0)]
        return told

    def _emit(self, connection: Connection, sealing: Connection, name: str) -> float:
        """Seconds until the flow is to be looked at again; a notification may come before."""
        known, failures = self._faults.get(name, (None, 0))
        try:
            seconds = self._writers[name].emit(connection, sealing)
        except AnotherWriter:
            seconds = POLL_SECONDS
        except Exception as error:  # one flow's fault is not another's
            if connection.closed or sealing.closed:
                raise
            fault = _fault(error)
            if known is None or known.reason != fault.reason:
                logger.warning("outbound files of {} wait, trying again: {}", name, fault)
            self._faults[name] = (fault, failures + 1)
            return OUTBOUND.pause_seconds(failures)
        if self._faults.pop(name, None) is not None:
            logger.info("outbound files of {} are written again", name)
        return min(seconds, POLL_SECONDS)


def _fault(error: Exception) -> TidegateError:
    """What the error says to the operator; one that we do not know goes to the log with its traceback."""
    fault = error if isinstance(error, TidegateError) else sqlstate.translate(error)
    if fault is None:
        logger.opt(exception=error).error("the writer failed unexpectedly")
        fault = RetryLater(f"unexpected {type(error).__name__}: {error}", hint="see the log for the traceback")
    return fault
