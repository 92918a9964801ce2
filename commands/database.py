"""`db …`: the database."""

import os
import re
import subprocess
from typing import Annotated

import typer
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import Conninfo

from commands.console import ALL_WELL, WRONG_USE, out
from commands.site import opened
from services.db import embedded, schema

db_app = typer.Typer(help="The database: its address, its schema, a prompt on it.", no_args_is_help=True)


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

    The daemon does the same when it starts. Daemons of an older version that still run stop then, each with a
    sentence: start the newer version there.

    Example:

      python main.py db upgrade
    """
    with opened(prepare=False) as site:
        for process in site.prepare():
            out.print(f"{process} runs an older version, which stops now: start the newer one there", style="red")
        out.print(f"{site.database.uri} is up to date")


@db_app.command("revision")
def db_revision(
    message: Annotated[
        str, typer.Argument(help="What changed, for the file's name.", metavar="MESSAGE", show_default=False)
    ],
    ledger: Annotated[
        bool, typer.Option("--ledger", help="Tidegate's own tables instead: for who develops Tidegate itself.")
    ] = False,
) -> None:
    """Write the migration from the tables as they are to their declarations: the flows' and Tidegate's own.

    Needed when a flow that has a table changes: the daemon then stops and says so. The file is yours: it
    goes into the folder migrations/ of FLOWS_DIR, or of flows/ where that is not set, and runs at each
    database's next start, after Tidegate's own migrations. Keep it with the flows, under its name.

    Example:

      python main.py db revision "vehicles have a garage"
    """
    with opened(prepare=False) as site:
        if ledger:
            path = schema.own_revision(site.database.direct, message)
        else:
            path = schema.revision(site.database.direct, site.flows, message, site.migrations)
    if path and ledger:
        out.print("add its name to OWN in services/db/migrate.py")
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
