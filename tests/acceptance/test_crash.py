"""kill -9 between any two steps, then a start: as if nothing had happened."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from tests.support.fault_points import POINTS, two_file_systems, without_links, without_renameat2
from tests.support.sites import Site, running
from tests.support.waiting import eventually

T1 = "2022-05-05T22:02:34Z"
LONG = 15_000

LEDGER = {
    # name: flow, status, records, inserted, unchanged, rejected
    "good.json": ("vehicle_status", "loaded", 2, 2, 0, 0),
    "partly.json": ("vehicle_status", "partial", 3, 2, 0, 1),
    "cut.json": ("vehicle_status", "rejected", 0, 0, 0, 0),
    "twin.json": ("vehicle_status", "duplicate", 2, 0, 0, 0),
    "pipe.json": ("vehicle_status", "rejected", 0, 0, 0, 0),
    "long.json": ("vehicle_status", "loaded", LONG, LONG, 0, 0),
    "nobodys.json": (None, "rejected", 0, 0, 0, 0),
}

FILED = {
    "archive/vehicle_status/DAY/good.json",
    "archive/vehicle_status/DAY/long.json",
    "archive/vehicle_status/DAY/partly.json",
    "archive/vehicle_status/DAY/twin.json",
    "rejected/_unrouted/nobodys.json",
    "rejected/_unrouted/nobodys.json.errors.json",
    "rejected/vehicle_status/cut.json",
    "rejected/vehicle_status/cut.json.errors.json",
    "rejected/vehicle_status/partly.json.errors.json",
    "rejected/vehicle_status/partly.json.rejected.json",
    "rejected/vehicle_status/pipe.json",
    "rejected/vehicle_status/pipe.json.errors.json",
}


def report(vehicle: str, status: object = "driving") -> dict[str, object]:
    return {"vehicle_id": vehicle, "report_time": T1, "status": status}


def drop_everything(site: Site) -> None:
    """One file of each kind, in this order."""
    flow = "vehicle_status"
    dropped = [
        site.drop("good.json", [report("a"), report("b")], flow=flow),
        site.drop("partly.json", {"vehicle_status": [report("c"), report("d"), report("e", 5)]}, flow=flow),
        site.drop("cut.json", '[{"vehicle_id": "f"', flow=flow),
        site.drop("twin.json", [report("a"), report("b")], flow=flow),
        site.drop("long.json", [report(f"long {n:05}", f"driving {n}") for n in range(LONG)], flow=flow),
        site.drop("nobodys.json", {"nobodys": []}),
    ]
    pipe = site.input / flow / "pipe.json"
    os.mkfifo(pipe)
    for second, path in enumerate([*dropped, pipe]):
        os.utime(path, (second, second))


def filed(site: Site) -> Iterator[str]:
    """Every file outside the input folder, hidden ones too."""
    for folder in (site.archive, site.rejected):
        for path in folder.rglob("*"):
            if not path.is_dir():
                parts = ["DAY" if part.startswith("20") else part for part in path.relative_to(folder.parent).parts]
                yield str(Path(*parts))


def start_and_be_killed(site: Site, point: str) -> None:
    site.run_to_kill("tests.support.fault_points", point, WORKERS="1")


def expect_all_done(site: Site) -> None:
    eventually(lambda: site.waiting() == [], what="an empty input folder")
    lines = site.settled(len(LEDGER))
    names = ("flow", "status", "records", "inserted", "unchanged", "rejected")
    assert sorted((line["name"], *(line[name] for name in names)) for line in lines) == sorted(
        (name, *line) for name, line in LEDGER.items()
    )
    assert {line["updated"] + line["stale"] for line in lines} == {0}
    expect_rows(site, {line["id"]: line["name"] for line in lines})


def expect_rows(site: Site, names: dict[int, str]) -> None:
    rows = [(row["vehicle_id"], names[row["source_file_id"]]) for row in site.rows("vehicles_status")]
    assert rows[:4] == [("a", "good.json"), ("b", "good.json"), ("c", "partly.json"), ("d", "partly.json")]
    assert rows[4:] == [(f"long {n:05}", "long.json") for n in range(LONG)]


def expect_everything_in_its_place(site: Site) -> None:
    assert sorted(filed(site)) == sorted(FILED)
    reported = {}
    for line in site.ledger():
        place = Path(line["filed_as"])
        assert place.name == line["name"]
        assert os.path.lexists(place)
        if line["status"] in ("partial", "rejected"):
            flow = line["flow"] or "_unrouted"
            reported[line["name"]] = site.report(line["name"], flow)
            assert reported[line["name"]]["ledger_id"] == line["id"]
            assert len(reported[line["name"]]["errors"]) == 1
    assert reported.keys() == {"partly.json", "cut.json", "pipe.json", "nobodys.json"}
    refused: list[Any] = site.query("select f.name from tidegate.rejected_record r join tidegate.inbound_file f "
                                    "on f.id = r.inbound_file_id")  # fmt: skip
    assert refused == [{"name": "partly.json"}]


def test_undisturbed(site: Site) -> None:
    """What every start after a crash has to arrive at."""
    drop_everything(site)
    with running(site):
        expect_all_done(site)
    expect_everything_in_its_place(site)


@pytest.fixture
def same_world() -> Iterator[Callable[[str], None]]:
    """For the start after the crash: what the point's name says of the file systems still holds."""
    worlds = {"across": two_file_systems, "linked": without_renameat2, "reserved": without_links}
    yield lambda point: worlds.get(point.partition(":")[0], lambda: None)()
    mock.patch.stopall()


@pytest.mark.parametrize("point", POINTS)
def test_a_crash_changes_nothing(site: Site, point: str, same_world: Callable[[str], None]) -> None:
    drop_everything(site)
    start_and_be_killed(site, point)
    same_world(point)
    with running(site):
        expect_all_done(site)
    expect_everything_in_its_place(site)
