"""The stand-ins behave as their systems do, over real sockets: what a connector may rely on, and what it must bear."""

import asyncio
import importlib
import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit
from uuid import UUID, uuid4

import asyncssh
import httpx
import pytest
from pydantic import BaseModel

import flows
from tests.support.processes import ROOT
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from partners.crm import Crm
    from partners.erp import Erp
    from partners.intempus import Intempus
    from partners.inventory import Inventory
    from partners.partner1 import Partner1
    from partners.sftp import Sftp

ADA = {"name": "Ada Example", "email": "ada@example.com"}
ORDER = {
    "external_order_no": "PO-1",
    "customer": "partner1",
    "currency": "EUR",
    "lines": [
        {"line_number": 1, "sku": "BRG-6204", "quantity": "10.000000", "unit_price": "9.99"},
        {"line_number": 2, "sku": "GRS-1", "quantity": "0.5", "unit_price": None},
    ],
}


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def record_of(flow: str) -> type[BaseModel]:
    """What our flow takes from the partner."""
    record = flows.discover()[flow].record
    assert issubclass(record, BaseModel)
    return record


@pytest.fixture
def http() -> Iterator[httpx.Client]:
    with httpx.Client(timeout=10, trust_env=False) as client:
        yield client


# CRM


def test_crm_creates_a_customer_and_lists_all_as_a_bare_array(crm: "Crm", http: httpx.Client) -> None:
    created = http.post(f"{crm.url}/customers", json=ADA)
    assert created.status_code == 201
    assert created.json().keys() == {"id", "name", "email", "created_at"}
    UUID(created.json()["id"])
    crm.create("Bo Beispiel", "bo@example.com")
    listed = http.get(f"{crm.url}/customers").json()
    assert [customer["name"] for customer in listed] == ["Ada Example", "Bo Beispiel"]
    assert listed[0] == created.json()


def test_crm_refuses_a_known_email_and_a_wrong_body(crm: "Crm", http: httpx.Client) -> None:
    crm.create(**ADA)
    known = http.post(f"{crm.url}/customers", json=ADA)
    assert (known.status_code, known.json().keys()) == (409, {"detail"})
    assert http.post(f"{crm.url}/customers", json={"name": "A"}).status_code == 422
    assert len(crm.customers) == 1


def test_crm_posts_a_new_customer_to_its_webhook(crm: "Crm", inventory: "Inventory") -> None:
    crm.webhook, crm.webhook_token = f"{inventory.url}/nothing", "a-token"
    made = crm.create(**ADA)
    assert eventually(lambda: crm.told) == [(made["id"], 404)]
    (entry,) = inventory.received
    assert (entry.method, json.loads(entry.body)) == ("POST", made)
    assert entry.headers["authorization"] == "Bearer a-token"


# Inventory


def test_inventory_makes_a_package_for_each_post(inventory: "Inventory", http: httpx.Client) -> None:
    wanted = {"customer_id": str(uuid4()), "package_type": "welcome_package"}
    for _ in range(2):
        made = http.post(f"{inventory.url}/package-requests", json=wanted)
        assert made.status_code == 201
        assert made.json().keys() == {"request_id", "customer_id", "package_type", "status", "created_at"}
        assert made.json()["status"] == "pending"
    assert len(http.get(f"{inventory.url}/package-requests").json()) == 2
    assert len(inventory.of_customer(wanted["customer_id"])) == 2


def test_inventory_honours_an_idempotency_key(inventory: "Inventory", http: httpx.Client) -> None:
    inventory.idempotent = True
    wanted = {"customer_id": str(uuid4()), "package_type": "welcome_package"}

    def post(key: str | None, body: dict[str, str] = wanted) -> httpx.Response:
        headers = {} if key is None else {"Idempotency-Key": key}
        return http.post(f"{inventory.url}/package-requests", json=body, headers=headers)

    assert post(None).status_code == 400
    assert post("not-quoted").status_code == 400
    first = post('"8e03978e-40d5-43dd-bc93-6894a57f9324"')
    again = post('"8e03978e-40d5-43dd-bc93-6894a57f9324"')
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.json() == again.json()
    assert post('"8e03978e-40d5-43dd-bc93-6894a57f9324"', {**wanted, "package_type": "other"}).status_code == 422
    assert len(inventory.package_requests) == 1


