"""Changed work orders on their way out: a file each beside a plain loop, 1,000 in a file, and how soon one appears."""

import dataclasses
import json
import threading
import time

import psycopg

from benchmarks import data, floors
from benchmarks.bench import Bench, seconds
from benchmarks.harness import Benchmark, median, rate, ratio
from file_processing.outbound.worker import FlowWriter
from models.flow import Flow
from models.outbound import Form

FLOW = "work_orders"
FILES, ROWS, CHANGES = 5_000, 100_000, 10
_CHANGED = """
insert into work_orders (number, status, title, created_at, updated_at)
select number, 'pending', 'Replace bearing on pump P-' || number, now(), now() from generate_series(1, {}) number
"""


def change(bench: Bench, orders: int) -> None:
    bench.forget(FLOW)
    bench.execute(_CHANGED.format(orders))
    bench.settle(FLOW)


def emit(bench: Bench, flow: Flow) -> None:
    writer = FlowWriter(flow, bench.site.settings.output_dir, "benchmark", threading.Event())
    with bench.site.database.connect() as marking, bench.site.database.connect() as sealing:
        while not writer.emit(marking, sealing):
            pass
    assert bench.execute(f"select count(*) from {FLOW} where not is_synced") == [(0,)]


def a_file_each(bench: Bench) -> float:
    change(bench, bench.size(FILES))
    return seconds(emit, bench, bench.flow(FLOW))


def many_in_a_file(bench: Bench) -> float:
    flow = bench.flow(FLOW)
    lists = dataclasses.replace(flow.outbound[0], form=Form.ARRAY, file_name="batch-{file_id}.json")
    change(bench, bench.size(ROWS))
    return seconds(emit, bench, dataclasses.replace(flow, outbound=(lists,)))


def contents(bench: Bench) -> list[tuple[str, bytes]]:
    """The same files."""
    orders = data.work_orders(bench.size(FILES))
    return [(f"{order['orderNo'] + 1}.json", json.dumps(order).encode()) for order in orders]


def plain_loop(bench: Bench) -> float:
    return seconds(floors.write_sync_rename, bench.new_folder(), bench.once(contents))


def commit_to_file(bench: Bench) -> list[float]:
    """Milliseconds from the commit of a change until its finished file lies there, with an idle daemon."""
    change(bench, bench.size(CHANGES))
    folder = bench.site.settings.output_dir / FLOW
    waits = []
    with bench.daemon(), psycopg.connect(bench.url, autocommit=True) as connection:
        while connection.execute(f"select from {FLOW} where not is_synced".encode()).rowcount:
            time.sleep(0.01)
        for number in range(1, bench.size(CHANGES) + 1):
            time.sleep(0.1)
            path = folder / f"{number}.json"
            before = path.stat().st_ino
            connection.execute(f"update {FLOW} set status = 'completed' where number = %s".encode(), [number])
            start = time.perf_counter()
            while path.stat().st_ino == before:
                time.sleep(0.0005)
            waits.append((time.perf_counter() - start) * 1000)
    return waits


BENCHMARKS = (
    Benchmark(
        name="outbound",
        what="5,000 changed rows out, a file each",
        product=a_file_each,
        floor=plain_loop,
        floor_is="write + fsync + rename",
        bars=(ratio(1.8),),
        count=FILES,
        counted="files",
    ),
    Benchmark(
        name="outbound-many",
        what="100,000 changed rows out, 1,000 in a file",
        product=many_in_a_file,
        bars=(rate(80_000),),
        count=ROWS,
        counted="rows",
    ),
    Benchmark(
        name="outbound-latency",
        what="commit to finished file, idle",
        product=commit_to_file,
        bars=(median(50),),
        unit="ms",
    ),
)
