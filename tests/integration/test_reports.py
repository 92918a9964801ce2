"""What a refused file leaves behind: every reason, where it stands, and the records ready to be mended."""

import gzip
import json
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import flows
from file_processing.inbound import load as loader
from file_processing.inbound.error_report import rejected_name
from file_processing.inbound.formats import json as records
from file_processing.inbound.formats.base import Batch
from tests.support.sites import Site

T1 = "2022-05-05T22:02:34Z"
STATUS = "vehicle_status"


def report(vehicle: str, **changes: object) -> dict[str, object]:
    return {"vehicle_id": vehicle, "report_time": T1, "status": "driving"} | changes


def lines_of(*things: object) -> str:
    return "\n".join(json.dumps(thing) for thing in things)


def packed(text: str) -> bytes:
    return gzip.compress(text.encode())


def unpacked(path: Path) -> str:
    data = path.read_bytes()
    return (gzip.decompress(data) if path.suffix == ".gz" else data).decode()


GOOD, BAD, WORSE = report("good"), report("bad", status=7), report("worse", report_time="yesterday")

FORMS: dict[str, Callable[..., str]] = {
    "array": lambda *things: json.dumps(things),
    "envelope": lambda *things: json.dumps({"sent": T1, STATUS: things, "by": "us"}, indent=1),
    "lines": lines_of,
}


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("form", FORMS)
def test_the_refused_records_come_in_the_form_of_their_file_and_load_when_mended(
    live: Site, form: str, suffix: str
) -> None:
    kind = "jsonl" if form == "lines" else "json"
    text = FORMS[form](GOOD, BAD, WORSE)
    live.drop(f"x.{kind}{suffix}", packed(text) if suffix else text, flow=STATUS)
    assert live.settled(1)[0]["status"] == "partial"

    kept = live.rejected / STATUS / f"x.{kind}{suffix}.rejected.{kind}{suffix}"
    refused = unpacked(kept)
    wanted = {"array": [BAD, WORSE], "envelope": {STATUS: [BAD, WORSE]}, "lines": [BAD, WORSE]}[form]
    assert ([json.loads(line) for line in refused.splitlines()] if form == "lines" else json.loads(refused)) == wanted

    mended = refused.replace("7", '"parking"').replace("yesterday", T1)
    live.drop(kept.name, packed(mended) if suffix else mended, flow=STATUS)
    line = live.settled(2)[1]
    assert (line["status"], line["records"], line["inserted"]) == ("loaded", 2, 2)
    assert [row["vehicle_id"] for row in live.rows("vehicles_status")] == ["bad", "good", "worse"]


def test_a_refused_record_keeps_every_character_of_its_file(live: Site) -> None:
    odd = r'{"vehicle_id":"\u00e9 é 🚚 \/", "report_time" :1.50e+3,  "status":"x", "big": 12345678901234567890.10}'
    live.drop("x.json", f"[{json.dumps(GOOD)}, {odd}]", flow=STATUS)
    live.settled(1)
    assert odd in (live.rejected / STATUS / "x.json.rejected.json").read_text()


def test_a_single_record_is_refused_as_the_file_that_it_is(live: Site) -> None:
    order = {"orderNo": 1, "summary": "Pump", "creationDate": T1, "lastUpdateDate": 7}
    live.drop("x.json", json.dumps(order, indent=2), flow="work_orders")
    assert live.settled(1)[0]["status"] == "rejected"
    assert sorted(path.name for path in (live.rejected / "work_orders").iterdir()) == ["x.json", "x.json.errors.json"]
    (error,) = live.report("x.json", "work_orders")["errors"]
    assert (error["record"], error["pointer"], error["line"], error["column"]) == (0, "/lastUpdateDate", 5, 21)