def test_inventory_says_409_while_the_same_request_is_worked_on(inventory: "Inventory") -> None:
    inventory.idempotent, inventory.work_seconds = True, 0.3
    wanted = {"customer_id": str(uuid4()), "package_type": "welcome_package"}

    async def both() -> list[int]:
        async with httpx.AsyncClient(trust_env=False, headers={"Idempotency-Key": '"k"'}) as client:
            posts = (client.post(f"{inventory.url}/package-requests", json=wanted) for _ in range(2))
            return sorted(answer.status_code for answer in await asyncio.gather(*posts))

    assert asyncio.run(both()) == [201, 409]


# ERP


def test_erp_books_an_order_once(erp: "Erp", http: httpx.Client) -> None:
    booked = http.post(f"{erp.url}/api/orders", json=ORDER, headers=bearer(erp.token))
    assert (booked.status_code, booked.json().keys()) == (201, {"id", "number"})
    assert http.post(f"{erp.url}/api/orders", json=ORDER, headers=bearer(erp.token)).status_code == 409
    other = {**ORDER, "customer": "partner2"}
    assert http.post(f"{erp.url}/api/orders", json=other, headers=bearer(erp.token)).status_code == 201
    place = {"customer": "partner1", "external_order_no": "PO-1"}
    (found,) = http.get(f"{erp.url}/api/orders", params=place, headers=bearer(erp.token)).json()
    assert found["id"] == booked.json()["id"]
    assert found["currency"] == "EUR"
    place["external_order_no"] = "PO-2"
    assert http.get(f"{erp.url}/api/orders", params=place, headers=bearer(erp.token)).json() == []


def test_erp_wants_its_token(erp: "Erp", http: httpx.Client) -> None:
    for headers in ({}, bearer("wrong")):
        refused = http.post(f"{erp.url}/api/orders", json=ORDER, headers=headers)
        assert (refused.status_code, refused.headers["WWW-Authenticate"]) == (401, "Bearer")
    assert not erp.orders


def test_erp_names_the_lines_it_refuses(erp: "Erp", http: httpx.Client) -> None:
    erp.not_sold.add("GRS-1")
    refused = http.post(f"{erp.url}/api/orders", json=ORDER, headers=bearer(erp.token))
    assert refused.status_code == 422
    assert refused.json()["lines"] == [{"line_number": 2, "error": "the article is not sold"}]
    nothing = {**ORDER, "lines": [{"line_number": 7, "sku": "A", "quantity": "0"}]}
    refused = http.post(f"{erp.url}/api/orders", json=nothing, headers=bearer(erp.token))
    assert refused.status_code == 422
    assert [line["line_number"] for line in refused.json()["lines"]] == [7]
    assert "line 7: quantity" in refused.json()["detail"]
    assert http.post(f"{erp.url}/api/orders", json={}, headers=bearer(erp.token)).status_code == 422


def test_erp_commits_then_times_out(erp: "Erp", http: httpx.Client) -> None:
    erp.faults.lose_rate, erp.faults.times = 1, 1
    with pytest.raises(httpx.ReadTimeout):
        http.post(f"{erp.url}/api/orders", json=ORDER, headers=bearer(erp.token), timeout=0.2)
    assert erp.find("partner1", "PO-1") is not None
    assert http.post(f"{erp.url}/api/orders", json=ORDER, headers=bearer(erp.token)).status_code == 409
    assert [(entry.status, entry.fault) for entry in erp.received] == [(None, "lose"), (409, None)]


# Partner 1


def pages(partner1: "Partner1", http: httpx.Client, **query: Any) -> Iterator[dict[str, Any]]:
    page = 1
    while True:
        answer = http.get(f"{partner1.url}/orders", params={**query, "page": page}, headers=bearer(partner1.token))
        answer.raise_for_status()
        yield answer.json()
        page += 1
        if page > answer.json()["pages"]:
            return


