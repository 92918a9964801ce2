"""`demo`: the daemon, stand-ins of all partner systems, and a gentle stream through all flows."""

import signal
import threading
from pathlib import Path
from typing import Annotated

import typer

import flows as flow_folder
from commands.site import configured


def demo(
    every: Annotated[float, typer.Option(min=0.05, metavar="SECONDS", help="The pause between two acts.")] = 2,
    host: Annotated[str, typer.Option(help="Where all of it listens; 0.0.0.0 in a container.")] = "127.0.0.1",
    folder: Annotated[
        Path | None,
        typer.Option(help="Where it keeps everything (default: demo in DATA_DIR); remove it to start anew."),
    ] = None,
) -> None:
    """Show it at work: the daemon, all partner systems as stand-ins, and a gentle stream through all flows.

    It asks no partner of yours and touches no database of yours. Ctrl-C ends all of it.

    Example:

      python main.py demo
    """
    settings, _ = configured()
    home = (folder or settings.data_dir / "demo").resolve()
    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: stopping.set())
    from commands import demo_stage

    demo_stage.show(home, flow_folder.discover(), host, every, stopping)
