"""Reading: from a file's content to checked batches of records, in the format that it is in."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

from loguru import logger

from file_processing.inbound import open_file
from file_processing.inbound.formats import detect
from file_processing.inbound.formats.base import GoOn, Reading, RejectExchange, Rejection
from file_processing.inbound.intake import InboundFile
from file_processing.inbound.limits import Limits, Rejects
from file_processing.inbound.open_file import OpenFile
from file_processing.inbound.validate import CheckedBatch, Validator
from models.errors import RejectFile, TidegateError
from services.runtime import prefetch

FORMAT_PEEK_BYTES = 4096
"""What tells the format stands within this much of the content's start."""


@dataclass(frozen=True, slots=True)
class ReadResult:
    """What a file came to.

    batches: its records, as far as they could be read; of a long file they are read while they are taken, and
        come only once.
    loads: whether its good records may load. rejection: why it is rejected as a whole, where it is.
    """

    file: InboundFile
    batches: Iterable[CheckedBatch] = ()
    loads: bool = True
    rejection: Rejection | None = None

    def not_loading(self, rejection: Rejection | None) -> "ReadResult":
        """The same file, of which nothing loads."""
        return replace(self, batches=(), loads=False, rejection=rejection)


@contextmanager
def reading(
    files: Sequence[InboundFile], validator: Validator | None, *, limits: Limits, go_on: GoOn
) -> Iterator[list[ReadResult]]:
    """Read a group of files of one flow; a long file is read a batch ahead as long as this is in use.

    validator: of the flow; without one the files belong to none, and are rejected.
    Raises RetryLater where the daemon stops.
    """
    with ExitStack() as ahead:
        results = []
        for file in files:
            if file.rejection is not None or validator is None or file.source is None:
                results.append(ReadResult(file).not_loading(file.rejection or Rejection("it belongs to no flow")))
                continue
            batches = _batches(file.source, validator, limits, go_on)
            if file.is_long:
                fetched = prefetch.ahead(batches)
                ahead.callback(fetched.close)
                results.append(ReadResult(file, fetched))
            else:
                results.append(_at_once(file, batches))
        yield results


def _at_once(file: InboundFile, batches: Iterator[CheckedBatch]) -> ReadResult:
    read: list[CheckedBatch] = []
    try:
        read.extend(batches)
    except RejectFile as error:
        return ReadResult(file, tuple(read), loads=False, rejection=Rejection.of(error))
    except TidegateError:
        raise
    except Exception as error:  # noqa: BLE001  # rejected, with its traceback in the log
        return ReadResult(file, tuple(read), loads=False, rejection=unexpected(file, error))
    return ReadResult(file, tuple(read))


def _batches(source: OpenFile, validator: Validator, limits: Limits, go_on: GoOn) -> Iterator[CheckedBatch]:
    name = source.name
    try:
        rejects = Rejects(limits)
        unpacked = limits.unpacked_bytes(source.identity.bytes)
        content = open_file.content(source, max_bytes=limits.max_bytes, max_unpacked=unpacked)
        found = detect.format_of(name, content.peek(FORMAT_PEEK_BYTES), validator.flow)
        for batch in found.read(content, Reading(detect.plain_name(name), validator.flow, go_on=go_on)):
            yield validator.check(batch, rejects)
            if rejects.too_many():
                reason, hint = limits.why_too_many(rejects.rejected, rejects.records)
                raise RejectExchange(reason, exchange=batch.exchange, hint=hint)
            go_on()
        source.check_unchanged()
    except RejectFile:
        source.check_unchanged()  # what is half written is not rejected: it waits
        raise
    except OSError as error:
        raise open_file.unreadable(error) from error


def unexpected(file: InboundFile, error: Exception) -> Rejection:
    """A mistake of ours or of the flow's: the file is kept as rejected, the log has the traceback."""
    logger.opt(exception=error).error("{}: cannot be handled", file.name)
    return Rejection(f"unexpected {type(error).__name__}: {error}", "see the log for the traceback")
