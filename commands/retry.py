"""`retry`: what was rejected, or went out and is wanted again."""

from typing import Annotated

import typer

from commands.console import ALL_WELL, WRONG_USE, FlowOption, complain, out, plural
from commands.site import Site, named, opened
from file_processing.inbound import retry as retrying
from models.errors import TidegateError
from services.destinations import delivery
from services.ledger import queries, replay
from services.runtime import status_file


def retry(
    ledger_ids: Annotated[
        list[int] | None,
        typer.Argument(metavar="LEDGER_ID", help="As `files` shows them.", show_default=False),
    ] = None,
    all_rejected: Annotated[
        bool, typer.Option("--all-rejected", help="Every rejected file that is still kept.", show_default=False)
    ] = False,
    outbound: Annotated[
        list[int] | None,
        typer.Option("--outbound", metavar="OUTBOUND_ID", help="As `trace` and the log show them.", show_default=False),
    ] = None,
    dead_letter: Annotated[
        bool,
        typer.Option("--dead-letter", help="Every outbound file that a partner turned down.", show_default=False),
    ] = False,
    quarantined: Annotated[
        bool, typer.Option("--quarantined", help="Every row that could not be translated.", show_default=False)
    ] = False,
    flow: FlowOption = None,
    force: Annotated[
        bool, typer.Option("--force", help="Also what is loaded: it is loaded once more.", show_default=False)
    ] = False,
) -> None:
    """Put kept files back into the input folder, or have outbound files or rows go out again.

    Mend a rejected file where it lies, in REJECTED_DIR, or mend its flow; then retry it. A dead letter, an
    outbound file that a partner turned down, is delivered once more as it is; of a file that the partner
    took, or that is no longer there as it was, the rows go out anew.

    Examples:

      python main.py retry 17

      python main.py retry --all-rejected --flow work_orders
    """
    chosen = sum(map(bool, (ledger_ids, all_rejected, outbound, dead_letter, quarantined)))
    _check(chosen, flow, narrows=all_rejected or dead_letter or quarantined)
    with opened() as site:
        named(site.flows, flow)
        if outbound:
            well = _send_again(site, outbound)
        elif dead_letter:
            well = _deliver_dead_letters(site, flow)
        elif quarantined:
            well = _release_quarantined(site, flow)
        else:
            well = _put_back(site, ledger_ids, flow, force=force)
    raise typer.Exit(ALL_WELL if well else WRONG_USE)


def _check(chosen: int, flow: str | None, *, narrows: bool) -> None:
    choices = "--all-rejected, --outbound, --dead-letter, --quarantined"
    if chosen != 1:
        raise typer.BadParameter(f"name LEDGER_IDs, or give one of {choices}")
    if flow is not None and not narrows:
        raise typer.BadParameter("--flow narrows --all-rejected, --dead-letter and --quarantined: an id needs none")


def _put_back(site: Site, ledger_ids: list[int] | None, flow: str | None, *, force: bool) -> bool:
    well = True
    with site.connection() as connection:
        wanted = list(dict.fromkeys(ledger_ids or retrying.kept_rejected(connection, flow)))
        lines = {line.id: line for line in queries.by_id(connection, wanted)}
        connection.commit()
        put = 0
        for ledger_id in wanted:
            try:
                if ledger_id not in lines:
                    raise TidegateError(f"there is no #{ledger_id} in the ledger", hint="`files` lists them")
                place = retrying.put_back(
                    connection, lines[ledger_id], site.folders, site.settings.input_dir.resolve(), force=force
                )
                put += 1
                out.print(f"#{ledger_id} put back as {place}")
            except TidegateError as error:
                well = False
                complain(error)
    if not wanted:
        out.print("no rejected file is kept")
    elif put and not status_file.running(site.settings.data_dir):
        out.print(f"No daemon runs here: {plural(put, 'file')} will load when one starts, python main.py run")
    return well


def _send_again(site: Site, outbound_ids: list[int]) -> bool:
    well = True
    with site.own_connection() as connection:
        for number in dict.fromkeys(outbound_ids):
            try:
                if delivery.deliver_again(connection, site.settings.output_dir.resolve(), number):
                    out.print(f"#{number} will be delivered again")
                    continue
                flow = queries.outbound_flow(connection, number)
                if flow is None or flow not in site.flows:
                    raise TidegateError(f"there is no outbound file #{number}", hint="`trace` and the log show them")
                count = replay.send_rows_again(connection, site.flows[flow], number)
                if not replay.give_up(connection, number, goes_out_anew=count > 0):
                    raise TidegateError(
                        f"#{number} is gone or changed, and no row says that it went out in it",
                        hint="put it back as it was, or change a row, and a new file goes out",
                    )
                since = "" if count else ": they have gone out in newer files since"
                out.print(f"#{number}: {plural(count, 'row')} will go out again{since}")
            except TidegateError as error:
                well = False
                complain(error)
    return well


def _deliver_dead_letters(site: Site, flow: str | None) -> bool:
    with site.own_connection() as connection:
        found = replay.dead_letters(connection, flow)
    if not found:
        out.print("there are no dead letters")
    return _send_again(site, found)


def _release_quarantined(site: Site, flow: str | None) -> bool:
    with site.own_connection() as connection:
        for one in site.flows.values():
            if one.outbound and flow in (None, one.name):
                count = replay.release_quarantined(connection, one)
                out.print(f"{one.name}: {plural(count, 'row')} will be tried again")
    return True
