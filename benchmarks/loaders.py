"""Two loaders of one flow beside one, where validation and not PostgreSQL is the limit."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.bench import ROOT, Bench, seconds, succeed
from benchmarks.harness import Benchmark, ratio

FILES, RECORDS = 160, 500
FLOW = "heavy_reports"
_FLOWS = Path(__file__).parent / "heavy"


def files(bench: Bench) -> list[Path]:
    folder = bench.new_folder()
    return [_written(folder / f"{number}.json", number) for number in range(bench.size(FILES))]


def _written(path: Path, number: int) -> Path:
    first = number * RECORDS
    path.write_text(json.dumps([_record(first + position) for position in range(RECORDS)]))
    return path


def _record(number: int) -> dict[str, object]:
    words = ("site", "unit", "operator", "product", "batch", "remark", "code")
    return {
        "id": number,
        "at": "2026-01-01T00:00:00Z",
        **{word: f"{word.title()} {number % 1000:04}" for word in words},
        **dict.fromkeys("abcd", number * 2 % 10000),
        "weight": f"{number % 100_000}.125",
        "price": f"{number % 10_000}.95",
        "low": number * 0.5,
        "high": number * 0.5 + 1,
        "first": "2026-01-01T00:00:00Z",
        "last": "2026-01-01T06:30:00+01:00",
        "ok": number % 2 == 0,
    }


def loaders(bench: Bench, count: int) -> float:
    paths = bench.once(files)
    bench.execute(f"drop table if exists {FLOW}; truncate tidegate.inbound_file cascade")
    succeed(_ingest(bench, paths[:1]))  # the table is made
    rest = paths[1:]
    return seconds(_all, bench, [rest[number::count] for number in range(count)])


def _all(bench: Bench, shares: Sequence[Sequence[Path]]) -> None:
    for process in [_ingest(bench, share) for share in shares]:
        succeed(process)


def _ingest(bench: Bench, paths: Sequence[Path]) -> "subprocess.Popen[bytes]":
    command = [sys.executable, str(ROOT / "main.py"), "ingest", "--flow", FLOW, *map(str, paths)]
    environment = bench.environment | {"FLOWS_DIR": str(_FLOWS)}
    return subprocess.Popen(command, cwd=bench.folder, env=environment, stdout=subprocess.DEVNULL, stderr=sys.stderr)


def one(bench: Bench) -> float:
    return loaders(bench, 1)


def two(bench: Bench) -> float:
    return loaders(bench, 2)


BENCHMARKS = (
    Benchmark(
        name="loaders",
        what=f"{FILES} files of {RECORDS} heavy records, by two loaders of one flow",
        floor=one,
        floor_is="by one",
        product=two,
        bars=(ratio(1 / 1.6),),
        count=FILES * RECORDS,
        counted="records",
        turns=3,
    ),
)
