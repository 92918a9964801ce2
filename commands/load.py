"""`ingest` and `retry`: files in by hand."""

import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from commands.console import ALL_WELL, COUNTS, REJECTED, FlowOption, err, out, print_json, text
from commands.site import named, opened
from file_processing import ingest as ingesting, ledger, retry as retrying
from file_processing.handler import Outcome
from models.errors import TidegateError
from models.ledger import FileStatus
from services import daemon_state


def ingest(
    paths: Annotated[list[Path], typer.Argument(help="Files, or folders with files.", metavar="PATH...")],
    flow: FlowOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON line per file.")] = False,
) -> None:
    """Load files or folders now; the originals stay where they are."""
    gc.set_threshold(100_000, 50, 100)
    with opened() as site:
        given = ingesting.collect(paths)
        total = sum(file.path.lstat().st_size for file in given)
        with progress(total, shown=not as_json and sys.stderr.isatty()) as advance:
            handler = site.handler(keep=True, progress=advance)
            outcomes = []
            for outcome in ingesting.ingest(handler, site.flows, given, named(site.flows, flow)):
                outcomes.append(outcome)
                if as_json:
                    print_json(told(outcome))
        if not as_json:
            show_outcomes(outcomes)
    well = all(outcome.status in (FileStatus.LOADED, FileStatus.DUPLICATE) for outcome in outcomes)
    raise typer.Exit(ALL_WELL if well else REJECTED)


@contextmanager
def progress(total: int, *, shown: bool) -> Iterator[Callable[[int], None]]:
    """A progress bar over `total` bytes, on a terminal."""
    if not shown:
        yield lambda _bytes: None
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    with Progress(BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn(), console=err) as bar:
        task = bar.add_task("", total=total)
        yield lambda count: bar.advance(task, count)


def told(outcome: Outcome) -> dict[str, object]:
    """An outcome as `ingest --json` tells it."""
    entry = outcome.entry
    status = outcome.status or ("waiting" if outcome.waits else "gone")
    return {
        "file": str(outcome.dropped.path),
        "flow": outcome.flow,
        "status": str(status),
        **{name: getattr(entry, name) if entry else 0 for name in COUNTS},
        "ledger_id": outcome.ledger_id,
        "error": entry.error if entry else (str(outcome.waits) if outcome.waits else None),
    }


def show_outcomes(outcomes: list[Outcome]) -> None:
    table = Table("file", "flow", "status", *COUNTS, "ledger id", box=None)
    for line in map(told, outcomes):
        table.add_row(*(text(line[name]) for name in ("file", "flow", "status", *COUNTS, "ledger_id")))
    out.print(table)
    for line in map(told, outcomes):
        if line["error"]:
            out.print(f"{line['file']}: {line['error']}", style="red", markup=False)


def retry(
    ledger_ids: Annotated[list[int] | None, typer.Argument(metavar="LEDGER_ID...")] = None,
    all_rejected: Annotated[
        bool, typer.Option("--all-rejected", help="Every rejected file that is still kept.")
    ] = False,
    flow: FlowOption = None,
    force: Annotated[bool, typer.Option("--force", help="Load a file again that is loaded.")] = False,
) -> None:
    """Put filed files back into the input folder, to be handled once more."""
    if bool(ledger_ids) == all_rejected:
        raise typer.BadParameter("name LEDGER_IDs, or give --all-rejected")
    failed = False
    with opened() as site, site.connection() as connection:
        named(site.flows, flow)
        wanted = ledger_ids or [line.id for line in ledger.kept_rejected(connection, flow)]
        lines = {line.id: line for line in ledger.by_id(connection, wanted)}
        connection.commit()
        for ledger_id in wanted:
            try:
                if ledger_id not in lines:
                    raise TidegateError(f"there is no #{ledger_id} in the ledger", hint="`files` lists them")
                put = retrying.put_back(connection, lines[ledger_id], site.settings.input_dir.resolve(), force=force)
                out.print(f"#{ledger_id} put back as {put}", markup=False)
            except TidegateError as error:
                failed = True
                err.print(str(error), style="red", markup=False)
        if not daemon_state.running(site.settings.data_dir):
            out.print("No daemon is running here; they load when one starts: python main.py run")
    raise typer.Exit(REJECTED if failed else ALL_WELL)
