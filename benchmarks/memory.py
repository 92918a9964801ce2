"""The most memory that `ingest` takes for one file of 1 GB.

python benchmarks/memory.py [MEGABYTES]
"""

import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks import _common as common
from benchmarks._common import Report

BAR = 300
PART = 20_000


def write(path: Path, megabytes: int) -> int:
    """An array of so many megabytes, each record another vehicle's; the number of its records."""
    count = 0
    with path.open("w") as file:
        file.write(f'{{"{common.FLOW}": [\n')
        while file.tell() < megabytes * 1_000_000:
            file.write(",\n" * bool(count))
            file.write(",\n".join(common.as_text(common.vehicles(PART, first=count))))
            count += PART
        file.write("\n]}\n")
    return count


def main() -> None:
    megabytes = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000
    report = Report()
    with common.bench() as bench:
        path = bench.folder / "large.json"
        records = write(path, megabytes)
        start = time.perf_counter()
        process = bench.ingest(path)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        taken = time.perf_counter() - start
        (loaded,) = bench.execute("select records, status from tidegate.inbound_file")
        assert process.returncode == 0, loaded
        assert loaded == (records, "loaded"), loaded
    report.say("file", f"{megabytes} MB, {records} records")
    report.say("time", f"{taken:8.1f} s, {records / taken:.0f} records/s, {megabytes / taken:.1f} MB/s")
    report.bar("resident at most, MB", usage.ru_maxrss * 1024 / 1e6, at_most=BAR)
    report.finish()


if __name__ == "__main__":
    main()
