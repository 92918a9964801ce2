"""kill -9 between any two steps of a connector: everything arrives, and nothing twice."""

import signal
import subprocess
import sys

import pytest

from partners.inventory import Inventory
from partners.partner1 import Partner1
from partners.sftp import Sftp
from tests.integration.test_destinations import a_customer, all_are, let_time_pass
from tests.integration.test_sftp import an_order, connected, numbers
from tests.support import connector_faults
from tests.support.sites import ROOT, Site
from tests.support.waiting import eventually


def run_and_be_killed(site: Site, point: str) -> None:
    with (site.input.parent / "killed.log").open("w+") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.connector_faults", point],
            env=site.environment | {"PYTHONPATH": str(ROOT)},
            cwd=site.input.parent,
            stdout=log,
            stderr=log,
            text=True,
        )
        site.processes.append(process)
        code = process.wait(60)
        log.seek(0)
        assert code == -signal.SIGKILL, f"{point}: {code}\n{log.read()}"


@pytest.mark.parametrize("point", connector_faults.DELIVERY)
def test_a_delivery_that_is_killed_is_finished_once(point: str, site: Site, inventory: Inventory) -> None:
    site.connect(INVENTORY_API_URL=inventory.url)
    customers = [a_customer(number) for number in range(4)]
    site.drop("c.json", customers, flow="customers")
    run_and_be_killed(site, f"delivery: {point}")
    let_time_pass(site)
    site.start()
    all_are(site, "delivered", 4)
    assert [len(inventory.of_customer(str(customer["id"]))) for customer in customers] == [1] * 4
    folder = site.settings.output_dir / "customers"
    eventually(lambda: len(list((folder / "delivered").iterdir())) == 4, what="the filed files")
    assert [path.name for path in folder.iterdir()] == ["delivered"]


@pytest.mark.parametrize("point", connector_faults.ANSWERS)
def test_an_answer_that_was_stored_is_not_stored_again(point: str, site: Site, sftp_server: Sftp) -> None:
    connected(site, sftp_server, PARTNER2_SFTP_ANSWERS="answers")
    folder = site.settings.output_dir / "orders" / "855"
    folder.mkdir(parents=True)
    for number in range(3):
        (folder / f"{number}.x12").write_text(f"answer {number}")
        site.query(
            "insert into tidegate.outbound_file (flow, name, sha256, bytes, records, status, node) "
            "values ('orders', %s, sha256(%s), 8, 1, 'written', 'test') returning id",
            f"855/{number}.x12",
            f"answer {number}".encode(),
        )
    run_and_be_killed(site, f"answers: {point}")
    let_time_pass(site)
    site.start()
    all_are(site, "delivered", 3)
    assert len(sftp_server.names("answers")) == 3
    assert len([done for done in sftp_server.received if done.operation == "write"]) == 3


@pytest.mark.parametrize("point", connector_faults.POLLING)
def test_a_walk_that_is_killed_is_walked_again(point: str, site: Site, partner1: Partner1) -> None:
    partner1.seed(250)
    site.connect(PARTNER1_API_URL=partner1.url, PARTNER1_API_TOKEN=partner1.token, POLLING_INTERVAL_SECONDS="0.2")
    run_and_be_killed(site, f"polling: {point}")
    site.start()
    eventually(lambda: len(numbers_of(site)) == 250, timeout=30, what="all orders")
    eventually(lambda: site.query("select 1 from tidegate.cursor where state ->> 'since' is not null"), timeout=20)
    total = site.query("select sum(inserted) as i, sum(updated) as u, sum(rejected) as r from tidegate.inbound_file")
    assert total == [{"i": 250, "u": 0, "r": 0}]


def numbers_of(site: Site) -> list[str]:
    return [row["order_number"] for row in site.rows("orders")]


@pytest.mark.parametrize("point", connector_faults.FETCHING)
def test_a_fetch_that_is_killed_loads_each_file_once(point: str, site: Site, sftp_server: Sftp) -> None:
    for number in range(5):
        sftp_server.upload(f"{number}.json", an_order(number))
    connected(site, sftp_server)
    run_and_be_killed(site, f"fetching: {point}")
    site.start()
    eventually(lambda: len(sftp_server.names("archive")) == 5, timeout=30, what="the archive")
    site.settled(5)
    assert numbers(site) == [str(number) for number in range(5)]
    loaded = [line["inserted"] for line in site.ledger() if line["status"] == "loaded"]
    assert loaded == [1] * 5
