"""kill -9 between any two steps of the writer: the same files with the same contents, once each."""

import json
from pathlib import Path

import pytest

from file_processing.outbound import numbers
from tests.support.outbound_faults import POINTS
from tests.support.sites import Site

THEN = "2024-05-02T08:00:00Z"


def load(site: Site) -> None:
    orders = [{"orderNo": n, "summary": f"Order {n}", "creationDate": THEN, "lastUpdateDate": THEN} for n in range(3)]
    reports = [{"vehicle_id": str(n), "report_time": THEN, "status": "parking"} for n in range(3)]
    for name, flow, content in (("o.json", "work_orders", orders), ("v.json", "vehicle_status", reports)):
        site.call("ingest", "--flow", flow, str(site.drop(name, content, flow=flow)))


def emit_and_be_killed(site: Site, point: str) -> None:
    site.run_to_kill("tests.support.outbound_faults", point, "emit")


def outbound(site: Site) -> dict[str, str]:
    folder = site.settings.output_dir
    files = {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}
    files.pop(numbers.NAME, None)
    return files


def expect_all_out(site: Site) -> None:
    files = outbound(site)
    batches = [name for name in files if name.startswith("vehicle_status/")]
    assert sorted(set(files) - set(batches)) == [f"work_orders/{n}.json" for n in range(3)]
    (batch,) = batches
    assert [report["vehicle_id"] for report in json.loads(files[batch])["vehicle_status"]] == ["0", "1", "2"]
    ledger = site.query("select flow || '/' || name as name, status, content, taken from tidegate.outbound_file")
    assert sorted(line["name"] for line in ledger) == sorted(files)
    assert {(line["status"], line["content"], line["taken"]) for line in ledger} == {("written", None, None)}
    for table in ("work_orders", "vehicles_status"):
        assert site.query(f"select 1 from {table} where not is_synced or outbound_file_id is null") == []


@pytest.mark.parametrize("point", POINTS)
def test_killed_at_any_point_the_next_run_ends_with_the_same_files(point: str, site: Site) -> None:
    load(site)
    emit_and_be_killed(site, point)
    partly = outbound(site)
    site.call("emit")
    expect_all_out(site)
    after = outbound(site)
    assert {name: text for name, text in partly.items() if not Path(name).name.startswith(".")}.items() <= after.items()


def test_a_row_that_changes_after_the_crash_goes_out_in_a_file_of_its_own(site: Site) -> None:
    load(site)
    emit_and_be_killed(site, "files are sealed")
    site.query("update vehicles_status set status = 'driving' where vehicle_id = '1' returning 1")
    site.call("emit")
    first, second = (
        json.loads(text)["vehicle_status"]
        for name, text in sorted(outbound(site).items())
        if name.startswith("vehicle_status/")
    )
    assert [report["status"] for report in first] == ["parking"] * 3
    assert [(report["vehicle_id"], report["status"]) for report in second] == [("1", "driving")]
    assert site.query("select 1 from vehicles_status where not is_synced") == []
