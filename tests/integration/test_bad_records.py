"""Records that are rejected, in a file whose other records load; and fields that nobody knows."""

import json
from typing import Any

import pytest

from tests.support.bad_input import STATUS, T1, check_agreement, good, rejected
from tests.support.sites import Site


def order(**changes: object) -> dict[str, object]:
    return {"orderNo": 1, "summary": "Pump", "creationDate": T1, "lastUpdateDate": T1} | changes


def event(**changes: object) -> dict[str, object]:
    return {"vehicle_id": "a", "detection_time": T1, "object_type": "cars", "object_value": 1} | changes


@pytest.mark.parametrize(
    ("record", "field", "reason"),
    [
        pytest.param(good(vehicle_id=17), "vehicle_id", "should be text", id="number-for-text"),
        pytest.param(good(vehicle_id=None), "vehicle_id", "should be text", id="null-for-text"),
        pytest.param(good(vehicle_id=""), "vehicle_id", "may not be empty", id="empty-key"),
        pytest.param(good(status="a\0b"), "status", r"may not contain the character NUL (\u0000)", id="nul"),
        pytest.param(good(status="x" * 51), "status", "should have at most 50 characters", id="too-long"),
        pytest.param(good(status={"a": []}), "status", "should be text", id="object-for-text"),
        pytest.param(good(report_time="2022-05-05T22:02:34"), "report_time", "has no time zone: add Z", id="naive"),
        pytest.param(
            good(report_time="0000-01-01T00:00:00Z"),
            "report_time",
            "should be greater than or equal to 0001-01-02",
            id="year-0",
        ),
        pytest.param(good(report_time="10000-01-01T00:00:00Z"), "report_time", "", id="year-10000"),
        pytest.param(good(report_time="0001-01-01T00:00:00+01:00"), "report_time", "", id="before-year-1-in-utc"),
        pytest.param(
            good(report_time="2023-02-31T00:00:00Z"),
            "report_time",
            "is no time that exists: day value is outside expected range",
            id="31-february",
        ),
        pytest.param(good(report_time="2022-05-05T24:01:00Z"), "report_time", "is no time that exists", id="hour-24"),
        pytest.param(good(report_time="2022-05-05"), "report_time", "should be a time as ISO 8601", id="only-a-day"),
        pytest.param(good(report_time="1494012444"), "report_time", "should be a time as ISO 8601", id="epoch-text"),
        pytest.param(good(report_time=1494012444), "report_time", "should be a time as ISO 8601", id="epoch"),
        pytest.param({"vehicle_id": "a", "status": "x"}, "report_time", "report_time is missing", id="missing"),
        pytest.param({}, "vehicle_id", "vehicle_id is missing", id="empty-record"),
        pytest.param(17, None, "should be an object", id="no-object"),
        pytest.param([good()], None, "should be an object", id="list-in-list"),
        pytest.param(None, None, "should be an object", id="null"),
    ],
)
def test_a_bad_vehicle_report_is_rejected_and_the_others_load(
    site: Site, record: Any, field: str | None, reason: str
) -> None:
    check_one_bad_record(site, STATUS, STATUS, good("fine"), record, field, reason)


@pytest.mark.parametrize(
    ("record", "field", "reason"),
    [
        pytest.param(order(isDone="yes"), "isDone", "should be true or false", id="yes-for-flag"),
        pytest.param(order(isDone=1), "isDone", "should be true or false", id="1-for-flag"),
        pytest.param(order(isDone=None), "isDone", "should be true or false", id="null-for-flag"),
        pytest.param(order(orderNo=1.9), "orderNo", "should be a whole number", id="fraction"),
        pytest.param(order(orderNo=True), "orderNo", "should be a whole number", id="true-for-number"),
        pytest.param(order(orderNo="1.5"), "orderNo", "should be a whole number", id="fraction-as-text"),
        pytest.param(order(orderNo=2**31), "orderNo", "should be less than or equal to 2147483647", id="beyond-column"),
        pytest.param(order(orderNo=-1), "orderNo", "should be greater than or equal to 0", id="negative"),
        pytest.param(order(orderNo=10**3999), "orderNo", "should be less than or equal to", id="4000-digits"),
        pytest.param(order(orderNo="9" * 4000), "orderNo", "should be a whole number", id="4000-digits-as-text"),
        pytest.param(order(orderNo=1e300), "orderNo", "", id="huge-float"),
        pytest.param(order(creationDate=None), "creationDate", "should be a time", id="null-time"),
        pytest.param(order(isDone=True, isPending=True), None, "flags contradict each other", id="contradiction"),
        pytest.param({}, "orderNo", "orderNo is missing", id="empty"),
    ],
)
def test_a_bad_work_order_is_rejected_and_the_others_load(
    site: Site, record: Any, field: str | None, reason: str
) -> None:
    check_one_bad_record(site, "work_orders", None, order(orderNo=77), record, field, reason)


