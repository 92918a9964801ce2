"""From partner to partner through the daemon as a process, which is killed on the way."""

import signal
from typing import TYPE_CHECKING

import pytest

from partners.stream import ORDERS_D96A, X12_850, interchange
from tests.support.impatience import let_time_pass
from tests.support.sites import Site
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from partners.crm import Crm
    from partners.erp import Erp
    from partners.inventory import Inventory
    from partners.partner1 import Partner1
    from partners.sftp import Sftp

PATIENCE_SECONDS = 60
pytestmark = pytest.mark.timeout(300)  # several waits, each of which has its own end


@pytest.fixture
def between_crm_and_inventory(site: Site, crm: "Crm", inventory: "Inventory") -> Site:
    site.connect(CRM_API_URL=crm.url, INVENTORY_API_URL=inventory.url, POLLING_INTERVAL_SECONDS="0.1")
    return site


@pytest.fixture
def between_partner2_and_erp(site: Site, sftp_server: "Sftp", erp: "Erp") -> Site:
    known_hosts = site.input.parent / "known_hosts"
    known_hosts.write_text(sftp_server.known_hosts)
    ((user, password),) = sftp_server.users.items()
    site.connect(
        PARTNER2_SFTP_HOST=sftp_server.host,
        PARTNER2_SFTP_PORT=sftp_server.sftp_port,
        PARTNER2_SFTP_USER=user,
        PARTNER2_SFTP_PASS=password,
        PARTNER2_SFTP_KNOWN_HOSTS=known_hosts,
        PARTNER2_SFTP_ANSWERS="answers",
        ERP_API_URL=erp.url,
        ERP_API_TOKEN=erp.token,
        POLLING_INTERVAL_SECONDS="0.1",
    )
    return site


def answers(sftp_server: "Sftp") -> list[str]:
    """What stands in the partner's folder, without what is still being uploaded."""
    folder = sftp_server.folder / "answers"
    return [path.read_text() for path in folder.iterdir() if path.suffix in (".edi", ".x12")]


def test_a_customer_gets_one_package_over_kill_and_outage(
    between_crm_and_inventory: Site, crm: "Crm", inventory: "Inventory"
) -> None:
    site = between_crm_and_inventory
    inventory.faults.lose_rate, inventory.faults.hang_seconds, inventory.faults.methods = 0.2, 0, ["POST"]
    customers = []
    for number in range(12):
        customers.append(crm.create(f"Customer {number}", f"{number}@example.com")["id"])
        if number % 4 == 0:
            daemon = site.start(impatient=True)
            asked = len(inventory.received)
            eventually(lambda: len(inventory.received) > asked, PATIENCE_SECONDS, "a request to the Inventory")  # noqa: B023
            site.stop(daemon, signal.SIGKILL)
            let_time_pass(site)
    inventory.stop()
    daemon = site.start(impatient=True)
    late = crm.create("Late", "late@example.com")["id"]
    eventually(lambda: site.query("select 1 from customers where id = %s", late), PATIENCE_SECONDS, "the late customer")
    inventory.faults.lose_rate = 0
    inventory.start()
    for customer in (*customers, late):
        eventually(lambda: inventory.of_customer(customer), PATIENCE_SECONDS, "a package")  # noqa: B023
    crm.rename(late, "Later")
    eventually(lambda: site.query("select 1 from customers where name = 'Later'"), PATIENCE_SECONDS, "the new name")
    assert site.stop(daemon) == 0
    assert [len(inventory.of_customer(customer)) for customer in (*customers, late)] == [1] * 13


def test_edi_orders_reach_the_erp_and_are_answered(
    between_partner2_and_erp: Site, sftp_server: "Sftp", erp: "Erp"
) -> None:
    site = between_partner2_and_erp
    sftp_server.upload("order.edi", interchange(ORDERS_D96A, 1))
    sftp_server.upload("order.x12", interchange(X12_850, 2))
    daemon = site.start(impatient=True)
    eventually(lambda: len(erp.orders) == 2, PATIENCE_SECONDS, "two orders in the ERP")
    eventually(lambda: len(answers(sftp_server)) == 4, PATIENCE_SECONDS, "four answers")
    for kind in ("+CONTRL:", "+ORDRSP:", "ST*997*", "ST*855*"):
        assert sum(kind in answer for answer in answers(sftp_server)) == 1, kind
    assert sftp_server.names("archive") == ["order.edi", "order.x12"]
    assert sftp_server.names("orders") == []
    assert {order["external_order_no"] for order in erp.orders.values()} == {"PO-1", "PO-2"}
    assert site.stop(daemon) == 0


def test_edi_orders_arrive_once_over_cut_transfers_lost_answers_and_kills(
    between_partner2_and_erp: Site, sftp_server: "Sftp", erp: "Erp"
) -> None:
    site = between_partner2_and_erp
    erp.faults.lose_rate, erp.faults.hang_seconds, erp.faults.times = 0.3, 0, 5
    sftp_server.faults.cut_after_bytes, sftp_server.faults.times = 1000, 5
    for number in range(1, 21):
        template, suffix = (ORDERS_D96A, "edi") if number % 2 else (X12_850, "x12")
        sftp_server.upload(f"order-{number}.{suffix}", interchange(template, number))
    for _ in range(3):
        daemon = site.start(impatient=True)
        done = len(sftp_server.received)
        eventually(lambda: len(sftp_server.received) > done + 3, PATIENCE_SECONDS, "work of the daemon")  # noqa: B023
        site.stop(daemon, signal.SIGKILL)
        let_time_pass(site)
    daemon = site.start(impatient=True)
    eventually(lambda: len(erp.orders) == 20, PATIENCE_SECONDS, "all orders in the ERP")
    eventually(lambda: len(sftp_server.names("archive")) == 20, PATIENCE_SECONDS, "all files in the archive")
    assert site.stop(daemon) == 0
    assert site.query("select count(*) from orders") == [{"count": 20}]
    assert [line["name"] for line in site.ledger() if line["status"] not in ("loaded", "duplicate")] == []


def test_orders_of_partner1_reach_the_erp_once_each_over_errors(site: Site, partner1: "Partner1", erp: "Erp") -> None:
    site.connect(
        PARTNER1_API_URL=partner1.url,
        PARTNER1_API_TOKEN=partner1.token,
        ERP_API_URL=erp.url,
        ERP_API_TOKEN=erp.token,
        POLLING_INTERVAL_SECONDS="0.1",
    )
    partner1.seed(120)
    partner1.faults.error_rate = 0.1
    erp.faults.throttle_rate, erp.faults.retry_after_seconds, erp.faults.times = 0.1, 0, 10
    daemon = site.start(impatient=True)
    eventually(lambda: len(erp.orders) == 120, PATIENCE_SECONDS, "all orders in the ERP")
    assert site.stop(daemon) == 0
    booked = [entry for entry in erp.received if entry.method == "POST" and entry.status == 201]
    assert len(booked) == 120