def test_a_report_tells_a_person_what_is_wrong_and_what_to_do(live: Site) -> None:
    content = {STATUS: [GOOD, BAD, report("c", report_time="2022-05-05T22:02:34", status="x" * 300), {"vehicle_id": 1}]}
    live.drop("x.json", json.dumps(content, indent=2), flow=STATUS)
    (line,) = live.settled(1)
    assert live.report("x.json", STATUS) == {
        "file": "x.json",
        "flow": STATUS,
        "ledger_id": line["id"],
        "sha256": line["sha256"].hex(),
        "status": "partial",
        "records": 4,
        "rejected": 3,
        "what_next": "the other records are loaded: mend these in the file ending in .rejected.json, and drop it into "
        "input/vehicle_status/; if it is the flow that is wrong, mend the flow and call: "
        f"python main.py retry {line['id']}",
        "errors": [
            {"record": 1, "pointer": "/vehicle_status/1/status", "line": 11, "column": 17,
             "reason": "should be text", "value": 7},
            {"record": 2, "pointer": "/vehicle_status/2/report_time", "line": 15, "column": 22,
             "reason": "has no time zone: add Z for UTC or an offset like +02:00", "value": "2022-05-05T22:02:34"},
            {"record": 2, "pointer": "/vehicle_status/2/status", "line": 16, "column": 17,
             "reason": "should have at most 50 characters", "value": '"' + "x" * 198 + "…"},
            {"record": 3, "pointer": "/vehicle_status/3/vehicle_id", "line": 19, "column": 21,
             "reason": "should be text", "value": 1},
            {"record": 3, "pointer": "/vehicle_status/3/report_time", "line": 18, "column": 5,
             "reason": "report_time is missing"},
            {"record": 3, "pointer": "/vehicle_status/3/status", "line": 18, "column": 5,
             "reason": "status is missing"},
        ],
    }  # fmt: skip
    assert line["error"] == "record 1 /vehicle_status/1/status: should be text (and 2 more records)"


def test_a_line_that_is_no_json_costs_only_itself(live: Site) -> None:
    live.drop("x.jsonl", lines_of(GOOD) + '\n\n  {"vehicle_id": tru}\n' + lines_of(report("b")), flow=STATUS)
    (line,) = live.settled(1)
    assert (line["status"], line["inserted"], line["rejected"]) == ("partial", 2, 1)
    (error,) = live.report("x.jsonl", STATUS)["errors"]
    assert error == {
        "record": 1,
        "pointer": "",
        "line": 3,
        "column": 21,
        "reason": "not valid JSON: expected ident, found '}'",
        "value": '{"vehicle_id": tru}',
    }
    assert (live.rejected / STATUS / "x.jsonl.rejected.jsonl").read_text() == '{"vehicle_id": tru}\n'


def test_five_thousand_bad_records_are_all_listed(live: Site) -> None:
    content = [report(str(number), status=number) for number in range(5000)]
    live.drop("x.json", json.dumps([GOOD, *content]), flow=STATUS)
    (line,) = live.settled(1)
    assert (line["status"], line["rejected"], line["inserted"]) == ("partial", 5000, 1)
    errors = live.report("x.json", STATUS)["errors"]
    assert [(error["record"], error["value"]) for error in errors] == [(number + 1, number) for number in range(5000)]
    kept = live.query("select position, value from tidegate.rejected_record order by id")
    assert [(row["position"], row["value"]) for row in kept] == [(number + 1, str(number)) for number in range(5000)]
    assert json.loads((live.rejected / STATUS / "x.json.rejected.json").read_text()) == content


