"""Intempus as the master of cases: everything there arrives here, and what is written here stands there first."""

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import httpx
import pytest
from pydantic import SecretStr

import flows
from commands import connectors
from commands.site import Site as Assembly
from flows.cases import INTEMPUS
from models.errors import RefusedByPartner, RetryLater, StopDaemon
from partners.intempus import Intempus
from services.api import bodies
from services.db import connection as connections, engine as databases
from services.runtime import status_file
from services.runtime.status_file import JobPhase, JobState
from services.runtime.supervisor import Supervisor
from services.sources import master as master_module, master_api
from services.sources.local_replica import LocalReplica
from services.sources.master import Master
from services.sources.master_api import ListedPage, MasterApi, MasterSession
from services.transport.http import Answer
from settings import Settings
from tests.integration.test_api import BEARER, JSON, TOKEN, answers, problem
from tests.support.connectors import declare, without_pauses
from tests.support.processes import ROOT
from tests.support.sites import Site, free_port, running
from tests.support.waiting import eventually


@dataclass
class Synced:
    """A site with its API and its sync at work."""

    site: Site
    api: httpx.Client
    states: Callable[[], Sequence[JobState]]

    def state(self, name: str) -> JobState:
        return next(state for state in self.states() if state.name == name)

    def listens(self) -> bool:
        return any(state.name == "api" and state.phase is JobPhase.RUNNING for state in self.states())

    def cases(self) -> dict[int, dict[str, Any]]:
        return {case["id"]: case for case in self.site.rows("cases")}

    def names(self) -> dict[int, str]:
        """The cases that are not deleted."""
        return {number: case["name"] for number, case in self.cases().items() if case["deleted_at"] is None}

    def sent(self) -> list[tuple[str, int]]:
        """What went out: each change of a case."""
        files = sorted((self.site.settings.output_dir / "cases").glob("*.json"))
        return [(one["change"], one["id"]) for path in files for one in json.loads(path.read_text())["cases"]]


def configured(site: Site, intempus: Intempus, **values: Any) -> Site:
    port = free_port()
    given = {
        "INTEMPUS_API_URI": intempus.uri, "INTEMPUS_API_USER": intempus.user, "INTEMPUS_API_KEY": intempus.key, **values
    }  # fmt: skip
    updated = site.settings.model_copy(update={"api_port": port, "api_token": SecretStr(TOKEN)})
    site.settings = updated.with_values(**given)
    return site


@contextmanager
def at_work(site: Site, states: Callable[[], Sequence[JobState]]) -> Iterator[Synced]:
    url = f"http://127.0.0.1:{site.settings.api_port}"
    with httpx.Client(base_url=url, headers=BEARER, timeout=30) as api:
        synced = Synced(site, api, states)
        eventually(synced.listens, what="the API listens")
        yield synced


@contextmanager
def syncing(site: Site) -> Iterator[Synced]:
    """The API and the sync of a configured site, and nothing that loads the files."""
    with (
        databases.open_database(site.settings) as database,
        status_file.publish(site.settings.data_dir, node="test", input_dir=site.input) as publisher,
    ):
        assembly = Assembly(site.settings, flows.discover(), database)
        supervisor = Supervisor(connectors.jobs(assembly, lambda: publisher.state))
        supervisor.start()
        try:
            with at_work(site, supervisor.states) as synced:
                yield synced
        finally:
            supervisor.stop()


@contextmanager
def whole(site: Site) -> Iterator[Synced]:
    """A daemon with all that is in it."""

    def states() -> Sequence[JobState]:
        return [state for daemon in status_file.running(site.settings.data_dir) for state in daemon.connectors]

    with running(site), at_work(site, states) as synced:
        yield synced


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    without_pauses(monkeypatch)
    declare(monkeypatch, "cases", "intempus", changes_seconds=0.1)


@pytest.fixture
def synced(site: Site, intempus: Intempus) -> Iterator[Synced]:
    with whole(configured(site, intempus)) as synced:
        yield synced


def full_sync_is_due(site: Site) -> None:
    site.execute("""update tidegate.cursor set state = '{"synced_at": "2026-01-01T00:00:00+00:00"}' """
                 "where source = 'cases/intempus full sync'")  # fmt: skip


