"""`db …` and `check`: the database, and whether everything is as it must be."""

import os
import re
import subprocess
import tempfile
from dataclasses import dataclass
from typing import Annotated

import typer
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import Conninfo

from commands.console import ALL_WELL, WRONG_USE, out
from commands.site import configured, make_folder, opened
from flows import Flows
from models.errors import StopDaemon, TidegateError
from services.db import embedded, engine as databases, schema
from settings import Settings

db_app = typer.Typer(help="The database: its address, its schema, a prompt on it.", no_args_is_help=True)


def check() -> None:
    """Whether configuration, folders and database are as they must be.

    Every line says ok, or BAD and why; with a BAD one the exit code is 2.

    Example:

      DATABASE_URL=postgresql://… python main.py check
    """
    settings, flows = configured()
    findings = [Finding(f"configuration, {len(flows)} flows: {', '.join(flows)}")]
    findings += [look_at_folder(settings, name, flows) for name in settings.folders]
    findings += look_at_file_systems(settings)
    findings += look_at_database(settings, flows)
    for finding in findings:
        out.print(f"{finding.sign:<4}  {finding.what}" + (f": {finding.problem}" if finding.problem else ""))
    raise typer.Exit(WRONG_USE if any(finding.sign == "BAD" for finding in findings) else ALL_WELL)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at; without a problem it is as it must be.

    warns: it works as it is, but not as well as it could.
    """

    what: str
    problem: str = ""
    warns: bool = False

    @property
    def sign(self) -> str:
        return "ok" if not self.problem else "warn" if self.warns else "BAD"


def look_at_folder(settings: Settings, name: str, flows: Flows) -> Finding:
    folder = settings.folders[name]
    what = f"{name} {folder.resolve()}"
    try:
        make_folder(settings, name, flows)
        # A file tells more than the permission bits: a full disk, a read-only mount, root.
        with tempfile.TemporaryFile(prefix=".tidegate-check", dir=folder) as file:
            file.write(b"x")
    except StopDaemon as error:
        return Finding(what, str(error))
    except OSError as error:
        return Finding(what, f"no file can be written there: {error.strerror}")
    return Finding(f"{what} is writable")


def look_at_file_systems(settings: Settings) -> list[Finding]:
    """Where a file moves from and to; outbound files do not come from there."""
    names = [name for name, folder in settings.folders.items() if name != "OUTPUT_DIR" and folder.exists()]
    devices = {settings.folders[name].stat().st_dev for name in names}
    what = ", ".join(names)
    if len(devices) > 1:
        return [Finding(what, "on different file systems: moving a file copies it, which takes longer", warns=True)]
    return [Finding(f"{what} are on one file system")]


def look_at_database(settings: Settings, flows: Flows) -> list[Finding]:
    findings = []
    try:
        with databases.open_database(settings) as database:
            version = databases.ping(database.engine)
            findings.append(Finding(f"database {database.uri}, PostgreSQL {version}"))
            schema.prepare(database.engine, flows)
            findings.append(Finding("the schema is up to date"))
    except TidegateError as error:
        findings.append(Finding("the schema" if findings else "database", str(error)))
    return findings


@db_app.command("uri")
def db_uri() -> None:
    """Print the database's URI, without password.

    Example:

      psql "$(python main.py db uri)"
    """
    with opened(prepare=False) as site:
        print(site.database.uri)  # noqa: T201


@db_app.command("upgrade")
def db_upgrade() -> None:
    """Run the migrations that the database has not seen, and create missing tables.

    The daemon does the same when it starts.

    Example:

      python main.py db upgrade
    """
    with opened(prepare=True) as site:
        out.print(f"{site.database.uri} is up to date")


@db_app.command("revision")
def db_revision(
    message: Annotated[
        str, typer.Argument(help="What changed, for the file's name.", metavar="MESSAGE", show_default=False)
    ],
) -> None:
    """Write the migration from the flows' tables as they are to their declarations.

    Needed when a flow that has a table changes: the daemon then stops and says so.

    Example:

      python main.py db revision "vehicles have a garage"
    """
    with opened(prepare=False) as site:
        path = schema.revision(site.engine, site.flows, message)
    out.print(f"wrote {path}: read it, then python main.py db upgrade" if path else "nothing differs")


@db_app.command("psql", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def db_psql(context: typer.Context) -> None:
    """Open psql on the database; further arguments are psql's.

    Examples:

      python main.py db psql

      python main.py db psql -c "select * from tidegate.inbound_file"
    """
    with opened(prepare=False) as site:
        login = site.settings.database_url
        uri = login.get_secret_value() if login else site.database.uri
        psql = embedded.binary("psql")
        done = subprocess.run([psql, *context.args], env=os.environ | connection_variables(uri), check=False)
    raise typer.Exit(ALL_WELL if done.returncode == 0 else WRONG_USE)


def connection_variables(uri: str) -> dict[str, str]:
    """The PG… variables that say the same as the URI; `ps` would show a password in an argument."""
    given = conninfo_to_dict(re.sub(r"^postgres(ql)?(\+psycopg)?:", "postgresql:", uri))
    names = {option.keyword.decode(): option.envvar.decode() for option in Conninfo.get_defaults() if option.envvar}
    return {names[keyword]: str(value) for keyword, value in given.items() if keyword in names}
