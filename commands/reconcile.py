"""`reconcile`: what differs between the ledger and the folders."""

from collections import Counter
from typing import Annotated

import typer

from commands.console import ALL_WELL, REJECTED, FlowOption, JsonOption, complain, moment, out, plural, print_json
from commands.site import Site, named, opened
from file_processing.inbound.reconcile import Difference, Reconciler
from models.errors import RetryLater
from models.ledger import NO_FLOW
from services.ledger import reconcile as ledger
from services.ledger.reconcile import Kept, MissingFiles
from services.runtime import status_file

_WHAT = {
    Kept.ARCHIVE: "archived, and not in the ledger",
    Kept.REJECTED: "rejected, and not in the ledger",
    Kept.OUTPUT: "an outbound file that is not in the ledger: have it fetched, or move it away",
}


def reconcile(
    flow: FlowOption = None,
    mend: Annotated[
        bool,
        typer.Option(
            "--mend",
            help="Put files that were archived or rejected, and of which the ledger knows nothing, back into the "
            "input folder.",
            show_default=False,
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """What differs between the ledger and the folders; with --mend what is lost there loads again.

    The ledger lacks files where the database went back behind what was answered: to a standby that did not have
    everything yet, or to an older backup. Daemons may be at work. Exit code 1: something differs, and is not mended.

    Examples:

      python main.py reconcile

      python main.py reconcile --flow work_orders --mend
    """
    with opened() as site:
        named(site.flows, flow)
        chosen: list[str | None] = [flow] if flow else [*site.flows, None]
        left = _reconcile(site, chosen, flow, mend=mend, as_json=as_json)
    raise typer.Exit(REJECTED if left else ALL_WELL)


def _reconcile(site: Site, chosen: list[str | None], flow: str | None, *, mend: bool, as_json: bool) -> int:
    """How many differences are left."""
    settings, folders = site.settings, site.folders
    reconciler = Reconciler(site.flows, chosen, folders, settings.input_dir.resolve(), settings.output_dir.resolve())
    told: Counter[str] = Counter()
    if mend:
        _recover(site, chosen)
    with site.own_connection() as connection:
        since = ledger.tell(connection, reconciler.found())
        for difference in reconciler.differences(connection, mend=mend):
            told["put back" if difference.put_back else difference.file.kind] += 1
            _show(difference, as_json=as_json)
        gone = ledger.missing(
            connection, archive=str(folders.archive), rejected=str(folders.rejected), since=since, flow=flow
        )
    put_back = told.pop("put back", 0)
    if as_json:
        for line in gone:
            print_json({"kind": "missing", **line._asdict()})
    else:
        _summarize(gone, put_back, told, lists=not mend, runs=bool(status_file.running(settings.data_dir)))
    return told.total()


def _recover(site: Site, chosen: list[str | None]) -> None:
    """What is archived and not marked as such is marked now."""
    pipeline = site.pipeline(site.settings.input_dir.resolve())
    for one in chosen:
        try:
            pipeline.recover(one)
        except RetryLater as error:
            complain(error)


def _show(difference: Difference, *, as_json: bool) -> None:
    file = difference.file
    if as_json:
        print_json(
            {
                "kind": file.kind,
                "flow": file.flow,
                "file": file.place,
                "put_back": difference.put_back and str(difference.put_back),
                "left": difference.left,
            }
        )
        return
    what = f"put back as {difference.put_back}" if difference.put_back else difference.left or _WHAT[file.kind]
    out.print(f"{file.flow or NO_FLOW}  {file.place}: {what}")


def _summarize(gone: list[MissingFiles], put_back: int, told: Counter[str], *, lists: bool, runs: bool) -> None:
    for line in gone:
        out.print(
            f"{line.flow or NO_FLOW}  {plural(line.files, 'file')} in the ledger, loaded from {moment(line.first)} to "
            f"{moment(line.last)}, no longer kept"
        )
    if put_back and not runs:
        out.print(f"No daemon runs here: {plural(put_back, 'file')} will load when one starts, python main.py run")
    if lists and told.total() > told[Kept.OUTPUT]:
        out.print("--mend puts them back into the input folder")
    if not (gone or put_back or told):
        out.print("ledger and folders agree")