def test_partner1_tells_its_orders_page_by_page(partner1: "Partner1", http: httpx.Client) -> None:
    partner1.seed(250)
    told = list(pages(partner1, http, per_page=100))
    assert [(page["page"], page["pages"], page["total"]) for page in told] == [(1, 3, 250), (2, 3, 250), (3, 3, 250)]
    numbers = [order["order_number"] for page in told for order in page["orders"]]
    assert numbers == [f"P1-{number:06}" for number in range(1, 251)]


def test_partner1_tells_what_changed_since(partner1: "Partner1", http: httpx.Client) -> None:
    partner1.seed(3)
    (first,) = pages(partner1, http)
    partner1.place({**partner1.orders["P1-000002"], "revised_at": first["as_of"], "currency": "DKK"})
    (second,) = pages(partner1, http, updated_since=first["as_of"])
    assert [(order["order_number"], order["currency"]) for order in second["orders"]] == [("P1-000002", "DKK")]
    assert http.get(f"{partner1.url}/orders").status_code == 401


def test_partner1_speaks_our_own_form(partner1: "Partner1", http: httpx.Client) -> None:
    partner1.seed(120)
    record = record_of("orders")
    for page in pages(partner1, http):
        for order in page["orders"]:
            record.model_validate(order)


# Intempus


@pytest.fixture
def cases(intempus: "Intempus") -> Iterator[httpx.Client]:
    key = f"ApiKey {intempus.user}:{intempus.key}"
    with httpx.Client(base_url=intempus.url, headers={"Authorization": key}, trust_env=False) as client:
        yield client


BASE = "/web/v1/case/"


def test_intempus_wants_user_and_key_as_they_are_written(intempus: "Intempus", http: httpx.Client) -> None:
    nobody = http.get(intempus.uri + "/case/")
    assert (nobody.status_code, nobody.content) == (401, b"")
    shouted = http.get(
        intempus.uri + "/case/", headers={"Authorization": f"ApiKey {intempus.user.upper()}:{intempus.key}"}
    )
    assert (shouted.status_code, shouted.json().keys()) == (401, {"error_message"})


def test_intempus_creates_with_a_placeholder_timestamp(intempus: "Intempus", cases: httpx.Client) -> None:
    created = cases.post(BASE, json={"name": "Roof", "customer": "/web/v1/customer/77/", "creation_id": "abc"})
    assert (created.status_code, created.json()["logical_timestamp"]) == (201, 42)
    kept = cases.get(created.json()["resource_uri"]).json()
    assert kept["logical_timestamp"] > 9_113_344_546
    assert kept["customer_id"] == "77"
    again = cases.post(BASE, json={"name": "Roof", "creation_id": "abc"})
    assert again.json()["id"] == created.json()["id"]
    assert len(intempus.cases) == 1


def test_intempus_updates_clears_and_deletes(intempus: "Intempus", cases: httpx.Client) -> None:
    case = intempus.create(name="Roof", start_date="2026-01-05")
    updated = cases.put(f"{BASE}{case['id']}/", json={"start_date": None, "notes": "later"})
    assert updated.status_code == 200
    assert (updated.json()["start_date"], updated.json()["notes"], updated.json()["name"]) == (None, "later", "Roof")
    assert updated.json()["logical_timestamp"] > case["logical_timestamp"]
    assert cases.delete(f"{BASE}{case['id']}/").status_code == 204
    for method in ("GET", "DELETE"):
        gone = cases.request(method, f"{BASE}{case['id']}/")
        assert (gone.status_code, gone.content) == (404, b"")
    assert cases.put(f"{BASE}{case['id']}/", json={"name": "x"}).status_code == 404


