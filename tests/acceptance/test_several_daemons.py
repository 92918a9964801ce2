"""Several daemons on one database, several flows in one daemon: each file once, each flow in order."""

import itertools
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from partners.erp import Erp
from services.runtime import status_file
from services.runtime.status_file import Phase
from tests.support.flow_files import flow_files
from tests.support.sites import Site, running
from tests.support.waiting import eventually

T1 = "2022-05-05T22:02:34Z"

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


STUCK = """
select application_name from pg_stat_activity join pg_locks using (pid)
where relation = 'vehicles_status'::regclass and not granted and datname = current_database()
"""

FULL_DISK = """
create table full_disk ();
create function fail() returns trigger language plpgsql as $$
begin
    if to_regclass('full_disk') is not null then raise exception 'full' using errcode = '53100'; end if;
    return new;
end $$;
create trigger fail before insert on sensors for each row execute function fail()
"""


def reports(*vehicles: str, status: str = "driving") -> dict[str, object]:
    return {"vehicle_status": [{"vehicle_id": v, "report_time": T1, "status": status} for v in vehicles]}


def order(number: int) -> dict[str, object]:
    return {"orderNo": number, "summary": "Pump", "creationDate": T1, "lastUpdateDate": T1}


def watching(site: Site) -> int:
    """How many daemons are at work."""
    return sum(state.state is Phase.WATCHING for state in status_file.running(site.settings.data_dir))


@pytest.fixture
def two(site: Site) -> Site:
    """A site with two daemons as processes of their own."""
    for _ in range(2):
        site.start()
    eventually(lambda: watching(site) == 2, timeout=40, what="two daemons at work")
    return site


def quiet_logs(site: Site) -> list[str]:
    """What the daemons complained of."""
    return [line for line in site.log().splitlines() if "WARNING" in line or "ERROR" in line or "Traceback" in line]


def test_two_daemons_load_each_file_of_a_burst_once(two: Site) -> None:
    def drop(numbers: range) -> None:
        folder = two.input / "vehicle_status"
        for n in numbers:
            temporary = folder / f".{n}.tmp"
            temporary.write_text(str(reports(f"v{n:03}", f"w{n:03}")).replace("'", '"'))
            temporary.rename(folder / f"{n}.json")

    droppers = [threading.Thread(target=drop, args=(range(start, 400, 4),)) for start in range(4)]
    for dropper in droppers:
        dropper.start()
    for dropper in droppers:
        dropper.join()
    lines = two.settled(400)
    assert sorted(line["name"] for line in lines) == sorted(f"{n}.json" for n in range(400))
    assert {(line["status"], line["inserted"]) for line in lines} == {("loaded", 2)}
    assert len(two.rows("vehicles_status")) == 800
    assert two.waiting() == []
    places = [line["filed_as"] for line in lines]
    assert len(set(places)) == 400
    assert all(Path(place).exists() for place in places)
    assert quiet_logs(two) == []


def test_two_daemons_reject_a_file_once(two: Site) -> None:
    for n in range(40):
        two.drop(f"{n}.json", f'[{{"vehicle_id": {n}', flow="vehicle_status")
        os.mkfifo(two.input / "vehicle_status" / f"pipe{n}.json")
    lines = two.settled(80)
    eventually(lambda: two.waiting() == [], what="an empty input folder")
    assert len(two.ledger()) == 80
    assert {line["status"] for line in lines} == {"rejected"}
    kept = {path.name for path in (two.rejected / "vehicle_status").iterdir()}
    names = {f"{kind}{n}.json" for kind in ("", "pipe") for n in range(40)}
    assert kept == names | {f"{name}.errors.json" for name in names}
    assert not any("ERROR" in line or "Traceback" in line for line in two.log().splitlines())


