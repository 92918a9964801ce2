"""Bad input, and what becomes of it: the ledger, the folders and the report have to agree."""

import json
import os
import uuid
from pathlib import Path
from typing import Any

from services.files.folders import UNROUTED
from tests.support.sites import Site
from tests.support.waiting import eventually

T1 = "2022-05-05T22:02:34Z"
STATUS = "vehicle_status"


def good(vehicle: str = "a", **changes: object) -> dict[str, object]:
    return {"vehicle_id": vehicle, "report_time": T1, "status": "driving"} | changes


def text_of(*records: object) -> str:
    return json.dumps({STATUS: records})


def vehicles(site: Site) -> list[str]:
    return [row["vehicle_id"] for row in site.rows("vehicles_status")]


def taken_in(site: Site) -> dict[str, Any]:
    """The ledger's line of the one file that was dropped; a good one beside it loads, whatever that is."""
    site.drop("neighbour.json", [good("neighbour")], flow=STATUS)
    site.load()
    lines = {line["name"]: line for line in site.ledger()}
    assert lines.pop("neighbour.json")["status"] == "loaded"
    assert "neighbour" in vehicles(site)
    (line,) = lines.values()
    return line


def rejected(site: Site, line: dict[str, Any], flow: str = STATUS) -> Any:
    """The report of a rejected file: ledger, folder and report agree."""
    assert line["status"] == "rejected"
    assert line["flow"] == (flow if flow != UNROUTED else None)
    assert (line["inserted"], line["updated"]) == (0, 0)
    assert site.waiting() == []
    kept = Path(line["filed_as"])
    assert kept.parent == site.rejected / flow
    assert os.path.lexists(kept)
    (path,) = [
        path for path in kept.parent.glob("*.errors.json") if json.loads(path.read_bytes())["ledger_id"] == line["id"]
    ]
    report = json.loads(path.read_bytes())
    check_agreement(site, line, report)
    return report


def check_agreement(site: Site, line: dict[str, Any], report: Any) -> None:
    """The report says what the ledger says."""
    assert (report["file"], report["flow"], report["status"]) == (line["name"], line["flow"], line["status"])
    assert (report["records"], report["rejected"]) == (line["records"], line["rejected"])
    assert report["sha256"] == (line["sha256"].hex() if line["sha256"] else None)
    assert report["errors"]
    first = report["errors"][0]
    assert first["reason"] in line["error"]
    listed = [error for error in report["errors"] if "record" in error]
    kept = site.query("select * from tidegate.rejected_record where inbound_file_id = %s order by id", line["id"])
    assert [error["reason"] for error in listed] == [row["reason"] for row in kept]
    for error, row in zip(listed, kept, strict=True):
        assert [error[key] for key in ("record", "pointer", "line", "column")] == [
            row[key] for key in ("position", "pointer", "line", "column")
        ]
        if row["value"] is None:
            assert "value" not in error
        elif row["value"].endswith("…"):
            assert error["value"] == row["value"]
        else:
            assert error["value"] == json.loads(row["value"])


def lives_on(site: Site) -> None:
    """The next good file loads."""
    vehicle = f"good-{uuid.uuid4()}"
    site.drop(f"{vehicle}.json", [good(vehicle)], flow=STATUS)
    eventually(lambda: vehicle in vehicles(site), what="the next good file")


def said(logged: list[str], words: str) -> bool:
    return any(words in line for line in logged)
