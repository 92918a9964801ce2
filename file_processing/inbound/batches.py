"""From an open file to batches of records, and to what each of these comes to."""

from collections.abc import Iterable, Iterator

from file_processing.inbound import open_file
from file_processing.inbound.formats import detect
from file_processing.inbound.formats.base import Batch, GoOn, Reading, RejectExchange
from file_processing.inbound.limits import Limits, Rejects
from file_processing.inbound.open_file import OpenFile
from file_processing.inbound.validate import CheckedBatch, Validator
from models.flow import Flow

FORMAT_PEEK_BYTES = 4096
"""What tells the format stands within this much of the content's start."""


def read(source: OpenFile, flow: Flow, limits: Limits, go_on: GoOn) -> Iterator[Batch]:
    """The records of a file, in the format that it is in.

    Raises RejectFile, possibly after some batches, and RetryLater, also where `go_on` does.
    """
    try:
        name = detect.plain_name(source.name)
        unpacked = limits.unpacked_bytes(source.identity.bytes)
        content = open_file.content(source, max_bytes=limits.max_bytes, max_unpacked=unpacked)
        found = detect.format_of(name, content.peek(FORMAT_PEEK_BYTES), flow)
        for batch in found.read(content, Reading(name, flow, go_on=go_on)):
            yield batch
            go_on()
    except OSError as error:
        raise open_file.unreadable(error) from error


def check(batches: Iterable[Batch], validator: Validator, limits: Limits) -> Iterator[CheckedBatch]:
    """What each batch of one file comes to. Raises RejectExchange when too many of its records are bad."""
    rejects = Rejects(limits)
    for batch in batches:
        yield validator.check(batch, rejects)
        if rejects.too_many():
            reason, hint = limits.why_too_many(rejects.rejected, rejects.records)
            raise RejectExchange(reason, exchange=batch.exchange, hint=hint)
