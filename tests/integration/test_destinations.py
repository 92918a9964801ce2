"""Delivery to partners: each file once, in order, whatever goes wrong on the way."""

import asyncio
import json
import threading
from typing import Any
from unittest import mock
from uuid import NAMESPACE_URL, uuid5

import httpx
import pytest
from fastapi import HTTPException

import flows as flow_folder
from file_processing.outbound.outbox import Outbox
from models.connector import RestDestination, Setting
from models.errors import RetryLater, StopConnector
from partners.crm import Crm
from partners.erp import Erp, NewOrder
from partners.inventory import Inventory
from partners.state import Document
from services.db import engine as databases
from services.destinations import delivery, rest as rest_destination
from services.destinations.rest import RestSender
from services.destinations.sender import Doubtful, DoubtfulStop, OutgoingFile, TurnedDown
from services.ledger import deliveries
from services.ledger.deliveries import Deliveries
from services.runtime.status_file import JobPhase
from tests.support.connectors import declare, in_phase, state, without_pauses
from tests.support.processes import ROOT
from tests.support.sites import Site, running
from tests.support.waiting import eventually

FLOWS = flow_folder.discover()


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    without_pauses(monkeypatch)


def an_order(number: str = "1", **changes: object) -> dict[str, object]:
    line = {"line_number": 1, "sku": "A", "quantity": 2, "unit_price": 9.5}
    order: dict[str, object] = {"partner": "p", "order_number": number, "ordered_at": "2026-01-31T08:00:00Z"}
    return order | {"currency": "EUR", "buyer": {"name": "B"}, "lines": [line]} | changes


def a_customer(number: int = 1) -> dict[str, object]:
    return {
        "id": f"6f9619ff-8b86-4011-b42d-{number:012}",
        "name": "Ada",
        "email": f"{number}@example.com",
        "created_at": "2026-01-31T08:00:00Z",
    }


@pytest.fixture
def selling(site: Site, erp: Erp) -> Site:
    site.connect(ERP_API_URL=erp.url, ERP_API_TOKEN=erp.token)
    return site


@pytest.fixture
def packing(site: Site, inventory: Inventory) -> Site:
    site.connect(INVENTORY_API_URL=inventory.url)
    return site


def sent(site: Site) -> list[dict[str, Any]]:
    return site.query("select * from tidegate.outbound_file order by id")


def all_are(site: Site, status: str, count: int = 1, timeout: float = 20) -> list[dict[str, Any]]:
    eventually(
        lambda: [file["status"] for file in sent(site)] == [status] * count,
        timeout=timeout,
        what=f"{count} {status}; there are {[(f['name'], f['status'], f['last_error']) for f in sent(site)]}",
    )
    return sent(site)


def let_time_pass(site: Site) -> None:
    """As if the partner had had the time that it is given to finish."""
    site.execute("update tidegate.outbound_file set next_attempt_at = now() where next_attempt_at is not null")


def posts(partner: Erp | Inventory) -> list[Any]:
    return [request for request in partner.received if request.method == "POST"]


def test_an_order_reaches_the_erp_and_its_answer_is_kept(selling: Site, erp: Erp) -> None:
    with running(selling):
        selling.drop("o.json", an_order("7"), flow="orders")
        (file,) = all_are(selling, "delivered")
        booked = erp.find("p", "7")
        assert booked is not None
        assert file["delivered_as"] == {"status": 201, "body": {"id": booked["id"], "number": booked["number"]}}
        place = selling.settings.output_dir / "orders" / "delivered" / "p" / "7.json"
        eventually(place.exists, what="the filed file")
        eventually(lambda: sent(selling)[0]["filed_as"] == str(place), what="its place")
        assert not (selling.settings.output_dir / "orders" / "p" / "7.json").exists()
        assert booked["number"] in selling.call("trace", "orders", "p", "7").stdout


