"""`retry`: what was rejected comes in again, and what went out goes out again."""

import json
from pathlib import Path
from unittest import mock

import pytest

from models.errors import RetryLater
from services.files import move
from tests.support.command_line import report, sentence
from tests.support.sites import Site, running


def test_a_rejected_file_is_mended_and_retried(site: Site) -> None:
    site.drop("vehicle_status_1.json", "[")
    with running(site):
        site.settled(1)
    kept = site.rejected / "vehicle_status" / "vehicle_status_1.json"
    kept.write_text(json.dumps([report("a")]))
    done = site.call("retry", "1")
    assert "#1 put back as " in done.stdout
    assert "No daemon runs here: 1 file will load when one starts" in done.stdout
    assert not kept.exists()
    assert not [*site.rejected.rglob("*.json")]
    with running(site):
        site.settled(2)
    assert [line["status"] for line in site.ledger()] == ["rejected", "loaded"]
    assert len(site.rows("vehicles_status")) == 1
    assert "no copy of #1" in sentence(site.call("retry", "1", expect=2))


def test_a_file_that_cannot_be_put_back_is_known_to_be_where_it_was(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.drop("vehicle_status_1.json", "[")
    with running(site):
        site.settled(1)
    (before,) = site.ledger()
    with monkeypatch.context() as patch:
        patch.setattr(move, "move", mock.Mock(side_effect=RetryLater("no room")))
        assert "#1 cannot be put back into " in sentence(site.call("retry", "1", expect=2))
    assert site.ledger() == [before]
    assert "#1 put back as " in site.call("retry", "1").stdout


def test_a_running_daemon_takes_what_is_put_back_at_once(live: Site) -> None:
    live.drop("vehicle_status_1.json", "[")
    live.settled(1)
    (live.rejected / "vehicle_status" / "vehicle_status_1.json").write_text(json.dumps([report("a")]))
    assert "No daemon" not in live.call("retry", "1").stdout
    assert [line["status"] for line in live.settled(2)] == ["rejected", "loaded"]


def test_what_is_loaded_is_loaded_again_by_force_only(live: Site) -> None:
    live.drop("vehicle_status_1.json", [report("a")])
    live.settled(1)
    live.query("delete from vehicles_status returning 1")
    assert sentence(live.call("retry", "1", expect=2)) == "#1 is loaded (--force loads it once more)"
    live.call("retry", "1", "--force")
    first, second = live.settled(2)
    assert (first["superseded_by"], second["status"], second["inserted"]) == (second["id"], "loaded", 1)
    assert len(live.rows("vehicles_status")) == 1
    assert "#1 was loaded again as #2 (retry that one)" in sentence(live.call("retry", "1", "--force", expect=2))
    assert f"loaded again as #{second['id']}" in live.call("files").stdout


def test_a_partial_file_is_retried_whole(live: Site) -> None:
    live.drop("vehicle_status_1.json", [report("a"), report("b", "yesterday")])
    live.settled(1)
    live.call("retry", "1")
    first, second = live.settled(2)
    assert (first["status"], first["superseded_by"]) == ("partial", second["id"])
    assert (second["status"], second["unchanged"], second["rejected"]) == ("partial", 1, 1)


def test_a_duplicate_is_not_retried_but_its_original(site: Site, samples: Path) -> None:
    for _ in range(2):
        site.call("ingest", str(samples / "work_orders" / "work_order_10.json"))
    assert sentence(site.call("retry", "2", expect=2)) == "#2 is a duplicate (retry the original: #1)"


def test_all_rejected_takes_those_that_are_kept(site: Site) -> None:
    for flow in ("vehicle_status", "work_orders"):
        site.drop("a.json", "[", flow=flow)
    site.drop("c.json", "[]", flow="work_orders")
    with running(site):
        site.settled(3)
    site.call("ingest", "--flow", "vehicle_status", "/dev/null", expect=1)
    done = site.call("retry", "--all-rejected", "--flow", "work_orders")
    assert [path.relative_to(site.input).as_posix() for path in site.waiting()] == ["work_orders/a.json"]
    assert len(done.stdout.splitlines()) == 2
    site.call("retry", "--all-rejected")
    assert sorted(path.name for path in site.waiting()) == ["a.json", "a.json"]
    assert site.call("retry", "--all-rejected").stdout == "no rejected file is kept\n"


def test_an_earlier_rejection_does_not_take_a_later_ones_file(site: Site) -> None:
    for content in ("[", "{"):
        site.drop("a.json", content, flow="vehicle_status")
        with running(site):
            site.settled(len(site.ledger()) + 1)
        if content == "[":
            site.call("retry", "1")
            (site.input / "vehicle_status" / "a.json").unlink()
    assert "no copy of #1" in sentence(site.call("retry", "1", expect=2))
    site.call("retry", "2")


def test_a_file_put_back_does_not_replace_one_that_waits(site: Site) -> None:
    site.drop("a.json", "[", flow="vehicle_status")
    with running(site):
        site.settled(1)
    site.drop("a.json", [report("a")], flow="vehicle_status")
    site.call("retry", "1")
    assert sorted(path.name for path in site.waiting()) == ["a.1.json", "a.json"]
    assert json.loads((site.input / "vehicle_status" / "a.json").read_text()) == [report("a")]


def test_a_file_that_is_gone_is_said_so_and_the_others_are_put_back(site: Site) -> None:
    for name in ("a.json", "b.json"):
        site.drop(name, "[" if name == "a.json" else "{", flow="vehicle_status")
    with running(site):
        site.settled(2)
    kept = {line["name"]: line["id"] for line in site.ledger()}
    (site.rejected / "vehicle_status" / "a.json").unlink()
    done = site.call("retry", str(kept["a.json"]), str(kept["b.json"]), expect=2)
    assert "is no longer there" in sentence(done)
    assert [path.name for path in site.waiting()] == ["b.json"]


def test_where_nothing_went_wrong_on_the_way_out_retry_says_so(site: Site) -> None:
    assert site.call("retry", "--dead-letter").stdout == "there are no dead letters\n"
    assert "work_orders: 0 rows will be tried again\n" in site.call("retry", "--quarantined").stdout
    narrowed = site.call("retry", "--quarantined", "--flow", "work_orders").stdout
    assert narrowed == "work_orders: 0 rows will be tried again\n"
