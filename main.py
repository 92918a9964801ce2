"""Tidegate's command line; `python main.py --help` teaches it."""

import atexit
import gc
import os
import pkgutil
import sys
import threading
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_group

COMMANDS = {
    "run": ("commands.run:run", "Watch the input folder and load what is dropped into it (the default)."),
    "demo": (
        "commands.demo:demo",
        "Show it at work: the daemon, all partner systems as stand-ins, and a gentle stream through all flows.",
    ),
    "ingest": ("commands.ingest:ingest", "Load files or folders now; the originals stay where they are."),
    "status": ("commands.status:status", "Health of daemon and database, and how each flow stands."),
    "files": ("commands.files:files", "What became of the files, the newest first."),
    "retry": (
        "commands.retry:retry",
        "Put kept files back into the input folder, or have outbound files or rows go out again.",
    ),
    "reconcile": (
        "commands.reconcile:reconcile",
        "What differs between the ledger and the folders; with --mend what is lost there loads again.",
    ),
    "emit": ("commands.emit:emit", "Write the outbound files of all changed rows now, once."),
    "trace": ("commands.files:trace", "Where a row came from: file, record, times, and what it replaced."),
    "flows": ("commands.flows:list_flows", "The flows: folder, envelope, table, key, policy."),
    "check": ("commands.check:check", "Whether configuration, folders and database are as they must be."),
    "db": ("commands.database:db_app", "The database: its address, its schema, a prompt on it."),
}
"""Each command: where it is, and the line that it begins its help with. Only the one that is called is imported."""

_OPTIONS: dict[str, Any] = {"add_completion": False, "pretty_exceptions_enable": False}


class Commands(TyperGroup):
    """The commands of the table; what lists them knows no more of each than its line."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.commands = {name: TyperCommand(name, help=line) for name, (_, line) in COMMANDS.items()}

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        name, found, rest = super().resolve_command(ctx, args)
        return name, found and command(str(name)), rest


app = typer.Typer(
    cls=Commands,
    help="Tidegate: drop a JSON file into input/, find its rows in PostgreSQL, exactly once.",
    epilog="Exit codes: 0 all well, 1 something was rejected, 2 wrong usage or configuration. "
    "Settings come from the environment and the .env beside main.py; .env.example lists them.",
    **_OPTIONS,
)


def command(name: str) -> Any:
    """A command of the table as typer runs it."""
    place, _ = COMMANDS[name]
    found = pkgutil.resolve_name(place)
    around = typer.Typer(**_OPTIONS)
    if isinstance(found, typer.Typer):
        around.add_typer(found, name=name)
    else:
        around.command(name)(found)
    return get_group(around).commands[name]


@app.callback(invoke_without_command=True)
def default(
    context: typer.Context,
    env_file: Annotated[
        Path | None,
        typer.Option(help="Read settings from this file instead of the .env beside main.py.", show_default=False),
    ] = None,
) -> None:
    from commands import site

    site.env_file.set(env_file)
    if context.invoked_subcommand is None:
        from commands import run as running

        running.run()


def main() -> NoReturn:
    """Run the command line; what a person can act on ends in a sentence, not in a traceback."""
    from models.errors import TidegateError

    try:
        app()
    except TidegateError as error:
        from loguru import logger

        from commands.console import WRONG_USE, complain

        logger.debug("ended: {}", error)
        complain(error)
        sys.exit(WRONG_USE)
    sys.exit()


def process() -> None:
    """Run the command line as a process of its own."""
    os.environ["PYDANTIC_DISABLE_PLUGINS"] = "__all__"  # it would look through all packages for some; we have none
    gc.disable()  # what is imported stays; `commands.site.configured` has garbage collected again
    try:
        main()
    except SystemExit as leaving:
        _leave(leaving.code)
        raise


def _leave(code: str | int | None) -> None:
    """End the process as the interpreter does, but for taking it apart, which takes longer than most commands.

    Returns where that is needed: threads still run, or what was printed cannot be written.
    """
    if threading.active_count() > 1 or isinstance(code, str):
        return
    atexit._run_exitfuncs()  # closes the log
    try:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:  # it is closed from the start: `>&-`
                stream.flush()
    except (OSError, ValueError):
        return
    os._exit(code or 0)


if __name__ == "__main__":
    process()
