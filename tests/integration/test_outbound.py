"""Changed rows go out as files, whoever changed them: seen from outside, flow by flow."""

import json
import os
import re

import pytest

import flows as flow_folder
from tests.support.processes import ROOT
from tests.support.sites import Site, running
from tests.support.waiting import eventually

FLOWS = flow_folder.discover()
SAMPLES = ROOT / "sample_files"
ORDER = {
    "orderNo": 42,
    "summary": "Pump",
    "creationDate": "2024-05-02T08:00:00Z",
    "lastUpdateDate": "2024-05-02T08:00:00Z",
}


def unsynced(site: Site, table: str) -> int:
    return len(site.query(f"select 1 from {table} where not is_synced"))


def timeless(text: str) -> str:
    """An EDI answer without the moment when it was made."""
    for pattern, moment in (
        (r"(?<=\+)\d{6}:\d{4}(?=\+)|(?<=DTM\+137:)\d{12}|(?<=\*)\d{6}\*\d{4}(?=\*[U^]\*)", "NOW"),
        (r"(?<=\*)\d{8}\*\d{4}(?=\*\d+\*X\*)|(?<=\*{5})\d{8}(?=~CUR)", "NOW"),
    ):
        text = re.sub(pattern, moment, text)
    return text


@pytest.mark.parametrize("name", FLOWS)
def test_the_outbound_files_of_the_samples_are_the_golden_ones(name: str, site: Site) -> None:
    samples = sorted(map(str, (SAMPLES / name).glob("*.*")))
    site.call("ingest", "--flow", name, *samples)
    site.call("emit", "--flow", name)
    expected = SAMPLES / name / "expected"
    if "REGEN" in os.environ:
        for file, text in site.out(name).items():
            (expected / file).parent.mkdir(parents=True, exist_ok=True)
            (expected / file).write_text(timeless(text))
    golden = {str(path.relative_to(expected)): path.read_text() for path in expected.rglob("*") if path.is_file()}
    assert golden
    before = site.out(name)
    assert {file: timeless(text) for file, text in before.items()} == golden
    site.call("emit")
    assert site.out(name) == before
    assert unsynced(site, FLOWS[name].sql_table.name) == 0


def test_a_change_by_hand_goes_out_and_one_that_changes_nothing_does_not(live: Site) -> None:
    live.drop("42.json", ORDER, flow="work_orders")
    first = eventually(lambda: live.out("work_orders").get("42.json", ""), what="the work order")
    assert json.loads(first)["isActive"] is True
    eventually(lambda: not unsynced(live, "work_orders"), what="the mark")
    live.query("update work_orders set title = title where number = 42 returning 1")
    assert unsynced(live, "work_orders") == 0
    live.query("update work_orders set status = 'completed' where number = 42 returning 1")
    eventually(lambda: json.loads(live.out("work_orders")["42.json"])["isDone"], what="the change")
    files = live.query("select name, status from tidegate.outbound_file order by id")
    assert [file["name"] for file in files] == ["42.json", "42.json"]


def test_a_row_inserted_by_another_application_goes_out(live: Site) -> None:
    live.query(
        "insert into vehicles_status (vehicle_id, report_time, status) values ('a', now(), 'parking') returning 1"
    )
    (text,) = eventually(lambda: list(live.out("vehicle_status").values()), what="the file")
    assert json.loads(text)["vehicle_status"][0]["status"] == "parking"


def test_a_row_that_cannot_be_translated_is_quarantined_and_holds_nobody_back(live: Site) -> None:
    live.drop("orders.json", [ORDER, ORDER | {"orderNo": 43}], flow="work_orders")
    eventually(lambda: len(live.out("work_orders")) == 2, what="both orders")
    live.query("update work_orders set status = 'lost' where number = 42 returning 1")
    live.query("update work_orders set title = 'Mended' where number = 43 returning 1")
    eventually(lambda: "Mended" in live.out("work_orders")["43.json"], what="the good one")
    (flow,) = [f for f in json.loads(live.call("status", "--json").stdout)["flows"] if f["flow"] == "work_orders"]
    assert (flow["quarantined"], flow["unsynced"]) == (1, 0)
    assert "'lost' is no status" in flow["quarantined_error"]
    live.query("update work_orders set status = 'pending' where number = 42 returning 1")
    eventually(lambda: json.loads(live.out("work_orders")["42.json"])["isPending"], what="the mended one")


