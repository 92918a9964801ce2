"""Trying again: after pauses that grow to the longest, never all at once, and not for ever."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, strategies as st

from models.errors import RejectFile, RetryLater, StopConnector
from services.transport.backoff import Backoff, Retries

SECONDS = st.floats(0.001, 3600)


@given(SECONDS, SECONDS, st.integers(0, 10**9), st.floats(0, 10_000))
def test_a_pause_doubles_up_to_the_longest_and_is_shortened_to_half_at_most(
    first: float, longest: float, failures: int, asked: float
) -> None:
    backoff = Backoff(first, longest)
    whole = min(first * 2.0 ** min(failures, 100), longest)
    assert whole / 2 <= backoff.pause_seconds(failures) <= whole
    assert backoff.pause_seconds(failures, at_least=asked) >= asked
    assert backoff.pause_seconds(failures, at_least=asked) <= max(whole, asked)


def test_those_who_failed_together_do_not_come_back_together() -> None:
    backoff = Backoff(1, 60)
    assert len({backoff.pause_seconds(3) for _ in range(100)}) > 90


def test_pauses_grow() -> None:
    with mock.patch("random.uniform", return_value=1):
        assert [Backoff(0.5, 5).pause_seconds(failures) for failures in range(6)] == [0.5, 1, 2, 4, 5, 5]


class Request:
    """Ends as it is told, one time after the other; the last way again and again."""

    def __init__(self, *ends: Exception | str) -> None:
        self.ends = [*ends]
        self.calls = 0

    async def __call__(self) -> str:
        self.calls += 1
        end = self.ends.pop(0) if len(self.ends) > 1 else self.ends[0]
        if isinstance(end, Exception):
            raise end
        return end


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that were made, none of which lasts."""
    pauses: list[float] = []

    def instead(seconds: float, result: object = None) -> Coroutine[Any, Any, None]:
        pauses.append(seconds)
        return sleep(0)

    sleep = asyncio.sleep
    monkeypatch.setattr(asyncio, "sleep", instead)
    return pauses


def run(retries: Retries, request: Request) -> str:
    async def made() -> str:
        return await retries(request)

    return asyncio.run(made())


def busy(after_seconds: float = 0) -> RetryLater:
    return RetryLater("busy", after_seconds=after_seconds)


def of(tries: int, patience_seconds: float = 10) -> Retries:
    return Retries(tries, Backoff(1, 60), patience_seconds)


def test_what_goes_well_is_asked_once(slept: list[float]) -> None:
    request = Request("done")
    assert run(of(3), request) == "done"
    assert (request.calls, slept) == (1, [])


def test_a_request_is_sent_again_until_it_goes_well(slept: list[float]) -> None:
    request = Request(busy(), busy(), busy(), "done")
    assert run(of(5), request) == "done"
    assert request.calls == 4
    assert [whole / 2 <= seconds <= whole for whole, seconds in zip((1, 2, 4), slept, strict=True)] == [True] * 3


def test_the_last_error_is_told_when_every_try_fails(slept: list[float]) -> None:
    request = Request(busy(), RetryLater("still busy"))
    with pytest.raises(RetryLater, match="still busy"):
        run(of(3), request)
    assert (request.calls, len(slept)) == (3, 2)


@pytest.mark.parametrize("made", [lambda: StopConnector("no"), lambda: RejectFile("no"), lambda: ValueError("no")])
def test_no_other_error_is_worth_another_try(slept: list[float], made: Callable[[], Exception]) -> None:
    request = Request(made())
    with pytest.raises(type(made()), match="no"):
        run(of(3), request)
    assert (request.calls, slept) == (1, [])


def test_a_partner_gets_the_time_it_asks_for(slept: list[float]) -> None:
    assert run(of(3), Request(busy(7), busy(10), "done")) == "done"
    assert slept == [7, 10]


def test_a_partner_that_asks_for_more_than_our_patience_is_not_waited_for(slept: list[float]) -> None:
    request = Request(busy(10.1))
    with pytest.raises(RetryLater) as caught:
        run(of(3), request)
    assert caught.value.after_seconds == 10.1
    assert (request.calls, slept) == (1, [])