@pytest.mark.parametrize(
    ("record", "field", "reason"),
    [
        pytest.param(event(object_value=-1), "object_value", "should be greater than or equal to 0", id="negative"),
        pytest.param(event(object_value="4"), "object_value", "should be a whole number", id="digits-as-text"),
        pytest.param(event(detections=[]), None, "not both", id="both-forms"),
        pytest.param(
            {"vehicle_id": "a", "detection_time": T1, "detections": [{"object_type": "x", "object_value": 1.5}]},
            "detections/0/object_value",
            "should be a whole number",
            id="nested",
        ),
        pytest.param(
            {"vehicle_id": "a", "detection_time": T1, "detections": {}}, "detections", "should be a list", id="no-list"
        ),
    ],
)
def test_a_bad_detection_is_rejected_and_the_others_load(
    site: Site, record: Any, field: str | None, reason: str
) -> None:
    flow = "detection_events"
    check_one_bad_record(site, flow, "objects_detection_events", event(vehicle_id="fine"), record, field, reason)


def check_one_bad_record(
    site: Site, flow: str, envelope: str | None, fine: object, bad: Any, field: str | None, reason: str
) -> None:
    content = [fine, bad, fine]
    site.drop("x.json", {envelope: content} if envelope else content, flow=flow)
    site.load()
    (line,) = site.ledger()
    assert (line["status"], line["records"], line["rejected"], line["inserted"]) == ("partial", 3, 1, 1)
    report = site.report("x.json", flow)
    check_agreement(site, line, report)
    error = report["errors"][0]
    assert error["record"] == 1
    start = f"/{envelope}/1" if envelope else "/1"
    assert error["pointer"] == (start if field is None else f"{start}/{field}")
    assert error["line"] == 1
    assert reason in error["reason"]
    value = bad
    for step in field.split("/") if field else []:
        value = value[int(step)] if isinstance(value, list) else value.get(step, ...)
    shown = json.dumps(None if value is ... else value, ensure_ascii=False)
    if value is ...:
        assert "value" not in error
    elif len(shown) <= 200:
        assert error["value"] == value
    else:
        assert error["value"] == shown[:199] + "…"


def test_a_naive_time_is_utc_where_the_partner_says_so(site: Site) -> None:
    site.drop("x.json", order(creationDate="2022-05-05T22:02:34"), flow="work_orders")
    site.load()
    assert site.rows("work_orders")[0]["created_at"].isoformat() == "2022-05-05T22:02:34+00:00"


def test_infinity_out_of_a_large_exponent_is_rejected(site: Site) -> None:
    site.drop("x.json", '[{"orderNo": 1e999}]', flow="work_orders")
    site.load()
    (line,) = site.ledger()
    assert rejected(site, line, "work_orders")["errors"][0]["value"] == "inf"


def test_unknown_fields_load_and_are_counted_in_the_ledger(site: Site) -> None:
    site.drop("x.json", [good("a", colour="red"), good("b", colour=1, **{"odd\0\n": 2}), good("c")], flow=STATUS)
    site.load()
    (line,) = site.ledger()
    assert (line["status"], line["inserted"]) == ("loaded", 3)
    assert line["drift"] == {"colour": 2, "odd\\u0000\n": 1}


def test_a_thousand_unknown_fields_do_not_fill_the_ledger(site: Site) -> None:
    content = [good(str(number), **{f"field-{number}-{other}": 1 for other in range(50)}) for number in range(1000)]
    site.drop("x.json", content, flow=STATUS)
    site.load()
    (line,) = site.ledger()
    assert line["inserted"] == 1000
    assert len(line["drift"]) == 100