def test_a_customer_gets_one_package_for_ever(live: Site) -> None:
    customer = {"id": "6f9619ff-8b86-4011-b42d-00c04fc964ff", "name": "Ada", "email": "a@example.com"}
    customer["created_at"] = "2026-01-31T08:00:00Z"
    live.drop("1.json", customer, flow="customers")
    (request,) = eventually(lambda: list(live.out("customers").values()), what="the request")
    assert json.loads(request) == {"customer_id": customer["id"], "package_type": "welcome_package"}
    live.drop("2.json", customer | {"name": "Ada Lovelace"}, flow="customers")
    live.settled(2)
    eventually(lambda: not unsynced(live, "customers"), what="the mark")
    live.query("delete from customers returning 1")
    live.drop("3.json", [customer | {"email": "b@example.com"}], flow="customers")
    live.settled(3)
    eventually(lambda: not unsynced(live, "customers"), what="the mark")
    assert len(live.query("select 1 from tidegate.outbound_file")) == 1


def an_order(**changes: object) -> dict[str, object]:
    lines = [
        {"line_number": 1, "sku": "A", "quantity": 2, "unit_price": 4.10},
        {"line_number": 2, "sku": "B", "quantity": 1},
    ]
    order = {"partner": "p", "order_number": "1/7", "ordered_at": "2026-01-31T09:00:00Z", "currency": "EUR"}
    return order | {"buyer": {"id": "b"}, "lines": lines} | changes


def test_a_replaced_order_replaces_its_lines_and_a_cancelled_one_keeps_them(live: Site) -> None:
    def lines() -> list[tuple[object, object]]:
        return [
            (row["line_number"], row["sku"]) for row in live.query("select * from order_lines order by line_number")
        ]

    live.drop("1.json", an_order(), flow="orders")
    live.settled(1)
    assert lines() == [(1, "A"), (2, "B")]
    new_lines = [{"line_number": 2, "sku": "C", "quantity": "1.50"}]
    live.drop("2.json", an_order(purpose="replace", lines=new_lines), flow="orders")
    assert live.settled(2)[1]["updated"] == 1
    assert lines() == [(2, "C")]
    live.drop("3.json", [an_order(purpose="replace", lines=[new_lines[0] | {"quantity": 1.5}])], flow="orders")
    assert live.settled(3)[2]["unchanged"] == 1
    live.drop("4.json", an_order(purpose="cancel", lines=[]), flow="orders")
    live.settled(4)
    assert lines() == [(2, "C")]
    folder = live.settings.output_dir / "orders" / "p"
    (name,) = eventually(lambda: [path.name for path in folder.iterdir() if path.suffix == ".json"], what="the file")
    eventually(lambda: json.loads((folder / name).read_text())["status"] == "cancelled", what="the cancellation")


def test_a_line_changed_by_hand_sends_its_order_again(live: Site) -> None:
    live.drop("1.json", an_order(order_number="7"), flow="orders")
    path = live.settings.output_dir / "orders" / "p" / "7.json"
    eventually(path.exists, what="the order")
    eventually(lambda: not unsynced(live, "orders"), what="the mark")
    live.query("update order_lines set quantity = 12345.678901 where line_number = 1 returning 1")
    eventually(lambda: '"12345.678901"' in path.read_text(), what="the changed line")


def test_an_outbound_folder_that_cannot_be_written_holds_nothing_back(site: Site) -> None:
    folder = site.settings.output_dir / "work_orders"
    folder.parent.mkdir(exist_ok=True)
    folder.write_text("in the way")
    with running(site):
        site.drop("42.json", ORDER, flow="work_orders")
        site.settled(1)
        eventually(lambda: "cannot be written" in site.call("status").stdout, what="the fault in status")
        site.drop(
            "v.json", [{"vehicle_id": "a", "report_time": "2026-01-01T00:00:00Z", "status": "x"}], flow="vehicle_status"
        )
        eventually(lambda: site.out("vehicle_status"), what="another flow's file")
        assert unsynced(site, "work_orders") == 1
        folder.unlink()
        eventually(lambda: "42.json" in site.out("work_orders"), timeout=20, what="the file")


def test_trace_tells_which_file_carried_a_row(live: Site) -> None:
    live.drop("42.json", ORDER, flow="work_orders")
    eventually(lambda: live.query("select 1 from work_orders where is_synced"), what="the mark")
    assert "went out in" in live.call("trace", "work_orders", "42").stdout


def test_two_writers_write_each_row_once(site: Site) -> None:
    for _ in range(2):
        site.start()
    orders = [ORDER | {"orderNo": number} for number in range(300)]
    site.drop("orders.json", orders, flow="work_orders")
    eventually(lambda: len(site.out("work_orders")) == 300, timeout=30, what="all files")
    eventually(lambda: not unsynced(site, "work_orders"), what="the marks")
    files = site.query("select name from tidegate.outbound_file")
    assert len(files) == len({file["name"] for file in files}) == 300
