"""One file of 250,000 records through `ingest`, against a raw COPY and upsert of the same rows, already parsed.

python benchmarks/load_large.py [ROUNDS]
"""

import gc
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import psycopg

from benchmarks import _common as common
from benchmarks._common import Bench, Report, Vehicle, seconds
from file_processing.inbound import adhoc

RECORDS = 250_000
BAR = 2.5

_RAW = f"""
insert into {common.TABLE} as t (vehicle_id, report_time, status)
select vehicle_id, report_time, status from raw_stage
on conflict (vehicle_id) do update set report_time = excluded.report_time, status = excluded.status
where t.report_time <= excluded.report_time
"""


def raw(bench: Bench, rows: list[Vehicle]) -> None:
    """What any loader has to do at least."""
    with psycopg.connect(bench.url) as connection, connection.cursor() as cursor:
        cursor.execute(
            f"create temporary table raw_stage as select vehicle_id, report_time, status from {common.TABLE}"
        )
        cursor.execute("truncate raw_stage")
        with cursor.copy("copy raw_stage from stdin (format binary)") as copy:
            copy.set_types(["text", "timestamptz", "varchar"])
            for row in rows:
                copy.write_row(row)
        cursor.execute(_RAW)


def ours(bench: Bench, path: Path) -> None:
    pipeline = bench.site.pipeline(None)
    (result,) = adhoc.ingest(pipeline, adhoc.collect([path]), bench.site.flows[common.FLOW])
    assert result.entry is not None, result
    assert result.entry.inserted + result.entry.updated == RECORDS, result


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    gc.set_threshold(100_000, 50, 100)  # as `ingest` does
    report = Report()
    with common.bench() as bench:
        new, newer = (list(common.vehicles(RECORDS, days=days)) for days in (0, 1))
        files = [
            common.write_file(bench.folder / f"{days}.json", common.as_text(rows))
            for days, rows in enumerate((new, newer))
        ]
        for word, days in (("inserted", 0), ("updated", 1)):
            raws, loads = [], []
            for turn in range(rounds):
                for side in ("raw", "ours") if turn % 2 else ("ours", "raw"):
                    bench.forget()
                    if days:
                        raw(bench, new)
                        bench.execute(f"vacuum analyze {common.TABLE}")
                        bench.execute("checkpoint")
                    if side == "raw":
                        raws.append(seconds(raw, bench, (new, newer)[days]))
                    else:
                        loads.append(seconds(ours, bench, files[days]))
            report.times(f"raw COPY and upsert, all {word}", raws)
            report.times(f"one file of {RECORDS} records, all {word}", loads)
            ratio = statistics.median(loads) / statistics.median(raws)
            if days:
                report.say("ratio", f"{ratio:8.2f}")
            else:
                report.bar("ratio", ratio, at_most=BAR)
                report.say("records/s", f"{RECORDS / statistics.median(loads):8.0f}")
        bench.forget()
        process = [seconds(lambda: bench.ingest(files[0]).wait())]
        report.times("the same as a process, from its start to its end", process)
    report.finish()


if __name__ == "__main__":
    main()
