"""`emit`: outbound files by hand."""

import dataclasses
import threading

import typer

from commands.console import ALL_WELL, WRONG_USE, FlowOption, JsonOption, complain, out, plural, print_json
from commands.site import named, node, opened
from file_processing.outbound.worker import FlowWriter, WrittenFile
from models.errors import TidegateError
from services.ledger import held
from services.ledger.locks import AnotherWriter


def emit(flow: FlowOption = None, as_json: JsonOption = False) -> None:
    """Write the outbound files of all changed rows now, once.

    A running daemon does so by itself; where both are at it, one does it.

    Example:

      python main.py emit --flow work_orders --json
    """
    failed, busy, written = False, False, 0

    def tell(file: WrittenFile) -> None:
        nonlocal written
        written += 1
        if as_json:
            print_json(dataclasses.asdict(file))
        else:
            out.print(f"#{file.id}  {file.flow}  {file.path}  {plural(file.records, 'record')}")

    with opened() as site:
        chosen = named(site.flows, flow)
        for one in [chosen] if chosen else site.flows.values():
            if not one.outbound:
                continue
            writer = FlowWriter(one, site.settings.output_dir.resolve(), node(), threading.Event(), tell)
            try:
                with site.own_connection() as marking, site.own_connection() as sealing:
                    while not writer.emit(marking, sealing, lingers=False):
                        pass
                    count, why = held.count(marking, one.name)
                    if count:
                        failed = True
                        complain(f"{plural(count, 'file')} of {one.name} cannot be written: {why}")
            except AnotherWriter as error:
                busy = True
                complain(error)
            except TidegateError as error:
                failed = True
                complain(error)
    if not (written or failed or busy or as_json):
        out.print("nothing has to go out")
    raise typer.Exit(WRONG_USE if failed else ALL_WELL)