def test_intempus_refuses_in_three_forms(intempus: "Intempus", cases: httpx.Client) -> None:
    nameless = cases.post(BASE, json={"notes": "x"})
    assert (nameless.status_code, nameless.json()) == (400, {"case": {"name": ["This field is required."]}})
    lost = cases.post(BASE, json={"name": "x", "customer": "/web/v1/custmer/1/"})
    assert (lost.status_code, type(lost.json()["error"])) == (400, list)
    assert cases.post(BASE, content=b"{", headers={"content-type": "application/json"}).json().keys() == {"error"}
    case = intempus.create(name="Roof")
    intempus.related.add(case["id"])
    related = cases.delete(f"{BASE}{case['id']}/")
    assert (related.status_code, related.json().keys()) == (409, {"error_message"})


def seen_on_pages(client: httpx.Client, between: Callable[[], object], **query: Any) -> list[int]:
    following: str | None = BASE + "?" + str(httpx.QueryParams(query))
    seen: list[int] = []
    while following:
        page = client.get(following).json()
        seen += [case["id"] for case in page["objects"]]
        following = page["meta"]["next"]
        between()
    return seen


def test_intempus_pages_by_cursor_and_by_offset(intempus: "Intempus", cases: httpx.Client) -> None:
    ids = [intempus.create(name=f"Case {number}")["id"] for number in range(7)]
    for query in ({"pagination_type": "cursor"}, {}):
        assert seen_on_pages(cases, lambda: None, limit=3, **query) == ids
    page = cases.get(BASE, params={"limit": 3, "offset": 6}).json()
    assert page["meta"] == {"limit": 3, "offset": 6, "total_count": 7, "next": None, "previous": None}
    assert cases.get(BASE, params={"limit": 99_999}).json()["meta"]["limit"] == 10_000
    assert cases.get(BASE).json()["meta"]["limit"] == 1000


def test_intempus_skips_a_case_by_offset_when_others_go_and_not_by_cursor(
    intempus: "Intempus", cases: httpx.Client
) -> None:
    ids = [intempus.create(name=f"Case {number}")["id"] for number in range(9)]
    deleted = iter(ids[:2])
    assert ids[3] not in seen_on_pages(cases, lambda: intempus.delete(next(deleted, ids[8])), limit=3)
    more = iter(ids[2:4])
    left = set(map(int, intempus.cases))
    seen = seen_on_pages(cases, lambda: intempus.cases.pop(str(next(more, 0)), None), limit=2, pagination_type="cursor")
    assert set(map(int, intempus.cases)) <= set(seen) <= left


def test_intempus_tells_changes_since_a_timestamp(intempus: "Intempus", cases: httpx.Client) -> None:
    first, second = (intempus.create(name=name) for name in "ab")
    watermark = cases.get(BASE).headers["Logical-Timestamp"]
    assert int(watermark) == second["logical_timestamp"]
    assert cases.get(BASE, params={"logical_timestamp__gt": watermark}).json()["objects"] == []
    intempus.update(first["id"], notes="new")
    changed = cases.get(BASE, params={"logical_timestamp__gt": watermark, "limit": 1}).json()["objects"]
    assert [(case["id"], case["notes"]) for case in changed] == [(first["id"], "new")]


def test_intempus_embeds_some_relations(intempus: "Intempus", cases: httpx.Client) -> None:
    for number in range(6):
        intempus.create(name=f"Case {number}", customer="/web/v1/customer/77/")
    shapes = {type(case["customer"]) for case in cases.get(BASE).json()["objects"]}
    assert shapes == {str, dict}
    record = record_of("cases")
    for case in cases.get(BASE).json()["objects"]:
        record.model_validate(case)


