"""What the ledger says is a name, and a name leads nowhere but below its folder."""

import json
from pathlib import Path

import pytest

from partners.erp import Erp
from services.runtime.status_file import JobPhase
from tests.integration.test_destinations import an_order, posts
from tests.support.connectors import in_phase
from tests.support.sites import Site, running

AWAY = ["../../stolen.json", "{}/stolen.json"]
CONTENT = "not for others\n"


@pytest.fixture
def outside(site: Site) -> Path:
    """A folder beside the site's folders, with a file in it that is nobody's business."""
    folder = site.input.parent
    (folder / "stolen.json").write_text(CONTENT)
    return folder


def rename(site: Site, name: str, **changes: str) -> None:
    """Have the ledger's only outbound file to the ERP lie elsewhere."""
    given = "".join(f", {column} = {value}" for column, value in changes.items())
    site.execute(f"update tidegate.outbound_file set name = '{name}'{given} where document = ''")


@pytest.mark.parametrize("name", AWAY)
def test_a_sealed_file_is_written_nowhere_else(site: Site, outside: Path, name: str) -> None:
    site.drop("order.json", an_order("1"), flow="orders")
    site.load()
    site.run_to_kill("tests.support.outbound_faults", "files are sealed", "emit")
    rename(site, name.format(outside))
    site.call("emit", expect=None)
    assert (outside / "stolen.json").read_text() == CONTENT


@pytest.mark.parametrize("name", AWAY)
def test_a_file_from_elsewhere_is_neither_delivered_nor_moved(site: Site, erp: Erp, outside: Path, name: str) -> None:
    site.drop("order.json", an_order("1"), flow="orders")
    site.load()
    site.call("emit")
    (outside / "stolen.json").write_text(secret := json.dumps({"stolen": True}))
    rename(site, name.format(outside), sha256=f"sha256('{secret}')")
    site.connect(ERP_API_URL=erp.url, ERP_API_TOKEN=erp.token)
    with running(site):
        in_phase(site, "orders/erp", JobPhase.FAILING)
    assert (outside / "stolen.json").read_text() == secret
    assert posts(erp) == []


@pytest.mark.parametrize("arguments", [["1"], ["--all-rejected"]])
def test_retry_moves_nothing_from_elsewhere(site: Site, outside: Path, arguments: list[str]) -> None:
    site.drop("bad.json", "no JSON", flow="orders")
    site.load()
    site.execute(f"update tidegate.inbound_file set filed_as = '{outside / 'stolen.json'}'")
    site.call("retry", *arguments, expect=None)
    assert (outside / "stolen.json").read_text() == CONTENT