@pytest.mark.parametrize("form", ["array", "envelope", "lines"])
def test_bad_records_of_a_long_file_are_told_at_their_places(
    live: Site, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    read = records.batches
    monkeypatch.setattr(records, "batches", lambda *a, **named: read(*a, **named | {"batch_bytes": 100_000}))
    bad = {17, 4_000, 4_001, 14_999}
    things = [
        report(f"é🚚{number}", status=number if number in bad else "x" * 20, place={"at": [number]})
        for number in range(15_000)
    ]
    if form == "lines":
        text = "\n".join(json.dumps(thing, ensure_ascii=False) for thing in things)
    else:
        content: Any = {"head": "[{", STATUS: things, "tail": {STATUS: [1]}} if form == "envelope" else things
        text = json.dumps(content, ensure_ascii=False, indent=1)
    assert len(text) > 1 << 20
    name = "x.jsonl" if form == "lines" else "x.json"
    live.drop(name, text, flow=STATUS)
    (line,) = live.settled(1)
    assert (line["rejected"], line["inserted"]) == (4, 14_996)
    errors = live.report(name, STATUS)["errors"]
    assert [error["record"] for error in errors] == sorted(bad)
    lines = text.split("\n")
    start = {"array": "", "envelope": f"/{STATUS}"}
    for error in errors:
        number = error["record"]
        assert error["value"] == number
        assert error["pointer"] == ("/status" if form == "lines" else f"{start[form]}/{number}/status")
        assert lines[error["line"] - 1][error["column"] - 1 :].startswith(str(number))


def test_a_long_file_that_breaks_off_loads_nothing_and_still_lists_its_bad_records(
    live: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = records.batches
    monkeypatch.setattr(records, "batches", lambda *a, **named: read(*a, **named | {"batch_bytes": 100_000}))
    content = [report(str(number), status=7 if number == 5 else "x" * 50) for number in range(15_000)]
    live.drop("x.json", json.dumps(content)[:-30], flow=STATUS)
    (line,) = live.settled(1)
    assert (line["status"], line["inserted"], line["rejected"]) == ("rejected", 0, 1)
    whole, of_record = live.report("x.json", STATUS)["errors"]
    assert whole["reason"] == "the JSON is cut off"
    assert (of_record["record"], of_record["reason"]) == (5, "should be text")
    assert live.rows("vehicles_status") == []


def test_two_partial_files_of_one_name_keep_both_reports(live: Site) -> None:
    for number in (1, 2):
        live.drop("same.json", [GOOD, report(f"bad-{number}", status=number)], flow=STATUS)
        live.settled(number)
    folder = live.rejected / STATUS
    reports = [json.loads(path.read_text()) for path in folder.glob("*.errors.json")]
    assert sorted(found["errors"][0]["value"] for found in reports) == [1, 2]
    kept = [json.loads(path.read_text()) for path in folder.glob("*.rejected.json")]
    assert sorted(found[0]["status"] for found in kept) == [1, 2]
    assert len(list(folder.iterdir())) == 4


def test_a_file_whose_records_are_all_bad_is_refused_and_kept(live: Site) -> None:
    live.drop("x.json", [BAD, WORSE], flow=STATUS)
    (line,) = live.settled(1)
    assert (line["status"], line["rejected"]) == ("rejected", 2)
    assert sorted(path.name for path in (live.rejected / STATUS).iterdir()) == ["x.json", "x.json.errors.json"]
    found = live.report("x.json", STATUS)
    assert found["what_next"].startswith(
        "nothing of it is loaded: mend the file, and drop it into input/vehicle_status/"
    )
    assert len(found["errors"]) == 2


def test_a_file_of_no_flow_is_told_where_it_could_go(live: Site) -> None:
    live.drop("mystery.json", [1])
    live.settled(1)
    found = live.report("mystery.json", "_unrouted")
    (error,) = found["errors"]
    assert error == {
        "reason": "neither its name nor its envelope key tells the flow",
        "hint": "drop it into the folder of its flow: " + ", ".join(f"{flow}/" for flow in flows.discover()),
    }
    assert "the folder of its flow below input/" in found["what_next"]


@pytest.mark.parametrize(
    ("name", "rejected"),
    [
        ("a.json", "a.json.rejected.json"),
        ("a.jsonl", "a.jsonl.rejected.jsonl"),
        ("A.NDJSON.GZ", "A.NDJSON.GZ.rejected.ndjson.gz"),
        ("a.json.gz", "a.json.gz.rejected.json.gz"),
        ("vehicles", "vehicles.rejected.json"),
        ("x" * 255, "x" * 241 + ".rejected.json"),
        ("é" * 127, "é" * 120 + ".rejected.json"),
    ],
)
def test_the_name_tells_the_kind_of_file(name: str, rejected: str) -> None:
    assert rejected_name(name) == rejected


def test_a_long_file_of_nothing_but_bad_records_takes_bounded_memory(
    live: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = records.batches
    alive: set[int] = set()
    most = 0

    def batches(*arguments: Any, **named: Any) -> Iterator[Batch]:
        nonlocal most
        for batch in read(*arguments, **named | {"batch_bytes": 50_000}):
            alive.add(id(batch.records))
            weakref.finalize(held := Held(batch.records), alive.discard, id(batch.records))
            most = max(most, len(alive))
            yield replace(batch, records=held)

    monkeypatch.setattr(records, "batches", batches)
    monkeypatch.setattr(loader, "ROWS_AT_ONCE", 2000)
    text = json.dumps([report(str(number), status=7) for number in range(20_000)])
    live.drop("x.json", text, flow=STATUS)
    (line,) = live.settled(1)
    assert (line["status"], line["rejected"]) == ("rejected", 20_000)
    assert most < 10 < len(text) // 50_000


class Held(list[object]):
    """A list that tells when it is let go."""
