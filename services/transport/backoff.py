"""The one policy of trying again: after how long, with jitter, for requests how often; the delays at the end."""

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from models.errors import RetryLater

if TYPE_CHECKING:
    from tenacity import RetryCallState

T = TypeVar("T")

_DOUBLINGS = 30
"""2**30 of any first pause is longer than every longest one; beyond that floats overflow."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """Pauses that double from the first to the longest, each shortened by chance to between half and all of it.

    The chance keeps those who failed together from coming back together.
    """

    first_seconds: float
    longest_seconds: float

    def pause_seconds(self, failures: int, *, at_least: float = 0.0) -> float:
        """The pause after a failure, with so many failures in a row before it.

        at_least: what whoever failed asked for.
        """
        pause = min(self.first_seconds * 2.0 ** min(failures, _DOUBLINGS), self.longest_seconds)
        return max(pause * random.uniform(0.5, 1), at_least)  # noqa: S311


@dataclass(frozen=True, slots=True)
class Retries:
    """How often a request is sent, with pauses in between.

    patience_seconds: a partner that wants us to come back later than that is not waited for here.
    """

    tries: int
    backoff: Backoff
    patience_seconds: float

    async def __call__(self, request: Callable[[], Awaitable[T]]) -> T:
        """What the request gives; its last error when every try ends in a RetryLater, or at once any other."""
        from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt

        attempts = AsyncRetrying(
            stop=stop_after_attempt(self.tries),
            retry=retry_if_exception(self._may_pass),
            wait=self._pause_seconds,
            reraise=True,
        )
        return await attempts(request)

    def _may_pass(self, error: BaseException) -> bool:
        return isinstance(error, RetryLater) and error.after_seconds <= self.patience_seconds

    def _pause_seconds(self, tried: "RetryCallState") -> float:
        error = tried.outcome.exception() if tried.outcome else None
        asked = error.after_seconds if isinstance(error, RetryLater) else 0.0
        return self.backoff.pause_seconds(tried.attempt_number - 1, at_least=asked)


INBOUND = Backoff(first_seconds=0.2, longest_seconds=5.0)
"""A flow's files that cannot be loaded now; a file that is itself the reason is tried again after the longest.

`ingest` takes the first, for as long as another process loads files of the flow.
"""

DATABASE = INBOUND
"""A connection to the database that is to be made anew, by the writer or a connector."""

OUTBOUND = Backoff(first_seconds=0.5, longest_seconds=30.0)
"""A flow's outbound files that cannot be written now."""

CONNECTOR = Backoff(first_seconds=0.5, longest_seconds=60.0)
"""A connector whose partner is away, and a delivery without a clear answer."""

MASTER_REQUESTS = Retries(tries=4, backoff=Backoff(first_seconds=0.5, longest_seconds=10.0), patience_seconds=10.0)
"""Requests to a master: each may be repeated, reads and deletes anyway, writes by what the declaration names."""


def source_requests(tries: int, first_seconds: float) -> Retries:
    """Requests to a partner that is polled, as its flow declares them."""
    return Retries(tries, Backoff(first_seconds, longest_seconds=30.0), patience_seconds=30.0)


WATCH = Backoff(first_seconds=1.0, longest_seconds=60.0)
"""The observer's watch on folders, when the system does not give it."""
