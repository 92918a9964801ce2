"""What a rejected file leaves behind: every reason, where it stands, and the records ready to be mended."""

import gzip
import json
import mmap
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import flows
from file_processing.inbound import batches, load as loading
from file_processing.inbound.formats.base import Reading
from file_processing.inbound.formats.json import JsonBatch, JsonFormat
from tests.support.sites import Site

T1 = "2022-05-05T22:02:34Z"
STATUS = "vehicle_status"


def report(vehicle: str, **changes: object) -> dict[str, object]:
    return {"vehicle_id": vehicle, "report_time": T1, "status": "driving"} | changes


def load(site: Site, name: str, content: object, *, flow: str = STATUS) -> dict[str, Any]:
    """The ledger's line of a file with this content."""
    site.drop(name, content, flow=flow)
    site.load()
    return site.ledger()[-1]


def allow_rejects(site: Site, number: int) -> None:
    site.settings = site.settings.model_copy(update={"max_rejects": number})


def in_batches_of(batch_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have files read in batches of this size, as far longer ones are."""
    monkeypatch.setattr(batches, "Reading", partial(Reading, batch_bytes=batch_bytes))


def lines_of(*things: object) -> str:
    return "\n".join(json.dumps(thing) for thing in things)


def compressed(text: str) -> bytes:
    return gzip.compress(text.encode())


def decompressed(path: Path) -> str:
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
def test_the_rejected_records_come_in_the_form_of_their_file_and_load_when_mended(
    site: Site, form: str, suffix: str
) -> None:
    kind = "jsonl" if form == "lines" else "json"
    text = FORMS[form](GOOD, BAD, WORSE)
    assert load(site, f"x.{kind}{suffix}", compressed(text) if suffix else text)["status"] == "partial"

    kept = site.rejected / STATUS / f"x.{kind}{suffix}.rejected.{kind}{suffix}"
    sent_back = decompressed(kept)
    wanted = {"array": [BAD, WORSE], "envelope": {STATUS: [BAD, WORSE]}, "lines": [BAD, WORSE]}[form]
    assert (
        [json.loads(line) for line in sent_back.splitlines()] if form == "lines" else json.loads(sent_back)
    ) == wanted

    mended = sent_back.replace("7", '"parking"').replace("yesterday", T1)
    line = load(site, kept.name, compressed(mended) if suffix else mended)
    assert (line["status"], line["records"], line["inserted"]) == ("loaded", 2, 2)
    assert [row["vehicle_id"] for row in site.rows("vehicles_status")] == ["bad", "good", "worse"]


def test_a_rejected_record_keeps_every_character_of_its_file(site: Site) -> None:
    odd = r'{"vehicle_id":"\u00e9 é 🚚 \/", "report_time" :1.50e+3,  "status":"x", "big": 12345678901234567890.10}'
    load(site, "x.json", f"[{json.dumps(GOOD)}, {odd}]")
    assert odd in (site.rejected / STATUS / "x.json.rejected.json").read_text()


def test_a_single_record_is_rejected_as_the_file_that_it_is(site: Site) -> None:
    order = {"orderNo": 1, "summary": "Pump", "creationDate": T1, "lastUpdateDate": 7}
    assert load(site, "x.json", json.dumps(order, indent=2), flow="work_orders")["status"] == "rejected"
    assert sorted(path.name for path in (site.rejected / "work_orders").iterdir()) == ["x.json", "x.json.errors.json"]
    (error,) = site.report("x.json", "work_orders")["errors"]
    assert (error["record"], error["pointer"], error["line"], error["column"]) == (0, "/lastUpdateDate", 5, 21)


def test_a_report_tells_a_person_what_is_wrong_and_what_to_do(site: Site) -> None:
    content = {STATUS: [GOOD, BAD, report("c", report_time="2022-05-05T22:02:34", status="x" * 300), {"vehicle_id": 1}]}
    line = load(site, "x.json", json.dumps(content, indent=2))
    assert site.report("x.json", STATUS) == {
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


def test_a_line_that_is_no_json_costs_only_itself(site: Site) -> None:
    line = load(site, "x.jsonl", lines_of(GOOD) + '\n\n  {"vehicle_id": tru}\n' + lines_of(report("b")))
    assert (line["status"], line["inserted"], line["rejected"]) == ("partial", 2, 1)
    (error,) = site.report("x.jsonl", STATUS)["errors"]
    assert error == {
        "record": 1,
        "pointer": "",
        "line": 3,
        "column": 21,
        "reason": "not valid JSON: expected ident, found '}'",
        "value": '{"vehicle_id": tru}',
    }
    assert (site.rejected / STATUS / "x.jsonl.rejected.jsonl").read_text() == '{"vehicle_id": tru}\n'


def test_five_thousand_bad_records_are_all_listed(site: Site) -> None:
    allow_rejects(site, 5000)
    content = [report(str(number), status=number) for number in range(5000)]
    line = load(site, "x.json", json.dumps([GOOD, *content]))
    assert (line["status"], line["rejected"], line["inserted"]) == ("partial", 5000, 1)
    errors = site.report("x.json", STATUS)["errors"]
    assert [(error["record"], error["value"]) for error in errors] == [(number + 1, number) for number in range(5000)]
    kept = site.query("select position, value from tidegate.rejected_record order by id")
    assert [(row["position"], row["value"]) for row in kept] == [(number + 1, str(number)) for number in range(5000)]
    assert json.loads((site.rejected / STATUS / "x.json.rejected.json").read_text()) == content


@pytest.mark.parametrize("form", ["array", "envelope", "lines"])
def test_bad_records_of_a_long_file_are_told_at_their_places(
    site: Site, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    in_batches_of(100_000, monkeypatch)
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
    line = load(site, name, text)
    assert (line["rejected"], line["inserted"]) == (4, 14_996)
    errors = site.report(name, STATUS)["errors"]
    assert [error["record"] for error in errors] == sorted(bad)
    lines = text.split("\n")
    start = {"array": "", "envelope": f"/{STATUS}"}
    for error in errors:
        number = error["record"]
        assert error["value"] == number
        assert error["pointer"] == ("/status" if form == "lines" else f"{start[form]}/{number}/status")
        assert lines[error["line"] - 1][error["column"] - 1 :].startswith(str(number))


@pytest.mark.parametrize(("records", "batch_bytes"), [(100, 1_000), (15_000, 100_000)], ids=["short", "long"])
def test_a_file_that_breaks_off_loads_nothing_and_still_lists_its_bad_records(
    site: Site, monkeypatch: pytest.MonkeyPatch, records: int, batch_bytes: int
) -> None:
    in_batches_of(batch_bytes, monkeypatch)
    content = [report(str(number), status=7 if number == 5 else "x" * 50) for number in range(records)]
    line = load(site, "x.json", json.dumps(content)[:-30])
    assert (line["status"], line["inserted"], line["rejected"]) == ("rejected", 0, 1)
    whole, of_record = site.report("x.json", STATUS)["errors"]
    assert whole["reason"] == "the JSON is cut off"
    assert (of_record["record"], of_record["reason"]) == (5, "should be text")
    assert site.rows("vehicles_status") == []


def test_two_partial_files_of_one_name_keep_both_reports(site: Site) -> None:
    for number in (1, 2):
        load(site, "same.json", [GOOD, report(f"bad-{number}", status=number)])
    folder = site.rejected / STATUS
    reports = [json.loads(path.read_text()) for path in folder.glob("*.errors.json")]
    assert sorted(found["errors"][0]["value"] for found in reports) == [1, 2]
    kept = [json.loads(path.read_text()) for path in folder.glob("*.rejected.json")]
    assert sorted(found[0]["status"] for found in kept) == [1, 2]
    assert len(list(folder.iterdir())) == 4


def test_a_file_whose_records_are_all_bad_is_rejected_and_kept(site: Site) -> None:
    line = load(site, "x.json", [BAD, WORSE])
    assert (line["status"], line["rejected"]) == ("rejected", 2)
    assert sorted(path.name for path in (site.rejected / STATUS).iterdir()) == ["x.json", "x.json.errors.json"]
    found = site.report("x.json", STATUS)
    assert found["what_next"].startswith(
        "nothing of it is loaded: mend the file, and drop it into input/vehicle_status/"
    )
    assert len(found["errors"]) == 2


def test_a_file_of_no_flow_is_told_where_it_could_go(site: Site) -> None:
    load(site, "mystery.json", [1], flow="")
    found = site.report("mystery.json", "_unrouted")
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
    ids=lambda name: name[:24],
)
def test_the_name_tells_the_kind_of_file(site: Site, name: str, rejected: str) -> None:
    kind = name.lower()
    text = FORMS["lines" if "jsonl" in kind or "ndjson" in kind else "array"](GOOD, BAD)
    load(site, name, compressed(text) if kind.endswith(".gz") else text)
    (kept,) = (path.name for path in (site.rejected / STATUS).iterdir() if ".rejected." in path.name)
    assert kept == rejected


def test_a_long_file_of_nothing_but_bad_records_takes_bounded_memory(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = JsonFormat.read
    alive: set[int] = set()
    most = mmap.mmap(-1, 1)  # another process reads the file

    def held(*arguments: Any) -> Iterator[JsonBatch]:
        for batch in read(*arguments):
            assert isinstance(batch, JsonBatch)
            alive.add(id(batch.records))
            weakref.finalize(records := Held(batch.records), alive.discard, id(batch.records))
            most[0] = max(most[0], len(alive))
            yield batch._replace(records=records)

    monkeypatch.setattr(JsonFormat, "read", held)
    allow_rejects(site, 15_000)
    in_batches_of(50_000, monkeypatch)
    monkeypatch.setattr(loading, "ROWS_AT_ONCE", 2000)
    text = json.dumps([report(str(number), status=7) for number in range(15_000)])
    line = load(site, "x.json", text)
    assert (line["status"], line["rejected"]) == ("rejected", 15_000)
    assert 0 < most[0] < 5 < len(text) // 50_000


class Held(list[object]):
    """A list that tells when it is let go."""