def test_intempus_limits_the_rate(intempus: "Intempus", cases: httpx.Client) -> None:
    intempus.limits[60] = 3
    answers = [cases.get(BASE) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert 0 < int(answers[3].headers["Retry-After"]) <= 60


def test_intempus_can_name_another_origin(intempus: "Intempus", cases: httpx.Client) -> None:
    for number in range(2):
        intempus.create(name=f"Case {number}")
    intempus.next_origin = "https://elsewhere.example"
    following = urlsplit(cases.get(BASE, params={"limit": 1, "pagination_type": "cursor"}).json()["meta"]["next"])
    assert following.netloc == "elsewhere.example"
    assert parse_qs(following.query)["pagination_type"] == ["cursor"]


# faults


def test_faults_are_switched_at_run_time_and_end(crm: "Crm", http: httpx.Client) -> None:
    wanted = {"error_rate": 1, "error_status": 500, "times": 2}
    assert http.put(f"{crm.url}/_faults", json=wanted).json()["error_rate"] == 1
    assert [http.get(f"{crm.url}/customers").status_code for _ in range(3)] == [500, 500, 200]
    assert http.put(f"{crm.url}/_faults", json={"eror_rate": 1}).status_code == 422
    http.put(f"{crm.url}/_faults", json={})
    assert http.get(f"{crm.url}/_faults").json()["error_rate"] == 0


def test_throttled_answers_say_when_to_come_back(crm: "Crm", http: httpx.Client) -> None:
    crm.faults.throttle_rate, crm.faults.retry_after_seconds = 1, 7
    answer = http.post(f"{crm.url}/customers", json=ADA)
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, "7")
    assert not crm.customers


def test_a_fault_may_strike_some_methods_only(crm: "Crm", http: httpx.Client) -> None:
    crm.faults.error_rate, crm.faults.methods = 1, ["POST"]
    assert http.get(f"{crm.url}/customers").status_code == 200
    assert http.post(f"{crm.url}/customers", json=ADA).status_code == 503


def test_a_connection_is_cut_in_the_middle_of_the_answer(crm: "Crm", http: httpx.Client) -> None:
    crm.faults.cut_rate = 1
    with pytest.raises(httpx.RemoteProtocolError, match="without sending complete message body"):
        http.post(f"{crm.url}/customers", json=ADA)
    assert len(crm.customers) == 1


def test_a_garbled_answer_is_whole_http_and_half_json(crm: "Crm", http: httpx.Client) -> None:
    crm.create(**ADA)
    crm.faults.garble_rate = 1
    answer = http.get(f"{crm.url}/customers")
    assert answer.status_code == 200
    with pytest.raises(json.JSONDecodeError):
        answer.json()


def test_a_lost_answer_hangs_up_without_a_word(crm: "Crm", http: httpx.Client) -> None:
    crm.faults.lose_rate, crm.faults.hang_seconds = 1, 0
    with pytest.raises(httpx.RemoteProtocolError, match="without sending a response"):
        http.post(f"{crm.url}/customers", json=ADA)
    assert len(crm.customers) == 1


def test_an_outage_ends_on_the_same_port_with_nothing_forgotten(crm: "Crm", http: httpx.Client) -> None:
    crm.create(**ADA)
    assert http.get(f"{crm.url}/customers").status_code == 200
    crm.stop()
    with pytest.raises(httpx.TransportError):
        http.get(f"{crm.url}/customers")
    with pytest.raises(httpx.ConnectError):
        http.get(f"{crm.url}/customers")
    crm.start()
    assert len(http.get(f"{crm.url}/customers").json()) == 1


def test_an_outage_begins_at_once_while_an_answer_hangs(crm: "Crm") -> None:
    crm.faults.lose_rate, crm.faults.hang_seconds = 1, 60

    async def caught() -> None:
        async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
            pending = asyncio.create_task(client.get(f"{crm.url}/customers"))
            await asyncio.to_thread(eventually, lambda: crm.received)
            await asyncio.to_thread(crm.stop)
            with pytest.raises(httpx.TransportError):
                await pending

    asyncio.run(caught())


def test_what_came_is_told(crm: "Crm", http: httpx.Client) -> None:
    http.post(f"{crm.url}/customers?x=1", json=ADA, headers={"Idempotency-Key": '"k"'})
    (entry,) = http.get(f"{crm.url}/_received").json()
    assert (entry["method"], entry["path"], entry["query"], entry["status"]) == ("POST", "/customers", "x=1", 201)
    assert entry["headers"]["idempotency-key"] == '"k"'
    assert json.loads(entry["body"]) == ADA
    assert crm.received[0].status == 201
    assert http.delete(f"{crm.url}/_received").status_code == 204
    assert crm.received == []


# SFTP


