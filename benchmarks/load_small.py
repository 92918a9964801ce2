"""10,000 files of five records: through the handler, and through a daemon from the first drop to the last filed."""

from functools import partial
from pathlib import Path

from benchmarks import data, floors
from benchmarks.bench import Bench, seconds, wait_until_empty
from benchmarks.data import VEHICLES
from benchmarks.harness import Benchmark, rate, ratio
from file_processing.inbound import adhoc
from file_processing.inbound.routing import RoutedFile

FILES, RECORDS = 10_000, 5


def write_files(folder: Path, files: int, *, records: int = RECORDS, first: int = 0) -> list[Path]:
    """So many small files, each of other vehicles."""
    folder.mkdir(exist_ok=True)
    rows = data.as_text(data.vehicles(files * records, first=first))
    return [
        data.write_file(folder / f"{first + number:07}.json", [next(rows) for _ in range(records)])
        for number in range(files)
    ]


def dropped(bench: Bench) -> list[Path]:
    """The files in the input folder, in a site that knows of none."""
    bench.forget(VEHICLES)
    return write_files(bench.inbox(VEHICLES), bench.size(FILES))


def read_parse_rename(bench: Bench) -> float:
    return seconds(floors.read_parse_rename, dropped(bench), bench.new_folder())


def handled(bench: Bench) -> float:
    paths = dropped(bench)
    pipeline = bench.site.pipeline(bench.site.settings.input_dir.resolve())

    def handle() -> None:
        files = [RoutedFile(file, VEHICLES) for file in adhoc.collect(paths)]
        loaded = [result for result in pipeline.handle(VEHICLES, files) if result.entry and not result.wait]
        assert len(loaded) == len(paths)

    return seconds(handle)


def through_daemon(bench: Bench) -> float:
    bench.forget(VEHICLES)
    paths = write_files(bench.folder / "staged", bench.size(FILES))
    inbox = bench.inbox(VEHICLES)

    def drop() -> None:
        for path in paths:
            path.rename(inbox / path.name)
        wait_until_empty(inbox)

    with bench.daemon():
        taken = seconds(drop)
    loaded = "select count(*) from tidegate.inbound_file where status = 'loaded'"
    assert bench.execute(loaded) == [(1 + len(paths),)]  # the first file that warms it
    return taken


_declared = partial(
    Benchmark,
    floor=read_parse_rename,
    floor_is="read + json + rename loop",
    count=FILES,
    counted="files",
    group="small",
)
BENCHMARKS = (
    _declared(name="small", what="10,000 files of five, handler", product=handled, bars=(ratio(3.4), rate(7_000))),
    _declared(
        name="small-daemon",
        what="10,000 files of five, daemon that writes out",
        product=through_daemon,
        bars=(ratio(4.8), rate(5_000)),
    ),
)
