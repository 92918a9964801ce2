"""Bulk into a table that holds many rows already: half of the records are newer reports, half are of new vehicles."""

from functools import partial
from itertools import count

import psycopg
from psycopg import sql

from benchmarks import data, floors
from benchmarks.bench import Bench, seconds
from benchmarks.data import VEHICLES, VEHICLES_TABLE, Parsed
from benchmarks.harness import Benchmark, Side, Suite, ratio
from benchmarks.load_large import ingest

RECORDS = 250_000
_FILLED = ("vehicle_id", "report_time", "status", "inserted_at", "is_synced")


class Table:
    """The flow's table with so many rows, of which all has gone out."""

    def __init__(self, bench: Bench, rows: int) -> None:
        self._bench = bench
        self._rows = bench.size(rows)
        self._days = count(1)
        filling = ((*vehicle, data.START, True) for vehicle in data.vehicles(self._rows))
        with psycopg.connect(bench.url) as connection, connection.cursor() as cursor:
            floors.copy(cursor, sql.Identifier(VEHICLES_TABLE), _FILLED, filling)

    def next(self, records: int) -> Parsed:
        """What comes now, a day newer than the last; of the known ones others each time, as long as there are others.

        What was updated once lies together, and would be updated again for less than the rest.
        """
        self._bench.execute(f"delete from {VEHICLES_TABLE} where inserted_at <> '{data.START}'")
        self._bench.execute("truncate tidegate.inbound_file, tidegate.rejected_record")
        self._bench.settle(VEHICLES_TABLE)
        days, known = next(self._days), min(records // 2, self._rows)
        step = self._rows // known
        newer = [row for n in range(known) for row in data.vehicles(1, first=n * step + days % step, days=days)]
        new = data.vehicles(records - known, first=self._rows, days=days)
        return data.parsed_vehicles([*newer, *new])


def upsert_into(bench: Bench, *, rows: int, records: int) -> float:
    parsed = bench.once(Table, rows).next(bench.size(records))
    return seconds(floors.copy_and_upsert, bench, bench.flow(VEHICLES), parsed)


def load_into(bench: Bench, *, rows: int, records: int) -> float:
    parsed = bench.once(Table, rows).next(bench.size(records))
    path = data.write_file(bench.folder / "next.json", data.as_text(parsed.rows))
    return seconds(ingest, bench, path, VEHICLES)


def _into(rows: int, records: int, *, turns: int) -> Benchmark:
    floor: Side = partial(upsert_into, rows=rows, records=records)
    product: Side = partial(load_into, rows=rows, records=records)
    return Benchmark(
        name=f"large-into-{rows}",
        what=f"{records:,} records into a table of {rows:,}, half of them known",
        product=product,
        floor=floor,
        floor_is="raw COPY + upsert at that size",
        bars=(ratio(1.3),),
        count=records,
        counted="records",
        turns=turns,
        suite=Suite.FULL,
    )


BENCHMARKS = (
    _into(10_000, RECORDS, turns=5),
    _into(1_000_000, RECORDS, turns=5),
    _into(10_000_000, RECORDS, turns=3),
    _into(5_000_000, 1_000_000, turns=3),
)
