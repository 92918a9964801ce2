"""Several loaders of one flow: killed at any moment they lose nothing and double nothing, and never wait in a ring."""

import os
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest

from tests.support import processes
from tests.support.sites import Site
from tests.support.waiting import eventually

KILLS = int(os.environ.get("TIDEGATE_TEST_KILLS", "8"))
"""Of the daemons, at random; 60 s of it are about 60."""

DAEMONS, VEHICLES, FILES_BETWEEN_KILLS = 4, 40, 60
T1 = datetime(2026, 1, 1, tzinfo=UTC)


class Drops:
    """Files of reports on few vehicles, dropped one after another; some say just what an earlier one said."""

    def __init__(self, site: Site, chance: random.Random) -> None:
        self._site = site
        self._chance = chance
        self._contents: list[list[dict[str, str]]] = []
        self.names: list[str] = []
        self.newest: dict[str, tuple[datetime, str]] = {}

    def drop(self, count: int) -> None:
        for _ in range(count):
            number = len(self.names)
            if self._contents and self._chance.random() < 0.3:
                content = self._chance.choice(self._contents)
            else:
                content = [self._report(number) for _ in range(5)]
                self._contents.append(content)
            self.names.append(f"{number:05}.json")
            self._site.drop(self.names[-1], content, flow="vehicle_status")

    def _report(self, number: int) -> dict[str, str]:
        vehicle = f"v{self._chance.randrange(VEHICLES)}"
        at, status = T1 + timedelta(seconds=self._chance.randrange(10**6)), self._chance.choice(["driving", "parking"])
        known = self.newest.get(vehicle)
        if known is not None and known[0] == at:
            status = known[1]
        if known is None or known[0] < at:
            self.newest[vehicle] = at, status
        return {"vehicle_id": vehicle, "report_time": at.isoformat(), "status": status}


def has_loaded(site: Site, files: int) -> bool:
    return len(site.ledger()) >= files


@pytest.mark.timeout(60 + 5 * KILLS)
@pytest.mark.parametrize("seed", [20261121])
def test_four_daemons_on_one_folder_are_killed_at_random(site: Site, seed: int) -> None:
    chance = random.Random(seed)
    drops = Drops(site, chance)
    daemons = [site.start() for _ in range(DAEMONS)]
    for _ in range(KILLS):
        drops.drop(FILES_BETWEEN_KILLS)
        enough = len(drops.names) - chance.randrange(FILES_BETWEEN_KILLS)
        eventually(partial(has_loaded, site, enough), timeout=60, what=f"{enough} files loaded")
        victim = chance.randrange(DAEMONS)
        daemons[victim].kill()
        daemons[victim].wait()
        daemons[victim] = site.start()
    lines = site.settled(len(drops.names))
    eventually(lambda: site.waiting() == [], timeout=30, what=f"an empty input folder: {site.waiting()}")
    assert sorted(line["name"] for line in lines) == drops.names
    assert {line["status"] for line in lines} <= {"loaded", "duplicate"}
    contents = [line["sha256"] for line in lines if line["status"] == "loaded"]
    assert len(contents) == len(set(contents))
    table = {row["vehicle_id"]: (row["report_time"], row["status"]) for row in site.rows("vehicles_status")}
    assert table == drops.newest


DEADLOCKS = "select deadlocks from pg_stat_database where datname = current_database()"


def hot(number: int, chance: random.Random) -> Iterator[dict[str, str]]:
    for vehicle in chance.sample(range(10_000), 500):
        at = T1 + timedelta(seconds=number)
        yield {"vehicle_id": f"v{vehicle}", "report_time": at.isoformat(), "status": "driving"}


def test_loaders_of_equal_keys_never_wait_in_a_ring(site: Site) -> None:
    chance = random.Random(7)
    rounds = int(os.environ.get("TIDEGATE_TEST_ROUNDS", "10"))
    for number in range(rounds):
        if number % 5 == 0:
            site.execute("truncate vehicles_status")  # so that all are new again
        paths = []
        for loader in range(3):
            folder = site.input.parent / "given" / str(loader)
            folder.mkdir(parents=True, exist_ok=True)
            for old in folder.iterdir():
                old.unlink()
            for each in range(12):
                path = folder / f"{number}-{each}.json"
                path.write_text(str([*hot(number * 100 + loader * 12 + each, chance)]).replace("'", '"'))
            paths.append(folder)
        loaders = [
            processes.start(
                *("ingest", "--flow", "vehicle_status", str(folder)),
                environment=site.environment,
                folder=site.input.parent,
                log=folder.with_suffix(".log"),
            )
            for folder in paths
        ]
        assert [loader.wait(60) for loader in loaders] == [0, 0, 0], [loader.log.read_text() for loader in loaders]
    assert site.query(DEADLOCKS) == [{"deadlocks": 0}]
    assert {line["status"] for line in site.ledger()} == {"loaded"}