def test_the_work_of_a_killed_daemon_goes_to_the_other(two: Site) -> None:
    with psycopg.connect(two.url) as other:
        other.execute("lock table vehicles_status in share mode")
        for n in range(20):
            two.drop(f"{n}.json", reports(f"v{n}"), flow="vehicle_status")
        (name,) = eventually(lambda: two.query(STUCK), what="a daemon in the middle of loading")
        pid = int(name["application_name"].rpartition(":")[2])
        os.kill(pid, signal.SIGKILL)
    lines = two.settled(20)
    assert {line["status"] for line in lines} == {"loaded"}
    assert len(two.rows("vehicles_status")) == len(lines) == 20
    assert {int(line["node"].rpartition(":")[2]) for line in lines}.isdisjoint({pid})
    assert two.waiting() == []


def test_a_loader_that_waits_for_a_row_holds_up_no_other_of_its_flow(two: Site) -> None:
    two.drop("first.json", reports("v1"), flow="vehicle_status")
    two.settled(1)
    with psycopg.connect(two.url) as other:
        other.execute("select from vehicles_status where vehicle_id = 'v1' for update")
        two.drop("waits.json", reports("v1", status="parked"), flow="vehicle_status")
        waits = "select from pg_stat_activity where wait_event = 'transactionid' and datname = current_database()"
        eventually(lambda: two.query(waits), what="a loader that waits for a row")
        two.drop("goes.json", reports("v2"), flow="vehicle_status")
        eventually(lambda: len(two.ledger()) == 2, what="the file of the other loader")
        assert [line["name"] for line in two.ledger()] == ["first.json", "goes.json"]
    lines = two.settled(3)
    assert {line["status"] for line in lines} == {"loaded"}


@contextmanager
def other_site(site: Site, tmp_path: Path) -> Iterator[Site]:
    """A second site on the same database with folders of its own."""
    names = ("input_dir", "output_dir", "archive_dir", "rejected_dir", "data_dir")
    folders = {name: tmp_path / "other" / name for name in names}
    settings = site.settings.model_copy(update=folders)
    for folder in folders.values():
        folder.mkdir(parents=True)
    yield Site(settings)


def test_one_content_in_two_input_folders_is_loaded_once(site: Site, tmp_path: Path) -> None:
    with other_site(site, tmp_path) as other, running(site), running(other):
        for n in range(50):
            for each in (site, other):
                each.drop(f"{n}.json", reports(f"v{n}"), flow="vehicle_status")
        lines = site.settled(100)
        eventually(lambda: site.waiting() == other.waiting() == [], what="empty input folders")
    by_name = {
        name: sorted(line["status"] for line in group)
        for name, group in itertools.groupby(sorted(lines, key=lambda line: line["name"]), lambda line: line["name"])
    }
    assert by_name == {f"{n}.json": ["duplicate", "loaded"] for n in range(50)}
    assert len({line["filed_as"] for line in lines}) == 100
    assert len(site.rows("vehicles_status")) == 50


def a_sales_order(number: int) -> dict[str, object]:
    line = {"line_number": 1, "sku": "A", "quantity": 2, "unit_price": 9.5}
    order = {"partner": "p", "order_number": str(number), "ordered_at": T1, "currency": "EUR"}
    return order | {"buyer": {"name": "B"}, "lines": [line]}


