"""`ingest` and `retry`: files in by hand."""

import gc
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from commands.console import (
    ALL_WELL,
    COUNTS,
    REJECTED,
    WRONG_USE,
    FlowOption,
    complain,
    counts,
    err,
    out,
    plural,
    print_json,
)
from commands.site import named, opened
from file_processing import ingest as ingesting, ledger, retry as retrying
from file_processing.outcome import Outcome
from file_processing.overview import NO_FLOW
from file_processing.routing import printable
from models.errors import TidegateError
from models.ledger import FileStatus
from services import daemon_state


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

    A refused file leaves its report in REJECTED_DIR, and the exit code is 1.

    Examples:

      python main.py ingest sample_files

      python main.py ingest --flow work_orders --json order.json | jq .status
    """
    gc.set_threshold(100_000, 50, 100)
    told: Counter[str] = Counter()
    with opened() as site:
        chosen = named(site.flows, flow)
        given = ingesting.collect(paths)
        if not given and not as_json:
            out.print("there is no file in there")
        with progress(sum(file.bytes for file in given), shown=not as_json) as advance:
            handler = site.handler(keep=True, progress=advance)
            for outcome in ingesting.ingest(handler, site.flows, given, chosen):
                told[status_of(outcome)] += 1
                if as_json:
                    print_json(as_line(outcome))
                else:
                    show(outcome, width=max(map(len, (*site.flows, NO_FLOW))))
    if told.total() > 1 and not as_json:
        out.print(f"{told.total()} files: " + ", ".join(f"{count} {status}" for status, count in sorted(told.items())))
    raise typer.Exit(ALL_WELL if set(told) <= {FileStatus.LOADED, FileStatus.DUPLICATE} else REJECTED)


@contextmanager
def progress(total: int, *, shown: bool) -> Iterator[Callable[[int], None]]:
    """A progress bar over `total` bytes, on a terminal."""
    # Where lines and bar share the terminal they have to share the console too.
    console = out if sys.stdout.isatty() else err
    if not (shown and total and console.is_terminal):
        yield lambda _bytes: None
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    with Progress(BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn(), console=console) as bar:
        task = bar.add_task("", total=total)
        yield lambda count: bar.advance(task, count)


def status_of(outcome: Outcome) -> str:
    return str(outcome.status or ("waiting" if outcome.waits else "gone"))


def reason_of(outcome: Outcome) -> str | None:
    if outcome.entry is not None:
        return outcome.entry.error
    return str(outcome.waits) if outcome.waits else None


def as_line(outcome: Outcome) -> dict[str, object]:
    """An outcome as `ingest --json` tells it."""
    return {
        "file": printable(str(outcome.dropped.path)),
        "flow": outcome.flow,
        "status": status_of(outcome),
        **{name: getattr(outcome.entry, name) if outcome.entry else 0 for name in COUNTS},
        "ledger_id": outcome.ledger_id,
        "error": reason_of(outcome),
    }


def show(outcome: Outcome, *, width: int) -> None:
    number = f"#{outcome.ledger_id}" if outcome.ledger_id is not None else ""
    what = [counts(outcome.entry)] if outcome.entry and outcome.entry.records else []
    what += [reason] if (reason := reason_of(outcome)) else []
    status, flow = status_of(outcome), outcome.flow or NO_FLOW
    line = f"{status:<9}  {number:<5}  {flow:<{width}}  {printable(str(outcome.dropped.path))}"
    bad = status not in (FileStatus.LOADED, FileStatus.DUPLICATE)
    out.print("  ".join([line, *what]), style="red" if bad else None)


def retry(
    ledger_ids: Annotated[
        list[int] | None,
        typer.Argument(metavar="LEDGER_ID", help="As `files` shows them.", show_default=False),
    ] = None,
    all_rejected: Annotated[
        bool, typer.Option("--all-rejected", help="Every rejected file that is still kept.", show_default=False)
    ] = False,
    flow: FlowOption = None,
    force: Annotated[
        bool, typer.Option("--force", help="Also what is loaded: it is loaded once more.", show_default=False)
    ] = False,
) -> None:
    """Put filed files back into the input folder, to be handled once more.

    Mend a rejected file where it lies, in REJECTED_DIR, or mend its flow; then retry it.

    Examples:

      python main.py retry 17

      python main.py retry --all-rejected --flow work_orders
    """
    if bool(ledger_ids) == all_rejected:
        raise typer.BadParameter("name LEDGER_IDs, or give --all-rejected")
    if flow is not None and not all_rejected:
        raise typer.BadParameter("--flow narrows --all-rejected: a LEDGER_ID needs none")
    failed = False
    with opened() as site, site.connection() as connection:
        named(site.flows, flow)
        wanted = list(dict.fromkeys(ledger_ids or [line.id for line in ledger.kept_rejected(connection, flow)]))
        lines = {line.id: line for line in ledger.by_id(connection, wanted)}
        connection.commit()
        put = 0
        for ledger_id in wanted:
            try:
                if ledger_id not in lines:
                    raise TidegateError(f"there is no #{ledger_id} in the ledger", hint="`files` lists them")
                place = retrying.put_back(connection, lines[ledger_id], site.settings.input_dir.resolve(), force=force)
                put += 1
                out.print(f"#{ledger_id} put back as {printable(str(place))}")
            except TidegateError as error:
                failed = True
                complain(error)
        if not wanted:
            out.print("no rejected file is kept")
        elif put and not daemon_state.running(site.settings.data_dir):
            out.print(f"No daemon runs here: {plural(put, 'file')} will load when one starts, python main.py run")
    raise typer.Exit(WRONG_USE if failed else ALL_WELL)
