"""A file of 250,000 records: in this process and as one, beside raw COPY of the same rows, already parsed."""

from functools import partial
from pathlib import Path

from benchmarks import data, floors
from benchmarks.bench import Bench, seconds, succeed
from benchmarks.data import VEHICLES, VEHICLES_TABLE, Parsed
from benchmarks.harness import Benchmark, ratio
from file_processing.inbound import adhoc

RECORDS = 250_000


def rows(bench: Bench, days: int) -> Parsed:
    return data.parsed_vehicles(data.vehicles(bench.size(RECORDS), days=days))


def file(bench: Bench, days: int) -> Path:
    return data.write_file(bench.folder / f"{days}.json", data.as_text(bench.once(rows, days).rows))


def ingest(bench: Bench, path: Path, flow: str) -> None:
    """Load a file as `ingest` does; every record has to reach the table."""
    (result,) = adhoc.ingest(bench.site.pipeline(None), adhoc.collect([path]), bench.flow(flow))
    assert result.entry is not None, result
    assert result.entry.inserted + result.entry.updated >= result.entry.records > 0, result


def upsert(bench: Bench, days: int = 0) -> None:
    floors.copy_and_upsert(bench, bench.flow(VEHICLES), bench.once(rows, days))


def known(bench: Bench) -> None:
    """Have an older report of each vehicle in the table."""
    bench.forget(VEHICLES)
    upsert(bench)
    bench.settle(VEHICLES_TABLE)


def upsert_new(bench: Bench) -> float:
    parsed = bench.once(rows, 0)
    bench.forget(VEHICLES)
    return seconds(floors.copy_and_upsert, bench, bench.flow(VEHICLES), parsed)


def copy_new(bench: Bench) -> float:
    parsed = bench.once(rows, 0)
    bench.forget(VEHICLES)
    return seconds(floors.copy_straight, bench, bench.flow(VEHICLES), parsed)


def load_new(bench: Bench) -> float:
    path = bench.once(file, 0)
    bench.forget(VEHICLES)
    return seconds(ingest, bench, path, VEHICLES)


def process_new(bench: Bench) -> float:
    path = bench.once(file, 0)
    bench.forget(VEHICLES)
    return seconds(lambda: succeed(bench.main("ingest", "--flow", VEHICLES, path)))


def upsert_known(bench: Bench) -> float:
    newer = bench.once(rows, 1)
    known(bench)
    return seconds(floors.copy_and_upsert, bench, bench.flow(VEHICLES), newer)


def load_known(bench: Bench) -> float:
    path = bench.once(file, 1)
    known(bench)
    return seconds(ingest, bench, path, VEHICLES)


_declared = partial(
    Benchmark, floor=upsert_new, floor_is="raw COPY + upsert", count=RECORDS, counted="records", group="large"
)
BENCHMARKS = (
    _declared(name="large-new", what="250,000 new records in-process", product=load_new, bars=(ratio(1.2),)),
    _declared(name="large-process", what="250,000 new records as a process", product=process_new, bars=(ratio(1.7),)),
    _declared(
        name="large-copy",
        what="250,000 new records in-process, COPY alone",
        product=load_new,
        floor=copy_new,
        floor_is="raw COPY into the table",
        bars=(ratio(1.6),),
    ),
    _declared(
        name="large-updated",
        what="250,000 records, all updated",
        product=load_known,
        floor=upsert_known,
        bars=(ratio(1.15),),
        group="large-updated",
    ),
)
