"""A million files that wait when the daemon starts: what one of them costs, beside one of a thousand."""

from benchmarks.bench import Bench, seconds, wait_until_empty
from benchmarks.data import VEHICLES
from benchmarks.harness import Benchmark, Suite, ratio
from benchmarks.load_small import write_files

MANY, FEW, TIMES = 1_000_000, 1_000, 20


def few(bench: Bench) -> float:
    """Milliseconds for each of a thousand that are dropped at once, again and again."""
    bench.forget(VEHICLES)
    inbox, staged, count = bench.inbox(VEHICLES), bench.folder / "staged", bench.size(FEW)
    batches = [write_files(staged, count, records=1, first=number * count) for number in range(TIMES)]

    def drop() -> None:
        for batch in batches:
            for path in batch:
                path.rename(inbox / path.name)
            wait_until_empty(inbox)

    with bench.daemon():
        return seconds(drop) * 1000 / (TIMES * count)


def many(bench: Bench) -> float:
    """The same for each of a million, from when the daemon watches."""
    bench.forget(VEHICLES)
    inbox, count = bench.inbox(VEHICLES), bench.size(MANY)
    write_files(inbox, count, records=1)
    with bench.daemon(warm=False):
        return seconds(wait_until_empty, inbox) * 1000 / count


BENCHMARKS = (
    Benchmark(
        name="waiting",
        what="each of 1,000,000 waiting files",
        product=many,
        floor=few,
        floor_is="each of 1,000",
        bars=(ratio(1.5),),
        unit="ms",
        turns=1,
        suite=Suite.FULL,
    ),
)
