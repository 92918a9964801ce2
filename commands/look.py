"""`status`, `files`, `trace`, `flows`: how things stand and where they came from."""

import dataclasses
from typing import Annotated

import typer
from rich.table import Table

from commands.console import (
    ALL_WELL,
    COUNTS,
    WRONG_USE,
    FlowOption,
    JsonOption,
    moment,
    moment_since,
    out,
    print_json,
    text,
)
from commands.site import Site, configured, named, opened
from file_processing import ledger, lineage, overview
from models.errors import TidegateError
from models.ledger import FileStatus
from services import daemon_state
from services.db import engine as databases


def status(
    as_json: JsonOption = False,
    alive: Annotated[bool, typer.Option("--alive", help="Exit with 2 unless a daemon runs here.")] = False,
) -> None:
    """Health of daemon and database, and how each flow stands."""
    settings, flows = configured()
    daemons = daemon_state.running(settings.data_dir)
    folders = overview.waiting(settings.input_dir)
    lines: list[overview.FlowOverview] = []
    version = fault = None
    try:
        with databases.open_database(settings) as database:
            site = Site(settings, flows, database)
            version = databases.ping(database.engine)
            with site.connection() as connection:
                lines = overview.overview(connection, flows, folders)
    except TidegateError as error:
        fault = str(error)
    if as_json:
        body = {
            "daemons": [dataclasses.asdict(daemon) for daemon in daemons],
            "database": {"up": fault is None, "version": version, "error": fault},
            "waiting": folders,
            "flows": [dataclasses.asdict(line) for line in lines],
        }
        print_json(body)
    else:
        show_status(daemons, version, fault, folders, lines)
    raise typer.Exit(ALL_WELL if fault is None and (daemons or not alive) else WRONG_USE)


def show_status(
    daemons: list[daemon_state.DaemonState],
    version: str | None,
    fault: str | None,
    folders: dict[str, int],
    lines: list[overview.FlowOverview],
) -> None:
    for daemon in daemons:
        out.print(f"daemon    {daemon.state} as {daemon.node} since {moment(daemon.started_at)}", markup=False)
        if daemon.fault:
            out.print(f"          {daemon.fault.text} (since {moment(daemon.fault.since)})", style="red", markup=False)
        for name, reason in daemon.waiting[:10]:
            out.print(f"          waits: {name}: {reason}", markup=False)
    if not daemons:
        out.print("daemon    not running on this machine: python main.py run")
    out.print(f"database  {f'PostgreSQL {version}' if fault is None else f'does not answer: {fault}'}", markup=False)
    if fault is not None:
        out.print(f"waiting   {sum(folders.values())} files", markup=False)
        return
    names = (
        *("waiting", "loaded", "partial", "rejected", "duplicate", "rows"),
        *("last_file", "last_at", "last_error", "last_error_at"),
    )
    table = Table("flow", *(name.replace("_", " ") for name in names), box=None)
    for line in lines:
        table.add_row(line.flow, *(text(getattr(line, name)) for name in names))
    out.print(table)


def files(
    flow: FlowOption = None,
    status: Annotated[FileStatus | None, typer.Option(help="Only files with this status.")] = None,
    since: Annotated[str | None, typer.Option(help="Only files loaded since: 2026-01-31, or 90m, 24h, 7d ago.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many, the newest first.")] = 20,
    as_json: JsonOption = False,
) -> None:
    """What became of the files, the newest first."""
    with opened() as site:
        named(site.flows, flow)
        with site.connection() as connection:
            lines = ledger.lines(connection, flow=flow, status=status, since=moment_since(since), limit=limit)
    if as_json:
        for line in lines:
            print_json(dataclasses.asdict(line))
        return
    table = Table("id", "loaded at", "flow", "file", "status", *COUNTS, "error", box=None)
    for line in lines:
        counts = (str(getattr(line, name)) for name in COUNTS)
        table.add_row(
            str(line.id), moment(line.loaded_at), line.flow, line.name, line.status, *counts, text(line.error)
        )
    out.print(table)


def trace(
    flow: Annotated[str, typer.Argument(help="The flow; `flows` lists them.")],
    key: Annotated[list[str], typer.Argument(help="The row's key, a value for each of its columns.")],
    as_json: JsonOption = False,
) -> None:
    """Where a row came from: file, record, times, and what it replaced."""
    with opened() as site:
        chosen = named(site.flows, flow)
        assert chosen is not None
        with site.connection() as connection:
            found = lineage.trace(connection, chosen, key)
    if found is None:
        raise TidegateError(f"{chosen.sql_table.name} has no row {' '.join(key)}")
    if as_json:
        print_json(dataclasses.asdict(found))
        return
    for name, value in found.row.items():
        out.print(f"{name:<16}{text(value)}", markup=False)
    out.print(f"{'inserted at':<16}{moment(found.own['inserted_at'])}")
    out.print(f"{'changed at':<16}{moment(found.own['changed_at'])}")
    out.print(f"{'came from':<16}{origin(found.came_from, found.own['record_position'])}", markup=False)
    if found.replaced is not None:
        out.print(f"{'replaced':<16}{origin(found.replaced, found.own['replaced_position'])}", markup=False)


def origin(line: ledger.Line | None, position: int | None) -> str:
    if line is None:
        return "no file: inserted by another application"
    place = f", kept as {line.filed_as}" if line.filed_as else ""
    return f"record {position} of #{line.id} {line.name}, loaded {moment(line.loaded_at)}{place}"


def list_flows(as_json: JsonOption = False) -> None:
    """The flows: folder, envelope, table, key, policy."""
    settings, flows = configured()
    rows = [
        {
            "name": flow.name,
            "folder": str(settings.input_dir / flow.name),
            "envelope": flow.envelope,
            "file_prefixes": list(flow.file_prefixes),
            "table": flow.sql_table.name,
            "key": list(flow.key),
            "newest_by": flow.newest_by or ("append only" if flow.append_only else "last received"),
            "partly_bad": flow.partly_bad.value,
        }
        for flow in flows.values()
    ]
    if as_json:
        print_json(rows)
        return
    table = Table(*(name.replace("_", " ") for name in rows[0]), box=None)
    for row in rows:
        table.add_row(*(", ".join(v) if isinstance(v, list) else text(v) for v in row.values()))
    out.print(table)
