"""Reading: from a file's content to checked batches of records, in the format that it is in."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import NamedTuple

from loguru import logger

from file_processing.inbound import batches
from file_processing.inbound.formats.base import Batch, GoOn, Rejection
from file_processing.inbound.intake import InboundFile
from file_processing.inbound.limits import Limits
from file_processing.inbound.long_file import LongBatches, LongFiles
from file_processing.inbound.open_file import OpenFile
from file_processing.inbound.validate import CheckedBatch, Validator
from models.errors import RejectFile, TidegateError
from models.flow import Flow


class ReadResult(NamedTuple):
    """What a file came to.

    batches: its records, as far as they could be read. long: instead, of a long file, which is read while its
        batches are taken, and they come only once.
    loads: whether its good records may load. rejection: why it is rejected as a whole, where it is.
    """

    file: InboundFile
    batches: Sequence[CheckedBatch] = ()
    long: LongBatches | None = None
    loads: bool = True
    rejection: Rejection | None = None

    def not_loading(self, rejection: Rejection | None) -> "ReadResult":
        """The same file, of which nothing loads."""
        return self._replace(batches=(), long=None, loads=False, rejection=rejection)


@contextmanager
def reading(
    files: Sequence[InboundFile], validator: Validator | None, long_files: LongFiles, *, limits: Limits, go_on: GoOn
) -> Iterator[list[ReadResult]]:
    """Read a group of files of one flow; a long file is read by another process as long as this is in use.

    validator: of the flow; without one the files belong to none, and are rejected.
    Raises RetryLater where the daemon stops, and StopDaemon.
    """
    with ExitStack() as open_ends:
        results: list[ReadResult | _Parsed] = []
        for file in files:
            if file.rejection is not None or validator is None or file.source is None:
                results.append(ReadResult(file).not_loading(file.rejection or Rejection("it belongs to no flow")))
            elif file.is_long:
                long = long_files.read(file.source, validator.flow, limits, go_on)
                open_ends.callback(long.close)
                results.append(ReadResult(file, long=long))
            else:
                results.append(_parsed(file, file.source, validator.flow, limits, go_on))
        yield _with_checked(results, validator, limits)


@dataclass(slots=True)
class _Parsed:
    """A file that was read at once and is not checked yet: its batches, up to where it is malformed."""

    file: InboundFile
    batches: list[Batch]
    rejection: Rejection | None = None

    @property
    def is_whole(self) -> bool:
        """Whether all of it is one batch."""
        return self.rejection is None and len(self.batches) == 1


def _parsed(file: InboundFile, source: OpenFile, flow: Flow, limits: Limits, go_on: GoOn) -> _Parsed:
    parsed = _Parsed(file, [])
    try:
        parsed.batches += batches.read(source, flow, limits, go_on)
    except RejectFile as error:
        parsed.rejection = Rejection.of(error)
    except TidegateError:
        raise
    except Exception as error:  # noqa: BLE001  # rejected, with its traceback in the log
        parsed.rejection = unexpected(file, error)
    return parsed


def _with_checked(
    results: Sequence[ReadResult | _Parsed], validator: Validator | None, limits: Limits
) -> list[ReadResult]:
    """The results, those that were only parsed with their batches checked: together where all of them are good."""
    if validator is None:
        return [result for result in results if isinstance(result, ReadResult)]
    whole = [each.batches[0] for each in results if isinstance(each, _Parsed) and each.is_whole]
    together = iter(validator.check_together(whole) or ())
    checked: list[ReadResult] = []
    for each in results:
        if isinstance(each, ReadResult):
            checked.append(each)
        elif each.is_whole and (good := next(together, None)) is not None:
            checked.append(ReadResult(each.file, (good,)))
        else:
            checked.append(_checked(each, validator, limits))
    return checked


def _checked(parsed: _Parsed, validator: Validator, limits: Limits) -> ReadResult:
    file, rejection = parsed.file, parsed.rejection
    read: list[CheckedBatch] = []
    try:
        read.extend(batches.check(parsed.batches, validator, limits))
    except RejectFile as error:
        rejection = Rejection.of(error)
    except TidegateError:
        raise
    except Exception as error:  # noqa: BLE001  # rejected, with its traceback in the log
        rejection = unexpected(file, error)
    return ReadResult(file, tuple(read), loads=rejection is None, rejection=rejection)


def unexpected(file: InboundFile, error: Exception) -> Rejection:
    """A mistake of ours or of the flow's: the file is kept as rejected, the log has the traceback."""
    logger.opt(exception=error).error("{}: cannot be handled", file.name)
    return Rejection(f"unexpected {type(error).__name__}: {error}", "see the log for the traceback")
