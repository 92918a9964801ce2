"""No file makes much of little: what it may cost in reports, rows and room is bounded, and said."""

import gzip
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from file_processing.inbound import error_report, load as loading, record_errors
from partners.crm import Crm
from services.runtime import status_file
from services.runtime.status_file import JobPhase, Phase
from tests.integration.test_reports import in_batches_of
from tests.support.connectors import QUICK, in_phase
from tests.support.database_faults import failing, told
from tests.support.disks import small_disk
from tests.support.sites import Site, free_port, running
from tests.support.waiting import eventually

T1 = "2022-05-05T22:02:34Z"
STATUS = "vehicle_status"


def report(vehicle: object, **changes: object) -> dict[str, object]:
    return {"vehicle_id": str(vehicle), "report_time": T1, "status": "driving"} | changes


def bad(vehicle: object) -> dict[str, object]:
    return report(vehicle, status=7)


def with_settings(site: Site, **changes: object) -> Site:
    return Site(site.settings.model_copy(update=changes), site.processes)


def load(site: Site, name: str, content: object) -> dict[str, Any]:
    """The ledger's line of a file with this content."""
    site.drop(name, content, flow=STATUS)
    site.load()
    return site.ledger()[-1]


def told_of(site: Site, name: str = "x.json") -> tuple[list[int], list[int]]:
    """The records of which the report tells, and of which the ledger does."""
    errors = site.report(name, STATUS)["errors"]
    rows = site.query("select distinct position from tidegate.rejected_record order by position")
    return [error["record"] for error in errors if "record" in error], [row["position"] for row in rows]


def bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


# Rejected records


def test_a_few_bytes_that_unpack_into_nothing_but_bad_records_make_a_short_report(site: Site) -> None:
    bomb = gzip.compress(b"[" + b"1," * 200_000 + b"1]")
    assert len(bomb) < 500
    line = load(site, "x.json.gz", bomb)
    assert line["status"] == "rejected"
    assert "more than MAX_REJECTS (1000)" in line["error"]
    assert sorted(path.name for path in (site.rejected / STATUS).iterdir()) == ["x.json.gz", "x.json.gz.errors.json"]
    shown, in_ledger = told_of(site, "x.json.gz")
    assert shown == in_ledger == [*range(len(shown))]
    assert 100 < len(shown) <= 1000
    assert bytes_in(site.rejected) < 256 << 10
    assert line["records"] < 10_000, "it is not read to its end"


@pytest.mark.parametrize("short", [True, False], ids=["short", "long"])
def test_nothing_of_a_file_loads_whose_bad_records_become_too_many(
    site: Site, monkeypatch: pytest.MonkeyPatch, short: bool
) -> None:
    in_batches_of(20_000, monkeypatch)
    monkeypatch.setattr(loading, "ROWS_AT_ONCE", 500)
    pad = {} if short else {"place": "x" * 500}
    records = [report(n, **pad) for n in range(2_000)] + [bad(n) | pad for n in range(400)]
    line = load(with_settings(site, max_rejects=50), "x.json", records + [report("last", **pad)])
    assert (line["status"], line["inserted"]) == ("rejected", 0)
    assert site.rows("vehicles_status") == []
    whole, *_ = site.report("x.json", STATUS)["errors"]
    assert "MAX_REJECTS (50)" in whole["reason"]
    assert "raise MAX_REJECTS" in whole["hint"]
    shown, rows = told_of(site)
    assert shown == rows == [*range(2_000, 2_000 + len(shown))], "the first ones"
    assert 50 <= len(shown) < 400
    assert site.report("x.json", STATUS).get("left_out", 0) == line["rejected"] - len(shown)
    assert (site.rejected / STATUS / "x.json").exists()
    assert site.waiting() == []


def test_the_bad_records_of_a_mostly_good_file_are_all_told(site: Site) -> None:
    records = [bad(n) if n % 15 == 0 else report(n) for n in range(18_000)]
    line = load(site, "x.json", records)
    assert (line["status"], line["rejected"], line["inserted"]) == ("partial", 1_200, 16_800)
    every = [*range(0, 18_000, 15)]
    assert told_of(site) == (every, every)
    assert len(json.loads((site.rejected / STATUS / "x.json.rejected.json").read_text())) == 1_200
    assert "left_out" not in site.report("x.json", STATUS)


def test_records_that_the_database_rejects_count_too(site: Site) -> None:
    with failing(site, "23514", "no ghosts", condition="new.vehicle_id like 'ghost%'"):
        records = [*map(report, range(100)), *(report(f"ghost-{n}") for n in range(20))]
        line = load(with_settings(site, max_rejects=10), "x.json", records)
    assert (line["status"], line["rejected"], line["inserted"]) == ("rejected", 20, 0)
    assert "MAX_REJECTS (10)" in line["error"]
    assert site.rows("vehicles_status") == []
    assert told_of(site) == ([*range(100, 120)], [*range(100, 120)])


# Reports


