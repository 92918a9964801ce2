"""Polling partners over REST: what they have becomes files, once, whatever goes wrong on the way."""

import asyncio
import json
import zlib
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from models.errors import RetryLater, StopConnector
from partners.crm import Crm
from partners.partner1 import Partner1
from services.transport import http as rest
from tests.support.sites import Site, running
from tests.support.waiting import eventually

QUICK = "0.1"


@pytest.fixture
def customers(site: Site, crm: Crm) -> Site:
    site.connect(CRM_API_URL=crm.url, POLLING_INTERVAL_SECONDS=QUICK)
    return site


@pytest.fixture
def orders(site: Site, partner1: Partner1) -> Site:
    site.connect(PARTNER1_API_URL=partner1.url, PARTNER1_API_TOKEN=partner1.token, POLLING_INTERVAL_SECONDS=QUICK)
    return site


def connector(site: Site, name: str) -> dict[str, Any]:
    """What `status` says of a connector."""
    daemons = json.loads(site.call("status", "--json").stdout)["daemons"]
    return next((job for daemon in daemons for job in daemon["connectors"] if job["name"] == name), {})


def polled_again(partner: Crm | Partner1, times: int = 3) -> None:
    """Wait for whole further polls."""
    before = len(partner.received)
    eventually(lambda: len(partner.received) >= before + times, what="further polls")


def test_a_customer_of_the_crm_becomes_a_row(customers: Site, crm: Crm) -> None:
    crm.create("Ada", "ada@example.com")
    with running(customers):
        eventually(lambda: len(customers.rows("customers")) == 1, what="Ada")
        crm.create("Grace", "grace@example.com")
        eventually(lambda: len(customers.rows("customers")) == 2, what="Grace")
    assert {row["name"] for row in customers.rows("customers")} == {"Ada", "Grace"}


def test_an_unchanged_answer_writes_no_file(customers: Site, crm: Crm) -> None:
    crm.create("Ada", "ada@example.com")
    with running(customers):
        customers.settled(1)
        polled_again(crm)
    with running(customers):
        polled_again(crm)
    assert [line["status"] for line in customers.ledger()] == ["loaded"]


def test_a_partner_who_has_nothing_sends_no_file(customers: Site, crm: Crm) -> None:
    with running(customers):
        polled_again(crm)
        assert connector(customers, "customers/crm")["phase"] == "running"
    assert customers.ledger() == []


def test_what_goes_back_to_an_earlier_state_is_loaded_again(customers: Site, crm: Crm) -> None:
    ada = crm.create("Ada", "ada@example.com")

    def name() -> str:
        return str(customers.rows("customers")[0]["name"])

    with running(customers):
        customers.settled(1)
        for wanted in ("Countess", "Ada", "Countess"):
            crm.rename(ada["id"], wanted)
            eventually(lambda wanted=wanted: name() == wanted, what=wanted)  # type: ignore[misc]  # mypy: default


def test_ten_thousand_orders_over_a_hundred_pages_with_errors_arrive_once_each(
    orders: Site, partner1: Partner1
) -> None:
    partner1.seed(10_000)
    partner1.faults.error_rate = 0.1
    with running(orders):
        eventually(
            lambda: orders.query("select 1 from tidegate.cursor where state ->> 'since' is not null"), timeout=90
        )
        eventually(lambda: orders.query("select count(*) as n from orders")[0]["n"] == 10_000, timeout=60)
        partner1.faults.error_rate = 0
        polled_again(partner1)
    total = orders.query("select sum(inserted) as i, sum(updated) as u, sum(rejected) as r from tidegate.inbound_file")
    assert total == [{"i": 10_000, "u": 0, "r": 0}]


def test_the_next_walk_asks_for_what_changed_since(orders: Site, partner1: Partner1) -> None:
    partner1.seed(250)
    with running(orders):
        eventually(lambda: len(orders.rows("orders")) == 250, what="all orders")
        order = dict(next(iter(partner1.orders.values())))
        partner1.place(order | {"currency": "SEK", "revised_at": datetime.now(UTC).isoformat()})
        eventually(lambda: orders.query("select 1 from orders where currency = 'SEK'"), what="the revision")
        polled_again(partner1)
    assert len(orders.ledger()) == 4
    assert "updated_since" not in partner1.received[0].query
    assert "updated_since" in partner1.received[-1].query


@pytest.mark.parametrize("fault", ["cut_rate", "garble_rate", "throttle_rate"])
def test_a_partner_who_stumbles_is_asked_again(fault: str, orders: Site, partner1: Partner1) -> None:
    partner1.seed(250)
    partner1.faults.times = 2
    partner1.faults.retry_after_seconds = 0
    setattr(partner1.faults, fault, 1)
    with running(orders):
        eventually(lambda: len(orders.rows("orders")) == 250, timeout=20, what="all orders")
    assert len(orders.ledger()) == 3


