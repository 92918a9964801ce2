"""`python -m benchmarks`: measure, and tell what keeps its bar."""

import argparse
import gc
from collections.abc import Sequence
from pathlib import Path

from benchmarks import bench, catalogue, harness, report
from benchmarks.harness import Benchmark, Result, Suite


def chosen(names: Sequence[str], suite: Suite) -> list[Benchmark]:
    """Those that are named, by name or group, whatever their suite; without names the suite."""
    known = catalogue.BENCHMARKS
    if not names:
        return [one for one in known if one.suite is suite]
    if unknown := {*names} - {name for one in known for name in (one.name, one.group)}:
        raise SystemExit(f"there is no {', '.join(unknown)}; there are {', '.join(one.name for one in known)}")
    return [one for one in known if one.name in names or one.group in names]


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these benchmarks or groups")
    parser.add_argument("--suite", type=Suite, choices=list(Suite), default=Suite.BENCH)
    parser.add_argument("--turns", type=int, help="instead of those that each declares")
    parser.add_argument("--scale", type=float, default=1.0, help="all sizes times this, to try one out; 1 counts")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument("--record", action="store_true", help="keep the figures in docs/, table and chart too")
    given = parser.parse_args()
    if given.record and given.scale != 1:
        parser.error("only figures at scale 1 are kept")
    gc.set_threshold(100_000, 50, 100)  # as `ingest` does
    wanted = chosen(given.names, given.suite)
    results: list[Result] = []
    print(report.head())
    with bench.server() as server:
        for found in harness.run(wanted, server, scale=given.scale, turns=given.turns):
            if found:
                print(report.text(found), flush=True)
            results += found
            if given.record:
                report.record(found, [one.name for one in catalogue.BENCHMARKS])
    if given.json:
        given.json.write_bytes(report.to_json(results))
    print(f"\nAll of them:\n\n{report.text(results)}")
    missed = [result.name for result in results if not result.kept]
    failed = len(wanted) - len(results)
    print(f"\n{len(results) - len(missed)} of {len(wanted)} keep their bars" + (f"; {failed} failed" if failed else ""))
    raise SystemExit(1 if missed or failed else 0)


if __name__ == "__main__":
    main()
