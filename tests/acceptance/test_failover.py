"""The primary dies under load and its standby is promoted: daemons go on there, and nothing is lost or doubled.

Where the primary did not wait for its standby, `reconcile` finds what is missing.
"""

import json
import os
import random
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pydantic import SecretStr

from services.runtime import status_file
from services.runtime.status_file import Phase
from tests.support.clusters import HOST, Cluster, missing_program, with_standby
from tests.support.flow_files import flow_files
from tests.support.sites import Site
from tests.support.waiting import eventually

pytestmark = pytest.mark.skipif(missing_program() is not None, reason=str(missing_program()))

GOES_ON_SECONDS = 20
"""So soon after the promotion the daemons load again: within ten seconds, and as many for a machine that is busy."""

SENSORS = '''
"""Readings that are written once."""

from sqlalchemy import Text
from sqlalchemy.orm import Mapped, mapped_column
from typing_extensions import TypedDict

from models.flow import Flow
from models.outbound import Outbound
from models.tables import LoadedRow


class Reading(TypedDict):
    sensor: str
    value: int


class SensorRow(LoadedRow):
    __tablename__ = "sensors"

    sensor: Mapped[str] = mapped_column(Text, primary_key=True)
    value: Mapped[int]


FLOW = Flow(record=Reading, table=SensorRow, outbound=(Outbound("sensors-{file_id}.json", max_records=7),))
'''


class Dropper:
    """Drops files until it is told to stop, each with readings of sensors that no other has."""

    def __init__(self, site: Site, chance: random.Random) -> None:
        self.sensors: list[str] = []
        self.files = 0
        self._site = site
        self._chance = chance
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Dropper":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self._chance.uniform(0, 0.03)):
            made = [f"s{self.files}-{n}" for n in range(self._chance.randint(1, 20))]
            content = [{"sensor": sensor, "value": number} for number, sensor in enumerate(made)]
            self._site.drop(f"{self.files}.json", content, flow="sensors")
            self.sensors += made
            self.files += 1


@contextmanager
def on_both(site: Site, primary: Cluster, standby: Cluster, flows: Path | None = None) -> Iterator[Site]:
    """The site on a new database of the two, with two daemons at work."""
    primary.execute("create database tidegate")
    uri = f"postgresql://postgres@{HOST}:{primary.port},{HOST}:{standby.port}/tidegate"
    made = Site(
        site.settings.model_copy(
            update={"database_url": SecretStr(uri), "database_direct_url": None, "flows_dir": flows}
        )
    )
    try:
        for _ in range(2):
            made.start()
        eventually(lambda: watching(made) == 2, timeout=40, what="two daemons at work")
        yield made
    finally:
        for process in made.processes:
            process.kill()
            process.wait()


def watching(site: Site) -> int:
    return sum(state.state is Phase.WATCHING for state in status_file.running(site.settings.data_dir))


def loaded(site: Site) -> int:
    (found,) = site.query("select count(*) as files from tidegate.inbound_file")
    return int(found["files"])


def sent(site: Site) -> Counter[str]:
    """How often each sensor went out, in files that have their name."""
    files = [content for name, content in site.out("sensors").items() if not name.startswith(".")]
    return Counter(reading["sensor"] for content in files for reading in json.loads(content))


@pytest.mark.parametrize("seed", [int(seed) for seed in os.environ.get("FAILOVER_SEEDS", "1").split(",")])
def test_standby_takes_over_and_nothing_is_lost_or_doubled(
    site: Site, tmp_path: Path, open_folder: Path, seed: int
) -> None:
    chance = random.Random(seed)
    with (
        flow_files(tmp_path / "flows", sensors=SENSORS) as flows,
        with_standby(open_folder, synchronous=True) as (primary, standby),
        on_both(site, primary, standby, flows) as both,
        Dropper(both, chance) as dropper,
    ):
        until = chance.randint(60, 150)
        eventually(lambda: loaded(both) >= until, timeout=30, what="a stream of files")
        primary.kill()
        eventually(lambda: watching(both) == 0, what="daemons that wait for the database")
        standby.promote()
        before = loaded(both)
        eventually(lambda: loaded(both) > before + 20, timeout=GOES_ON_SECONDS, what="daemons that go on")
        dropper.__exit__()
        lines = both.settled(dropper.files)
        eventually(lambda: sent(both).total() >= len(dropper.sensors), timeout=30, what="all that goes out")
        assert sorted(line["name"] for line in lines) == sorted(f"{n}.json" for n in range(dropper.files))
        assert {line["status"] for line in lines} == {"loaded"}
        assert both.waiting() == []
        assert sorted(row["sensor"] for row in both.rows("sensors")) == sorted(dropper.sensors)
        assert sent(both) == Counter(dropper.sensors)
        assert all(Path(line["filed_as"]).exists() for line in lines)
        eventually(lambda: all(row["is_synced"] for row in both.rows("sensors")), what="rows that are known to be out")


def report(number: int) -> list[dict[str, str]]:
    return [{"vehicle_id": f"v{number:03}", "report_time": "2022-05-05T22:02:34Z", "status": "driving"}]


def test_what_a_standby_did_not_have_is_found_and_loaded_again(site: Site, open_folder: Path) -> None:
    def drop(numbers: range) -> None:
        for number in numbers:
            both.drop(f"{number}.json", report(number), flow="vehicle_status")

    with (
        with_standby(open_folder, synchronous=False) as (primary, standby),
        on_both(site, primary, standby) as both,
    ):
        drop(range(20))
        both.settled(20)
        eventually(lambda: all(row["is_synced"] for row in both.rows("vehicles_status")), what="rows that went out")
        has_all = "select 1 from pg_stat_replication where replay_lsn = pg_current_wal_lsn()"
        eventually(lambda: primary.execute(has_all), what="a standby that has all of it")
        standby.stop_following()
        drop(range(20, 40))
        both.settled(40)
        eventually(lambda: all(row["is_synced"] for row in both.rows("vehicles_status")), what="rows that went out")
        before = both.out("vehicle_status")
        primary.kill()
        drop(range(40, 60))
        standby.promote()
        lines = both.settled(40)
        assert {line["name"] for line in lines} == {f"{n}.json" for n in (*range(20), *range(40, 60))}
        found = both.call("reconcile", "--json", expect=1).stdout.splitlines()
        kinds = Counter(json.loads(line)["kind"] for line in found)
        assert kinds["archive"] == 20
        assert kinds["output"] > 0
        both.call("reconcile", "--mend", expect=1)
        lines = both.settled(60)
        assert sorted(line["name"] for line in lines) == sorted(f"{n}.json" for n in range(60))
        assert {line["status"] for line in lines} == {"loaded"}
        assert [row["vehicle_id"] for row in both.rows("vehicles_status")] == [f"v{n:03}" for n in range(60)]
        eventually(lambda: all(row["is_synced"] for row in both.rows("vehicles_status")), what="rows that went out")
        after = both.out("vehicle_status")
        assert {name: after[name] for name in before} == before, "no number is given twice"
        assert "archive" not in both.call("reconcile", "--json", expect=1).stdout
