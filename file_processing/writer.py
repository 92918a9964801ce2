"""The companion writer: changed rows go out as files, whoever changed them."""

import random
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from loguru import logger
from psycopg import Connection, sql

from file_processing import prefetch, publishing
from file_processing.documents import Translator
from file_processing.outbox import AnotherWriter, Fixed, OutboundFile, Outbox, sole_writer
from flows import Flows
from models.errors import RetryLater, TidegateError
from models.flow import Flow
from services.db import sqlstate
from services.db.triggers import CHANNEL

POLL_SECONDS = 5.0
"""A notification may be lost with its connection: so late, at most, a change is seen."""

FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 30.0

STOP_SECONDS = 0.2
"""So late, at most, the writer notices that it is to stop."""


@dataclass(frozen=True, slots=True)
class Written:
    """A file that went out."""

    flow: str
    id: int
    path: Path
    records: int


@dataclass(slots=True)
class _Published:
    """Files of a batch that are in their folder for good, and one that could not be put there."""

    files: list[tuple[OutboundFile, Path]]
    due_seconds: float
    failed: tuple[OutboundFile, RetryLater] | None = None


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
        tell: Callable[[Written], None] = lambda _written: None,
    ) -> None:
        self.flow = flow
        self._outbox = Outbox(flow, node)
        self._translator = Translator(flow)
        self._folder = output_dir / flow.name
        self._fsync = any(outbound.fsync for outbound in flow.outbound)
        self._stopping = stopping
        self._tell = tell

    def emit(self, marking: Connection, taking: Connection, *, lingers: bool = True) -> float:
        """Write what has to go out: first what was fixed before, so that a crash ends with the very same files.

        Returns the seconds until more may be due, 0 after anything was written. Raises RetryLater
        when the folder cannot take a file, for then rows stay unsynced; AnotherWriter when another
        process is at it.

        taking: fixes the next batch while the one before is written and marked. It holds the
            lock, so whoever fixes rows is the only one, also when a connection is lost.
        """
        with sole_writer(taking, self.flow.name):
            while (files := self._outbox.open_files(marking)) and not self._stopping.is_set():
                self._mark(marking, self._publish(Fixed(files)))
            return self._write_changed(marking, taking, lingers=lingers)

    def _write_changed(self, marking: Connection, taking: Connection, *, lingers: bool) -> float:
        """Rows are fixed, files written and rows marked at the same time, each a batch ahead of the next."""
        fixed = prefetch.ahead(self._outbox.take(taking, self._translator, lingers=lingers))
        with closing(fixed), closing(prefetch.ahead(map(self._publish, fixed))) as published:
            for number, batch in enumerate(published):
                if batch.due_seconds:
                    return 0.0 if number else batch.due_seconds
                self._mark(marking, batch)
                if self._stopping.is_set():
                    break
        return 0.0

    def _publish(self, fixed: Fixed) -> _Published:
        """Put the files of a batch into their folder, up to the first one that it does not take."""
        published = _Published([], fixed.due_seconds)
        for file in fixed.files:
            try:
                path = publishing.publish(self._folder, file.name, file.content, fsync=self._fsync)
            except RetryLater as error:
                published.failed = (file, error)
                break
            published.files.append((file, path))
        if self._fsync:
            publishing.settle(self._folder, [file.name for file, _ in published.files])
        return published

    def _mark(self, marking: Connection, published: _Published) -> None:
        """Tell the ledger what is there for good. Raises RetryLater when a file could not be written."""
        if published.files:
            self._outbox.mark_written(marking, [file.id for file, _ in published.files])
        for file, path in published.files:
            logger.bind(flow=self.flow.name, file=file.name, outbound_id=file.id).info(
                "{} out #{} {}: records={}", self.flow.name, file.id, file.name, file.records
            )
            self._tell(Written(self.flow.name, file.id, path, file.records))
        if published.failed is not None:
            file, error = published.failed
            self._outbox.mark_failed(marking, file.id, error.reason)
            raise error


class Writer:
    """Keeps the outbound files of all flows up to date: woken by NOTIFY, and now and then by itself."""

    def __init__(
        self,
        flows: Flows,
        output_dir: Path,
        *,
        node: str,
        connect: Callable[[], Connection],
        recover: Callable[[], None],
        stopping: threading.Event,
    ) -> None:
        self._writers = {
            flow.name: FlowWriter(flow, output_dir, node, stopping) for flow in flows.values() if flow.outbound
        }
        self._connect = connect
        self._recover = recover
        self._stopping = stopping
        self._faults: dict[str, tuple[TidegateError, int]] = {}
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def join(self) -> None:
        """Wait for the batch in hand; `stopping` is set before."""
        if self._thread.ident is not None:
            self._thread.join()

    def faults(self) -> dict[str, str]:
        """Why files of a flow cannot be written now."""
        return {flow: str(fault[0]) for flow, fault in self._faults.items()}

    def _run(self) -> None:
        failures = 0
        while not self._stopping.is_set():
            try:
                with self._connect() as connection, self._connect() as taking:
                    connection.execute(sql.SQL("listen {}").format(sql.Identifier(CHANNEL)))
                    failures = 0
                    self._serve(connection, taking)
            except Exception as error:  # noqa: BLE001  # supervised: it starts over, whatever it was
                if not failures:
                    logger.warning("outbound files wait, connecting again: {}", _fault(error))
                self._stopping.wait(_pause(failures))
                failures += 1
                with suppress(TidegateError):
                    self._recover()

    def _serve(self, connection: Connection, taking: Connection) -> None:
        due_at = dict.fromkeys(self._writers, 0.0)
        while not self._stopping.is_set():
            for name, at in due_at.items():
                if time.monotonic() >= at:
                    due_at[name] = time.monotonic() + self._emit(connection, taking, name)
            seconds = min(min(due_at.values()) - time.monotonic(), STOP_SECONDS)
            for notification in connection.notifies(timeout=max(seconds, 0), stop_after=1):
                if notification.payload in due_at and notification.payload not in self._faults:
                    due_at[notification.payload] = 0.0

    def _emit(self, connection: Connection, taking: Connection, name: str) -> float:
        """Seconds until the flow is to be looked at again; a notification may come before."""
        known, failures = self._faults.get(name, (None, 0))
        try:
            seconds = self._writers[name].emit(connection, taking)
        except AnotherWriter:
            seconds = POLL_SECONDS
        except Exception as error:  # one flow's fault is not another's
            if connection.closed or taking.closed:
                raise
            fault = _fault(error)
            if known is None or known.reason != fault.reason:
                logger.warning("outbound files of {} wait, trying again: {}", name, fault)
            self._faults[name] = (fault, failures + 1)
            return _pause(failures)
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


def _pause(failures: int) -> float:
    """Seconds of rest after so many failures before this one."""
    return float(min(FIRST_PAUSE_SECONDS * 2 ** min(failures, 10), LONGEST_PAUSE_SECONDS)) * random.uniform(0.5, 1)  # noqa: S311
