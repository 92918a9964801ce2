"""`db …` and `check`: the database, and whether everything is as it must be."""

import os
import subprocess
from typing import Annotated

import typer

import settings as settings_module
from commands.console import ALL_WELL, WRONG_USE, out
from commands.site import configured, make_folders, opened
from models.errors import TidegateError
from services.db import embedded, engine as databases, schema

db_app = typer.Typer(help="The database: its address, its schema, a prompt on it.", no_args_is_help=True)


def check() -> None:
    """Whether configuration, folders and database are as they must be."""
    settings, flows = configured()
    make_folders(settings, flows)
    wrong = False

    def say(what: str, problem: str | None) -> None:
        nonlocal wrong
        wrong = wrong or problem is not None
        out.print(f"{'ok ' if problem is None else 'BAD'} {what}" + (f": {problem}" if problem else ""), markup=False)

    say(f"configuration, {len(flows)} flows: {', '.join(flows)}", None)
    for name, folder in settings.folders.items():
        say(f"{name} {folder.resolve()} is writable", None if os.access(folder, os.W_OK | os.X_OK) else "no permission")
    devices = {folder.stat().st_dev for name, folder in settings.folders.items() if name != "OUTPUT_DIR"}
    if len(devices) > 1:
        out.print("    INPUT_DIR, ARCHIVE_DIR and REJECTED_DIR are on different file systems: files are copied")
    else:
        say("INPUT_DIR, ARCHIVE_DIR and REJECTED_DIR are on one file system", None)
    try:
        with databases.open_database(settings) as database:
            say(f"database {database.uri}, PostgreSQL {databases.ping(database.engine)}", None)
            schema.prepare(database.engine, flows)
            say("schema is up to date", None)
    except TidegateError as error:
        say("database", str(error))
    raise typer.Exit(WRONG_USE if wrong else ALL_WELL)


@db_app.command("uri")
def db_uri() -> None:
    """Print the database's URI, without password."""
    with opened(prepare=False) as site:
        print(site.database.uri)  # noqa: T201


@db_app.command("upgrade")
def db_upgrade() -> None:
    """Run the migrations that the database has not seen, and create missing tables."""
    with opened(prepare=True) as site:
        out.print(f"{site.database.uri} is up to date")


@db_app.command("revision")
def db_revision(message: Annotated[str, typer.Argument(help="What changed, for the file's name.")]) -> None:
    """Write the migration from the flows' tables as they are to their declarations."""
    with opened(prepare=False) as site:
        path = schema.revision(site.engine, site.flows, message)
    out.print(f"wrote {path}: read it, then python main.py db upgrade" if path else "nothing differs", markup=False)


@db_app.command("psql", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def db_psql(context: typer.Context) -> None:
    """Open psql on the database; further arguments are psql's (-c "select …")."""
    settings = settings_module.load()
    with opened(prepare=False) as site:
        uri = settings.database_url.get_secret_value() if settings.database_url else site.database.uri
        environment = os.environ | {"PGDATABASE": uri.replace("postgresql+psycopg://", "postgresql://")}
        done = subprocess.run([embedded.binary("psql"), *context.args], env=environment, check=False)
    raise typer.Exit(done.returncode)