def test_a_report_takes_so_many_bytes_and_says_what_it_leaves_out(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(error_report, "REPORT_BYTES", 2_000)
    monkeypatch.setattr(error_report, "REPORT_TIMES_FILE", 0)
    line = load(site, "x.json", [bad(n) if n % 2 else report(n) for n in range(100)])
    assert (line["status"], line["rejected"]) == ("partial", 50)
    shown, rows = told_of(site)
    assert shown == rows == [*range(1, 2 * len(shown), 2)]
    assert 2 < len(shown) < 20
    found = site.report("x.json", STATUS)
    assert (found["rejected"], found["left_out"]) == (50, 50 - len(shown))
    assert f"{50 - len(shown)} more" in found["what_next"]
    kept = json.loads((site.rejected / STATUS / "x.json.rejected.json").read_text())
    assert [int(record["vehicle_id"]) for record in kept] == shown
    assert bytes_in(site.rejected) < 5_000


def test_a_record_has_so_many_reasons_and_says_how_many_more(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_errors, "REASONS", 2)
    load(site, "x.json", [report("a"), {"vehicle_id": 1, "report_time": 2, "status": 3}])
    reasons = [error["reason"] for error in site.report("x.json", STATUS)["errors"]]
    assert reasons == ["should be text", reasons[1], "and 1 more reason"]


# Packed files


def test_a_file_that_unpacks_into_too_much_is_rejected(site: Site) -> None:
    content = json.dumps([report("same")] * 40_000)
    packed = gzip.compress(content.encode())
    assert len(content) > 100 * len(packed)
    assert len(content) > 1 << 20
    line = load(site, "x.json.gz", packed)
    assert (line["status"], line["inserted"]) == ("rejected", 0)
    assert "MAX_UNPACK_RATIO" in line["error"]
    assert site.rows("vehicles_status") == []
    (error,) = site.report("x.json.gz", STATUS)["errors"]
    assert "raise MAX_UNPACK_RATIO" in error["hint"]


def test_a_small_file_may_repeat_itself(site: Site) -> None:
    content = json.dumps([report("same")] * 10_000)
    packed = gzip.compress(content.encode())
    assert len(content) > 100 * len(packed)
    assert load(site, "x.json.gz", packed)["status"] == "loaded"


# Free room


def waits_for_room(site: Site) -> bool:
    return any(daemon.state is Phase.WAITING_FOR_ROOM for daemon in status_file.running(site.settings.data_dir))


def never(patch: pytest.MonkeyPatch) -> None:
    pytest.skip("only root may mount a disk")


@pytest.mark.usefixtures("impatient")
def test_nothing_is_taken_in_while_a_disk_is_almost_full(site: Site) -> None:
    short = with_settings(site, min_free_bytes=1 << 20)
    with small_disk(site.archive, never) as make_room, running(short):
        short.drop("a.json", [report("a")], flow=STATUS)
        eventually(lambda: waits_for_room(short), what="a daemon that waits for room")
        fault = told(short).fault
        assert fault is not None
        assert "MIN_FREE_BYTES (1048576)" in fault.text
        assert fault.text.endswith("are free on the disk of ARCHIVE_DIR")
        assert str(site.archive) in fault.hint
        assert short.ledger() == []
        shown = " ".join(short.call("status").stdout.split())
        assert "waiting for room" in shown
        assert "disk fewer" not in shown, "it is told once"
        make_room()
        assert [line["status"] for line in short.settled(1)] == ["loaded"]
        eventually(lambda: told(short).state is Phase.WATCHING, what="a daemon that watches again")
    assert short.waiting() == []


def test_status_tells_of_a_full_disk_before_a_file_comes(site: Site) -> None:
    full = with_settings(site, min_free_bytes=1 << 62)
    assert "MIN_FREE_BYTES" in full.call("status").stdout
    (error,) = json.loads(full.call("status", "--json").stdout)["disks"]["errors"]
    assert "INPUT_DIR" in error
    assert json.loads(site.call("status", "--json").stdout)["disks"] == {"enough": True, "errors": []}


def test_ingest_takes_nothing_either(site: Site, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps([report("a")]))
    full = with_settings(site, min_free_bytes=1 << 62)
    done = full.call("ingest", "--flow", STATUS, str(path), expect=2)
    assert "MIN_FREE_BYTES" in done.stderr
    assert site.ledger() == []


def test_neither_api_nor_connectors_fill_a_disk_that_is_almost_full(site: Site, crm: Crm) -> None:
    token, port = "correct horse battery", free_port()
    crm.create("Ada", "ada@example.com")
    full = with_settings(site, min_free_bytes=1 << 62, api_port=port, api_token=SecretStr(token))
    full.connect(CRM_API_URL=crm.url, POLLING_INTERVAL_SECONDS=QUICK)
    with running(full):
        state = in_phase(full, "customers/crm", JobPhase.FAILING)
        assert "MIN_FREE_BYTES" in state.detail
        in_phase(full, "api", JobPhase.RUNNING)
        headers = {"Authorization": f"Bearer {token}"}
        answer = httpx.post(f"http://127.0.0.1:{port}/inbound/{STATUS}", json=[report("a")], headers=headers)
    assert (answer.status_code, "Retry-After" in answer.headers) == (503, True)
    assert "MIN_FREE_BYTES" in answer.json()["detail"]
    assert crm.received == []
    assert full.waiting() == []