def test_the_idempotency_key_is_a_quoted_string(site: Site, inventory: Inventory, erp: Erp) -> None:
    inventory.idempotent = True
    site.connect(INVENTORY_API_URL=inventory.url, ERP_API_URL=erp.url, ERP_API_TOKEN=erp.token)
    with running(site):
        site.drop("c.json", a_customer(), flow="customers")
        site.drop("o.json", an_order(), flow="orders")
        files = {file["flow"]: file for file in all_are(site, "delivered", 2)}
    (to_inventory,), (to_erp,) = posts(inventory), posts(erp)
    expected = uuid5(NAMESPACE_URL, f"tidegate:customers:{a_customer()['id']}")
    assert to_inventory.headers["idempotency-key"] == f'"{expected}"'
    assert to_erp.headers["idempotency-key"].startswith(f'"{files["orders"]["id"]}-')


def test_an_order_that_was_committed_and_not_answered_is_looked_up(
    selling: Site, erp: Erp, monkeypatch: pytest.MonkeyPatch
) -> None:
    erp.faults.lose_rate, erp.faults.times, erp.faults.hang_seconds = 1, 1, 0.3
    erp.faults.methods = ["POST"]
    with running(selling):
        selling.drop("o.json", an_order("7"), flow="orders")
        (file,) = all_are(selling, "delivered")
    assert len(posts(erp)) == 1
    assert file["delivered_as"]["found"]["external_order_no"] == "7"


def test_half_an_answer_that_looks_whole_is_an_answer(packing: Site, inventory: Inventory) -> None:
    inventory.faults.garble_rate, inventory.faults.methods = 1, ["POST"]
    with running(packing):
        packing.drop("c.json", [a_customer(number) for number in range(5)], flow="customers")
        files = all_are(packing, "delivered", 5)
    assert [len(inventory.of_customer(str(a_customer(number)["id"]))) for number in range(5)] == [1] * 5
    assert all(file["delivered_as"]["body"].startswith('{"') for file in files)


def test_what_is_under_way_when_the_daemon_stops_is_finished(packing: Site, inventory: Inventory) -> None:
    inventory.faults.latency_seconds = 0.5
    with running(packing):
        packing.drop("c.json", a_customer(), flow="customers")
        eventually(lambda: posts(inventory), what="the request")
    assert [file["status"] for file in sent(packing)] == ["delivered"]


def test_a_partner_may_finish_what_the_daemon_did_not_wait_for(
    packing: Site, inventory: Inventory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "FINISH_SECONDS", 0.05)
    inventory.faults.latency_seconds = 2
    with running(packing):
        packing.drop("c.json", a_customer(), flow="customers")
        eventually(lambda: posts(inventory), what="the request")
    inventory.faults.latency_seconds = 0
    (file,) = sent(packing)
    assert (file["next_attempt_at"] - file["sent_at"]).total_seconds() > 30
    with running(packing):
        eventually(
            lambda: (found := state(packing, "customers/inventory")) and "sent before the daemon ended" in found.detail,
            what="the wait",
        )
        eventually(lambda: inventory.of_customer(str(a_customer()["id"])), what="the late request")
        let_time_pass(packing)
        (file,) = all_are(packing, "delivered")
    assert len(posts(inventory)) == 1
    assert "found" in file["delivered_as"]


def test_what_a_partner_took_before_the_connector_stopped_is_looked_up(
    packing: Site, inventory: Inventory, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched, running(packing):
        patched.setattr(rest_destination, "ANSWER_BYTES", 10)
        packing.drop("c.json", a_customer(), flow="customers")
        in_phase(packing, "customers/inventory", JobPhase.STOPPED)
    assert sent(packing)[0]["sent_at"] is not None
    with running(packing):
        all_are(packing, "delivered")
    assert len(posts(inventory)) == 1


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (303, DoubtfulStop),
        (401, StopConnector),
        (409, TurnedDown),
        (429, RetryLater),
        (500, Doubtful),
        (503, RetryLater),
    ],
)
def test_what_an_answer_means(status: int, error: type[Exception], site: Site) -> None:
    destination = RestDestination("partner", Setting("ANY_URL"), "/things")
    site.connect(ANY_URL="http://partner")

    async def send() -> None:
        async with RestSender(destination, site.settings) as sender:
            sender._client._transport = httpx.MockTransport(
                lambda _: httpx.Response(status, stream=httpx.ByteStream(b""))
            )
            await sender.send(OutgoingFile(1, "a.json", b"{}", b"", doubtful=False))

    with pytest.raises(error) as raised:
        asyncio.run(send())
    assert type(raised.value) is error


