"""What was measured, for people: a table, a chart, and both in docs/performance.md; for programs JSON."""

import html
import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from pydantic import TypeAdapter

from benchmarks.harness import Bar, Of, Result, percentile

DOCS = Path(__file__).parent.parent / "docs"
PAGE, CHART, RECORD = DOCS / "performance.md", DOCS / "performance.svg", DOCS / "performance.json"
BEGIN, END = "<!-- figures: made by `make bench`, `make bench-full`, `make bench-peers` -->", "<!-- end of figures -->"
NOTHING = "-"
HEAD = ("what", "floor", "Tidegate", "ratio", "bar", "met")
_RESULTS = TypeAdapter(list[Result])


# JSON


def to_json(results: Sequence[Result]) -> bytes:
    short = [replace(one, product=_percentiles(one.product), floor=_percentiles(one.floor)) for one in results]
    return _RESULTS.dump_json(short, indent=1) + b"\n"


def _percentiles(values: Sequence[float]) -> tuple[float, ...]:
    """The values to six digits; of very many their hundred percentiles."""
    kept = values if len(values) <= 100 else [percentile(values, percent) for percent in range(1, 101)]
    return tuple(float(f"{value:.6g}") for value in kept)


def from_json(path: Path) -> list[Result]:
    return _RESULTS.validate_json(path.read_bytes()) if path.exists() else []


def merged(before: Iterable[Result], new: Iterable[Result], order: Sequence[str]) -> list[Result]:
    """The newest result of each benchmark that there still is, in the order of their names."""
    by_name = {result.name: result for result in (*before, *new)}
    return [by_name[name] for name in order if name in by_name]


# The table


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _figure(result: Result, of: Of, value: float, sign: str = "") -> str:
    match of:
        case Of.RATIO:
            return f"{sign}{value:.2f} times"
        case Of.RATE:
            return f"{sign}{value:,.0f} {result.counted}/s"
        case Of.MEDIAN:
            return f"{sign}{_number(value)} {result.unit}"
        case Of.P99:
            return f"p99 {sign}{_number(value)} {result.unit}"


def _limit(result: Result, bar: Bar) -> str:
    return _figure(result, bar.of, bar.limit, "≥ " if bar.of is Of.RATE else "≤ ")


def row(result: Result) -> tuple[str, ...]:
    """A result as the cells below HEAD."""
    shown = [Of.MEDIAN, *(bar.of for bar in result.bars if bar.of not in (Of.MEDIAN, Of.RATIO))]
    if result.count and Of.RATE not in shown:
        shown.append(Of.RATE)
    floor = f"{result.floor_is}: {_number(result.floor_median)} {result.unit}" if result.floor else NOTHING
    met = ["yes" if bar.kept(result.value(bar.of)) else "**no**" for bar in result.bars]
    return (
        result.what,
        floor,
        "; ".join(_figure(result, of, result.value(of)) for of in shown),
        f"{result.value(Of.RATIO):.2f}" if result.floor else NOTHING,
        "; ".join(_limit(result, bar) for bar in result.bars) or NOTHING,
        "; ".join(met) or NOTHING,
    )


def markdown(results: Sequence[Result]) -> str:
    rows = [HEAD, ("---",) * len(HEAD), *map(row, results)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)


def text(results: Sequence[Result]) -> str:
    """The same for a terminal."""
    rows = [HEAD, *(tuple(cell.replace("*", "") for cell in row(result)) for result in results)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, cells, widths)).rstrip() for cells in rows)


# The chart

_LINE, _LEFT, _UNIT, _WIDEST = 22, 330, 130, 3.0
_COLOURS = {True: "#2e7d4f", False: "#c2571a"}


def chart(results: Sequence[Result]) -> str:
    """Each bar of the table as a line: how much of what it allows is used; up to the mark it is kept."""
    lines = [(result, bar) for result in results for bar in result.bars]
    height, right = _LINE * (len(lines) + 2), int(_LEFT + _UNIT * _WIDEST)
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {right + 220} {height}" font-family="sans-serif" '
        f'font-size="12">\n<title>Measured figures as a share of what their bars allow</title>\n'
        f'<rect width="100%" height="100%" fill="#ffffff"/>'
    )
    drawn = [head, *(line for number, (result, bar) in enumerate(lines, 1) for line in _drawn(number, result, bar))]
    mark = _LEFT + _UNIT
    drawn += [
        f'<line x1="{mark}" y1="{_LINE - 4}" x2="{mark}" y2="{height - _LINE + 4}" stroke="#333333"/>',
        f'<text x="{mark}" y="14" text-anchor="middle" fill="#333333">the bar</text>',
    ]
    return "\n".join([*drawn, "</svg>\n"])


def _drawn(number: int, result: Result, bar: Bar) -> Iterable[str]:
    value = result.value(bar.of)
    top, share = _LINE * number, bar.share(value)
    width = round(_UNIT * min(share, _WIDEST))
    label = html.escape(result.what.replace("`", ""))
    figure = html.escape(f"{_figure(result, bar.of, value)} ({_limit(result, bar)})")
    yield f'<text x="{_LEFT - 8}" y="{top + 15}" text-anchor="end" fill="#333333">{label}</text>'
    yield f'<rect x="{_LEFT}" y="{top + 3}" width="{width}" height="{_LINE - 6}" fill="{_COLOURS[bar.kept(value)]}"/>'
    yield f'<text x="{_LEFT + width + 6}" y="{top + 15}" fill="#333333">{figure}</text>'


# docs/performance.md


def page(text_before: str, results: Sequence[Result], order: Sequence[str]) -> str:
    """The page with the figures as they were measured, and the names of what was not."""
    before, _, rest = text_before.partition(BEGIN)
    _, _, after = rest.partition(END)
    days = sorted({f"{result.at:%Y-%m-%d}" for result in results})
    loads = [result.load for result in results]
    when = (
        f"Measured {' and '.join(days)}; the load average before each was {min(loads):.1f} to {max(loads):.1f} "
        "(docs/performance.json has each): up to 2 of it is the benchmark before, the rest is others at work."
    )
    missing = ", ".join(f"`{name}`" for name in order if name not in {result.name for result in results})
    if missing:
        when += f" Not measured yet: {missing}."
    picture = f"![Each figure as a share of what its bar allows]({CHART.name})"
    return f"{before}{BEGIN}\n{when}\n\n{markdown(results)}\n\n{picture}\n{END}{after}"


def record(new: Sequence[Result], order: Sequence[str]) -> None:
    """Keep the results beside those of other benchmarks, and show all of them in the documentation."""
    results = merged(from_json(RECORD), new, order)
    RECORD.write_bytes(to_json(results))
    CHART.write_text(chart(results))
    PAGE.write_text(page(PAGE.read_text(), results, order))


def head() -> str:
    """On what it is measured."""
    server = "the server of DATABASE_URL" if os.environ.get("DATABASE_URL") else "an embedded server"
    return f"on {server}, {os.cpu_count()} processors, load average {os.getloadavg()[0]:.1f} before"
