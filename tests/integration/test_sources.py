"""Polling partners over REST: what they have becomes files, once, whatever goes wrong on the way."""

import asyncio
import zlib
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from pydantic import SecretStr

from models.errors import RetryLater, StopConnector
from partners.crm import Crm
from partners.partner1 import Partner1
from services.runtime.status_file import JobPhase
from services.transport import http
from tests.support.connectors import QUICK, declare, in_phase
from tests.support.sites import Site, running
from tests.support.waiting import eventually


@pytest.fixture
def customers(site: Site, crm: Crm) -> Site:
    site.connect(CRM_API_URL=crm.url, POLLING_INTERVAL_SECONDS=QUICK)
    return site


@pytest.fixture
def orders(site: Site, partner1: Partner1) -> Site:
    site.connect(PARTNER1_API_URL=partner1.url, PARTNER1_API_TOKEN=partner1.token, POLLING_INTERVAL_SECONDS=QUICK)
    return site


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


def test_a_partner_that_has_nothing_sends_no_file(customers: Site, crm: Crm) -> None:
    with running(customers):
        polled_again(crm)
        in_phase(customers, "customers/crm", JobPhase.RUNNING)
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


def test_orders_over_a_hundred_pages_with_errors_arrive_once_each(
    orders: Site, partner1: Partner1, monkeypatch: pytest.MonkeyPatch
) -> None:
    declare(monkeypatch, "orders", "partner1", query={"page": "1", "per_page": "10"}, pause_seconds=0.01)
    partner1.seed(1_000)
    partner1.faults.error_rate = 0.1
    with running(orders):
        polled = "select 1 from tidegate.cursor where state ->> 'since' is not null"
        eventually(lambda: orders.query(polled), timeout=60, what="the last page")
        eventually(lambda: orders.query("select count(*) as n from orders")[0]["n"] == 1_000, timeout=60)
        partner1.faults.error_rate = 0
        polled_again(partner1)
    assert len(partner1.received) > 100, "errors struck"
    total = orders.query("select sum(inserted) as i, sum(updated) as u, sum(rejected) as r from tidegate.inbound_file")
    assert total == [{"i": 1_000, "u": 0, "r": 0}]


def test_the_next_poll_asks_for_what_changed_since(orders: Site, partner1: Partner1) -> None:
    partner1.seed(250)
    with running(orders):
        eventually(lambda: len(orders.rows("orders")) == 250, what="all orders")
        order = dict(next(iter(partner1.orders.values())))
        # A poll that begins before the order is placed must not be told that it has it already.
        revised_at = datetime.now(UTC) + timedelta(seconds=1)
        partner1.place(order | {"currency": "SEK", "revised_at": revised_at.isoformat()})
        eventually(lambda: orders.query("select 1 from orders where currency = 'SEK'"), what="the revision")
        polled_again(partner1)
    assert len(orders.ledger()) == 4
    assert "updated_since" not in partner1.received[0].query
    assert "updated_since" in partner1.received[-1].query


def test_a_partner_that_throttles_is_asked_again(
    orders: Site, partner1: Partner1, monkeypatch: pytest.MonkeyPatch
) -> None:
    declare(monkeypatch, "orders", "partner1", pause_seconds=0.01)
    partner1.seed(250)
    partner1.faults.throttle_rate, partner1.faults.times, partner1.faults.retry_after_seconds = 1, 2, 0
    with running(orders):
        eventually(lambda: len(orders.rows("orders")) == 250, timeout=20, what="all orders")
    assert len(orders.ledger()) == 3


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
    assert http.retry_after_seconds({"Retry-After": value}, datetime(1999, 12, 31, 23, 59, 0, tzinfo=UTC)) == seconds


@pytest.mark.parametrize("target", ["http://127.0.0.1:80:80/", "?after=\ud800", "\0"])
def test_what_is_no_address_is_told(target: str) -> None:
    with pytest.raises(RetryLater, match="no address"):
        http.joined(httpx.URL("http://127.0.0.1/orders?page=2"), target)


def asked(answer: httpx.Response | httpx.RequestError, token: str = "token") -> http.Answer:
    """What `send` makes of an answer."""

    def answers(request: httpx.Request) -> httpx.Response:
        assert request.headers["Accept-Encoding"] == "identity"
        if isinstance(answer, httpx.RequestError):
            raise answer
        return answer

    async def ask() -> http.Answer:
        async with http.client("http://partner", SecretStr(token), 1) as client:
            client._transport = httpx.MockTransport(answers)
            return await http.send(client, client.build_request("GET", "x"), 1000)

    return asyncio.run(ask())


@pytest.mark.parametrize(("address", "proxies"), [("http://127.0.0.1:9", 0), ("https://partner", 1)])
def test_a_token_goes_to_no_proxy_in_the_clear(address: str, proxies: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through one for https it is a tunnel."""
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:3128")
    client = http.client(address, SecretStr("token"), 1)
    try:
        transport = client._transport_for_url(httpx.URL(address))
        assert (transport is not client._transport) == bool(proxies)
    finally:
        asyncio.run(client.aclose())


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
    assert r"l\x00i\x00n\x00e" in excerpt
