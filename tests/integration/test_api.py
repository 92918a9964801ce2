"""The API's webhooks: stored before answered, loaded once, and every refusal a problem that says what to do."""

import contextlib
import gzip
import json
import re
import signal
import socket
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import psycopg
import pytest
from fastapi import FastAPI
from hypothesis import given, strategies as st
from pydantic import SecretStr

import flows
from commands.site import Site as Assembly
from file_processing.inbound.formats import detect
from services.api import app as api_app, idempotency, server
from services.api.access import Access
from services.api.problems import Problem
from services.db import engine as databases
from services.files.durable import Temporary, temporary_name
from services.ledger import receipts
from services.runtime import status_file
from services.runtime.status_file import JobPhase
from services.runtime.supervisor import Job, Supervisor, Tell
from settings import Settings
from tests.support import api_fault_points, processes
from tests.support.by_path import folder_at
from tests.support.processes import ROOT
from tests.support.sites import Site, free_port, running
from tests.support.waiting import eventually

TOKEN = "correct horse battery"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
JSON = {"Content-Type": "application/json"}
T1 = "2022-05-05T22:02:34Z"


def report(vehicle: str, status: object = "driving") -> dict[str, object]:
    return {"vehicle_id": vehicle, "report_time": T1, "status": status}


@contextmanager
def served(settings: Settings, *, hosts: Iterable[str] = (), max_bytes: int = 1 << 20) -> Iterator[httpx.Client]:
    """The API of a site, alone: what loads its files is another matter."""
    port = free_port()
    with (
        databases.open_database(settings) as database,
        status_file.publish(settings.data_dir, node="test", input_dir=settings.input_dir) as publisher,
    ):
        known = flows.discover()
        access = Access(SecretStr(TOKEN), hosts)
        app = api_app.create_app(
            known,
            Assembly(settings, known, database).connection,
            {name: detect.media_types(flow) for name, flow in known.items()},
            input_dir=settings.input_dir,
            max_bytes=max_bytes,
            access=access,
            state=lambda: publisher.state,
        )

        async def run(tell: Tell) -> float:
            return await server.serve(app, access, host="127.0.0.1", port=port, tell=tell)

        supervisor = Supervisor([Job("api", run)])
        supervisor.start()
        try:
            eventually(lambda: supervisor.states()[0].phase is JobPhase.RUNNING, what="the API listens")
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=BEARER, timeout=20) as client:
                yield client
        finally:
            supervisor.stop()


@pytest.fixture
def api(site: Site) -> Iterator[httpx.Client]:
    with served(site.settings) as client:
        yield client


