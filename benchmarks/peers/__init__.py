"""Peers on the same files: whole processes, from start to end, each in an environment of its own."""

import os
from functools import partial
from pathlib import Path

from psycopg.conninfo import conninfo_to_dict

from benchmarks import data
from benchmarks.bench import ROOT, Bench, seconds, succeed
from benchmarks.data import VEHICLES, VEHICLES_TABLE
from benchmarks.harness import Benchmark, Side, Suite, ratio

PYTHON = Path(os.environ.get("PEERS_PYTHON", ROOT / ".venv/peers/bin/python"))
"""Where requirements-peers.txt is installed."""
PEERS = {"dlt": "dlt", "pathway": "Pathway"}
RECORDS, KEYS = 250_000, 61_355
FILES, OF_FIVE = 2_000, 5


def one_file(bench: Bench) -> Path:
    """JSON Lines, which all of them read: several reports of each vehicle, the newest last."""
    folder = bench.folder / "one"
    folder.mkdir()
    keys = bench.size(KEYS)
    rows = data.vehicles(bench.size(RECORDS))
    vehicles = [vehicle for vehicle, _, _ in data.vehicles(keys)]
    reports = ((vehicles[number % keys], moment, status) for number, (_, moment, status) in enumerate(rows))
    (folder / "reports.jsonl").write_text("".join(f"{line}\n" for line in data.as_text(reports)))
    return folder


def many_files(bench: Bench) -> Path:
    folder = bench.folder / "many"
    folder.mkdir()
    lines = data.as_text(data.vehicles(bench.size(FILES) * OF_FIVE))
    for number in range(bench.size(FILES)):
        (folder / f"{number:05}.jsonl").write_text("".join(f"{next(lines)}\n" for _ in range(OF_FIVE)))
    return folder


def ours(bench: Bench, *, many: bool) -> float:
    folder = bench.once(many_files if many else one_file)
    bench.forget(VEHICLES)
    taken = seconds(lambda: succeed(bench.main("ingest", "--flow", VEHICLES, folder)))
    check(bench, VEHICLES_TABLE, many=many)
    return taken


def theirs(bench: Bench, *, peer: str, many: bool) -> float:
    """A peer loads the same into a table of its own."""
    folder = bench.once(many_files if many else one_file)
    bench.execute("drop schema if exists peer cascade; create schema peer")
    bench.execute("checkpoint")
    script = Path(__file__).parent / f"with_{peer}.py"
    connection = {name: str(value) for name, value in conninfo_to_dict(bench.url).items()}
    own = [connection.get(name, "") for name in ("host", "port", "user", "password", "dbname")]
    taken = seconds(lambda: succeed(bench.process(PYTHON, script, folder, *own)))
    check(bench, "peer.reports", many=many)
    return taken


def check(bench: Bench, table: str, *, many: bool) -> None:
    """Every key is there, with its newest report."""
    records = bench.size(FILES) * OF_FIVE if many else bench.size(RECORDS)
    ((_, newest, _),) = data.vehicles(1, first=records - 1)
    count = records if many else bench.size(KEYS)
    assert bench.execute(f"select count(*), max(report_time) from {table}") == [(count, newest)]


def _beside(peer: str, *, many: bool, product: Side) -> Benchmark:
    floor: Side = partial(theirs, peer=peer, many=many)
    what = "2,000 files of five" if many else "250,000 records of 61,355 keys"
    return Benchmark(
        name=f"{peer}-{'many' if many else 'one'}",
        what=f"{what}, beside {PEERS[peer]}",
        product=product,
        floor=floor,
        floor_is=PEERS[peer],
        bars=(ratio(1.0),),
        group=f"peers-{'many' if many else 'one'}",
        suite=Suite.PEERS,
    )


_ONE: Side = partial(ours, many=False)
_MANY: Side = partial(ours, many=True)
BENCHMARKS = (
    *(_beside(peer, many=False, product=_ONE) for peer in PEERS),
    *(_beside(peer, many=True, product=_MANY) for peer in PEERS),
)
