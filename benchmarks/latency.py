"""From the rename of a small file into the input folder until its row is to be seen: idle, and under steady load."""

import itertools
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg

from benchmarks import data, floors
from benchmarks.bench import Bench
from benchmarks.data import VEHICLES, VEHICLES_TABLE
from benchmarks.harness import Benchmark, Suite, median, p99
from benchmarks.load_small import write_files

DROPS = 20
IDLE_SECONDS = 0.15
PER_SECOND, STEADY_SECONDS = 1_000, 60
_POLL_SECONDS = 0.0005


def numbers(_bench: Bench) -> Iterator[int]:
    return itertools.count()


def seen_after(bench: Bench, folder: Path, *, named_by_key: bool) -> list[float]:
    """Milliseconds from a drop into the folder to its row, again and again, with a rest before each."""
    waits = []
    with psycopg.connect(bench.url, autocommit=True) as connection:
        for _ in range(bench.size(DROPS)):
            (row,) = data.vehicles(1, first=next(bench.once(numbers)))
            hidden = data.write_file(folder / ".next.tmp", data.as_text([row]))
            time.sleep(IDLE_SECONDS)
            start = time.perf_counter()
            hidden.rename(folder / (row[0] if named_by_key else f"{row[0]}.json"))
            query = f"select from {VEHICLES_TABLE} where vehicle_id = %s"
            while not connection.execute(query.encode(), [row[0]]).rowcount:
                time.sleep(_POLL_SECONDS)
            waits.append((time.perf_counter() - start) * 1000)
    return waits


def commit_on_wake(bench: Bench) -> list[float]:
    folder = bench.folder / "woken"
    folder.mkdir(exist_ok=True)
    process = floors.committing_on_wake(bench, folder)
    try:
        return seen_after(bench, folder, named_by_key=True)
    finally:
        process.terminate()
        process.join()


def idle_daemon(bench: Bench) -> list[float]:
    with bench.daemon():
        return seen_after(bench, bench.inbox(VEHICLES), named_by_key=False)


class Steady:
    """Files that come at an even pace, and when each of them was dropped and seen in the ledger."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self.dropped: dict[str, float] = {}
        self.seen: dict[str, float] = {}

    def run(self) -> None:
        staged = write_files(self._bench.folder / "staged", self._bench.size(PER_SECOND * STEADY_SECONDS))
        feeder = threading.Thread(target=self._feed, args=[staged])
        with self._bench.daemon():
            feeder.start()
            self._watch(len(staged))
        feeder.join()

    def _feed(self, staged: list[Path]) -> None:
        inbox, start = self._bench.inbox(VEHICLES), time.perf_counter()
        for number, path in enumerate(staged):
            time.sleep(max(0.0, start + number / PER_SECOND - time.perf_counter()))
            self.dropped[path.name] = time.perf_counter()
            path.rename(inbox / path.name)

    def _watch(self, files: int) -> None:
        query, last = "select id, name from tidegate.inbound_file where id > %s", 0
        with psycopg.connect(self._bench.url, autocommit=True) as connection:
            while len(self.seen) < files + 1:  # and the first file that warms it
                # A transaction may become visible after one with higher ids: look back a little.
                for number, name in connection.execute(query, [last - PER_SECOND]).fetchall():
                    self.seen.setdefault(name, time.perf_counter())
                    last = max(last, number)
                time.sleep(0.01)

    def waits(self) -> list[float]:
        """Milliseconds from drop to ledger, in the order of the drops."""
        return [(self.seen[name] - at) * 1000 for name, at in self.dropped.items()]

    def growth(self) -> float:
        """How many files more wait at a time in the last third of the minute than in the first."""
        waits = self.waits()
        third = len(waits) // 3
        mean_growth = (sum(waits[-third:]) - sum(waits[:third])) / third
        return mean_growth / 1000 * PER_SECOND  # by Little's law


def steady(bench: Bench) -> Steady:
    bench.forget(VEHICLES)
    made = Steady(bench)
    made.run()
    return made


def steady_waits(bench: Bench) -> list[float]:
    return bench.once(steady).waits()


def steady_growth(bench: Bench) -> float:
    return bench.once(steady).growth()


BENCHMARKS = (
    Benchmark(
        name="latency",
        what="drop to row, idle",
        product=idle_daemon,
        floor=commit_on_wake,
        floor_is="one commit + one inotify wake",
        bars=(median(6), p99(25)),
        unit="ms",
    ),
    Benchmark(
        name="steady",
        what="drop to row, 1,000 files/s for 60 s",
        product=steady_waits,
        bars=(p99(300),),
        unit="ms",
        group="steady",
        turns=1,
        suite=Suite.FULL,
    ),
    Benchmark(
        name="steady-queue",
        what="growth of the queue at 1,000 files/s",
        product=steady_growth,
        bars=(median(300),),
        unit="files",
        group="steady",
        turns=1,
        suite=Suite.FULL,
    ),
)