def test_a_daemon_delivers_what_another_wrote_into_an_output_folder_of_its_own(
    site: Site, tmp_path: Path, erp: Erp
) -> None:
    def has(status: str) -> list[str]:
        found = site.query("select name from tidegate.outbound_file where status = %s order by id", status)
        return [row["name"] for row in found]

    def filed(one: Site, number: int) -> bool:
        return (one.settings.output_dir / "orders" / "delivered" / "p" / f"{number}.json").exists()

    site.connect(ERP_API_URL=erp.url, ERP_API_TOKEN=erp.token)
    erp.stop()
    with other_site(site, tmp_path) as other:
        first = site.start(impatient=True)
        eventually(lambda: site.query("select 1 from tidegate.destination"), timeout=30, what="its destination")
        site.drop("o.json", [a_sales_order(number) for number in range(3)], flow="orders")
        eventually(lambda: len(has("written")) == 3, timeout=30, what="what the first one writes")
        site.stop(first, signal.SIGKILL)
        # As if the ERP had had the time that it is given to finish what the dead one had sent.
        site.execute("update tidegate.outbound_file set next_attempt_at = null")
        other.start(impatient=True)
        try:
            erp.start()
            eventually(lambda: len(has("delivered")) == 3, timeout=30, what=f"its files delivered: {has('failed')}")
            assert [erp.find("p", str(number)) is None for number in range(3)] == [False] * 3
            assert not (other.settings.output_dir / "orders" / "p").exists()
            site.start(impatient=True)
            eventually(lambda: all(filed(site, n) for n in range(3)), timeout=30, what="its files filed by itself")
            for number in range(3, 23):
                (site, other)[number % 2].drop(f"{number}.json", a_sales_order(number), flow="orders")
            eventually(lambda: len(has("delivered")) == 23, timeout=30, what=f"all files delivered: {has('failed')}")
            eventually(
                lambda: all(filed(site, n) or filed(other, n) for n in range(23)), timeout=30, what="all files filed"
            )
        finally:
            for process in other.processes:
                process.kill()
                process.wait()
    assert len([post for post in erp.received if post.method == "POST"]) == 23
    contents = site.query("select 1 from tidegate.outbound_file where content is not null")
    assert contents == [], "what is delivered is kept in its folder only"


def test_a_slow_flow_does_not_hold_up_another(live: Site) -> None:
    with psycopg.connect(live.url) as other:
        other.execute("lock table vehicles_status in share mode")
        live.drop("1.json", reports("a"), flow="vehicle_status")
        waiting = "select 1 from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
        eventually(lambda: live.query(waiting), what="a loader that waits")
        for n in range(20):
            live.drop(f"{n}.json", order(n), flow="work_orders")
        eventually(lambda: len(live.rows("work_orders")) == 20, timeout=3, what="the orders")
        assert live.rows("vehicles_status") == []
    assert {line["status"] for line in live.settled(21)} == {"loaded"}


@pytest.fixture
def sensors(site: Site, tmp_path: Path) -> Iterator[Site]:
    """A site with a flow whose rule is: the last received wins."""
    with flow_files(tmp_path / "flows", sensors=SENSORS) as folder:
        yield replace(site, settings=site.settings.model_copy(update={"flows_dir": folder}))


def readings(site: Site, numbers: range) -> None:
    for n in numbers:
        site.drop(f"{999 - n}.json", [{"sensor": "a", "value": n}], flow="sensors")


def test_the_last_received_wins_whatever_the_names(sensors: Site) -> None:
    with running(sensors):
        readings(sensors, range(300))
        lines = sensors.settled(300)
    assert [line["name"] for line in lines] == [f"{999 - n}.json" for n in range(300)]
    assert [row["value"] for row in sensors.rows("sensors")] == [299]


def test_files_keep_their_order_while_the_database_fails(sensors: Site) -> None:
    with running(sensors):
        sensors.execute(FULL_DISK)
        readings(sensors, range(100))
        eventually(lambda: any(state.fault for state in status_file.running(sensors.settings.data_dir)))
        readings(sensors, range(100, 200))
        sensors.execute("drop table full_disk")
        lines = sensors.settled(200)
    assert [line["name"] for line in lines] == [f"{999 - n}.json" for n in range(200)]
    assert [row["value"] for row in sensors.rows("sensors")] == [199]


def test_two_daemons_keep_the_order_too(sensors: Site) -> None:
    for _ in range(2):
        sensors.start(FLOWS_DIR=str(sensors.settings.flows_dir))
    eventually(lambda: watching(sensors) == 2, timeout=40, what="two daemons at work")
    readings(sensors, range(300))
    lines = sensors.settled(300)
    assert {line["name"] for line in lines} == {f"{999 - n}.json" for n in range(300)}
    assert [row["value"] for row in sensors.rows("sensors")] == [299], "in whatever order they were loaded"
