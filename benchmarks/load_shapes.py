"""Other shapes than flat records, each beside the same rows, already parsed, by COPY and upsert."""

import json
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from pydifact.control.characters import Characters
from pydifact.tokenizer import Tokenizer

from benchmarks import data, floors
from benchmarks.bench import Bench, seconds
from benchmarks.data import Parsed, Record
from benchmarks.harness import Benchmark, Side, ratio
from benchmarks.load_large import ingest

BAR = 1.5
EVENTS, WORK_ORDERS, ORDERS, MESSAGES = 50_000, 100_000, 20_000, 2_000
Make = Callable[[int], Iterable[Record]]


def parsed(bench: Bench, flow: str, make: Make, count: int) -> Parsed:
    return data.parsed(bench.flow(flow), make(bench.size(count)))


def file(bench: Bench, flow: str, make: Make, count: int) -> Path:
    records = map(json.dumps, make(bench.size(count)))
    envelope = bench.flow(flow).envelope
    path = bench.folder / f"{flow}.json"
    if envelope is not None:
        return data.write_file(path, records, envelope)
    path.write_text(f"[{', '.join(records)}]")
    return path


def interchange(bench: Bench) -> Path:
    path = bench.folder / "orders.edi"
    path.write_text(data.edifact(bench.size(MESSAGES)), encoding="latin-1")
    return path


def upsert(bench: Bench, flow: str, make: Make, count: int) -> float:
    rows = bench.once(parsed, flow, make, count)
    bench.forget(flow)
    return seconds(floors.copy_and_upsert, bench, bench.flow(flow), rows)


def load(bench: Bench, flow: str, make: Make, count: int) -> float:
    path = bench.once(file, flow, make, count)
    bench.forget(flow)
    return seconds(ingest, bench, path, flow)


def cut_and_upsert(bench: Bench) -> float:
    """The interchange cut by the library that there is for it, and its rows."""
    path = bench.once(interchange)

    def cut() -> None:
        characters = Characters.from_str("UNA:+.? '")
        for _ in Tokenizer().get_tokens(path.read_text(encoding="latin-1").partition("\n")[2], characters):
            pass

    return seconds(cut) + upsert(bench, "orders", data.orders, MESSAGES)


def load_interchange(bench: Bench) -> float:
    path = bench.once(interchange)
    bench.forget("orders")
    return seconds(ingest, bench, path, "orders")


def _shape(name: str, what: str, flow: str, make: Make, count: int) -> Benchmark:
    floor: Side = partial(upsert, flow=flow, make=make, count=count)
    product: Side = partial(load, flow=flow, make=make, count=count)
    floor_is = "raw COPY + upsert"
    return Benchmark(
        name=name,
        what=what,
        product=product,
        floor=floor,
        floor_is=floor_is,
        bars=(ratio(BAR),),
        count=count,
        counted="records",
    )


BENCHMARKS = (
    _shape("detections", "50,000 events, three rows each", "detection_events", data.detections, EVENTS),
    _shape("work-orders", "100,000 work orders, translated", "work_orders", data.work_orders, WORK_ORDERS),
    _shape("orders", "20,000 orders, three lines each", "orders", data.orders, ORDERS),
    Benchmark(
        name="edi",
        what="2,000 EDIFACT orders, three lines each",
        product=load_interchange,
        floor=cut_and_upsert,
        floor_is="cut by pydifact, raw COPY + upsert",
        bars=(ratio(BAR),),
        count=MESSAGES,
        counted="orders",
    ),
)
