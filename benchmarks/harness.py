"""A benchmark is a declaration; here floor and product are measured in turn, and judged by the bars."""

import gc
import os
import statistics
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from itertools import groupby

from benchmarks.bench import Bench, bench

TURNS = 5
Side = Callable[[Bench], float | Sequence[float]]
"""One turn of what is measured: its figure, or several of the same kind."""


class Suite(StrEnum):
    """By which of the commands it is measured: `make bench`, `make bench-full`, `make bench-peers`."""

    BENCH = "bench"
    FULL = "full"
    PEERS = "peers"


class Of(StrEnum):
    """What a bar judges: product to floor, or the product alone."""

    RATIO = "ratio"
    RATE = "rate"
    MEDIAN = "median"
    P99 = "p99"


@dataclass(frozen=True, slots=True)
class Bar:
    """What a figure is to keep: a rate has to reach the limit, all else must not go beyond it."""

    of: Of
    limit: float

    def kept(self, value: float) -> bool:
        return value >= self.limit if self.of is Of.RATE else value <= self.limit

    def share(self, value: float) -> float:
        """How much of what the bar allows is used: over 1 it is not kept."""
        return self.limit / value if self.of is Of.RATE else value / self.limit


def ratio(at_most: float) -> Bar:
    return Bar(Of.RATIO, at_most)


def rate(at_least: float) -> Bar:
    return Bar(Of.RATE, at_least)


def median(at_most: float) -> Bar:
    return Bar(Of.MEDIAN, at_most)


def p99(at_most: float) -> Bar:
    return Bar(Of.P99, at_most)


@dataclass(frozen=True, kw_only=True, slots=True)
class Benchmark:
    """What is measured, and the bars that it has to keep.

    floor: what anybody has to do at least, `floor_is` in words; without bar of a ratio it is told all the same.
    count: how many of `counted` a turn of the product does, where there is a rate.
    group: benchmarks of one group are measured together, a side that several name once a turn.
    """

    name: str
    what: str
    product: Side
    bars: tuple[Bar, ...] = ()
    floor: Side | None = None
    floor_is: str = ""
    unit: str = "s"
    count: int = 0
    counted: str = ""
    group: str = ""
    turns: int = TURNS
    suite: Suite = Suite.BENCH


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """What was measured of a benchmark.

    load: the machine's load average when it began, which tells whether others were at work.
    """

    name: str
    what: str
    floor_is: str
    unit: str
    count: int
    counted: str
    bars: tuple[Bar, ...]
    product: tuple[float, ...]
    floor: tuple[float, ...]
    at: datetime
    load: float

    def value(self, of: Of) -> float:
        """Medians judge; the ratio is that of the medians."""
        match of:
            case Of.RATIO:
                return statistics.median(self.product) / self.floor_median
            case Of.RATE:
                return self.count / statistics.median(self.product)
            case Of.MEDIAN:
                return statistics.median(self.product)
            case Of.P99:
                return percentile(self.product, 99)

    @property
    def floor_median(self) -> float:
        return statistics.median(self.floor)

    @property
    def kept(self) -> bool:
        return all(bar.kept(self.value(bar.of)) for bar in self.bars)


def percentile(values: Sequence[float], percent: int) -> float:
    """The smallest value that so many percent of all do not exceed."""
    ordered = sorted(values)
    return ordered[-(-len(ordered) * percent // 100) - 1]


def in_turn(sides: Sequence[Side], on: Bench, turns: int) -> Mapping[Side, tuple[float, ...]]:
    """The figures of each side: all have their turn, then all again, each time in the other order."""
    figures: dict[Side, list[float]] = {side: [] for side in sides}
    for turn in range(turns):
        for side in reversed(sides) if turn % 2 else sides:
            gc.collect()
            gc.freeze()  # what is kept for the next turn costs this one nothing
            figure = side(on)
            figures[side] += [figure] if isinstance(figure, int | float) else figure
    gc.unfreeze()
    return {side: tuple(found) for side, found in figures.items()}


def measured(benchmarks: Sequence[Benchmark], on: Bench, turns: int | None = None) -> list[Result]:
    """What comes of benchmarks of one group. turns: instead of those declared."""
    at, load = datetime.now(UTC).replace(microsecond=0), os.getloadavg()[0]
    sides = dict.fromkeys(side for one in benchmarks for side in (one.floor, one.product) if side)
    figures = in_turn([*sides], on, turns or max(one.turns for one in benchmarks))
    return [
        Result(
            name=one.name,
            what=one.what,
            floor_is=one.floor_is,
            unit=one.unit,
            count=on.size(one.count) if one.count else 0,
            counted=one.counted,
            bars=one.bars,
            product=figures[one.product],
            floor=figures[one.floor] if one.floor else (),
            at=at,
            load=load,
        )
        for one in benchmarks
    ]


def run(
    benchmarks: Iterable[Benchmark], server: str, *, scale: float = 1.0, turns: int | None = None
) -> Iterator[list[Result]]:
    """Measure one group after the other, each in a database of its own; one that fails is told, and has no result."""
    for _, group in groupby(benchmarks, lambda one: one.group or one.name):
        together = [*group]
        try:
            with bench(server, scale) as on:
                yield measured(together, on, turns)
        except Exception:  # noqa: BLE001  # the others are worth their time all the same
            print(f"{', '.join(one.name for one in together)} fails:\n{traceback.format_exc()}")
            yield []
