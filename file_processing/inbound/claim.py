"""What a transaction may load: files that no other loader has in hand. Loaders of one flow work side by side."""

from collections.abc import Container, Sequence

from psycopg import Connection

from file_processing.inbound.formats.base import Exchange
from file_processing.inbound.intake import LeftFile, Wait
from file_processing.inbound.read import ReadResult
from services.ledger import locks

_WAIT = Wait("another loader has the same content in hand", "it is looked at again", 0.2)


class InOtherHands(Exception):
    """Others have some of these contents in hand: nothing is claimed."""

    def __init__(self, contents: Container[bytes]) -> None:
        super().__init__()
        self._contents = contents

    def among(self, reads: Sequence[ReadResult]) -> tuple[list[ReadResult], list[LeftFile]]:
        """The files that nobody else has, and the others."""
        free = [read for read in reads if _content(read) not in self._contents]
        return free, [LeftFile(read.file.dropped, _WAIT) for read in reads if _content(read) in self._contents]


def claim(
    connection: Connection, flow: str | None, reads: Sequence[ReadResult], *, wait: bool, likely_alone: bool
) -> bool:
    """Make this transaction the only one that loads these files, or others with what they hold.

    A long file is loaded alone in its flow: not all its rows are written in the order of keys, and two who write
    the same keys in different orders would wait for each other.

    wait: for others who have the same contents in hand, as for files that were given by hand.
    likely_alone: nobody else seems to load files of the flow.
    Gives back whether nobody does until the transaction ends. Raises InOtherHands, or FlowBusy when others take long.
    """
    alone = any(read.file.is_long for read in reads)
    if alone or not (likely_alone and (alone := locks.try_lock_flow(connection, flow))):
        locks.lock_flow(connection, flow, alone=alone)
    contents = {_content(read) for read in reads}
    if wait or reads[0].file.stays:
        locks.lock_contents(connection, flow, contents)
    elif have := locks.try_lock_contents(connection, flow, contents):
        raise InOtherHands(have)
    exchanges = [_exchange(read) for read in reads if not read.file.is_long]
    if senders := {exchange.reference.sender for exchange in exchanges if exchange is not None}:
        locks.lock_senders(connection, flow or "", senders)
    return alone


def _content(read: ReadResult) -> bytes:
    """What tells a file's content; of one without, its place."""
    return read.file.sha256 or read.file.place.encode()


def _exchange(read: ReadResult) -> Exchange | None:
    """What a small file is beyond its records."""
    return next((checked.batch.exchange for checked in read.batches), None)