def problem(response: httpx.Response, status: int) -> dict[str, Any]:
    """The problem details of a refusal (RFC 9457)."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    said: dict[str, Any] = response.json()
    assert said["status"] == status
    assert {"type", "title", "detail", "instance"} <= said.keys()
    return said


def became(api: httpx.Client, location: str) -> dict[str, Any]:
    """What became of a body, once it is no longer waiting."""
    found = eventually(
        lambda: (answer := api.get(location).json())["status"] != "waiting" and answer, what="the file is loaded"
    )
    assert isinstance(found, dict)
    return found


# what is stored, and what became of it


def test_a_body_is_a_file_in_its_flows_folder_when_the_answer_comes(site: Site, api: httpx.Client) -> None:
    body = json.dumps([report("a")])
    answer = api.post("/inbound/vehicle_status", content=body, headers=JSON)
    assert answer.status_code == 202
    (path,) = site.waiting()
    assert path == site.input / "vehicle_status" / answer.json()["name"]
    assert path.read_text() == body
    assert answer.headers["location"] == answer.json()["location"] == f"/inbound/{answer.json()['id']}"
    waiting = api.get(answer.json()["location"]).json()
    assert (waiting["status"], waiting["ledger_id"], waiting["bytes"]) == ("waiting", None, len(body))


def test_a_receipt_tells_what_became_of_the_body(site: Site, api: httpx.Client) -> None:
    with running(site):
        sent = api.post("/inbound/vehicle_status", json=[report("a"), report("b", 5)]).json()
        found = became(api, sent["location"])
        (line,) = site.settled(1)
    assert (found["status"], found["ledger_id"], found["flow"]) == ("partial", line["id"], "vehicle_status")
    assert found["counts"] == {
        "records": 2, "inserted": 1, "updated": 0, "unchanged": 0, "stale": 0, "rejected": 1,
    }  # fmt: skip
    (error,) = found["errors"]
    assert (error["record"], error["pointer"]) == (1, "/1/status")
    assert error["reason"]


def test_a_body_that_is_no_json_is_rejected_with_its_reason(site: Site, api: httpx.Client) -> None:
    with running(site):
        sent = api.post("/inbound/vehicle_status", content='[{"vehicle_id"', headers=JSON).json()
        found = became(api, sent["location"])
    assert found["status"] == "rejected"
    assert found["error"]


def test_the_same_body_again_is_a_duplicate(site: Site, api: httpx.Client) -> None:
    with running(site):
        first, second = (api.post("/inbound/vehicle_status", json=[report("a")]).json() for _ in range(2))
        original = became(api, first["location"])
        found = became(api, second["location"])
    assert (original["status"], found["status"]) == ("loaded", "duplicate")
    assert found["duplicate_of"] == original["ledger_id"]


@pytest.mark.parametrize(
    ("kind", "body", "suffix"),
    [
        ("application/json; charset=utf-8", json.dumps([report("a"), report("b")]), ".json"),
        ("application/cloudevents+json", json.dumps([report("a"), report("b")]), ".json"),
        ("application/x-ndjson", f"{json.dumps(report('a'))}\n{json.dumps(report('b'))}\n", ".jsonl"),
        ("application/jsonl", f"{json.dumps(report('a'))}\n{json.dumps(report('b'))}\n", ".jsonl"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_forms_of_a_body(site: Site, api: httpx.Client, kind: str, body: str, suffix: str, packed: bool) -> None:
    content = gzip.compress(body.encode()) if packed else body.encode()
    headers = {"Content-Type": kind} | ({"Content-Encoding": "gzip"} if packed else {})
    with running(site):
        sent = api.post("/inbound/vehicle_status", content=content, headers=headers).json()
        assert sent["name"].endswith(suffix + ".gz" * packed)
        found = became(api, sent["location"])
    assert (found["status"], found["counts"]["inserted"]) == ("loaded", 2)


@pytest.mark.parametrize(
    ("kind", "sample"),
    [("application/edifact", "orders_2026-01-31.edi"), ("application/edi-x12", "order_850_2026-01-31.x12")],
)
def test_edi_for_a_flow_that_takes_it(site: Site, api: httpx.Client, kind: str, sample: str) -> None:
    body = (ROOT / "sample_files" / "orders" / sample).read_bytes()
    with running(site):
        sent = api.post("/inbound/orders", content=body, headers={"Content-Type": kind})
        assert sent.status_code == 202, sent.text
        found = became(api, sent.json()["location"])
    assert found["status"] == "loaded", found
    assert site.rows("orders")


def test_a_gzip_bomb_is_rejected_by_the_loader(site: Site, api: httpx.Client) -> None:
    site.settings = site.settings.model_copy(update={"max_file_bytes": 100_000})
    bomb = gzip.compress(b"[" + b" " * 1_000_000 + b"]")
    with running(site):
        headers = {"Content-Encoding": "gzip", **JSON}
        found = became(api, api.post("/inbound/vehicle_status", content=bomb, headers=headers).json()["location"])
    assert found["status"] == "rejected"
    assert "MAX_FILE_BYTES" in found["error"]


# refusals


def test_no_token_or_a_wrong_one(site: Site, api: httpx.Client) -> None:
    for headers in ({"Authorization": ""}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {TOKEN}"}):
        for answer in (
            api.post("/inbound/vehicle_status", json=[report("a")], headers=headers),
            api.get("/inbound/1", headers=headers),
        ):
            assert "API_TOKEN" in problem(answer, 401)["hint"]
            assert answer.headers["www-authenticate"] == "Bearer"
    assert site.waiting() == []


def test_an_unknown_flow_names_the_known_ones(api: httpx.Client) -> None:
    refused = problem(api.post("/inbound/../secrets", json=[]), 404)
    refused = problem(api.post("/inbound/vehicles", json=[]), 404)
    assert "vehicle_status" in refused["hint"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content-Type": "text/csv"}, 415),
        ({"Content-Type": ""}, 415),
        ({"Content-Type": "application/edifact"}, 415),
        (JSON | {"Content-Encoding": "br"}, 415),
        (JSON | {"Idempotency-Key": "unquoted"}, 400),
        (JSON | {"Idempotency-Key": '""'}, 400),
        (JSON | {"Idempotency-Key": f'"{"k" * 256}"'}, 400),
    ],
)
def test_headers_that_are_refused(site: Site, api: httpx.Client, headers: dict[str, str], status: int) -> None:
    assert problem(api.post("/inbound/vehicle_status", content="[]", headers=headers), status)["hint"]
    assert site.waiting() == []


def test_an_empty_body_is_refused(site: Site, api: httpx.Client) -> None:
    assert problem(api.post("/inbound/vehicle_status", content="", headers=JSON), 400)["hint"]
    assert site.waiting() == []


@pytest.mark.parametrize("announced", [True, False])
def test_a_body_that_is_too_large(site: Site, announced: bool) -> None:
    body = b"[" + b" " * 60_000 + b"]"
    with served(site.settings, max_bytes=50_000) as api:
        content = body if announced else iter([body[:30_000], body[30_000:]])
        refused = problem(api.post("/inbound/vehicle_status", content=content, headers=JSON), 413)
    assert "MAX_FILE_BYTES" in refused["detail"]
    assert site.waiting() == []


def test_whatever_is_not_there_is_a_problem(api: httpx.Client) -> None:
    assert problem(api.get("/nothing"), 404)["hint"]
    problem(api.delete("/inbound/1"), 405)
    problem(api.get("/inbound/99"), 404)
    refused = problem(api.get("/inbound/xyz"), 422)
    assert refused["errors"] == [{"detail": refused["errors"][0]["detail"], "parameter": "receipt"}]


def test_a_database_that_is_away_asks_to_come_again(site: Site) -> None:
    away = site.settings.model_copy(update={"database_url": SecretStr(f"postgresql://127.0.0.1:{free_port()}/x")})
    with served(away) as api:
        answer = api.post("/inbound/vehicle_status", json=[report("a")])
    problem(answer, 503)
    assert int(answer.headers["retry-after"]) > 0
    assert site.waiting() == []


def test_a_mistake_of_ours_tells_nothing_of_itself(
    site: Site, api: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.ledger.receipts.issue", lambda *_, **__: 1 / 0)
    refused = problem(api.post("/inbound/vehicle_status", json=[report("a")]), 500)
    assert "ZeroDivision" not in json.dumps(refused)
    assert site.waiting() == []


# Idempotency-Key


def keyed(api: httpx.Client, key: str, body: object, flow: str = "vehicle_status") -> httpx.Response:
    return api.post(f"/inbound/{flow}", json=body, headers={"Idempotency-Key": f'"{key}"'})


@given(st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=100))
def test_a_key_is_any_structured_string(key: str) -> None:
    quoted = key.replace("\\", r"\\").replace('"', r"\"")
    assert idempotency.key_of([f'"{quoted}"']) == key


@given(st.lists(st.text(), max_size=2))
def test_whatever_else_stands_there_is_refused_as_a_problem(headers: list[str]) -> None:
    with contextlib.suppress(Problem):
        assert idempotency.key_of(headers) or not headers


def test_the_same_key_and_body_get_the_same_answer_and_one_file(site: Site, api: httpx.Client) -> None:
    first, second = (keyed(api, "k-1", [report("a")]) for _ in range(2))
    assert (first.status_code, second.status_code) == (202, 202)
    assert first.json() == second.json()
    assert len(site.waiting()) == 1


def test_a_key_still_answers_when_its_file_is_loaded(site: Site, api: httpx.Client) -> None:
    with running(site):
        first = keyed(api, "k-1", [report("a")]).json()
        became(api, first["location"])
        assert keyed(api, "k-1", [report("a")]).json() == first
        assert len(site.settled(1)) == 1


def test_a_key_belongs_to_one_body_of_one_flow(site: Site, api: httpx.Client) -> None:
    keyed(api, "k-1", [report("a")])
    assert problem(keyed(api, "k-1", [report("b")]), 422)["hint"]
    assert keyed(api, "k-1", [], flow="work_orders").status_code == 202
    assert len(site.waiting()) == 2


def test_a_key_in_flight_is_a_conflict(site: Site, api: httpx.Client) -> None:
    half, go_on = threading.Event(), threading.Event()
    answers: list[httpx.Response] = []

    def body() -> Iterator[bytes]:
        yield b"["
        half.set()
        go_on.wait(20)
        yield b"]"

    def send() -> None:
        headers = JSON | {"Idempotency-Key": '"k-1"'}
        answers.append(api.post("/inbound/vehicle_status", content=body(), headers=headers))

    thread = threading.Thread(target=send)
    thread.start()
    try:
        assert half.wait(20)
        eventually(lambda: len(site.waiting()) == 1, what="the first body is on its way")
        problem(keyed(api, "k-1", []), 409)
    finally:
        go_on.set()
        thread.join(20)
    assert answers[0].status_code == 202
    assert keyed(api, "k-2", []).status_code == 202


def test_a_key_in_flight_at_another_daemon_is_a_conflict(site: Site) -> None:
    body = {"flow": "vehicle_status", "name": "a.json", "sha256": b"1", "bytes": 1, "key": "k-1"}
    with psycopg.connect(site.url) as one, psycopg.connect(site.url) as other:

        def meanwhile() -> None:
            with pytest.raises(receipts.InFlight):
                receipts.issue(other, place=lambda: None, **body)  # type: ignore[arg-type]

        first = receipts.issue(one, place=meanwhile, **body)  # type: ignore[arg-type]
        assert receipts.issue(other, place=meanwhile, **body) == first  # type: ignore[arg-type]


# going back to an earlier state


def customer(name: str) -> dict[str, object]:
    number = "3f2c1d5e-0000-4000-8000-000000000001"
    return {"id": number, "name": name, "email": "a@example.com", "created_at": T1}


@pytest.mark.parametrize("keys", [("1", "2", "3"), (None, None, None)])
def test_who_goes_back_to_an_earlier_state_is_heard(
    site: Site, api: httpx.Client, keys: tuple[str | None, ...]
) -> None:
    with running(site):
        for key, name in zip(keys, ("Ann", "Bea", "Ann"), strict=True):
            headers = {"Idempotency-Key": f'"{key}"'} if key else {}
            sent = api.post("/inbound/customers", json=[customer(name)], headers=headers).json()
            assert became(api, sent["location"])["status"] == "loaded"
            assert [row["name"] for row in site.rows("customers")] == [name]


def test_a_repeat_is_no_way_back(site: Site, api: httpx.Client) -> None:
    with running(site):
        for key, name in (("1", "Ann"), ("2", "Bea")):
            became(api, keyed(api, key, [customer(name)], flow="customers").json()["location"])
        again = keyed(api, "1", [customer("Ann")], flow="customers").json()
        # A crash before the receipt was committed: the file is loaded, and nobody knows its key.
        site.execute("delete from tidegate.receipt where idempotency_key = '1'")
        unknown = keyed(api, "1", [customer("Ann")], flow="customers").json()
        assert unknown["id"] != again["id"]
        assert unknown["name"] == again["name"]
        site.settled(3)
    assert [line["status"] for line in site.ledger()] == ["loaded", "loaded", "duplicate"]
    assert [row["name"] for row in site.rows("customers")] == ["Bea"]


# crashes and ends


def test_a_folder_that_takes_no_file_asks_to_come_again(site: Site, api: httpx.Client) -> None:
    (site.input / "vehicle_status").write_text("in the way")
    refused = problem(api.post("/inbound/vehicle_status", json=[report("a")]), 503)
    assert "permissions" in refused["hint"]


def test_a_client_that_hangs_up_leaves_nothing(site: Site, api: httpx.Client) -> None:
    with socket.create_connection((api.base_url.host, api.base_url.port or 0)) as raw:
        raw.sendall(
            b"POST /inbound/vehicle_status HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Authorization: Bearer " + TOKEN.encode() + b"\r\nContent-Length: 1000\r\n\r\n[" + b" " * 100
        )
        eventually(lambda: len(site.waiting()) == 1, what="the body is on its way")
    eventually(lambda: not site.waiting(), what="nothing is left")


@pytest.mark.parametrize("point", api_fault_points.WEBHOOK)
def test_kill_9_in_a_webhook_and_a_repeat_load_once(site: Site, point: str) -> None:
    body = [{"vehicle_id": "a", "detection_time": T1, "detections": [{"object_type": "cars", "object_value": 4}]}]
    port, folder = free_port(), site.input.parent
    killed = processes.start(
        "run",
        environment=site.environment | {"API_TOKEN": TOKEN, "API_PORT": str(port)},
        folder=folder,
        log=folder / "killed.log",
        faults=api_fault_points.__name__,
        point=point,
    )
    site.processes.append(killed)
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=BEARER, timeout=20) as dying:
        eventually(lambda: answers(dying), timeout=30, what="the daemon to be killed answers")
        with pytest.raises(httpx.TransportError):
            keyed(dying, "k-1", body, flow="detection_events")
    assert killed.wait(20) == -signal.SIGKILL
    with served(site.settings) as api, running(site):
        sent = keyed(api, "k-1", body, flow="detection_events")
        assert sent.status_code == 202
        assert became(api, sent.json()["location"])["status"] in ("loaded", "duplicate")
        assert [line["status"] for line in site.settled(1)].count("loaded") == 1
    assert len(site.rows("objects_detection")) == 1


def answers(client: httpx.Client) -> bool:
    try:
        return client.get("/healthz").status_code == 200
    except httpx.TransportError:
        return False


def test_what_a_crash_left_of_a_body_is_removed_and_what_others_still_write_is_not(site: Site) -> None:
    folder = site.input / "vehicle_status"
    folder.mkdir()
    (folder / temporary_name()).touch()
    with folder_at(folder) as opened, Temporary(opened) as others, running(site):
        eventually(lambda: site.waiting() == [others.entry.path], what="the removal")


def test_a_port_in_use_is_a_sentence_and_no_end(site: Site) -> None:
    told: list[str] = []
    access = Access(SecretStr(TOKEN), ())
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        async def run(tell: Tell) -> float:
            return await server.serve(FastAPI(), access, host="127.0.0.1", port=port, tell=told.append)

        supervisor = Supervisor([Job("api", run)])
        supervisor.start()
        try:
            eventually(lambda: supervisor.states()[0].phase is JobPhase.FAILING)
            assert f"127.0.0.1:{port}" in supervisor.states()[0].detail
            assert "API_PORT" in supervisor.states()[0].hint
            taken.close()
            eventually(lambda: told, what="the API listens once the port is free")
        finally:
            supervisor.stop()


def test_the_page_of_all_operations(api: httpx.Client) -> None:
    described = api.get("/openapi.json").json()
    assert described["paths"]["/inbound/{flow}"]["post"]["requestBody"]["content"]["application/json"]["example"]
    assert "ProblemDetails" in described["components"]["schemas"]
    assert described["paths"]["/inbound/{flow}"]["post"]["security"]


def test_the_page_loads_nothing_from_elsewhere(api: httpx.Client) -> None:
    page = api.get("/docs").text
    parts = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert len(parts) == 3
    for part in parts:
        assert part.startswith("/static/")
        assert api.get(part).status_code == 200
