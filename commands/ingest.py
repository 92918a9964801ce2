"""`ingest`: files in by hand."""

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from commands.console import (
    ALL_WELL,
    REJECTED,
    counts,
    err,
    out,
    print_json,
)
from commands.site import named, opened
from file_processing.inbound import adhoc, intake
from file_processing.inbound.archive import FileResult
from file_processing.inbound.load import Progress
from file_processing.inbound.routing import DroppedFile
from models.ledger import NO_FLOW, WAITING, FileStatus
from services.ledger.inbound import COUNTS
from services.text import printable


def ingest(
    paths: Annotated[list[Path], typer.Argument(help="Files, or folders with files at any depth.", metavar="PATH")],
    flow: Annotated[
        str | None,
        typer.Option(
            "--flow",
            metavar="NAME",
            help="The flow they belong to. Without it their folder, name or envelope key tells.",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON line per file.", show_default=False)] = False,
) -> None:
    """Load files or folders now; the originals stay where they are.

    A rejected file leaves its report in REJECTED_DIR, and the exit code is 1.

    Examples:

      python main.py ingest sample_files/vehicle_status/*.json

      python main.py ingest --flow work_orders --json order.json | jq .status
    """
    told: Counter[str] = Counter()
    with opened() as site:
        chosen = named(site.flows, flow)
        given = adhoc.collect(paths)
        if not given and not as_json:
            out.print("there is no file in there")
        if any(map(intake.is_long, given)):
            site.long_files.start()
        with progress(sum(file.size for file in given), shown=not as_json) as advance:
            pipeline = site.pipeline(None, progress=advance)
            for result in adhoc.ingest(pipeline, given, chosen):
                advance(result.dropped, result.dropped.size)
                told[status_of(result)] += 1
                if as_json:
                    print_json(as_line(result))
                else:
                    show(result, width=max(map(len, (*site.flows, NO_FLOW))))
    if told.total() > 1 and not as_json:
        out.print(f"{told.total()} files: " + ", ".join(f"{count} {status}" for status, count in sorted(told.items())))
    raise typer.Exit(ALL_WELL if set(told) <= {FileStatus.LOADED, FileStatus.DUPLICATE} else REJECTED)


@contextmanager
def progress(total: int, *, shown: bool) -> Iterator[Progress]:
    """A progress bar over `total` bytes, on a terminal; told how many bytes of a file are read."""
    # Where lines and bar share the terminal they have to share the console too.
    lines = out if sys.stdout.isatty() else err
    if not (shown and total and lines.is_terminal):
        yield lambda _file, _bytes: None
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    with Progress(
        BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn(), console=lines.console
    ) as bar:
        task = bar.add_task("", total=total)
        furthest: Counter[int] = Counter()  # what fails is read or loaded again, and counts once

        def advance(file: DroppedFile, count: int) -> None:
            further = max(count - furthest[id(file)], 0)
            furthest[id(file)] += further
            bar.advance(task, further)

        yield advance


def status_of(result: FileResult) -> str:
    return str(result.status or (WAITING if result.wait else "gone"))


def reason_of(result: FileResult) -> str | None:
    if result.entry is not None:
        return result.entry.error
    return str(result.wait) if result.wait else None


def as_line(result: FileResult) -> dict[str, object]:
    """A result as `ingest --json` tells it."""
    return {
        "file": printable(str(result.dropped.path)),
        "flow": result.flow,
        "status": status_of(result),
        **{name: getattr(result.entry, name) if result.entry else 0 for name in COUNTS},
        "ledger_id": result.ledger_id,
        "error": reason_of(result),
    }


def show(result: FileResult, *, width: int) -> None:
    number = f"#{result.ledger_id}" if result.ledger_id is not None else ""
    what = [counts(result.entry)] if result.entry and result.entry.records else []
    what += [reason] if (reason := reason_of(result)) else []
    status, flow = status_of(result), result.flow or NO_FLOW
    line = f"{status:<9}  {number:<5}  {flow:<{width}}  {result.dropped.path}"
    bad = status not in (FileStatus.LOADED, FileStatus.DUPLICATE)
    out.print("  ".join([line, *what]), style="red" if bad else None)
