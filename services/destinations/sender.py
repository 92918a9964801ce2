"""What hands one file over to a partner, and what may come of it."""

from dataclasses import dataclass
from typing import Protocol

from models.connector import Json
from models.errors import RetryLater, StopConnector, TidegateError


class TurnedDown(TidegateError):
    """The partner says no to this file, and will again: it needs a person."""


class Doubtful(RetryLater):
    """The partner may have it: look before it is sent again."""


class DoubtfulStop(StopConnector):
    """The same, and a person has to act before anything is sent again."""


@dataclass(frozen=True, slots=True)
class OutgoingFile:
    """A file on its way to a partner.

    doubtful: it was sent before, and nobody knows whether it arrived.
    """

    id: int
    name: str
    content: bytes
    sha256: bytes
    doubtful: bool


class Sender(Protocol):
    """Hands over one file."""

    async def send(self, file: OutgoingFile) -> Json:
        """The partner's answer, to be kept.

        Raises TurnedDown; Doubtful; DoubtfulStop; or RetryLater or StopConnector when the partner certainly
        does not have it.
        """
