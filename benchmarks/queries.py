"""What `files`, `status` and `trace` ask the database, at a million lines of the ledger."""

from collections import Counter
from collections.abc import Callable

from psycopg import Connection

from benchmarks.bench import Bench, seconds
from benchmarks.data import VEHICLES, VEHICLES_TABLE
from benchmarks.harness import Benchmark, Suite, median
from services.ledger import lineage, overview, queries

LINES, ROWS = 1_000_000, 100_000
BAR_MS = 50
_FILL = """
insert into tidegate.inbound_file
    (flow, name, path, sha256, bytes, status, records, inserted, seen_at, filed_at, filed_as, node, error)
select 'vehicle_status', n || '.json', n || '.json', sha256(int8send(n)), 700,
    case when n % 1000 = 1 then 'rejected' else 'loaded' end, 5, 5, now(), now(), 'archive/' || n || '.json', 'node:1',
    case when n % 1000 = 1 then 'it is no JSON' end
from generate_series(1, {}) n
"""
_ROWS = f"""
insert into {VEHICLES_TABLE} (vehicle_id, report_time, status, source_file_id, record_position, is_synced)
select 'vehicle-' || n, now(), 'parking', n, 0, true from generate_series(1, {{}}) n
"""


def filled(bench: Bench) -> bool:
    bench.forget(VEHICLES)
    bench.execute(_FILL.format(bench.size(LINES)))
    bench.execute(_ROWS.format(bench.size(ROWS)))
    bench.settle("tidegate.inbound_file")
    bench.settle(VEHICLES_TABLE)
    return True


def asked(bench: Bench, ask: Callable[[Connection], object]) -> float:
    """Milliseconds of a question."""
    bench.once(filled)
    with bench.site.connection() as connection:
        return seconds(ask, connection) * 1000


def newest_files(bench: Bench) -> float:
    return asked(bench, queries.files)


def rejected_files(bench: Bench) -> float:
    return asked(bench, lambda connection: queries.files(connection, status="rejected"))


def files_of_a_status_without_any(bench: Bench) -> float:
    return asked(bench, lambda connection: queries.files(connection, status="partial"))


def status(bench: Bench) -> float:
    return asked(bench, lambda connection: overview.overview(connection, bench.site.flows, Counter()))


def trace(bench: Bench) -> float:
    return asked(bench, lambda connection: lineage.trace(connection, bench.flow(VEHICLES), ["vehicle-77"]))


def _asked(name: str, what: str, product: Callable[[Bench], float]) -> Benchmark:
    return Benchmark(
        name=f"query-{name}",
        what=f"{what}, 1,000,000 ledger lines",
        product=product,
        bars=(median(BAR_MS),),
        unit="ms",
        group="queries",
        suite=Suite.FULL,
    )


BENCHMARKS = (
    _asked("files", "`files`", newest_files),
    _asked("rejected", "`files --status rejected`", rejected_files),
    _asked("partial", "`files --status` of none", files_of_a_status_without_any),
    _asked("status", "`status`", status),
    _asked("trace", "`trace`", trace),
)
