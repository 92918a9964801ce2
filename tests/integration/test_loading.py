"""Drop a file, see its rows: the main path, for the flows that come with Tidegate."""

from datetime import UTC, datetime
from typing import Any

from tests.support.sites import Site

T1, T2 = "2022-05-05T22:02:34Z", "2022-05-05T23:02:34Z"


def report(vehicle: str, time: str = T1, status: str = "driving") -> dict[str, str]:
    return {"vehicle_id": vehicle, "report_time": time, "status": status}


def load(site: Site, name: str, content: object, *, flow: str = "vehicle_status") -> dict[str, Any]:
    """The ledger's line of a file with this content."""
    site.drop(name, content, flow=flow)
    site.load()
    return site.ledger()[-1]


def test_a_dropped_file_becomes_rows_and_is_archived(live: Site) -> None:
    live.drop("vehicle_status_1.json", {"vehicle_status": [report("a"), report("b")]})
    (line,) = live.settled(1)
    assert (line["flow"], line["status"], line["records"], line["inserted"]) == ("vehicle_status", "loaded", 2, 2)
    first, second = live.rows("vehicles_status")
    assert (first["vehicle_id"], first["status"], first["report_time"]) == (
        "a",
        "driving",
        datetime(2022, 5, 5, 22, 2, 34, tzinfo=UTC),
    )
    assert (second["source_file_id"], second["record_position"]) == (line["id"], 1)
    assert live.waiting() == []
    today = datetime.now(UTC).date().isoformat()
    assert (live.archive / "vehicle_status" / today / "vehicle_status_1.json").exists()


def test_a_newer_report_replaces_an_older_one_and_says_which(site: Site) -> None:
    first = load(site, "1.json", {"vehicle_status": [report("a", T1)]})
    second = load(site, "2.json", {"vehicle_status": [report("a", T2, "parking")]})
    assert second["updated"] == 1
    (row,) = site.rows("vehicles_status")
    assert (row["status"], row["source_file_id"], row["replaced_file_id"]) == ("parking", second["id"], first["id"])


def test_older_report_does_not_overwrite(site: Site) -> None:
    load(site, "2.json", {"vehicle_status": [report("a", T2, "parking")]})
    assert load(site, "1.json", {"vehicle_status": [report("a", T1)]})["stale"] == 1
    assert site.rows("vehicles_status")[0]["status"] == "parking"


def test_the_same_facts_in_another_file_write_nothing(site: Site) -> None:
    load(site, "1.json", {"vehicle_status": [report("a")]})
    before = site.query("select xmin, * from vehicles_status")
    assert load(site, "2.json", [report("a")])["unchanged"] == 1
    assert site.query("select xmin, * from vehicles_status") == before


def test_the_newest_of_a_file_wins_whatever_its_order(site: Site) -> None:
    records = [report("a", T2, "parking"), report("a", T1), report("b", T1), report("b", T2, "charging")]
    line = load(site, "1.json", {"vehicle_status": records})
    assert (line["inserted"], line["stale"], line["unchanged"]) == (2, 2, 0)
    assert [row["status"] for row in site.rows("vehicles_status")] == ["parking", "charging"]


def test_the_same_content_is_loaded_once(site: Site) -> None:
    first, second = (load(site, name, {"vehicle_status": [report("a")]}) for name in ("a.json", "b.json"))
    assert (second["status"], second["duplicate_of"]) == ("duplicate", first["id"])


def test_a_duplicate_tells_what_it_holds_and_what_the_flow_does_not_know(site: Site) -> None:
    bad = {"vehicle_status": [report("a") | {"colour": 1}, {"vehicle_id": "b"}]}
    load(site, "a.json", bad)
    again = load(site, "b.json", bad)
    assert (again["status"], again["records"], again["rejected"]) == ("duplicate", 2, 0)
    assert again["drift"] == {"colour": 1}


def test_two_files_of_one_name_are_both_kept(site: Site) -> None:
    for status in ("driving", "parking"):
        load(site, "same.json", [report("a", T1, status)])
    kept = sorted(path.name for path in site.archive.rglob("*") if path.is_file())
    assert len(kept) == 2
    assert kept[1] == "same.json"


def test_one_event_becomes_a_row_per_detection_and_is_never_changed(site: Site) -> None:
    event = {"vehicle_id": "a", "detection_time": T1}
    seen = {"detections": [{"object_type": "cars", "object_value": 4}, {"object_type": "signs", "object_value": 3.0}]}
    load(site, "objects_detection_1.json", {"objects_detection_events": [event | seen]}, flow="")
    flat = event | {"object_type": "cars", "object_value": 9}
    assert load(site, "2.json", {"objects_detection_events": [flat]}, flow="")["stale"] == 1
    kept = {row["object_type"]: row["object_value"] for row in site.rows("objects_detection")}
    assert kept == {"cars": 4, "signs": 3}


def test_work_orders_keep_what_is_tracos_own(site: Site) -> None:
    order = {"orderNo": 42, "summary": "Pump", "creationDate": T1, "lastUpdateDate": T1, "isDone": True}
    load(site, "42.json", order, flow="work_orders")
    site.query("update work_orders set description = 'ours' where number = 42 returning 1")
    load(site, "42.json", order | {"orderNo": "42", "lastUpdateDate": T2, "isDone": False}, flow="work_orders")
    (row,) = site.rows("work_orders")
    assert (row["status"], row["description"]) == ("in_progress", "ours")