def test_what_a_partner_says_can_be_stored(selling: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    async def turn_down(*_: object) -> None:
        raise TurnedDown("no\0\x1b[2J\udc80\n never")

    monkeypatch.setattr(RestSender, "send", turn_down)
    with running(selling):
        selling.drop("o.json", an_order(), flow="orders")
        (file,) = all_are(selling, "failed")
    assert file["last_error"] == r"no\x00\x1b[2J\x80 never"


def changes(partner: Erp) -> list[tuple[str, str, int | None]]:
    """What the partner was asked to do, and its answers; looking up left out."""
    return [(one.method, one.path, one.status) for one in partner.received if one.method != "GET"]


def revised(number: str, day: int, **changes: object) -> dict[str, object]:
    return an_order(number, revised_at=f"2026-02-{day:02}T00:00:00Z", **changes)


def test_what_changed_while_nobody_ran_supersedes_what_is_due(selling: Site, erp: Erp) -> None:
    """As after the restore of a backup: an older state is ready, and the newer one is not even written."""
    looked = threading.Event()
    due, seal = Deliveries.due, Outbox.seal

    def told(*arguments: Any) -> Any:
        looked.set()
        return due(*arguments)

    def late(*arguments: Any, **options: Any) -> Any:
        looked.wait(1)
        return seal(*arguments, **options)

    path = selling.drop("1.json", an_order("7"), flow="orders")
    selling.call("ingest", "--flow", "orders", str(path))
    path.unlink()
    selling.call("emit")
    selling.execute("update orders set currency = 'SEK'")
    with mock.patch.object(Deliveries, "due", told), mock.patch.object(Outbox, "seal", late), running(selling):
        eventually(lambda: len(sent(selling)) == 2, what="the newer state")
        eventually(lambda: sent(selling)[1]["status"] == "delivered", what="its delivery")
    assert [file["status"] for file in sent(selling)] == ["superseded", "delivered"]
    assert [order["currency"] for order in erp.orders.values()] == ["SEK"]


def test_a_replaced_order_replaces_that_of_the_erp(selling: Site, erp: Erp) -> None:
    with running(selling):
        selling.drop("1.json", an_order("7"), flow="orders")
        (first,) = all_are(selling, "delivered")
        selling.drop("2.json", revised("7", 1, purpose="replace", currency="SEK"), flow="orders")
        files = all_are(selling, "delivered", 2)
    booked = erp.find("p", "7")
    assert booked is not None
    assert (booked["currency"], booked["number"]) == ("SEK", first["delivered_as"]["body"]["number"])
    assert changes(erp) == [("POST", "/api/orders", 201), ("POST", "/api/orders", 409), ("PUT", "/api/orders/1", 200)]
    assert files[1]["delivered_as"]["changed"]["currency"] == "EUR"


def test_a_cancelled_order_is_cancelled_in_the_erp(selling: Site, erp: Erp) -> None:
    with running(selling):
        selling.drop("1.json", an_order("7"), flow="orders")
        all_are(selling, "delivered")
        selling.drop("2.json", revised("7", 1, purpose="cancel", lines=[]), flow="orders")
        all_are(selling, "delivered", 2)
    booked = erp.find("p", "7")
    assert booked is not None
    assert (booked["status"], len(booked["lines"])) == ("cancelled", 1)
    assert changes(erp)[-1] == ("POST", "/api/orders/1/cancel", 200)


def test_a_change_that_the_erp_turns_down_is_a_dead_letter_and_says_what_differs(selling: Site, erp: Erp) -> None:
    with running(selling):
        selling.drop("1.json", an_order("7"), flow="orders")
        all_are(selling, "delivered")
        erp.shipped.add(1)
        selling.drop("2.json", revised("7", 1, purpose="replace", currency="SEK"), flow="orders")
        eventually(
            lambda: [file["status"] for file in sent(selling)] == ["delivered", "failed"], what="the dead letter"
        )
        error = sent(selling)[1]["last_error"]
        assert "currency is 'EUR' there, 'SEK' here" in error
        assert "order 1 is shipped" in error
        erp.shipped.clear()
        selling.call("retry", "--dead-letter")
        all_are(selling, "delivered", 2)
    assert (erp.find("p", "7") or {})["currency"] == "SEK"


def test_another_state_that_no_request_changes_is_a_dead_letter(
    selling: Site, erp: Erp, monkeypatch: pytest.MonkeyPatch
) -> None:
    declare(monkeypatch, "orders", "erp", change=None)
    with running(selling):
        selling.drop("1.json", an_order("7"), flow="orders")
        all_are(selling, "delivered")
        selling.drop("2.json", revised("7", 1, currency="SEK"), flow="orders")
        eventually(
            lambda: [file["status"] for file in sent(selling)] == ["delivered", "failed"], what="the dead letter"
        )
    assert "it has another state of it already: currency is 'EUR' there" in sent(selling)[1]["last_error"]


def test_a_change_that_was_made_and_not_answered_is_looked_up(selling: Site, erp: Erp) -> None:
    with running(selling):
        selling.drop("1.json", an_order("7"), flow="orders")
        all_are(selling, "delivered")
        erp.faults.lose_rate, erp.faults.times, erp.faults.hang_seconds = 1, 1, 0.3
        erp.faults.methods = ["PUT"]
        selling.drop("2.json", revised("7", 1, currency="SEK"), flow="orders")
        files = all_are(selling, "delivered", 2)
    assert len([one for one in erp.received if one.method == "PUT"]) == 1
    assert files[1]["delivered_as"]["found"]["currency"] == "SEK"


def test_what_the_erp_has_is_compared_before_a_409_counts_as_delivered(selling: Site, erp: Erp) -> None:
    with running(selling):
        selling.drop("1.json", an_order("7"), flow="orders")
        all_are(selling, "delivered")
        erp.faults.error_rate, erp.faults.error_status, erp.faults.methods = 1, 400, ["GET"]
        selling.drop("2.json", revised("7", 1, currency="SEK"), flow="orders")
        eventually(lambda: "answers 400" in (sent(selling)[-1]["last_error"] or ""), what="the failing look")
        assert sent(selling)[1]["status"] == "written"
        erp.faults.error_rate = 0
        all_are(selling, "delivered", 2)
    assert (erp.find("p", "7") or {})["currency"] == "SEK"


def test_a_look_up_that_is_turned_down_holds_back_its_own_file_only(packing: Site, inventory: Inventory) -> None:
    inventory.faults.lose_rate, inventory.faults.times, inventory.faults.hang_seconds = 1, 1, 0.1
    inventory.faults.methods = ["POST"]
    with running(packing):
        packing.drop("1.json", a_customer(1), flow="customers")
        eventually(lambda: posts(inventory), what="the lost request")
        inventory.faults.error_rate, inventory.faults.error_status, inventory.faults.times = 1, 400, None
        inventory.faults.lose_rate, inventory.faults.methods = 0, ["GET"]
        eventually(lambda: "answers 400" in (sent(packing)[0]["last_error"] or ""), what="the refusal")
        packing.drop("2.json", a_customer(2), flow="customers")
        eventually(lambda: [file["status"] for file in sent(packing)] == ["written", "delivered"], what="the other")
        inventory.faults.error_rate = 0
        all_are(packing, "delivered", 2)
    assert len(posts(inventory)) == 2


def test_an_order_that_the_erp_has_as_it_is_counts_as_delivered(selling: Site, erp: Erp) -> None:
    with running(selling):
        selling.drop("1.json", an_order("7"), flow="orders")
        (first,) = all_are(selling, "delivered")
        again = selling.call("retry", "--outbound", str(first["id"])).stdout
        assert "1 row will go out again" in again
        files = all_are(selling, "delivered", 2)
    assert files[1]["delivered_as"]["found"]["external_order_no"] == "7"
    assert [status for _, _, status in changes(erp)] == [201, 409]
    names = sorted(path.name for path in (selling.settings.output_dir / "orders" / "delivered" / "p").iterdir())
    assert names == [f"7.{files[1]['id']}.json", "7.json"]


def test_a_dead_letter_is_kept_and_told_and_holds_nobody_back(selling: Site, erp: Erp) -> None:
    line = {"line_number": 1, "sku": "DISCONTINUED", "quantity": 1, "unit_price": 1}
    with running(selling):
        selling.drop("o.json", [an_order("1", lines=[line]), an_order("2")], flow="orders")
        eventually(lambda: {f["status"] for f in sent(selling)} == {"failed", "delivered"}, what="both")
        (dead,) = [file for file in sent(selling) if file["status"] == "failed"]
        assert "line 1: the article is not sold" in dead["last_error"]
        shown = " ".join(selling.call("status").stdout.split())
        assert f"dead letters 1 file that a partner turned down, the last is #{dead['id']}: 422" in shown
        assert (selling.settings.output_dir / "orders" / "p" / "1.json").exists()
        erp.not_sold.clear()
        again = selling.call("retry", "--outbound", str(dead["id"])).stdout
        assert f"#{dead['id']} will be delivered again" in again
        all_are(selling, "delivered", 2)
        assert "there are no dead letters" in selling.call("retry", "--dead-letter").stdout


def test_a_busy_partner_is_left_alone_for_as_long_as_it_says(selling: Site, erp: Erp) -> None:
    erp.faults.throttle_rate, erp.faults.times, erp.faults.retry_after_seconds = 1, 1, 2
    with running(selling):
        selling.drop("o.json", [an_order("1"), an_order("2")], flow="orders")
        all_are(selling, "delivered", 2)
    first, second, _ = posts(erp)
    assert (second.time - first.time).total_seconds() >= 2


def test_a_doubtful_order_is_not_overtaken(selling: Site, erp: Erp) -> None:
    erp.faults.error_rate, erp.faults.error_status, erp.faults.times, erp.faults.methods = 1, 500, 1, ["POST"]
    with running(selling):
        selling.drop("o.json", [an_order("1"), an_order("2")], flow="orders")
        all_are(selling, "delivered", 2)
    assert [json.loads(post.body)["external_order_no"] for post in posts(erp)] == ["1", "1", "2"]


def test_one_order_that_breaks_the_erp_holds_back_the_others_for_a_few_tries_only(
    selling: Site, erp: Erp, monkeypatch: pytest.MonkeyPatch
) -> None:
    book = erp._book

    def breaks(new: NewOrder) -> Document:
        if new.external_order_no == "1":
            raise HTTPException(500, "a mistake of the ERP")
        return book(new)

    monkeypatch.setattr(erp, "_book", breaks)
    with running(selling):
        selling.drop("o.json", [an_order("1"), an_order("2")], flow="orders")
        eventually(lambda: [file["status"] for file in sent(selling)] == ["written", "delivered"], what="the other")
        assert sent(selling)[0]["attempts"] >= delivery.DOUBTS
        monkeypatch.setattr(erp, "_book", book)
        all_are(selling, "delivered", 2)
    numbers = [json.loads(post.body)["external_order_no"] for post in posts(erp)]
    assert numbers[: numbers.index("2")] == ["1"] * (delivery.DOUBTS - 1)


def test_a_newer_state_takes_the_place_of_one_that_waits(selling: Site, erp: Erp) -> None:
    erp.stop()
    with running(selling):
        selling.drop("1.json", an_order("7", currency="EUR"), flow="orders")
        in_phase(selling, "orders/erp", JobPhase.FAILING)
        selling.drop("2.json", an_order("7", currency="SEK", revised_at="2026-02-01T00:00:00Z"), flow="orders")
        eventually(lambda: len(sent(selling)) == 2 and sent(selling)[1]["status"] == "written", what="the newer one")
        erp.start()
        eventually(lambda: [f["status"] for f in sent(selling)] == ["superseded", "delivered"], timeout=30)
    (post,) = posts(erp)
    assert json.loads(post.body)["currency"] == "SEK"


def forget_contents(site: Site) -> None:
    """As with files that were written before any daemon delivered: they lie in the output folder only."""
    site.execute("update tidegate.outbound_file set content = null")


def test_what_is_sealed_is_delivered_whatever_becomes_of_its_file(selling: Site, erp: Erp) -> None:
    erp.stop()
    with running(selling):
        selling.drop("o.json", [an_order("1"), an_order("2")], flow="orders")
        in_phase(selling, "orders/erp", JobPhase.FAILING)
        eventually(lambda: len([f for f in sent(selling) if f["status"] == "written"]) == 2, what="both")
        folder = selling.settings.output_dir / "orders" / "p"
        (folder / "1.json").unlink()
        (folder / "2.json").write_text("{}")
        erp.start()
        all_are(selling, "delivered", 2)
        eventually(lambda: all(file["filed_as"] for file in sent(selling)), what="that they are gone")
    assert len(erp.orders) == 2
    assert (folder / "2.json").read_text() == "{}"
    assert not (selling.settings.output_dir / "orders" / "delivered").exists()


def test_a_file_that_someone_else_took_or_changed_is_told(selling: Site, erp: Erp) -> None:
    erp.stop()
    with running(selling):
        selling.drop("o.json", [an_order("1"), an_order("2")], flow="orders")
        in_phase(selling, "orders/erp", JobPhase.FAILING)
        eventually(lambda: len([f for f in sent(selling) if f["status"] == "written"]) == 2, what="both")
        folder = selling.settings.output_dir / "orders" / "p"
        forget_contents(selling)
        (folder / "1.json").unlink()
        (folder / "2.json").write_text("{}")
        erp.start()
        files = all_are(selling, "failed", 2)
    assert [file["last_error"] for file in files] == [
        "p/1.json is no longer in the output folder",
        "p/2.json was changed by someone else",
    ]
    told = selling.call("retry", "--dead-letter").stdout
    assert told.count("1 row will go out again") == 2
    (folder / "2.json").unlink()  # nothing is written over what is none of ours
    with running(selling):
        eventually(lambda: len(erp.orders) == 2, what="both orders")
        eventually(
            lambda: [f["status"] for f in sent(selling)] == ["superseded"] * 2 + ["delivered"] * 2, what="new files"
        )


def test_a_file_that_goes_out_once_and_was_taken_is_told(packing: Site, inventory: Inventory) -> None:
    inventory.stop()
    with running(packing):
        packing.drop("c.json", a_customer(), flow="customers")
        in_phase(packing, "customers/inventory", JobPhase.FAILING)
        (path,) = (packing.settings.output_dir / "customers").glob("*.json")
        content = path.read_bytes()
        forget_contents(packing)
        path.unlink()
        inventory.start()
        (file,) = all_are(packing, "failed")
        assert "put the file back" in packing.call("retry", "--outbound", str(file["id"]), expect=2).stderr
        path.write_bytes(content)
        assert "will be delivered again" in packing.call("retry", "--outbound", str(file["id"])).stdout
        all_are(packing, "delivered")


def test_files_of_the_time_before_the_destination_are_delivered(site: Site, erp: Erp) -> None:
    with running(site):
        site.drop("o.json", [an_order(str(number)) for number in range(3)], flow="orders")
        all_are(site, "written", 3)
    site.connect(ERP_API_URL=erp.url, ERP_API_TOKEN=erp.token)
    with running(site):
        all_are(site, "delivered", 3)
    assert [json.loads(post.body)["external_order_no"] for post in posts(erp)] == ["0", "1", "2"]


def test_two_daemons_deliver_each_file_once(packing: Site, inventory: Inventory) -> None:
    for _ in range(2):
        packing.start(impatient=True)
    packing.drop("c.json", [a_customer(number) for number in range(40)], flow="customers")
    all_are(packing, "delivered", 40, timeout=60)
    assert len(posts(inventory)) == 40


def test_a_customer_gets_one_package_over_kills_and_an_outage(site: Site, crm: Crm, inventory: Inventory) -> None:
    site.connect(CRM_API_URL=crm.url, INVENTORY_API_URL=inventory.url, POLLING_INTERVAL_SECONDS="0.2")
    inventory.faults.lose_rate, inventory.faults.times, inventory.faults.hang_seconds = 1, 2, 20
    inventory.faults.methods = ["POST"]
    made = [crm.create(f"Customer {number}", f"{number}@example.com")["id"] for number in range(5)]
    for _ in range(2):
        daemon = site.start(impatient=True)
        before = len(posts(inventory))
        eventually(lambda before=before: len(inventory.package_requests) > before, timeout=40, what="a request")  # type: ignore[misc]  # mypy: default
        daemon.kill()
        daemon.wait()
        let_time_pass(site)
    inventory.stop()
    site.start(impatient=True)
    in_phase(site, "customers/inventory", JobPhase.FAILING, timeout=40)
    made.append(crm.create("Late", "late@example.com")["id"])
    eventually(lambda: len(site.rows("customers")) == 6, what="the customer that comes meanwhile")
    inventory.start()
    all_are(site, "delivered", 6, timeout=60)
    assert [len(inventory.of_customer(customer)) for customer in made] == [1] * 6


@pytest.mark.parametrize("in_order", [False, True])
def test_a_delivery_rests_no_longer_where_the_clock_is_set_back(site: Site, in_order: bool) -> None:
    site.drop("o.json", [an_order("1"), an_order("2")], flow="orders")
    site.load()
    site.call("emit")
    with databases.open_database(site.settings) as database, database.connect() as connection:
        (erp,) = [one for one in FLOWS["orders"].destinations if one.name == "erp"]
        files = Deliveries("orders", erp.documents, in_order=in_order, doubts=5, longest_seconds=60)
        first, second = files.due(connection, 100)
        deliveries.sending(connection, first.id, 50)
        assert [file.id for file in files.due(connection, 100)] == ([] if in_order else [second.id])
        assert files.waiting(connection)[0] == 1
        deliveries.sending(connection, first.id, 50 + 86400)  # as the clock was then
        assert [file.id for file in files.due(connection, 100)] == [first.id, second.id]
        assert files.waiting(connection)[0] == 0


def test_each_destination_gets_the_files_of_its_own_documents(site: Site) -> None:
    samples = ROOT / "sample_files" / "orders"
    for name in ("orders_2026-01-31.edi", "order_850_2026-01-31.x12"):
        site.drop(name, (samples / name).read_bytes(), flow="orders")
    site.drop("o.json", an_order("1", partner="855"), flow="orders")  # its file lies where those of a document do
    site.load()
    site.call("emit")
    due: dict[str, set[str]] = {}
    with databases.open_database(site.settings) as database, database.connect() as connection:
        for one in FLOWS["orders"].destinations:
            files = Deliveries("orders", one.documents, in_order=one.in_order, doubts=5, longest_seconds=60)
            due[one.name] = {file.name for file in files.due(connection, 100)}
    written = {file["name"] for file in sent(site)}
    assert due["erp"] == {name for name in written if name.endswith(".json")}
    assert due["partner2-answers"] == written - due["erp"]
    assert "855/1.json" in due["erp"]
    assert {name.partition("/")[0] for name in due["partner2-answers"]} == {"ordrsp", "contrl", "855", "997"}
