"""From the rename of a small file into the input folder of an idle daemon until its row is to be seen.

python benchmarks/latency.py [DROPS]
"""

import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import psycopg

from benchmarks import _common as common
from benchmarks._common import Bench, Report

BAR_MILLISECONDS = 100
IDLE_SECONDS = 0.3


def drop(bench: Bench, connection: psycopg.Connection, number: int) -> float:
    """Milliseconds until the row is there."""
    (row,) = common.vehicles(1, first=number)
    hidden = common.write_file(bench.site.settings.input_dir / ".next.tmp", common.as_text([row]))
    time.sleep(IDLE_SECONDS)
    start = time.perf_counter()
    hidden.rename(bench.site.settings.input_dir / common.FLOW / f"{number}.json")
    query = f"select from {common.TABLE} where vehicle_id = %s"
    while not connection.execute(query.encode(), [row[0]]).rowcount:
        time.sleep(0.0005)
    return (time.perf_counter() - start) * 1000


def main() -> None:
    drops = int(sys.argv[1]) if len(sys.argv) > 1 else 50
    report = Report()
    with common.bench() as bench, bench.daemon(), psycopg.connect(bench.url, autocommit=True) as connection:
        measured = [drop(bench, connection, number) for number in range(drops)]
    report.times("from drop to row", measured, "ms")
    report.bar("median, ms", statistics.median(measured), at_most=BAR_MILLISECONDS)
    report.finish()


if __name__ == "__main__":
    main()
