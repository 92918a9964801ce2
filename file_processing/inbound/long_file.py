"""A long file, read in a process of its own: from its bytes to rows as the database takes them.

This process keeps connection, transaction and ledger, and sees rows only where the database rejects one.
"""

import pickle
import traceback
from collections.abc import Callable, Container, Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import chain
from typing import TYPE_CHECKING

from loguru import logger

from file_processing.inbound import batches, key_order
from file_processing.inbound.encode import ColumnTypes, EncodedBatch, Encoder
from file_processing.inbound.formats.base import Batch, Exchange, GoOn, RecordForm, RecordText
from file_processing.inbound.formats.positions import Steps
from file_processing.inbound.limits import Limits
from file_processing.inbound.open_file import OpenFile
from file_processing.inbound.validate import Validator
from models.errors import RejectFile, RetryLater, TidegateError
from models.flow import Flow
from services.runtime import prefetch
from services.runtime.nursery import Nursery, hang_up

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from loguru import Message

BATCHES_AHEAD = 8
"""So many encoded batches may wait here, about 1 MB each: what is read while an upsert is at work."""

_LOOK_SECONDS = 0.2
"""So late, at most, it is noticed that the daemon stops."""


@dataclass(frozen=True, slots=True)
class _Logged:
    level: str
    message: str


@dataclass(frozen=True, slots=True)
class _End:
    """The file is read to its end, or to where it fails. told: the traceback of an error that is none of ours."""

    error: Exception | None = None
    told: str = ""


class _InTheReader(Exception):
    """The traceback of an error in the process that read the file."""


@dataclass(frozen=True, slots=True)
class _BatchThere:
    """A batch whose records are in the process that read it; whoever asks for them has them read once more.

    again: reads the batch that starts with the record of this position.
    """

    first: int
    size: int
    form: RecordForm
    exchange: Exchange | None
    again: Callable[[int], Batch] | None = None

    def _here(self) -> Batch:
        assert self.again is not None
        return self.again(self.first)

    @property
    def records(self) -> Sequence[object]:
        return self._here().records

    def pointer(self, index: int, steps: Steps) -> str:
        return self._here().pointer(index, steps)

    def texts(self, indexes: Container[int]) -> Iterator[RecordText]:
        return self._here().texts(indexes)

    def misfit(self, known: frozenset[str]) -> str | None:
        return self._here().misfit(known)


class LongFiles:
    """Has long files of these flows read."""

    def __init__(self, flows: Mapping[str, Flow]) -> None:
        by_name = {flow.name: flow for flow in flows.values()}
        validator = cache(lambda name: Validator(by_name[name]))
        self._nursery = Nursery(lambda name: partial(_read, validator(name)))

    def start(self) -> None:
        """See `Nursery.start`."""
        self._nursery.start()

    def read(self, source: OpenFile, flow: Flow, limits: Limits, go_on: GoOn) -> "LongBatches":
        """Begin to read a file. Raises StopDaemon."""
        connection = self._nursery.fork(flow.name, [source.descriptor] if source.is_open else [])
        long = LongBatches(connection, source, flow, limits, go_on)
        long.send((source, limits))
        return long


class LongBatches:
    """What a long file comes to, in batches which come only once."""

    def __init__(self, connection: "Connection", source: OpenFile, flow: Flow, limits: Limits, go_on: GoOn) -> None:
        self._connection = connection
        self._source = source
        self._go_on = go_on
        self._fetched: Generator[EncodedBatch, None, None] | None = None
        self._read_again = batches.read(replace(source, apart=True), flow, limits, go_on)
        self._last_again: Batch | None = None

    def send(self, message: object) -> None:
        with suppress(ConnectionError):  # whoever receives says so
            self._connection.send(message)

    def encoded(self, types: ColumnTypes, file_id: int) -> Iterator[EncodedBatch]:
        """The batches, with their rows for columns of these types.

        Raises RejectFile, possibly after some batches, and RetryLater.
        """
        self.send((types, file_id))
        self._fetched = prefetch.ahead(self._received(), BATCHES_AHEAD)
        try:
            for fetched in self._fetched:
                self._go_on()
                assert isinstance(fetched.batch, _BatchThere)
                yield replace(fetched, batch=replace(fetched.batch, again=self._again))
        except RejectFile:
            self._source.check_unchanged()  # what is half written is not rejected: it waits
            raise
        self._source.check_unchanged()

    def close(self) -> None:
        """End the reading, however far it is."""
        hang_up(self._connection)
        if self._fetched is not None:
            self._fetched.close()
        self._connection.close()

    def _received(self) -> Iterator[EncodedBatch]:
        while True:
            try:
                while not self._connection.poll(_LOOK_SECONDS):
                    self._go_on()
                message = self._connection.recv()
            except (EOFError, ConnectionError):
                raise RetryLater(
                    "the process that read it has ended",
                    hint="it is read again; the system's log may say what ended it: was there too little memory?",
                ) from None
            match message:
                case _Logged(level, said):
                    logger.log(level, "{}", said)
                case _End(error=None):
                    return
                case _End(error=Exception() as error, told=told):
                    raise error from (_InTheReader(told) if told else None)
                case _:
                    yield message

    def _again(self, first: int) -> Batch:
        """Batches are asked for in their order. Raises RetryLater where the file does not hold any more what it did."""
        try:
            while self._last_again is None or self._last_again.first != first:
                self._last_again = next(self._read_again)
        except (RejectFile, StopIteration):
            raise RetryLater("the file changed while it was read") from None
        return self._last_again


# What follows is done in the process that reads.


def _read(validator: Validator, connection: "Connection", descriptors: Sequence[int]) -> None:
    source, limits = connection.recv()
    logger.add(lambda message: connection.send(_logged(message)), format="{message}", level=0)
    if descriptors:
        source = replace(source, descriptor=descriptors[0])
    checked = batches.check(batches.read(source, validator.flow, limits, lambda: None), validator, limits)
    try:
        # Something is at hand when the loader has its turn, and tells what the rows are encoded for.
        first, fault = next(checked, None), None
    except Exception as error:  # noqa: BLE001  # handed over
        first, fault = None, error
    types, file_id = connection.recv()
    try:
        if fault is not None:
            raise fault
        encoder = Encoder(validator.flow, types)
        for each in chain([first] if first is not None else (), checked):
            encoded = encoder.encode(key_order.of_batch(each, validator.flow), file_id)
            batch, rows = each.batch, encoded.rows if _needs_keys(validator.flow) else replace(encoded.rows, keys=())
            there = _BatchThere(batch.first, batch.size, batch.form, batch.exchange)
            connection.send(replace(encoded, batch=there, rows=rows))
        connection.send(_End())
    except Exception as error:  # noqa: BLE001  # handed over
        connection.send(_end(error))


def _needs_keys(flow: Flow) -> bool:
    """Whether who loads the rows has to know their keys."""
    return bool(flow.children) or flow.partitions is not None


def _logged(message: "Message") -> _Logged:
    return _Logged(message.record["level"].name, str(message).rstrip("\n"))


def _end(error: Exception) -> _End:
    if isinstance(error, MemoryError):
        return _End(RetryLater("there is too little memory to read it", hint="it is read again"))
    if isinstance(error, TidegateError):
        return _End(error)
    told = "".join(traceback.format_exception(error))
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301  # our own
    except Exception:  # noqa: BLE001  # such an error cannot leave its process
        error = RuntimeError(f"{type(error).__name__}: {error}")
    return _End(error, told)
