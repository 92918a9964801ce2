"""What a start costs: the processor time of a short command, from its start to its end."""

import sys
from pathlib import Path

from benchmarks import data
from benchmarks.bench import Bench, cpu_seconds
from benchmarks.data import VEHICLES
from benchmarks.harness import Benchmark, median

_SELECT = "import psycopg, sys; psycopg.connect(sys.argv[1]).execute('select 1')"


def help_alone(bench: Bench) -> float:
    return cpu_seconds(bench.main("--help"))


def connect_and_select(bench: Bench) -> float:
    return cpu_seconds(bench.process(sys.executable, "-c", _SELECT, bench.url))


def one_file(bench: Bench) -> Path:
    return data.write_file(bench.folder / "one.json", data.as_text(data.vehicles(1)))


def ingest_one(bench: Bench) -> float:
    path = bench.once(one_file)
    bench.forget(VEHICLES)
    return cpu_seconds(bench.main("ingest", "--flow", VEHICLES, path))


BENCHMARKS = (
    Benchmark(
        name="help", what="`--help`, CPU", product=help_alone, bars=(median(0.15),), unit="s of CPU", group="start"
    ),
    Benchmark(
        name="ingest-one",
        what="`ingest one.json`, CPU",
        product=ingest_one,
        floor=connect_and_select,
        floor_is="connect + select",
        bars=(median(0.5),),
        unit="s of CPU",
        group="start",
    ),
)
