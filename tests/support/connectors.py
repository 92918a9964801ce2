"""Connectors in tests: without their long pauses, declared otherwise for one test, and what `status` says of them."""

import importlib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

import pytest

from services.destinations import delivery
from services.runtime import status_file, supervisor
from services.runtime.status_file import JobPhase, JobState
from services.sources import master_api
from services.transport import ssh
from services.transport.backoff import Backoff, Retries
from tests.support.sites import Site
from tests.support.waiting import eventually

T = TypeVar("T")

QUICK = "0.1"
"""How often a source polls in a test, as the environment has it."""

SLOW_SECONDS = 0.2
"""How long a slow partner takes in a test, well within the time-out."""

TIMEOUT_SECONDS = 0.6

WRONG = "wrong-word-of-ours"
"""A password, a token, a key that no partner lets in."""

Choice = tuple[type, str]
"""A declared type, and one of the ways or points that its entry in a conformance suite names."""


def without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the product waits for seconds before it tries again, or looks again, takes no time to speak of."""
    for module in (supervisor, delivery):
        monkeypatch.setattr(module, "CONNECTOR", Backoff(first_seconds=0.05, longest_seconds=0.2))
    monkeypatch.setattr(master_api, "MASTER_REQUESTS", Retries(4, Backoff(0.01, 0.01), patience_seconds=10))
    monkeypatch.setattr(delivery, "UNCERTAIN_SECONDS", 0.1)
    monkeypatch.setattr(delivery, "POLL_SECONDS", 0.05)


def with_short_timeouts(monkeypatch: pytest.MonkeyPatch) -> None:
    """An SFTP server has to answer within TIMEOUT_SECONDS; for HTTP a connector's declaration says it."""
    monkeypatch.setattr(ssh, "ANSWER_SECONDS", TIMEOUT_SECONDS)
    monkeypatch.setattr(ssh, "LEAVE_SECONDS", 0.1)


def declare(monkeypatch: pytest.MonkeyPatch, flow: str, name: str, **values: object) -> None:
    """Have a connector of a flow declared with other values; a process that a test starts does not know of it."""
    module = importlib.import_module(f"flows.{flow}")

    def declared(connector: Any) -> Any:
        return replace(connector, **values) if connector.name == name else connector

    made = replace(
        module.FLOW,
        sources=tuple(map(declared, module.FLOW.sources)),
        destinations=tuple(map(declared, module.FLOW.destinations)),
    )
    assert made != module.FLOW, f"{flow} has no other connector {name}"
    monkeypatch.setattr(module, "FLOW", made)


def state(site: Site, name: str) -> JobState | None:
    """How a job of the daemon is, as it publishes it for `status`."""
    daemons = status_file.running(site.settings.data_dir)
    return next((job for daemon in daemons for job in daemon.connectors if job.name == name), None)


def in_phase(site: Site, name: str, phase: JobPhase, *, failures: int = 0, timeout: float = 20) -> JobState:
    """The job's state once it is in this phase, having failed so often at least."""
    found: JobState | None = None

    def reached() -> bool:
        nonlocal found
        found = state(site, name)
        return found is not None and found.phase is phase and found.failures >= failures

    eventually(reached, timeout=timeout, what=f"{name} {phase}")
    assert found is not None
    return found


def choices(kinds: Iterable[type], entries: Mapping[type, type], of: str) -> list[Choice]:
    """Each type with each of what its entry names; one without an entry is there all the same, and fails."""
    return [(kind, one) for kind in kinds for one in getattr(entries.get(kind), of, ["missing"])]


def name_of(choice: type | Choice) -> str:
    """How a test's name shows it."""
    return choice.__name__ if isinstance(choice, type) else f"{choice[0].__name__}: {choice[1]}"


def entry_of(kind: type, entries: Mapping[type, type[T]]) -> type[T]:
    """What a conformance suite knows of a declared type."""
    assert kind in entries, f"nobody says how a {kind.__name__} keeps its promises: give it an entry in PARTNERS"
    return entries[kind]


def fixture(request: pytest.FixtureRequest, name: str, kind: type[T]) -> T:
    """The fixture of this name."""
    found = request.getfixturevalue(name)
    assert isinstance(found, kind)
    return found
