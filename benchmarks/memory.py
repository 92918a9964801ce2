"""The most memory that `ingest` takes for one file of 1 GB, all its processes together; not the server's."""

import time
from pathlib import Path

from benchmarks import data
from benchmarks.bench import Bench, succeed
from benchmarks.data import VEHICLES
from benchmarks.harness import Benchmark, Suite, median

BYTES = 1_000_000_000
_PART = 20_000
_LOOK_SECONDS = 0.05


def write(path: Path, size: int) -> int:
    """An array of so many bytes, each record another vehicle's; the number of its records."""
    count = 0
    with path.open("w") as file:
        file.write(f'{{"{VEHICLES}": [\n')
        while file.tell() < size:
            file.write(",\n" * bool(count))
            file.write(",\n".join(data.as_text(data.vehicles(_PART, first=count))))
            count += _PART
        file.write("\n]}\n")
    return count


def proportional_bytes(pid: int) -> int:
    """What a process and those below it take; a page that several share is shared out among them."""
    own = Path("/proc", str(pid))
    try:
        lines = (own / "smaps_rollup").read_text().splitlines()
        below = [child for task in (own / "task").iterdir() for child in (task / "children").read_text().split()]
    except OSError:  # it has ended
        return 0
    pss = next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)
    return pss + sum(proportional_bytes(int(child)) for child in below)


def megabytes(bench: Bench) -> float:
    path = bench.folder / "large.json"
    records = write(path, bench.size(BYTES))
    process = bench.main("ingest", "--flow", VEHICLES, path)
    most = 0
    while process.poll() is None:
        most = max(most, proportional_bytes(process.pid))
        time.sleep(_LOOK_SECONDS)
    succeed(process)
    assert most, "/proc tells of no memory"
    assert bench.execute("select records, status from tidegate.inbound_file") == [(records, "loaded")]
    return most / 1e6


BENCHMARKS = (
    Benchmark(
        name="memory",
        what="memory, 1 GB array, all processes",
        product=megabytes,
        bars=(median(300),),
        unit="MB",
        turns=1,
        suite=Suite.FULL,
    ),
)
