"""`retry`: what was refused, or went out and is wanted again."""

from typing import Annotated

import typer

from commands.console import ALL_WELL, WRONG_USE, FlowOption, complain, out, plural
from commands.site import Site, named, opened
from file_processing import ledger, outbox, retry as retrying
from file_processing.routing import printable
from models.errors import TidegateError
from services import daemon_state
from services.destinations import delivery


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
    refused: Annotated[
        bool, typer.Option("--refused", help="Every outbound file that a partner refused.", show_default=False)
    ] = False,
    set_aside: Annotated[
        bool, typer.Option("--set-aside", help="Every row that could not be translated.", show_default=False)
    ] = False,
    flow: FlowOption = None,
    force: Annotated[
        bool, typer.Option("--force", help="Also what is loaded: it is loaded once more.", show_default=False)
    ] = False,
) -> None:
    """Put filed files back into the input folder, or have outbound files or rows go out again.

    Mend a rejected file where it lies, in REJECTED_DIR, or mend its flow; then retry it. An outbound
    file that a partner refused is delivered once more as it is; of one that he took, or that is no longer
    there as it was, the rows go out anew.

    Examples:

      python main.py retry 17

      python main.py retry --all-rejected --flow work_orders

      python main.py retry --outbound 5 --outbound 6
    """
    if sum(map(bool, (ledger_ids, all_rejected, outbound, refused, set_aside))) != 1:
        raise typer.BadParameter("name LEDGER_IDs, or give one of --all-rejected, --outbound, --refused, --set-aside")
    if flow is not None and not (all_rejected or refused or set_aside):
        raise typer.BadParameter("--flow narrows --all-rejected, --refused and --set-aside: an id needs none")
    with opened() as site:
        named(site.flows, flow)
        if outbound:
            well = _send_again(site, outbound)
        elif refused:
            well = _deliver_refused(site, flow)
        elif set_aside:
            well = _unset_aside(site, flow)
        else:
            well = _put_back(site, ledger_ids, flow, force=force)
    raise typer.Exit(ALL_WELL if well else WRONG_USE)


def _put_back(site: Site, ledger_ids: list[int] | None, flow: str | None, *, force: bool) -> bool:
    well = True
    with site.connection() as connection:
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
                well = False
                complain(error)
    if not wanted:
        out.print("no rejected file is kept")
    elif put and not daemon_state.running(site.settings.data_dir):
        out.print(f"No daemon runs here: {plural(put, 'file')} will load when one starts, python main.py run")
    return well


def _send_again(site: Site, outbound_ids: list[int]) -> bool:
    well = True
    with site.own_connection() as connection:
        for number in dict.fromkeys(outbound_ids):
            try:
                if delivery.deliver_again(connection, site.settings.output_dir.resolve(), number):
                    out.print(f"#{number} will be delivered again")
                else:
                    count = outbox.send_again(connection, site.flows, number)
                    if not delivery.give_up(connection, number, goes_out_anew=count > 0):
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


def _deliver_refused(site: Site, flow: str | None) -> bool:
    with site.own_connection() as connection:
        refused = delivery.refused(connection, flow)
    if not refused:
        out.print("no partner refused a file")
    return _send_again(site, refused)


def _unset_aside(site: Site, flow: str | None) -> bool:
    with site.own_connection() as connection:
        for one in site.flows.values():
            if one.outbound and flow in (None, one.name):
                out.print(f"{one.name}: {plural(outbox.unset_aside(connection, one), 'row')} will be tried again")
    return True