def test_an_outage_is_told_once_and_ends_by_itself(customers: Site, crm: Crm) -> None:
    crm.create("Ada", "ada@example.com")
    crm.stop()
    with running(customers):
        eventually(
            lambda: connector(customers, "customers/crm").get("phase") == "failing", timeout=30, what="the fault"
        )
        assert "cannot be reached" in connector(customers, "customers/crm")["detail"]
        assert "customers/crm failing since" in customers.call("status").stdout
        crm.start()
        eventually(lambda: customers.rows("customers"), timeout=40, what="Ada")
        eventually(lambda: connector(customers, "customers/crm")["phase"] == "running", what="health")


def test_bad_credentials_stop_the_source_and_nothing_else(orders: Site, partner1: Partner1) -> None:
    orders.connect(PARTNER1_API_TOKEN="wrong-token-of-ours")
    with running(orders):
        stopped = eventually(
            lambda: (job := connector(orders, "orders/partner1")).get("phase") == "stopped" and job, what="the stop"
        )
        assert isinstance(stopped, dict)
        assert "bad credentials" in stopped["detail"]
        assert "PARTNER1_API_TOKEN" in stopped["hint"]
        orders.drop("w.json", {"vehicle_status": []}, flow="vehicle_status")
        orders.settled(1)
    assert len(partner1.received) == 1
    assert "wrong-token-of-ours" not in orders.call("status", "--json").stdout


def test_two_daemons_poll_once(customers: Site, crm: Crm) -> None:
    for name in ("Ada", "Grace"):
        crm.create(name, f"{name}@example.com")
    for _ in range(2):
        customers.start()
    customers.settled(1)
    polled_again(crm, 10)
    assert [line["status"] for line in customers.ledger()] == ["loaded"]


def test_a_half_configured_connector_stops_the_start_with_a_sentence(site: Site) -> None:
    refused = site.call("check", expect=2, PARTNER1_API_URL="http://127.0.0.1:1")
    assert "PARTNER1_API_URL is set, and PARTNER1_API_TOKEN is not" in refused.stderr


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("120", 120),
        ("Fri, 31 Dec 1999 23:59:59 GMT", 59),
        ("soon", 0),
        ("", 0),
        ("-5", 0),
        ("nan", 0),
        ("inf", 0),
        ("9" * 400, 3600),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 3600),
        (f"Fri, 31 Dec 1999 23:59:59 +{'9' * 30}", 0),
    ],
)
def test_retry_after_is_read_in_both_forms_and_obeyed_for_an_hour(value: str, seconds: float) -> None:
    assert rest.retry_after_seconds({"Retry-After": value}, datetime(1999, 12, 31, 23, 59, 0, tzinfo=UTC)) == seconds


@pytest.mark.parametrize("target", ["http://127.0.0.1:80:80/", "?after=\ud800", "\0"])
def test_what_is_no_address_is_told(target: str) -> None:
    with pytest.raises(RetryLater, match="no address"):
        rest.joined(httpx.URL("http://127.0.0.1/orders?page=2"), target)


def asked(answer: httpx.Response | httpx.RequestError, token: str = "token") -> rest.Answer:
    """What `rest.send` makes of an answer."""

    def answers(request: httpx.Request) -> httpx.Response:
        assert request.headers["Accept-Encoding"] == "identity"
        if isinstance(answer, httpx.RequestError):
            raise answer
        return answer

    async def ask() -> rest.Answer:
        async with rest.client("http://partner", SecretStr(token), 1) as client:
            client._transport = httpx.MockTransport(answers)
            return await rest.send(client, client.build_request("GET", "x"), 1000)

    return asyncio.run(ask())


def test_a_packed_answer_is_never_unpacked() -> None:
    bomb = zlib.compress(bytes(10_000_000))[:500]
    with pytest.raises(StopConnector, match=r"answers packed as deflate, deflate"):
        asked(httpx.Response(200, headers={"Content-Encoding": "deflate, deflate"}, stream=httpx.ByteStream(bomb)))


def test_a_header_that_http_does_not_allow_is_not_shown() -> None:
    with pytest.raises(StopConnector) as stop:
        asked(httpx.LocalProtocolError("Illegal header value b'Bearer s3cret\\n'"))
    assert "s3cret" not in f"{stop.value}{stop.value.__cause__}"
    assert stop.value.__suppress_context__


def test_the_excerpt_of_an_answer_can_be_shown_and_stored() -> None:
    text = "no\x1b[2J\x07, line\n1".encode("utf-16")
    excerpt = asked(httpx.Response(422, stream=httpx.ByteStream(text))).excerpt
    assert excerpt.isprintable()
    assert "l i n e" in excerpt
