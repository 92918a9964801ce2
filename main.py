"""Tidegate's command line; `python main.py --help` teaches it."""

import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from loguru import logger

from commands import check, database, demo, emit, files, flows, ingest, retry, run as running, site, status
from commands.console import ALL_WELL, WRONG_USE, complain
from models.errors import TidegateError

app = typer.Typer(
    help="Tidegate: drop a JSON file into input/, find its rows in PostgreSQL, exactly once.",
    epilog="Exit codes: 0 all well, 1 something was rejected, 2 wrong usage or configuration. "
    "Settings come from the environment and the .env beside main.py; .env.example lists them.",
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(running.run)
app.command()(demo.demo)
app.command()(ingest.ingest)
app.command()(status.status)
app.command()(files.files)
app.command()(retry.retry)
app.command()(emit.emit)
app.command()(files.trace)
app.command("flows")(flows.list_flows)
app.command()(check.check)
app.add_typer(database.db_app, name="db")


@app.callback(invoke_without_command=True)
def default(
    context: typer.Context,
    env_file: Annotated[
        Path | None,
        typer.Option(help="Read settings from this file instead of the .env beside main.py.", show_default=False),
    ] = None,
) -> None:
    site.env_file.set(env_file)
    if context.invoked_subcommand is None:
        running.run()


def main() -> NoReturn:
    """Run the command line; what a person can act on ends in a sentence, not in a traceback."""
    try:
        app()
    except TidegateError as error:
        logger.debug("ended: {}", error)
        complain(error)
        sys.exit(WRONG_USE)
    sys.exit(ALL_WELL)


if __name__ == "__main__":
    main()
