"""Drop a file, see its rows: the main path, for the flows that come with Tidegate."""

from datetime import UTC, datetime

from tests.support.sites import Site
from tests.support.waiting import eventually

T1, T2 = "2022-05-05T22:02:34Z", "2022-05-05T23:02:34Z"


def report(vehicle: str, time: str = T1, status: str = "driving") -> dict[str, str]:
    return {"vehicle_id": vehicle, "report_time": time, "status": status}


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


def test_a_newer_report_replaces_an_older_one_and_says_which(live: Site) -> None:
    live.drop("1.json", {"vehicle_status": [report("a", T1)]}, flow="vehicle_status")
    live.settled(1)
    live.drop("2.json", {"vehicle_status": [report("a", T2, "parking")]}, flow="vehicle_status")
    first, second = live.settled(2)
    assert second["updated"] == 1
    (row,) = live.rows("vehicles_status")
    assert (row["status"], row["source_file_id"], row["replaced_file_id"]) == ("parking", second["id"], first["id"])


def test_older_report_does_not_overwrite(live: Site) -> None:
    live.drop("2.json", {"vehicle_status": [report("a", T2, "parking")]}, flow="vehicle_status")
    live.settled(1)
    live.drop("1.json", {"vehicle_status": [report("a", T1)]}, flow="vehicle_status")
    assert live.settled(2)[1]["stale"] == 1
    assert live.rows("vehicles_status")[0]["status"] == "parking"


def test_the_same_facts_in_another_file_write_nothing(live: Site) -> None:
    live.drop("1.json", {"vehicle_status": [report("a")]}, flow="vehicle_status")
    eventually(lambda: live.query("select 1 from vehicles_status where is_synced"), what="the row, loaded and sent")
    before = live.query("select xmin, * from vehicles_status")
    live.drop("2.json", [report("a")], flow="vehicle_status")
    assert live.settled(2)[1]["unchanged"] == 1
    assert live.query("select xmin, * from vehicles_status") == before


def test_the_newest_of_a_file_wins_whatever_its_order(live: Site) -> None:
    records = [report("a", T2, "parking"), report("a", T1), report("b", T1), report("b", T2, "charging")]
    live.drop("1.json", {"vehicle_status": records}, flow="vehicle_status")
    (line,) = live.settled(1)
    assert (line["inserted"], line["stale"], line["unchanged"]) == (2, 2, 0)
    assert [row["status"] for row in live.rows("vehicles_status")] == ["parking", "charging"]


def test_the_same_content_is_loaded_once(live: Site) -> None:
    for name in ("a.json", "b.json"):
        live.drop(name, {"vehicle_status": [report("a")]}, flow="vehicle_status")
        live.settled(1)
    first, second = live.settled(2)
    assert (second["status"], second["duplicate_of"]) == ("duplicate", first["id"])


def test_two_files_of_one_name_are_both_kept(live: Site) -> None:
    for number, status in enumerate(("driving", "parking")):
        live.drop("same.json", [report("a", T1, status)], flow="vehicle_status")
        live.settled(number + 1)
    kept = sorted(path.name for path in live.archive.rglob("*") if path.is_file())
    assert len(kept) == 2
    assert kept[1] == "same.json"


def test_one_event_becomes_a_row_per_detection_and_is_never_changed(live: Site) -> None:
    event = {"vehicle_id": "a", "detection_time": T1}
    seen = {"detections": [{"object_type": "cars", "object_value": 4}, {"object_type": "signs", "object_value": 3.0}]}
    live.drop("objects_detection_1.json", {"objects_detection_events": [event | seen]})
    live.settled(1)
    flat = event | {"object_type": "cars", "object_value": 9}
    live.drop("2.json", {"objects_detection_events": [flat]})
    assert live.settled(2)[1]["stale"] == 1
    kept = {row["object_type"]: row["object_value"] for row in live.rows("objects_detection")}
    assert kept == {"cars": 4, "signs": 3}


def test_work_orders_keep_what_is_tracos_own(live: Site) -> None:
    order = {"orderNo": 42, "summary": "Pump", "creationDate": T1, "lastUpdateDate": T1, "isDone": True}
    live.drop("42.json", order, flow="work_orders")
    live.settled(1)
    live.query("update work_orders set description = 'ours' where number = 42 returning 1")
    live.drop("42.json", order | {"orderNo": "42", "lastUpdateDate": T2, "isDone": False}, flow="work_orders")
    live.settled(2)
    (row,) = live.rows("work_orders")
    assert (row["status"], row["description"]) == ("in_progress", "ours")
