"""What the log says of files and commands: one line a file, nothing of the records, never a password."""

import json
import re
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.support.sites import Site

T1 = "2022-05-05T22:02:34Z"
SECRET = "hunter2-hunter2"
LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}Z \| [A-Z]+ +\| \S.*")


def ingest(site: Site, name: str, content: object, expect: int = 0, **environment: str) -> None:
    path = site.input.parent / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    site.call("ingest", name, expect=expect, **environment)


def report(vehicle: str, status: str = "driving") -> dict[str, Any]:
    return {"vehicle_id": vehicle, "report_time": T1, "status": status}


def test_a_file_gets_one_line_with_flow_name_id_counts_and_time(site: Site) -> None:
    ingest(site, "vehicle_status_1.json", [report("a"), report("b"), report("b", "parking")])
    (line,) = site.log().splitlines()
    assert LINE.fullmatch(line)
    assert re.search(
        r"INFO +\| vehicle_status #1 vehicle_status_1\.json: loaded records=3 inserted=2 \w+=1 [\d.]+ ms$", line
    )


def test_a_rejected_file_gets_a_warning_with_the_reason(site: Site) -> None:
    ingest(site, "vehicle_status_1.json", "[", expect=1)
    (line,) = site.log().splitlines()
    assert re.search(
        r"WARNING +\| vehicle_status #1 vehicle_status_1\.json: rejected +[\d.]+ ms: the JSON is cut", line
    )


def test_json_lines_are_flat_objects_with_these_as_fields(site: Site) -> None:
    ingest(site, "vehicle_status_1.json", [report("a")], LOG_JSON="true")
    (line,) = map(json.loads, site.log().splitlines())
    assert datetime.now(UTC).timestamp() - datetime.fromisoformat(line.pop("time")).timestamp() < 60
    assert line.pop("milliseconds") > 0
    assert "vehicle_status_1.json: loaded" in line.pop("message")
    assert line == {
        "level": "INFO",
        "flow": "vehicle_status",
        "file": "vehicle_status_1.json",
        "ledger_id": 1,
        "records": 1,
        "inserted": 1,
        "updated": 0,
        "unchanged": 0,
        "stale": 0,
        "rejected": 0,
    }


@pytest.mark.parametrize(
    ("name", "record"),
    [
        ("vehicle_status_1.json", report("a", SECRET * 10)),
        ("vehicle_status_1.json", report("a") | {"report_time": SECRET}),
        ("vehicle_status_1.json", report("a") | {"report_time": f"{T1}{SECRET}"}),
        ("vehicle_status_1.json", report("a") | {"vehicle_id": {SECRET: [SECRET]}}),
        ("vehicle_status_1.json", report("a") | {"vehicle_id": f"{SECRET}\0"}),
        ("work_order_1.json", {"orderNo": SECRET, "summary": [SECRET], "isDone": SECRET, "creationDate": SECRET}),
        ("objects_detection_1.json", {"vehicle_id": "a", "detection_time": SECRET, "object_type": 1}),
        ("objects_detection_1.json", {"detections": [{"object_value": SECRET, "object_type": SECRET * 9}]}),
        ("vehicle_status_1.json", SECRET),
    ],
    ids=["long", "time", "tail", "object", "nul", "order", "flat", "nested", "string"],
)
@pytest.mark.parametrize("in_json", ["true", "false"])
def test_rejected_values_are_in_the_report_and_not_in_the_log(
    name: str, record: object, in_json: str, site: Site
) -> None:
    ingest(site, name, json.dumps(record), expect=1, LOG_JSON=in_json, LOG_LEVEL="INFO")
    assert "rejected" in site.log()
    assert SECRET not in site.log()
    (line,) = site.ledger()
    assert SECRET not in line["error"]
    if isinstance(record, dict):
        (told,) = site.rejected.rglob("*.errors.json")
        assert SECRET in told.read_text()


def test_loaded_values_are_not_in_the_log(site: Site) -> None:
    ingest(site, "vehicle_status_1.json", [report(SECRET, SECRET) | {"odd": SECRET}], LOG_LEVEL="INFO")
    assert "odd" in site.log()
    assert SECRET not in site.log()


def test_a_name_with_a_newline_stays_on_one_line(site: Site) -> None:
    ingest(site, "vehicle_status_1\n2022-01-01 | ERROR | fake\x1b[31m.json", [report("a")])
    (line,) = site.log().splitlines()
    assert r"vehicle_status_1\n2022-01-01 | ERROR | fake\x1b[31m.json" in line


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://anna:{SECRET}@127.0.0.1:1/tidegate",
        f"postgresql+psycopg://anna:{SECRET}@127.0.0.1:1/tidegate?sslmode=odd",
        f"postgresql://anna:{SECRET}@127.0.0.1:port/tidegate",
        f"postgresql://127.0.0.1:1/tidegate?user=anna&password={SECRET}",
        f"postgresql://anna:{SECRET}@127.0.0.1:1/tidegate?odd=1",
        f"odd://anna:{SECRET}@127.0.0.1/tidegate",
    ],
)
@pytest.mark.parametrize("command", ["status", "check", "db uri", "ingest /dev/null"])
def test_the_password_is_never_told(url: str, command: str, site: Site) -> None:
    done = site.call(*command.split(), expect=None, DATABASE_URL=url, LOG_LEVEL="TRACE")
    assert SECRET not in done.stdout + done.stderr + site.log()
    assert "Traceback" not in done.stderr