async def connect(sftp_server: "Sftp", **options: Any) -> asyncssh.SSHClientConnection:
    user, password = next(iter(sftp_server.users.items()))
    known_hosts = asyncssh.import_known_hosts(options.pop("known_hosts", sftp_server.known_hosts))
    return await asyncssh.connect(
        sftp_server.host,
        sftp_server.sftp_port,
        username=user,
        known_hosts=known_hosts,
        config=None,
        **{"password": password, "client_keys": None, "agent_path": None, **options},
    )


def test_sftp_user_fetches_files_and_moves_them_away(sftp_server: "Sftp", tmp_path: Path) -> None:
    sftp_server.upload("order.edi", "UNB+")

    async def fetch() -> None:
        async with await connect(sftp_server) as connection, connection.start_sftp_client() as sftp:
            assert set(await sftp.listdir("/")) == {".", "..", "answers", "archive", "orders"}
            await sftp.get("/orders/order.edi", tmp_path / "order.edi")
            await sftp.rename("/orders/order.edi", "/archive/order.edi")
            async with sftp.open("/answers/answer.edi", "w") as file:
                await file.write("UNB+UNOC")

    asyncio.run(fetch())
    assert (tmp_path / "order.edi").read_text() == "UNB+"
    assert sftp_server.names("orders") == []
    assert (sftp_server.folder / "answers" / "answer.edi").read_text() == "UNB+UNOC"
    done = [(entry.operation, entry.path, entry.to, entry.bytes) for entry in sftp_server.received]
    assert done == [
        ("login", "", "", 0),
        ("read", "/orders/order.edi", "", 4),
        ("rename", "/orders/order.edi", "/archive/order.edi", 0),
        ("write", "/answers/answer.edi", "", 8),
    ]


def test_sftp_user_stays_below_the_folder(sftp_server: "Sftp") -> None:
    async def escape() -> None:
        async with await connect(sftp_server) as connection, connection.start_sftp_client() as sftp:
            assert await sftp.listdir("/../..") == await sftp.listdir("/")

    asyncio.run(escape())


def test_sftp_lets_in_by_password_or_key(sftp_server: "Sftp") -> None:
    key = asyncssh.generate_private_key("ssh-ed25519")

    async def login(**options: Any) -> None:
        async with await connect(sftp_server, **options):
            pass

    with pytest.raises(asyncssh.PermissionDenied):
        asyncio.run(login(password="wrong"))
    with pytest.raises(asyncssh.PermissionDenied):
        asyncio.run(login(password=None, client_keys=[key]))
    (user,) = sftp_server.users
    sftp_server.keys[user] = key.convert_to_public()
    asyncio.run(login(password=None, client_keys=[key]))
    sftp_server.faults.refuse_logins = True
    with pytest.raises(asyncssh.PermissionDenied):
        asyncio.run(login())


def test_sftp_host_key_changes_for_later_connections(sftp_server: "Sftp") -> None:
    before = sftp_server.known_hosts
    sftp_server.change_host_key()
    assert sftp_server.known_hosts != before

    async def login(known_hosts: str) -> None:
        async with await connect(sftp_server, known_hosts=known_hosts):
            pass

    with pytest.raises(asyncssh.HostKeyNotVerifiable):
        asyncio.run(login(before))
    asyncio.run(login(sftp_server.known_hosts))


def test_sftp_cuts_a_transfer_in_the_middle(sftp_server: "Sftp", tmp_path: Path) -> None:
    sftp_server.upload("large.edi", b"x" * 1_000_000)
    sftp_server.faults.cut_after_bytes, sftp_server.faults.times = 300_000, 1

    async def fetch() -> None:
        async with await connect(sftp_server) as connection, connection.start_sftp_client() as sftp:
            await sftp.get("/orders/large.edi", tmp_path / "large.edi")

    with pytest.raises((asyncssh.Error, OSError)):
        asyncio.run(fetch())
    asyncio.run(fetch())
    assert (tmp_path / "large.edi").stat().st_size == 1_000_000


