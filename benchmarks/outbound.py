"""Changed work orders on their way out: a file each against a plain loop, in batches, and how soon one appears.

python benchmarks/outbound.py [ORDERS]
"""

import dataclasses
import os
import statistics
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import psycopg

from benchmarks import _common as common
from benchmarks._common import Bench, Report
from file_processing.outbound.worker import FlowWriter, WrittenFile
from models.flow import Flow
from models.outbound import Form

BAR_RATIO = 3.0
BAR_ROWS_PER_SECOND = 50_000
BAR_MILLISECONDS = 50
BATCH_ORDERS = 100_000

_CHANGED = """
insert into work_orders (number, status, title, created_at, updated_at)
select number, 'pending', 'Replace bearing on pump P-' || number, now(), now() from generate_series(1, {}) number
"""


def emitted(bench: Bench, flow: Flow, orders: int) -> tuple[float, list[WrittenFile]]:
    """Seconds to write out so many changed work orders, and the files."""
    bench.execute("truncate work_orders, tidegate.outbound_file")
    bench.execute(_CHANGED.format(orders))
    bench.execute("vacuum analyze work_orders")
    bench.execute("checkpoint")
    written: list[WrittenFile] = []
    writer = FlowWriter(flow, bench.site.settings.output_dir, "benchmark", threading.Event(), written.append)
    with bench.site.database.connect() as marking, bench.site.database.connect() as taking:
        start = time.perf_counter()
        while not writer.emit(marking, taking):
            pass
        return time.perf_counter() - start, written


def plain_loop(folder: Path, contents: list[tuple[str, bytes]]) -> float:
    """Seconds to write, sync and rename the same bytes under the same names."""
    folder.mkdir()
    start = time.perf_counter()
    for name, content in contents:
        temporary = f"{folder}/.{name}.tmp"
        with open(temporary, "wb", buffering=0) as file:
            file.write(content)
            os.fsync(file.fileno())
        os.rename(temporary, f"{folder}/{name}")  # noqa: PTH104  # a plain loop has no pathlib
    return time.perf_counter() - start


def latency(bench: Bench, changes: int = 40) -> list[float]:
    """Milliseconds from the commit of a change until its finished file lies there."""
    bench.execute("truncate work_orders, tidegate.outbound_file")
    bench.execute(_CHANGED.format(changes))
    folder = bench.site.settings.output_dir / "work_orders"
    taken = []
    with bench.daemon(), psycopg.connect(bench.url, autocommit=True) as connection:
        while connection.execute("select 1 from work_orders where not is_synced").rowcount:
            time.sleep(0.01)
        for number in range(1, changes + 1):
            time.sleep(0.1)
            path = folder / f"{number}.json"
            before = path.stat().st_ino
            connection.execute("update work_orders set status = 'completed' where number = %s", [number])
            start = time.perf_counter()
            while path.stat().st_ino == before:
                time.sleep(0.0005)
            taken.append((time.perf_counter() - start) * 1000)
    return taken


def main() -> None:
    orders = int(sys.argv[1]) if len(sys.argv) > 1 else BATCH_ORDERS
    report = Report()
    with common.bench() as bench:
        flow = bench.site.flows["work_orders"]
        seconds, written = emitted(bench, flow, orders)
        contents = [(file.path.name, file.path.read_bytes()) for file in written]
        loop = plain_loop(bench.folder / "plain", contents)
        report.times("plain loop: write, fsync, rename", [loop])
        report.times(f"{orders} work orders, a file each", [seconds])
        report.bar("ratio", seconds / loop, at_most=BAR_RATIO)
        batches = dataclasses.replace(
            flow, outbound=(dataclasses.replace(flow.outbound[0], form=Form.ARRAY, file_name="batch-{file_id}.json"),)
        )
        rounds = [emitted(bench, batches, BATCH_ORDERS)[0] for _ in range(3)]
        report.times(f"{BATCH_ORDERS} work orders, 1000 in a file", rounds)
        report.bar("rows/s", BATCH_ORDERS / statistics.median(rounds), at_least=BAR_ROWS_PER_SECOND)
        waits = latency(bench)
        report.times("from commit to file", waits, "ms")
        report.bar("median, ms", statistics.median(waits), at_most=BAR_MILLISECONDS)
    report.finish()


if __name__ == "__main__":
    main()
