"""`reconcile`: files of which the ledger knows nothing are found, and put back where they load again."""

import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.support.flow_files import flow_files
from tests.support.sites import Site, running
from tests.support.waiting import eventually

SENSORS = '''
"""The last word of every sensor."""

from sqlalchemy import Text
from sqlalchemy.orm import Mapped, mapped_column
from typing_extensions import TypedDict

from models.flow import Flow
from models.tables import LoadedRow


class Reading(TypedDict):
    sensor: str
    value: int


class SensorRow(LoadedRow):
    __tablename__ = "sensors"

    sensor: Mapped[str] = mapped_column(Text, primary_key=True)
    value: Mapped[int]


FLOW = Flow(record=Reading, table=SensorRow)
'''


def report(vehicle: str, second: int = 0) -> list[dict[str, str]]:
    return [{"vehicle_id": vehicle, "report_time": f"2022-05-05T22:02:{second:02}Z", "status": "driving"}]


def load(site: Site, name: str, content: object, flow: str = "vehicle_status") -> None:
    site.drop(name, content, flow=flow)
    site.load()


def forget(site: Site, *names: str) -> None:
    """The ledger's lines of these files are gone with what they loaded, as on a standby that did not have them yet."""
    for name in names:
        site.execute(
            "delete from vehicles_status where source_file_id in "
            f"(select id from tidegate.inbound_file where name = '{name}')"
        )
        site.execute(f"delete from tidegate.inbound_file where name = '{name}'")


def told(site: Site, *arguments: str, expect: int) -> list[dict[str, str]]:
    said = site.call("reconcile", "--json", *arguments, expect=expect).stdout
    return [json.loads(line) for line in said.splitlines()]


def test_ledger_and_folders_that_agree(site: Site) -> None:
    load(site, "good.json", report("a"))
    load(site, "again.json", report("a"))
    load(site, "bad.json", "nonsense")
    load(site, "partly.json", [*report("b"), {"vehicle_id": 7}])
    load(site, "nobodys.json", "nonsense", flow="")
    site.call("emit")
    assert "ledger and folders agree" in site.call("reconcile").stdout
    assert "ledger and folders agree" in site.call("reconcile", "--mend").stdout
    assert site.waiting() == []


def test_files_whose_line_is_gone_load_again(site: Site) -> None:
    for name in ("a", "b", "c"):
        load(site, f"{name}.json", report(name))
    load(site, "bad.json", "nonsense")
    rows = [row["vehicle_id"] for row in site.rows("vehicles_status")]
    forget(site, "b.json", "c.json", "bad.json")
    listed = told(site, expect=1)
    assert [(line["kind"], Path(line["file"]).name) for line in listed] == [
        ("rejected", "bad.json"),
        ("archive", "b.json"),
        ("archive", "c.json"),
    ]
    assert site.waiting() == [], "it only tells what it finds"
    mended = told(site, "--mend", expect=0)
    assert [line["put_back"] for line in mended] == [
        str(site.input.resolve() / "vehicle_status" / name) for name in ("bad.json", "b.json", "c.json")
    ]
    site.load()
    assert {line["name"]: line["status"] for line in site.ledger()} == {
        "a.json": "loaded",
        "b.json": "loaded",
        "c.json": "loaded",
        "bad.json": "rejected",
    }
    assert [row["vehicle_id"] for row in site.rows("vehicles_status")] == rows
    assert sorted(path.name for path in (site.rejected / "vehicle_status").iterdir()) == [
        "bad.json",
        "bad.json.errors.json",
    ]
    assert told(site, expect=0) == []


def test_file_is_never_put_over_another(site: Site) -> None:
    load(site, "a.json", report("a"))
    forget(site, "a.json")
    site.drop("a.json", report("new"), flow="vehicle_status")
    told(site, "--mend", expect=0)
    assert len(site.waiting()) == 2
    site.load()
    assert [row["vehicle_id"] for row in site.rows("vehicles_status")] == ["a", "new"]


def test_file_that_is_archived_and_was_not_marked_is_known(site: Site) -> None:
    load(site, "a.json", report("a"))
    site.execute("update tidegate.inbound_file set filed_at = null, filed_as = null")
    assert told(site, expect=0) == []
    told(site, "--mend", expect=0)
    (line,) = site.ledger()
    assert Path(line["filed_as"]).exists()


def test_beside_a_running_daemon_only_what_is_lost_is_put_back(site: Site) -> None:
    load(site, "lost.json", report("lost"))
    forget(site, "lost.json")
    with running(site):
        for number in range(100):
            site.drop(f"{number}.json", report(f"v{number}"), flow="vehicle_status")
            if number % 10 == 0:
                told(site, "--mend", expect=0)
        lines = site.settled(101)
        eventually(lambda: site.waiting() == [], what="an empty input folder")
    assert {(line["name"], line["status"]) for line in lines} == {
        ("lost.json", "loaded"),
        *((f"{number}.json", "loaded") for number in range(100)),
    }


def test_outbound_file_of_which_the_ledger_knows_nothing_is_told_and_left(site: Site) -> None:
    load(site, "a.json", report("a"))
    site.call("emit")
    (name,) = site.out("vehicle_status")
    site.execute("delete from tidegate.outbound_file")
    (line,) = told(site, "--mend", expect=1)
    assert (line["kind"], Path(line["file"]).name) == ("output", name)
    assert list(site.out("vehicle_status")) == [name]
    assert "have it fetched, or move it away" in site.call("reconcile", expect=1).stdout


def test_files_that_were_cleaned_up_are_counted(site: Site) -> None:
    load(site, "a.json", report("a"))
    load(site, "b.json", report("b"))
    for line in site.ledger():
        Path(line["filed_as"]).unlink()
    assert "2 files in the ledger" in site.call("reconcile").stdout
    assert "agree" in site.call("reconcile", "--flow", "work_orders").stdout


@pytest.fixture
def sensors(site: Site, tmp_path: Path) -> Iterator[Site]:
    with flow_files(tmp_path / "flows", sensors=SENSORS) as folder:
        made = Site(site.settings.model_copy(update={"flows_dir": folder}))
        made.call("db", "upgrade")
        yield made


def test_where_the_last_that_comes_wins_an_older_file_comes_behind_no_newer_one(sensors: Site) -> None:
    for number in (1, 2):
        load(sensors, f"{number}.json", [{"sensor": "a", "value": number}], flow="sensors")
    sensors.execute("delete from tidegate.inbound_file where name = '1.json'")
    (line,) = told(sensors, "--mend", expect=1)
    assert f"python main.py ingest {sensors.archive.resolve() / 'sensors'}" in line["left"]
    sensors.execute("delete from tidegate.inbound_file")
    assert len(told(sensors, "--mend", expect=0)) == 2
    sensors.load()
    assert [row["value"] for row in sensors.rows("sensors")] == [2]


def test_a_large_archive_is_compared_with_little_memory(site: Site) -> None:
    """Its files are sent to the server as they are found, and only those that it does not know come back."""
    day = site.archive / "vehicle_status" / datetime.now(UTC).date().isoformat()
    day.mkdir(parents=True)
    for number in range(1200):
        (day / f"{number}.json").write_text(json.dumps(report(f"v{number}")))
        os.utime(day / f"{number}.json", (number, number))
    listed = told(site, expect=1)
    assert len(listed) == 1200
    assert [Path(line["file"]).name for line in listed] == [f"{number}.json" for number in range(1200)]