def objects_a_page(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """From now on, of a daemon at work too."""
    monkeypatch.setitem(cast(dict[str, str], INTEMPUS.list_query), "limit", str(count))


# from there


def test_what_is_there_arrives_and_so_does_what_changes(synced: Synced, intempus: Intempus) -> None:
    first, second = intempus.create(name="Pump"), intempus.create(name="Valve", customer="/web/v1/customer/77/")
    eventually(lambda: synced.names() == {first["id"]: "Pump", second["id"]: "Valve"})
    intempus.update(first["id"], name="Pump P-101", notes="leaks")
    eventually(lambda: synced.names()[first["id"]] == "Pump P-101")
    intempus.update(first["id"], notes=None)
    eventually(lambda: synced.cases()[first["id"]]["notes"] is None)
    assert synced.cases()[second["id"]]["customer_id"] == 77
    assert synced.cases()[first["id"]]["document"]["resource_uri"] == first["resource_uri"]


def test_a_case_deleted_there_is_deleted_here_and_goes_out_as_deleted(synced: Synced, intempus: Intempus) -> None:
    kept, gone = intempus.create(name="Kept"), intempus.create(name="Gone")
    eventually(lambda: len(synced.names()) == 2)
    eventually(lambda: ("created", gone["id"]) in synced.sent())
    intempus.delete(gone["id"])
    assert synced.api.post("/case/sync").json() == {"seen": 1, "missed": 0, "deleted": 1}
    eventually(lambda: synced.names() == {kept["id"]: "Kept"})
    assert synced.cases()[gone["id"]]["document"]["name"] == "Gone"
    eventually(lambda: ("deleted", gone["id"]) in synced.sent())
    assert synced.api.post("/case/sync").json() == {"seen": 1, "missed": 0, "deleted": 0}


def test_many_pages_and_a_rate_of_errors(site: Site, intempus: Intempus, monkeypatch: pytest.MonkeyPatch) -> None:
    objects_a_page(monkeypatch, 10)
    made = {intempus.create(name=f"Case {n}")["id"]: f"Case {n}" for n in range(95)}
    intempus.faults.error_rate = intempus.faults.cut_rate = intempus.faults.garble_rate = 0.05
    with whole(configured(site, intempus)) as synced:
        eventually(lambda: synced.names() == made, timeout=30)


def test_a_case_that_changes_between_two_pages_is_not_missed(
    synced: Synced, intempus: Intempus, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects_a_page(monkeypatch, 2)
    cases = [intempus.create(name=f"Case {n}")["id"] for n in range(6)]
    eventually(lambda: len(synced.names()) == 6)
    original, pages = MasterSession._page, 0

    def meddle(session: MasterSession, answer: Answer) -> tuple[ListedPage, str | None]:
        nonlocal pages
        pages += 1
        if pages == 2:  # one that was read, one that is to come, and one that goes
            intempus.update(cases[0], name="changed behind")
            intempus.update(cases[5], name="changed before")
            intempus.delete(cases[1])
        return original(session, answer)

    monkeypatch.setattr(MasterSession, "_page", meddle)
    synced.api.post("/case/sync")
    expected = {cases[0]: "changed behind", cases[5]: "changed before", **{n: f"Case {i}" for i, n in enumerate(cases) if i in (2, 3, 4)}}  # noqa: E501  # fmt: skip
    assert synced.api.post("/case/sync").status_code == 200
    eventually(lambda: synced.names() == expected, what="all is here")


@pytest.mark.parametrize("cut", ["an error", "a list that ends too early", "half an answer"])
def test_a_full_sync_that_is_cut_short_deletes_nothing(
    synced: Synced, intempus: Intempus, monkeypatch: pytest.MonkeyPatch, cut: str
) -> None:
    objects_a_page(monkeypatch, 2)
    cases = [intempus.create(name=f"Case {n}")["id"] for n in range(6)]
    eventually(lambda: len(synced.names()) == 6)
    intempus.delete(cases[0])
    original = MasterSession._page

    def cutting(session: MasterSession, answer: Answer) -> tuple[ListedPage, str | None]:
        page, following = original(session, answer)
        if "after=" in answer.url:
            if cut == "a list that ends too early":
                return page, None
            setattr(intempus.faults, "error_rate" if cut == "an error" else "garble_rate", 1)
        return page, following

    monkeypatch.setattr(MasterSession, "_page", cutting)
    assert synced.api.post("/case/sync").status_code == 503
    assert len(synced.names()) == 6
    intempus.faults.error_rate = intempus.faults.garble_rate = 0
    monkeypatch.setattr(MasterSession, "_page", original)
    assert synced.api.post("/case/sync").json()["deleted"] == 1
    eventually(lambda: len(synced.names()) == 5)


def test_a_list_that_hides_a_case_deletes_nothing(
    synced: Synced, intempus: Intempus, monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden = intempus.create(name="Hidden")["id"]
    eventually(synced.names)
    original = MasterSession._page

    def hide(session: MasterSession, answer: Answer) -> tuple[ListedPage, str | None]:
        page, following = original(session, answer)
        return ListedPage(page.body, [], page.reached, 0), following

    monkeypatch.setattr(MasterSession, "_page", hide)
    assert synced.api.post("/case/sync").json() == {"seen": 0, "missed": 0, "deleted": 0}
    assert synced.names() == {hidden: "Hidden"}


def test_a_full_sync_brings_what_is_missing_or_was_deleted_only_here(synced: Synced, intempus: Intempus) -> None:
    lost, undone = intempus.create(name="Lost")["id"], intempus.create(name="Undone")["id"]
    eventually(lambda: len(synced.names()) == 2)
    synced.site.execute(f"delete from cases where id = {lost}")
    synced.site.execute(f"update cases set deleted_at = now() where id = {undone}")
    assert synced.api.post("/case/sync").json() == {"seen": 2, "missed": 2, "deleted": 0}
    eventually(lambda: synced.names() == {lost: "Lost", undone: "Undone"})


def test_what_our_flow_rejects_is_not_fetched_by_every_full_sync(synced: Synced, intempus: Intempus) -> None:
    intempus.create(name="x", active="maybe")
    eventually(lambda: [line for line in synced.site.ledger() if line["status"] == "rejected"])
    found = [synced.api.post("/case/sync").json()["missed"] for _ in range(3)]
    assert found == [1, 0, 0]


def test_two_daemons_ask_once(synced: Synced, intempus: Intempus) -> None:
    port = free_port()
    second = Site(synced.site.settings.model_copy(update={"api_port": port}))
    with syncing(second) as other:
        eventually(lambda: "another daemon" in other.state("cases/intempus").detail)


def test_a_full_sync_that_is_due_runs_by_itself(site: Site, intempus: Intempus) -> None:
    gone = intempus.create(name="Gone")["id"]
    with whole(configured(site, intempus)) as synced:
        eventually(lambda: synced.names() == {gone: "Gone"})
        intempus.delete(gone)
    full_sync_is_due(site)
    with whole(site) as synced:
        eventually(lambda: synced.names() == {})
        assert "deleted 1" in eventually(lambda: synced.state("cases/intempus full sync").detail)


def test_bad_credentials_are_told_to_who_writes_and_what_is_here_is_still_shown(site: Site, intempus: Intempus) -> None:
    with syncing(configured(site, intempus, INTEMPUS_API_KEY="wrong")) as synced:
        assert "INTEMPUS_API_KEY" in problem(synced.api.post("/case", json={"name": "Pump"}), 502)["hint"]
        assert synced.api.get("/case").json()["objects"] == []


def test_the_key_goes_nowhere_else(site: Site, intempus: Intempus, monkeypatch: pytest.MonkeyPatch) -> None:
    objects_a_page(monkeypatch, 1)
    for n in range(3):
        intempus.create(name=f"Case {n}")
    with Intempus() as elsewhere:
        intempus.next_origin = elsewhere.url
        with syncing(configured(site, intempus)) as synced:
            eventually(lambda: synced.state("cases/intempus").phase is JobPhase.STOPPED)
            assert elsewhere.url in synced.state("cases/intempus").detail
        assert elsewhere.received == []


def test_a_next_that_is_no_address_is_told(site: Site, intempus: Intempus, monkeypatch: pytest.MonkeyPatch) -> None:
    original = MasterSession._page
    monkeypatch.setattr(MasterSession, "_page", lambda session, answer: (original(session, answer)[0], "\0"))
    with syncing(configured(site, intempus)) as synced:
        assert "no address" in problem(synced.api.post("/case/sync"), 503)["detail"]


@pytest.mark.parametrize("body", ['{"id": 1, "name": NaN}', r'{"id": 1, "name": "\ud800"}', '{"id": null}', "[1]"])
def test_an_answer_that_cannot_be_passed_on_is_told(body: str) -> None:
    settings = Settings(_env_file=None).with_values(INTEMPUS_API_USER="user", INTEMPUS_API_KEY="key")

    async def get() -> object:
        async with MasterApi(INTEMPUS, settings).session() as session:
            answer = httpx.Response(200, stream=httpx.ByteStream(body.encode()))
            session._client._transport = httpx.MockTransport(lambda _: answer)
            return await session.get(1)

    with pytest.raises(RetryLater, match="no object"):
        asyncio.run(get())


def test_half_a_surrogate_pair_goes_to_the_loader(site: Site) -> None:
    cases = [{"id": 1, "name": "\ud800"}]
    replica = LocalReplica(flows.discover()["cases"], INTEMPUS, site.input)
    assert json.loads(replica.envelope(cases)) == {"objects": cases}


def test_plain_http_only_to_this_machine(site: Site, intempus: Intempus) -> None:
    configured(site, intempus, INTEMPUS_API_URI="http://intempus.example/web/v1")
    with pytest.raises(StopDaemon, match="unencrypted"), syncing(site):
        pass


def test_requests_keep_the_rate_that_intempus_allows() -> None:
    pace = master_api._Pace(3, 0.2)

    async def take(turns: int) -> float:
        begin = time.monotonic()
        for _ in range(turns):
            await pace.turn()
        return time.monotonic() - begin

    assert asyncio.run(take(7)) >= 0.4


def test_a_case_that_we_may_not_see_any_more_stays(
    synced: Synced, intempus: Intempus, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = intempus.create(name="Kept")["id"]
    eventually(synced.names)

    async def forbidden(session: MasterSession, number: int) -> Any:
        raise RefusedByPartner("Intempus refuses", status=403)

    monkeypatch.setattr(MasterSession, "get", forbidden)
    intempus.delete(kept)
    assert synced.api.post("/case/sync").json() == {"seen": 0, "missed": 0, "deleted": 0}
    assert synced.names() == {kept: "Kept"}


# to there


def test_a_case_made_through_our_api_stands_there_and_here(synced: Synced, intempus: Intempus) -> None:
    answer = synced.api.post("/case", json={"name": "Pump", "customer": "/web/v1/customer/77/"})
    assert answer.status_code == 201, answer.text
    made = answer.json()
    assert made["logical_timestamp"] > 42
    there = intempus.case(made["id"])
    assert there is not None
    assert there["name"] == "Pump"
    assert synced.names() == {made["id"]: "Pump"}
    assert answer.headers["tidegate-local"] == "loaded"
    assert synced.api.get(answer.headers["location"]).json() == made
    assert synced.api.get("/case").json()["objects"] == [made]


def test_put_changes_it_there_and_here(synced: Synced, intempus: Intempus) -> None:
    made = synced.api.post("/case", json={"name": "Pump", "notes": "leaks"}).json()
    changed = synced.api.put(f"/case/{made['id']}", json={"name": "Pump P-101", "notes": None}).json()
    assert intempus.case(made["id"])["name"] == "Pump P-101"  # type: ignore[index]
    assert synced.api.get(f"/case/{made['id']}").json() == changed
    assert (synced.cases()[made["id"]]["name"], synced.cases()[made["id"]]["notes"]) == ("Pump P-101", None)
    # As a client does that reads, edits and writes the whole.
    again = synced.api.put(f"/case/{made['id']}", json={**changed, "name": "Pump P-102"})
    assert (again.status_code, again.json()["name"]) == (200, "Pump P-102")


def test_delete_deletes_there_and_here(synced: Synced, intempus: Intempus) -> None:
    made = synced.api.post("/case", json={"name": "Pump"}).json()
    assert synced.api.delete(f"/case/{made['id']}").status_code == 204
    assert intempus.case(made["id"]) is None
    assert synced.cases()[made["id"]]["deleted_at"] is not None
    assert "deleted" in problem(synced.api.get(f"/case/{made['id']}"), 404)["detail"]
    assert synced.api.get("/case").json()["meta"]["total_count"] == 0
    assert synced.api.delete(f"/case/{made['id']}").status_code == 204
    eventually(lambda: ("deleted", made["id"]) in synced.sent())


def test_a_case_that_is_gone_there_already_is_deleted_here(synced: Synced, intempus: Intempus) -> None:
    made = synced.api.post("/case", json={"name": "Pump"}).json()
    intempus.delete(made["id"])
    assert synced.api.delete(f"/case/{made['id']}").status_code == 204
    assert synced.names() == {}


def test_the_masters_refusal_is_a_problem_with_its_status_and_fields(synced: Synced, intempus: Intempus) -> None:
    refused = problem(synced.api.post("/case", json={"notes": "no name"}), 400)
    assert refused["fields"] == {"name": ["This field is required."]}
    assert "name: This field is required." in refused["detail"]
    said = problem(synced.api.post("/case", json={"name": "x", "customer": "77"}), 400)
    assert "customer" in said["detail"]
    problem(synced.api.put("/case/1", json={"name": "x"}), 404)
    made = synced.api.post("/case", json={"name": "Pump"}).json()
    intempus.related.add(made["id"])
    assert "related" in problem(synced.api.delete(f"/case/{made['id']}"), 409)["detail"]
    assert synced.names() == {made["id"]: "Pump"}


def test_too_many_requests_are_told_with_their_retry_after(synced: Synced, intempus: Intempus) -> None:
    intempus.faults.throttle_rate, intempus.faults.retry_after_seconds = 1, 77
    answer = synced.api.post("/case", json={"name": "Pump"})
    problem(answer, 429)
    assert answer.headers["retry-after"] == "77"


@pytest.mark.parametrize("fault", ["lose_rate", "cut_rate", "garble_rate"])
def test_a_create_whose_answer_is_lost_makes_one_case(
    synced: Synced, intempus: Intempus, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    intempus.faults.hang_seconds = 0.1
    intempus.faults.methods, intempus.faults.times = ["POST"], 1
    setattr(intempus.faults, fault, 1)
    answer = synced.api.post("/case", json={"name": "Pump"}, headers={"Idempotency-Key": '"k-1"'})
    if answer.status_code != 201:  # half an answer that looks whole is no reason to ask again at once
        problem(answer, 503)
    again = synced.api.post("/case", json={"name": "Pump"}, headers={"Idempotency-Key": '"k-1"'})
    assert again.status_code == 201
    assert len(intempus.cases) == 1


def test_a_write_that_cannot_be_loaded_here_is_repaired_by_the_sync(
    site: Site, intempus: Intempus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(master_module, "LOAD_SECONDS", 0.1)
    configured(site, intempus)
    with syncing(site) as synced:
        answer = synced.api.post("/case", json={"name": "Pump"})
        assert (answer.status_code, answer.headers["tidegate-local"]) == (201, "waiting")
        assert len(intempus.cases) == 1
        for path in site.waiting():
            path.unlink()
    with whole(site) as synced:
        assert synced.api.post("/case/sync").status_code == 200
        eventually(lambda: list(synced.names().values()) == ["Pump"])


def test_a_write_waits_for_no_look_of_any_daemon(
    site: Site, intempus: Intempus, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks, go_on = threading.Event(), threading.Event()
    original = Master._listed

    async def slow(master: Master, pages: Any) -> ListedPage | None:
        looks.set()
        await asyncio.to_thread(go_on.wait, 20)
        return await original(master, pages)

    monkeypatch.setattr(Master, "_listed", slow)
    monkeypatch.setattr(master_module, "LOAD_SECONDS", 0.5)
    monkeypatch.setattr(connections, "LOCK_WAIT_SECONDS", 0.2)
    second = Site(configured(site, intempus).settings.model_copy(update={"api_port": free_port()}))
    with syncing(site) as one, syncing(second) as other:
        try:
            assert looks.wait(20)
            for daemon in (one, other):
                answer = daemon.api.post("/case", json={"name": "Pump"})
                assert (answer.status_code, answer.headers["tidegate-local"]) == (201, "waiting")
            assert site.waiting() == [], "nobody looks between"
        finally:
            go_on.set()
        eventually(lambda: len(site.waiting()) == 1, what="the look that was held up")
        assert len(json.loads(site.waiting()[0].read_text())["objects"]) == 2


def test_pages_of_cases(synced: Synced, intempus: Intempus) -> None:
    made = [intempus.create(name=f"Case {n}")["id"] for n in range(5)]
    eventually(lambda: len(synced.names()) == 5)
    first = synced.api.get("/case", params={"limit": 2}).json()
    assert first["meta"] == {"limit": 2, "offset": 0, "total_count": 5, "next": f"/case?limit=2&after={made[1]}", "previous": None}  # noqa: E501  # fmt: skip
    seen, following = [case["id"] for case in first["objects"]], first["meta"]["next"]
    while following:
        page = synced.api.get(following).json()
        seen += [case["id"] for case in page["objects"]]
        following = page["meta"]["next"]
    assert seen == made
    assert [one["id"] for one in synced.api.get("/case", params={"offset": 3}).json()["objects"]] == made[3:]
    problem(synced.api.get("/case", params={"limit": 0}), 422)
    problem(synced.api.get("/case/1"), 404)
    problem(synced.api.get(f"/case/{10**30}"), 422)


def test_without_intempus_cases_can_be_read_and_not_written(site: Site) -> None:
    site.settings = site.settings.model_copy(update={"api_port": free_port(), "api_token": SecretStr(TOKEN)})
    with syncing(site) as synced:
        assert [state.name for state in synced.states()] == ["api"]
        assert synced.api.get("/case").json()["objects"] == []
        assert "INTEMPUS_API_USER" in problem(synced.api.post("/case", json={"name": "x"}), 503)["hint"]


def test_writing_needs_the_token(synced: Synced, intempus: Intempus) -> None:
    for method, path in [("POST", "/case"), ("PUT", "/case/1"), ("DELETE", "/case/1"), ("POST", "/case/sync")]:
        problem(synced.api.request(method, path, json={}, headers={"Authorization": ""}), 401)
    assert all(request.method == "GET" for request in intempus.received)


def test_a_body_is_not_read_before_the_token(site: Site) -> None:
    site.settings = site.settings.model_copy(update={"api_port": free_port(), "api_token": SecretStr(TOKEN)})
    with syncing(site) as synced:
        problem(synced.api.post("/case", content="{", headers=JSON | {"Authorization": ""}), 401)
        with socket.create_connection((synced.api.base_url.host, site.settings.api_port), timeout=10) as raw:
            raw.sendall(
                b"POST /case HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n"
            )
            assert raw.recv(100).startswith(b"HTTP/1.1 401 ")


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ("{", 422),
        ("[]", 422),
        ('{"name": NaN}', 422),
        ('{"name": 1e400}', 422),
        (r'{"name": "\ud800"}', 422),
        ("[" * 100_000, 422),
        (b'{"name": "\xff"}', 422),
        (b" " * (bodies.MAX_OBJECT_BYTES + 1), 413),
        ([b" " * bodies.MAX_OBJECT_BYTES, b" "], 413),  # without a length that tells
    ],
)
def test_a_body_that_cannot_be_sent_on_is_refused(
    synced: Synced, intempus: Intempus, body: str | bytes | list[bytes], status: int
) -> None:
    for method, path in [("POST", "/case"), ("PUT", "/case/1")]:
        content = iter(body) if isinstance(body, list) else body
        problem(synced.api.request(method, path, content=content, headers=JSON), status)
    assert all(request.method == "GET" for request in intempus.received)


def test_the_page_shows_what_a_write_takes(synced: Synced) -> None:
    paths = synced.api.get("/openapi.json").json()["paths"]
    for operation in (paths["/case"]["post"], paths["/case/{number}"]["put"]):
        assert operation["requestBody"]["content"]["application/json"]["example"]["name"]


def test_the_commands_of_the_page_work(synced: Synced) -> None:
    text = (ROOT / "docs" / "api.md").read_text()
    commands = "\n".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL))
    commands = commands.replace("http://127.0.0.1:9001", str(synced.api.base_url).rstrip("/"))
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands],
        env={**os.environ, "API_TOKEN": TOKEN}, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    eventually(lambda: list(synced.names().values()) == ["Replace bearing on pump P-101"])
    eventually(lambda: "van-21" in {row["vehicle_id"] for row in synced.site.rows("vehicles_status")})


# the whole, from outside


def test_a_daemon_as_a_process_of_its_own(site: Site, intempus: Intempus) -> None:
    configured(site, intempus)
    arrived = intempus.create(name="Made there")["id"]
    killed = site.start(API_TOKEN=TOKEN)
    url = f"http://127.0.0.1:{site.settings.api_port}"
    with httpx.Client(base_url=url, headers=BEARER, timeout=30) as api:
        eventually(lambda: answers(api), timeout=40, what="the daemon answers")
        made = api.post("/case", json={"name": "Pump"})
        assert (made.status_code, made.headers["tidegate-local"]) == (201, "loaded")
        eventually(lambda: api.get(f"/case/{arrived}").status_code == 200, what="it arrives")
        eventually(lambda: "http://127.0.0.1" in site.fork("status"), what="the API in status")
        site.stop(killed, signal.SIGKILL)
        intempus.delete(arrived)
        again = site.start(API_TOKEN=TOKEN)
        eventually(lambda: answers(api), timeout=40, what="the daemon answers again")
        assert api.post("/case/sync").json()["deleted"] == 1
        eventually(lambda: api.get(f"/case/{arrived}").status_code == 404, what="it goes")
        assert site.stop(again) == 0
    assert TOKEN not in site.log()
    assert intempus.key not in site.log()
