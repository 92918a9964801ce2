"""Nobody starves: what lies or waits in one flow's folder holds up no other flow, and no giant a small file."""

import contextlib
import gzip
import json
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psycopg
import pytest

from file_processing.inbound import intake
from file_processing.inbound.pipeline import Pipeline
from file_processing.inbound.routing import RoutedFile, Router
from services.db import connection as connections
from services.observer import inbox
from services.runtime import status_file
from tests.support.sites import Site, running
from tests.support.waiting import eventually

T1 = "2022-05-05T22:02:34Z"
VERY_MANY = 10_000


def report(vehicle: str = "a") -> dict[str, object]:
    return {"vehicle_id": vehicle, "report_time": T1, "status": "driving"}


def order(number: int = 1) -> dict[str, object]:
    return {"orderNo": number, "summary": "Pump", "creationDate": T1, "lastUpdateDate": T1}


def loaded(site: Site) -> list[str]:
    return [line["name"] for line in site.ledger() if line["status"] == "loaded"]


def reasons_to_wait(site: Site) -> set[str]:
    return {reason for daemon in status_file.running(site.settings.data_dir) for _, reason in daemon.waiting}


def waits_for_a_table(site: Site) -> int:
    query = "select 1 from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
    return len(site.query(query))


# What only waits.


@contextlib.contextmanager
def links_of_one_file(folder: Path, *, names: int = VERY_MANY, mode: int = 0o644) -> Iterator[None]:
    """So many names of one file, which is held open for writing as long as this is in use."""
    folder.mkdir(parents=True, exist_ok=True)
    first = folder / ".first"
    with first.open("w") as file:
        file.write("[")
        file.flush()
        first.chmod(mode)
        for number in range(names):
            os.link(first, folder / f"{number}.json")
        yield


@pytest.mark.parametrize("folder", ["vehicle_status", "", "nobodys"], ids=["a flow's", "the root", "nobody's"])
def test_very_many_names_held_open_hold_up_no_flow(site: Site, folder: str) -> None:
    with links_of_one_file(site.input / folder), running(site):
        site.drop("work_order.json", order(), flow="work_orders")
        site.drop("vehicle.json", [report()], flow="vehicle_status")
        eventually(lambda: sorted(loaded(site)) == ["vehicle.json", "work_order.json"], timeout=30)


@pytest.mark.usefixtures("permissions_bind")
def test_very_many_unreadable_names_hold_up_no_flow(site: Site, logged: list[str]) -> None:
    with links_of_one_file(site.input / "vehicle_status", mode=0):
        pass
    with running(site):
        eventually(lambda: any("no permission to read" in reason for reason in reasons_to_wait(site)), timeout=30)
        site.drop("work_order.json", order(), flow="work_orders")
        site.drop("vehicle.json", [report()], flow="vehicle_status")
        eventually(lambda: sorted(loaded(site)) == ["vehicle.json", "work_order.json"], timeout=30)
    assert sum(line.startswith("WARNING") for line in logged) < 200


def test_status_shows_a_crowd_and_who_waits_elsewhere(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox, "CROWD_SECONDS", 0.0)
    folder = site.input / "vehicle_status"
    with links_of_one_file(folder), links_of_one_file(site.input / "work_orders", names=1), running(site):
        crowd = f"very many files wait in {folder.resolve()}, {VERY_MANY} are known"
        status = eventually(
            lambda: next((told for told in [site.call("status").stdout] if crowd in told), ""), timeout=30
        )
    assert f"and {VERY_MANY + 1 - 10} more wait" in status
    assert "waits: work_orders/0.json: still being written" in status


# Giants.


def content_of(vehicles: Sequence[str]) -> dict[str, str]:
    """A file of each of two flows with a record for each of these vehicles."""
    seen = {"detection_time": T1, "object_type": "cars", "object_value": 1}
    return {
        "vehicle_status": json.dumps([report(vehicle) for vehicle in vehicles]),
        "detection_events": json.dumps([{"vehicle_id": vehicle, **seen} for vehicle in vehicles]),
    }


def giants() -> dict[str, bytes]:
    return {flow: text.encode() for flow, text in content_of([str(number) for number in range(15_000)]).items()}


def packed() -> dict[str, bytes]:
    files = {flow: gzip.compress(content) for flow, content in giants().items()}
    assert min(map(len, files.values())) > intake.SMALL_COMPRESSED_BYTES
    return files


@pytest.mark.parametrize(("files", "suffix"), [(giants, "json"), (packed, "json.gz")], ids=["giants", "packed"])
def test_small_files_load_while_every_worker_has_a_giant(
    site: Site, files: Callable[[], dict[str, bytes]], suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "LOCK_WAIT_SECONDS", 60)
    assert site.settings.workers == 2
    with running(site):
        with psycopg.connect(site.url) as other:
            other.execute("lock table vehicles_status, objects_detection in share mode")
            for flow, content in files().items():
                site.drop(f"{flow}.{suffix}", content, flow=flow)
            eventually(lambda: waits_for_a_table(site) == 2, timeout=30)
            for number in range(3):
                site.drop(f"{number}.json", order(number), flow="work_orders")
                eventually(lambda number=number: f"{number}.json" in loaded(site))  # type: ignore[misc]
            assert waits_for_a_table(site) == 2
        assert {line["status"] for line in site.settled(5)} == {"loaded"}


# A flow that is fed all the time.


def test_a_flow_with_a_backlog_is_left_after_each_group(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "GROUP_FILES", 1)
    groups: list[str | None] = []
    routed = threading.Event()
    handle, route = Pipeline._handle_group, Router.route

    def noted(self: Pipeline, steps: Any, group: Any, *others: Any) -> Any:
        groups.append(steps.flow)
        if groups.count("vehicle_status") == 3:
            site.drop("work_order.json", order(), flow="work_orders")
            assert routed.wait(10)
        return handle(self, steps, group, *others)

    def told(self: Router, dropped: Any) -> RoutedFile:
        try:
            return route(self, dropped)
        finally:
            if dropped.relative.startswith("work_orders"):
                routed.set()

    monkeypatch.setattr(Pipeline, "_handle_group", noted)
    monkeypatch.setattr(Router, "route", told)
    site.settings = site.settings.model_copy(update={"workers": 1})
    for number in range(40):
        site.drop(f"{number}.json", [report(str(number))], flow="vehicle_status")
    with running(site):
        site.settled(41)
    assert groups.index("work_orders") <= 8
    assert groups.count("vehicle_status") == 40
