"""A fault of one flow's table rests that flow: its files wait, `status` says why, all other flows go on."""

import json

import pytest

from services.runtime.status_file import Fault, Phase
from tests.support.database_faults import failing, told
from tests.support.sites import Site, running
from tests.support.waiting import eventually

T1 = "2022-05-05T22:02:34Z"
COMMIT = "deferrable initially deferred"

pytestmark = pytest.mark.usefixtures("impatient")


def drop_report(site: Site, vehicle: str) -> None:
    record = {"vehicle_id": vehicle, "report_time": T1, "status": "driving"}
    site.drop(f"{vehicle}.json", [record], flow="vehicle_status")


def drop_order(site: Site, number: int) -> None:
    order = {"orderNo": number, "summary": "Pump", "creationDate": T1, "lastUpdateDate": T1}
    site.drop(f"{number}.json", order, flow="work_orders")


def resting(site: Site) -> Fault:
    """Why the flow of vehicles rests, once it does; and it alone."""
    eventually(lambda: told(site).resting, what="a flow that rests")
    state = told(site)
    assert (state.state, state.fault, list(state.resting)) == (Phase.WATCHING, None, ["vehicle_status"])
    return state.resting["vehicle_status"]


def expect_both_loaded(site: Site) -> None:
    """After the fault: what waited is in the table, nothing is rejected, no flow rests."""
    eventually(lambda: len(site.rows("vehicles_status")) == 2, what="the reports that waited")
    assert {(line["flow"], line["status"]) for line in site.settled(3)} == {
        ("vehicle_status", "loaded"),
        ("work_orders", "loaded"),
    }
    assert [path for path in site.rejected.rglob("*") if not path.is_dir()] == []
    eventually(lambda: not told(site).resting, what="a flow that works again")
    assert site.waiting() == []


@pytest.mark.parametrize(
    ("code", "when"),
    [
        pytest.param("P0001", "", id="raised by a trigger"),
        pytest.param("P0001", COMMIT, id="raised by a trigger at the commit"),
        pytest.param("42501", "", id="missing grant"),
        pytest.param("42501", COMMIT, id="missing grant at the commit"),
        pytest.param("42883", "", id="a function that a trigger calls is gone"),
        pytest.param("25P04", "", id="transaction timeout"),
        pytest.param("ZZ123", "", id="a code that nobody knows"),
        pytest.param("ZZ123", COMMIT, id="a code that nobody knows at the commit"),
    ],
)
def test_a_table_that_fails_rests_its_flow(live: Site, code: str, when: str) -> None:
    with failing(live, code, "not today", when=when):
        drop_report(live, "a")
        drop_report(live, "b")
        if code == "25P04":  # of the server, as far as anybody knows: no flow's own
            eventually(lambda: told(live).fault, what="a fault")
        else:
            found = resting(live)
            assert (found.text.partition(" (")[0], bool(found.hint)) == ("not today", True)
        drop_order(live, 1)
        eventually(lambda: live.rows("work_orders"), what="a work order, of another flow")
        waiting = {"vehicle_status/a.json", "vehicle_status/b.json"}
        eventually(lambda: {name for name, _ in told(live).waiting} == waiting, what="both files among the waiting")
    expect_both_loaded(live)


@pytest.mark.parametrize(
    ("change", "sentence", "undone"),
    [
        ("drop table vehicles_status", 'relation "vehicles_status" does not exist', None),
        (
            "alter table vehicles_status rename column status to state",
            'column "status" does not exist',
            "alter table vehicles_status rename column state to status",
        ),
    ],
    ids=["table", "column"],
)
def test_a_table_that_no_longer_fits_rests_its_flow(live: Site, change: str, sentence: str, undone: str | None) -> None:
    live.execute(change)
    drop_report(live, "a")
    drop_report(live, "b")
    found = resting(live)
    assert found.text == sentence
    assert "db upgrade" in found.hint
    drop_order(live, 1)
    eventually(lambda: live.rows("work_orders"), what="a work order, of another flow")
    if undone:
        live.execute(undone)
    else:
        live.call("db", "upgrade")
    expect_both_loaded(live)


def test_the_trigger_that_raised_is_named(live: Site) -> None:
    with failing(live, "P0001", "not today"):
        drop_report(live, "a")
        found = resting(live)
    assert found.text == "not today (raised by fail())"
    assert "check_violation" in found.hint, "how it says that a record is at fault"


def test_a_trigger_that_names_the_record_rejects_only_that(site: Site) -> None:
    with failing(site, "23514", "no ghosts", condition="new.vehicle_id = 'ghost'"):
        records = [{"vehicle_id": v, "report_time": T1, "status": "driving"} for v in ("a", "ghost", "b")]
        site.drop("x.json", records, flow="vehicle_status")
        site.load()
    (line,) = site.ledger()
    assert (line["status"], line["inserted"], line["rejected"]) == ("partial", 2, 1)


def test_status_tells_which_flow_rests_and_what_helps(site: Site) -> None:
    with running(site), failing(site, "42501", "permission denied for table vehicles_status"):
        drop_report(site, "a")
        since = resting(site).since
        shown = " ".join(site.call("status").stdout.split())
        assert "watching" in shown
        assert "files of vehicle_status rest: permission denied for table vehicles_status" in shown
        assert "grant the user of DATABASE_URL this right" in shown
        (daemon,) = json.loads(site.call("status", "--json").stdout)["daemons"]
        assert daemon["resting"]["vehicle_status"]["text"].startswith("permission denied for table vehicles_status")
        assert resting(site).since == since, "it is one fault, however often it is tried again"


def test_status_counts_the_flows_whose_tables_are_there(live: Site) -> None:
    drop_order(live, 1)
    live.settled(1)
    live.execute("drop table vehicles_status")
    told_of = json.loads(live.call("status", "--json").stdout)
    assert told_of["database"]["up"] is True
    lines = {line["flow"]: line for line in told_of["flows"]}
    assert lines["work_orders"]["rows"] == 1
    assert 'relation "vehicles_status" does not exist' in lines["vehicle_status"]["table_error"]
    assert 'relation "vehicles_status" does not exist' in live.call("status").stdout
