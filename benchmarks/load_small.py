"""10,000 files of five records each: through the handler, and through a daemon from drop to filed.

python benchmarks/load_small.py [ROUNDS]
"""

import gc
import json
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import psycopg

from benchmarks import _common as common
from benchmarks._common import Bench, Report, seconds
from file_processing.inbound import adhoc
from file_processing.inbound.routing import RoutedFile

FILES, RECORDS = 10_000, 5
BAR = 2_000


def staged(bench: Bench) -> list[Path]:
    """The files, beside the input folder."""
    folder = bench.folder / "staged"
    folder.mkdir(exist_ok=True)
    rows = list(common.as_text(common.vehicles(FILES * RECORDS)))
    for number in range(FILES):
        common.write_file(folder / f"{number:05}.json", rows[number * RECORDS : (number + 1) * RECORDS])
    return sorted(folder.iterdir())


def dropped(bench: Bench) -> list[Path]:
    """The same in the flow's input folder."""
    folder = bench.site.settings.input_dir / common.FLOW
    return [path.rename(folder / path.name) for path in staged(bench)]


def plain_loop(paths: list[Path], done: Path) -> None:
    """Nothing but read, parse, rename."""
    done.mkdir(exist_ok=True)
    for path in paths:
        json.loads(path.read_bytes())
        path.rename(done / path.name)


def by_pipeline(bench: Bench, paths: list[Path]) -> None:
    pipeline = bench.site.pipeline(bench.site.settings.input_dir.resolve())
    files = [RoutedFile(file, common.FLOW) for file in adhoc.collect(paths)]
    loaded = sum(1 for result in pipeline.handle(common.FLOW, files) if result.entry and not result.wait)
    assert loaded == FILES


def by_daemon(bench: Bench, paths: list[Path]) -> None:
    folder = bench.site.settings.input_dir / common.FLOW
    for path in paths:
        path.rename(folder / path.name)
    with psycopg.connect(bench.url, autocommit=True) as connection:
        while True:
            found = connection.execute(
                "select count(*) from tidegate.inbound_file where filed_at is not null"
            ).fetchone()
            assert found is not None
            if found[0] == FILES:
                return
            time.sleep(0.02)


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    gc.set_threshold(100_000, 50, 100)
    loops, pipelines, daemons = [], [], []
    with common.bench() as bench:
        for number in range(rounds):
            paths = dropped(bench)
            loops.append(seconds(plain_loop, paths, bench.folder / f"done{number}"))
            bench.forget()
            paths = dropped(bench)
            pipelines.append(seconds(by_pipeline, bench, paths))
            bench.forget()
            paths = staged(bench)
            with bench.daemon():
                daemons.append(seconds(by_daemon, bench, paths))
    report = Report()
    report.times("read, json.loads and rename alone", loops)
    report.times("pipeline", pipelines)
    report.times("daemon, from the first drop to the last filed", daemons)
    report.say("pipeline / loop", f"{statistics.median(pipelines) / statistics.median(loops):8.2f}")
    report.bar("files/s, pipeline", FILES / statistics.median(pipelines), at_least=BAR)
    # Without a bar: the daemon writes all of it out again meanwhile.
    report.say("files/s, daemon", f"{FILES / statistics.median(daemons):8.2f}")
    report.finish()


if __name__ == "__main__":
    main()
