"""The harness of the benchmarks counts right, and has a benchmark for each bar; nothing is timed here."""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import cast
from xml.etree import ElementTree

import pytest

from benchmarks import catalogue, harness, report
from benchmarks.__main__ import chosen
from benchmarks.bench import Bench
from benchmarks.harness import Bar, Benchmark, Of, Result, Side, Suite, median, p99, rate, ratio

BARS = {
    "large-new": (ratio(1.2),),
    "large-updated": (ratio(1.15),),
    "large-process": (ratio(1.7),),
    "large-into-5000000": (ratio(1.3),),
    "small": (ratio(3.4), rate(7_000)),
    "small-daemon": (ratio(4.8), rate(5_000)),
    "help": (median(0.15),),
    "ingest-one": (median(0.5),),
    "latency": (median(6), p99(25)),
    "steady": (p99(300),),
    "steady-queue": (median(300),),
    "outbound": (ratio(1.8),),
    "outbound-many": (rate(80_000),),
    "memory": (median(300),),
    "waiting": (ratio(1.5),),
    "large-into-10000": (ratio(1.3),),
    "large-into-1000000": (ratio(1.3),),
    "large-into-10000000": (ratio(1.3),),
    "large-copy": (ratio(1.6),),
    "query-files": (median(50),),
    "query-rejected": (median(50),),
    "query-partial": (median(50),),
    "query-status": (median(50),),
    "query-trace": (median(50),),
    "detections": (ratio(1.5),),
    "work-orders": (ratio(1.5),),
    "orders": (ratio(1.5),),
    "edi": (ratio(1.5),),
    "dlt-one": (ratio(1),),
    "dlt-many": (ratio(1),),
    "pathway-one": (ratio(1),),
    "pathway-many": (ratio(1),),
}
"""What every release has to keep."""

RESULT = Result(
    name="one",
    what="10 files & more",
    floor_is="a loop",
    unit="s",
    count=10,
    counted="files",
    bars=(ratio(2), rate(4)),
    product=(3.0, 1.0, 2.0),
    floor=(1.0, 4.0, 0.5),
    at=datetime(2026, 1, 31, tzinfo=UTC),
    load=0.5,
)
NOWHERE = cast(Bench, None)


def test_every_bar_is_declared() -> None:
    declared = {one.name: one.bars for one in catalogue.BENCHMARKS}
    assert {name: declared.get(name) for name in BARS} == BARS
    assert len(declared) == len(catalogue.BENCHMARKS)


def test_what_is_judged_by_a_ratio_has_a_floor_and_by_a_rate_a_count() -> None:
    for one in catalogue.BENCHMARKS:
        judged = {bar.of for bar in one.bars}
        assert Of.RATIO not in judged or one.floor, one.name
        assert Of.RATE not in judged or one.count, one.name
        assert bool(one.floor) == bool(one.floor_is), one.name


def test_a_group_is_measured_at_once() -> None:
    """Only neighbours are, and only of one suite."""
    places: Counter[tuple[str, Suite]] = Counter()
    before = None
    for one in catalogue.BENCHMARKS:
        here = (one.group or one.name, one.suite)
        places[here] += here != before
        before = here
    assert set(places.values()) == {1}
    assert len({group for group, _ in places}) == len(places)


def test_medians_are_judged() -> None:
    assert RESULT.value(Of.MEDIAN) == 2
    assert RESULT.value(Of.RATIO) == 2
    assert RESULT.value(Of.RATE) == 5
    assert RESULT.value(Of.P99) == 3
    assert RESULT.kept


@pytest.mark.parametrize("bar", [ratio(1.9), rate(5.1), median(1.9), p99(2.9)])
def test_a_bar_that_is_not_kept(bar: Bar) -> None:
    assert bar.share(RESULT.value(bar.of)) > 1
    assert not dataclasses.replace(RESULT, bars=(bar, ratio(9))).kept


def test_99_of_100_are_not_above_the_99th_percentile() -> None:
    assert harness.percentile(range(1, 101), 99) == 99
    assert harness.percentile(range(1, 1001), 99) == 990
    assert harness.percentile([7], 99) == 7


def test_sides_take_turns_each_time_in_the_other_order() -> None:
    told: list[str] = []

    def side(name: str, *figures: float) -> Side:
        def turn(_bench: Bench) -> Sequence[float]:
            told.append(name)
            return figures

        return turn

    one, other = side("a", 1), side("b", 2, 3)
    assert harness.in_turn([one, other], NOWHERE, 2) == {one: (1, 1), other: (2, 3, 2, 3)}
    assert told == ["a", "b", "b", "a"]


def test_those_of_a_group_share_their_sides() -> None:
    turns: list[str] = []

    def floor(_bench: Bench) -> float:
        turns.append("floor")
        return 2.0

    benchmarks = [
        Benchmark(name=name, what=name, floor=floor, floor_is="floor", product=lambda _bench: 3.0) for name in "ab"
    ]
    results = harness.measured(benchmarks, NOWHERE, 3)
    assert [result.value(Of.RATIO) for result in results] == [1.5, 1.5]
    assert len(turns) == 3


def test_a_name_chooses_and_so_does_a_group() -> None:
    assert {one.suite for one in chosen([], Suite.FULL)} == {Suite.FULL}
    assert [one.name for one in chosen(["memory"], Suite.BENCH)] == ["memory"]
    assert [one.name for one in chosen(["small"], Suite.BENCH)] == ["small", "small-daemon"]
    with pytest.raises(SystemExit, match="there is no nothing"):
        chosen(["nothing"], Suite.BENCH)


def test_the_table_says_what_is_met() -> None:
    kept, missed = report.row(RESULT), report.row(dataclasses.replace(RESULT, bars=(ratio(1.5), rate(4))))
    assert kept == ("10 files & more", "a loop: 1 s", "2 s; 5 files/s", "2.00", "≤ 2.00 times; ≥ 4 files/s", "yes; yes")
    assert missed[-1] == "**no**; yes"
    assert report.row(dataclasses.replace(RESULT, bars=(p99(2),)))[-2:] == ("p99 ≤ 2 s", "**no**")


def test_results_survive_json_and_the_newest_stays(tmp_path: Path) -> None:
    (tmp_path / "figures.json").write_bytes(report.to_json([RESULT]))
    before = report.from_json(tmp_path / "figures.json")
    assert before == [RESULT]
    assert report.from_json(tmp_path / "none.json") == []
    newer = dataclasses.replace(RESULT, load=1.0)
    other = dataclasses.replace(RESULT, name="other")
    assert report.merged([*before, other], [newer], ["other", "one", "unknown"]) == [other, newer]
    assert report.merged(before, [], []) == []


def test_the_chart_has_a_line_for_each_bar() -> None:
    drawn = ElementTree.fromstring(report.chart([RESULT, dataclasses.replace(RESULT, bars=(median(1),))]))
    texts = [element.text for element in drawn.iter("{http://www.w3.org/2000/svg}text")]
    assert texts.count("10 files & more") == 3
    assert "2 s (≤ 1 s)" in texts


def test_the_documentation_shows_the_figures_that_are_kept() -> None:
    results = report.from_json(report.RECORD)
    text = report.PAGE.read_text()
    assert results
    order = [one.name for one in catalogue.BENCHMARKS]
    assert report.page(text, results, order) == text, "call `make bench`"
    assert report.CHART.read_text() == report.chart(results), "call `make bench`"
    assert {result.name for result in results} <= {*order}
