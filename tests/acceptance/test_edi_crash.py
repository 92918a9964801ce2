"""kill -9 on the way of an interchange, then a start: its orders and its answers are there once."""

import pytest

from tests.support import edi_samples
from tests.support.edi_faults import POINTS
from tests.support.sites import Site, running
from tests.support.waiting import eventually


def names(site: Site, kind: str) -> list[str]:
    folder = site.settings.output_dir / "orders" / kind
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("point", POINTS)
def test_an_interchange_is_loaded_and_answered_once(point: str, site: Site) -> None:
    site.drop("a.edi", edi_samples.edifact(), flow="orders")
    site.run_to_kill("tests.support.edi_faults", point)
    with running(site):
        assert [line["status"] for line in site.settled(1)] == ["loaded"]
        eventually(
            lambda: {file["status"] for file in site.query("select status from tidegate.outbound_file")} == {"written"},
            what="all answers on disk",
        )
        eventually(lambda: not site.query("select 1 from orders where not is_synced"), what="the mark")
    kinds = sorted(
        row["kind"] for row in site.query("select split_part(name, '/', 1) as kind from tidegate.outbound_file")
    )
    assert kinds == ["BUYER", "contrl", "ordrsp"]
    answers = {kind: names(site, kind) for kind in ("contrl", "ordrsp")}
    assert {kind: len(found) for kind, found in answers.items()} == {"contrl": 1, "ordrsp": 1}, answers
    assert site.waiting() == []