def test_sftp_file_grows_while_it_is_uploaded(sftp_server: "Sftp") -> None:
    upload = sftp_server.begin_upload("slow.edi")
    upload.write(b"UNB+")
    assert sftp_server.names("orders") == ["slow.edi"]
    upload.write(b"UNOC")
    assert upload.finish().read_text() == "UNB+UNOC"


def test_sftp_outage_ends_on_the_same_port(sftp_server: "Sftp") -> None:
    async def login() -> None:
        async with await connect(sftp_server):
            pass

    async def lose() -> None:
        connection = await connect(sftp_server)
        await asyncio.to_thread(sftp_server.stop)
        await connection.wait_closed()

    asyncio.run(lose())
    with pytest.raises(ConnectionRefusedError):
        asyncio.run(login())
    sftp_server.start()
    asyncio.run(login())


def test_sftp_control_page(sftp_server: "Sftp", http: httpx.Client) -> None:
    assert http.put(f"{sftp_server.url}/files/orders/a.edi", content=b"UNB+").status_code == 201
    assert http.get(f"{sftp_server.url}/files/orders").json() == ["a.edi"]
    assert http.get(f"{sftp_server.url}/files/elsewhere").status_code == 404
    before = http.get(f"{sftp_server.url}/_known_hosts").json()
    assert http.post(f"{sftp_server.url}/_host_key").json() == sftp_server.known_hosts != before
    assert http.put(f"{sftp_server.url}/_faults", json={"cut_after_bytes": 10}).json()["cut_after_bytes"] == 10


# each alone

MODULES = sorted(path.stem for path in (ROOT / "partners").glob("*.py") if "= arguments(" in path.read_text())


def test_all_partner_systems_are_there() -> None:
    assert MODULES == ["crm", "erp", "intempus", "inventory", "partner1", "sftp"]


@pytest.mark.parametrize("module", MODULES)
def test_help_teaches(module: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", [f"partners.{module}", "--help"])
    with pytest.raises(SystemExit) as end:
        importlib.import_module(f"partners.{module}").main()
    assert end.value.code == 0
    assert {"--port", "--latency-seconds", "--times"} <= set(re.findall(r"--[\w-]+", capsys.readouterr().out))


def test_a_wrong_option_is_said_in_a_sentence() -> None:
    command = [sys.executable, "-m", "partners.crm", "--port", "0", "--error-rate", "2"]
    refused = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert refused.returncode != 0
    assert refused.stderr == "--error-rate 2: Input should be less than or equal to 1\n"


@pytest.mark.parametrize("module", MODULES)
def test_starts_alone_and_ends_on_ctrl_c(module: str, http: httpx.Client, tmp_path: Path) -> None:
    command = [sys.executable, "-m", f"partners.{module}", "--port", "0", "--latency-seconds", "0.01"]
    command += ["--sftp-port", "0", "--folder", str(tmp_path)] if module == "sftp" else []
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            line = next(line for line in process.stdout if "http://127.0.0.1:" in line)
            url = re.findall(r"http://127\.0\.0\.1:\d+", line)[0]
            page = eventually(lambda: http.get(f"{url}/openapi.json"))
            assert page.json()["info"]["description"]
            assert http.get(f"{url}/_faults").json()["latency_seconds"] == 0.01
            process.send_signal(signal.SIGINT)
            assert process.wait(10) == 0
            assert process.stderr.read() == ""
        finally:
            process.kill()


def test_state_file_outlives_the_process(tmp_path: Path) -> None:
    from partners.crm import Crm
    from partners.intempus import Intempus

    with Crm(state=tmp_path / "crm.sqlite") as crm:
        crm.create(**ADA)
        customers = dict(crm.customers)
    with Crm(state=tmp_path / "crm.sqlite") as crm:
        assert dict(crm.customers) == customers
    with Intempus(state=tmp_path / "intempus.sqlite") as intempus:
        first = intempus.create(name="a")
    with Intempus(state=tmp_path / "intempus.sqlite") as intempus:
        second = intempus.create(name="b")
    assert second["id"] > first["id"]
    assert second["logical_timestamp"] > first["logical_timestamp"]
