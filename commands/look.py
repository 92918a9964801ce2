"""`status`, `files`, `trace`, `flows`: how things stand and where they came from."""

import dataclasses
import json
from collections import Counter
from datetime import datetime
from typing import Annotated

import typer

from commands.console import (
    ALL_WELL,
    WRONG_USE,
    FlowOption,
    JsonOption,
    aligned,
    counts,
    moment,
    moment_since,
    out,
    plural,
    print_json,
)
from commands.site import Site, configured, named, opened
from file_processing import ledger, lineage, overview
from file_processing.overview import NO_FLOW
from file_processing.routing import printable
from models.errors import TidegateError
from models.flow import Flow
from models.ledger import FileStatus
from services import daemon_state
from services.daemon_state import DaemonState, JobPhase, JobState
from services.db import engine as databases
from settings import Settings

SHOWN_WAITING = 10
_STATUS_COLUMNS = ("waiting", "loaded", "partial", "rejected", "duplicate", "rows", "unsynced")


@dataclasses.dataclass(frozen=True, slots=True)
class Health:
    """What `status` tells.

    fault: why the database does not answer, or answers wrongly.
    version: of the database; it may be known beside a fault.
    """

    daemons: list[DaemonState]
    waiting: Counter[str]
    version: str | None
    fault: str | None
    flows: list[overview.FlowOverview]


def status(
    as_json: JsonOption = False,
    alive: Annotated[
        bool, typer.Option("--alive", help="Exit with 2 unless a daemon runs here.", show_default=False)
    ] = False,
) -> None:
    """Health of daemon and database, and how each flow stands.

    The exit code is 2 when the database does not answer.

    Examples:

      python main.py status

      python main.py status --alive --json | jq .waiting
    """
    health = examine()
    if as_json:
        body = {
            "daemons": [dataclasses.asdict(daemon) for daemon in health.daemons],
            "database": {"up": health.fault is None, "version": health.version, "error": health.fault},
            "waiting": health.waiting,
            "flows": [dataclasses.asdict(line) for line in health.flows],
        }
        print_json(body)
    else:
        show_status(health)
    raise typer.Exit(ALL_WELL if health.fault is None and (health.daemons or not alive) else WRONG_USE)


def examine() -> Health:
    settings, flows = configured()
    lines: list[overview.FlowOverview] = []
    version = fault = None
    folders = overview.waiting(settings.input_dir)
    try:
        with databases.open_database(settings) as database:
            version = databases.ping(database.engine)
            with Site(settings, flows, database).connection() as connection:
                lines = overview.overview(connection, flows, folders)
    except TidegateError as error:
        fault = str(error)
    return Health(daemon_state.running(settings.data_dir), folders, version, fault, lines)


def show_status(health: Health) -> None:
    for daemon in health.daemons:
        out.print(f"daemon    {daemon.state} as {daemon.node} since {moment(daemon.started_at)}")
        if daemon.fault:
            hint = f" ({daemon.fault.hint})" if daemon.fault.hint else ""
            out.print(f"          {daemon.fault.text}{hint}, since {moment(daemon.fault.since)}", style="red")
        for name, reason in daemon.outbound.items():
            out.print(f"          outbound files of {name} wait: {reason}", style="red")
        for name, reason in daemon.waiting[:SHOWN_WAITING]:
            out.print(f"          waits: {printable(name)}: {reason}")
        if len(daemon.waiting) > SHOWN_WAITING:
            out.print(f"          and {len(daemon.waiting) - SHOWN_WAITING} more wait")
        for job in daemon.connectors:
            show_connector(job)
    if not health.daemons:
        out.print("daemon    none runs here: python main.py run")
    if health.version is None:
        out.print(f"database  does not answer: {health.fault}", style="red")
    else:
        out.print(f"database  PostgreSQL {health.version}")
        if health.fault is not None:
            out.print(f"          {health.fault}", style="red")
    if health.fault is not None:
        total = sum(health.waiting.values())
        where = ", ".join(f"{count} {printable(folder)}" for folder, count in sorted(health.waiting.items()))
        out.print(f"waiting   {plural(total, 'file')}" + (f": {where}" if where else ""))
        return
    out.print()
    rows = [(line.flow, *(getattr(line, name) for name in _STATUS_COLUMNS), "") for line in health.flows]
    aligned([("flow", *_STATUS_COLUMNS, ""), *rows], right=frozenset(range(1, 1 + len(_STATUS_COLUMNS))))
    for line in health.flows:
        if not (line.last_file or line.outbound_file or line.outbound_error or line.set_aside):
            continue
        out.print()
        out.print(f"{line.flow}")
        if line.last_file is not None:
            out.print(f"  last file   {when(line.last_at)}  {line.last_file}, {line.last_status}")
        if line.outbound_file is not None:
            out.print(f"  outbound    {when(line.outbound_at)}  {line.outbound_file}")
        if line.outbound_error is not None:
            out.print(f"  outbound waits: {line.outbound_error}", style="red")
        if line.undelivered:
            out.print(f"  delivery    {plural(line.undelivered, 'file')} not delivered yet")
        if line.refused:
            out.print(
                f"  refused     {plural(line.refused, 'file')} by a partner, the last is "
                f"#{line.refused_id}: {line.refused_error}",
                style="red",
            )
        if line.set_aside:
            out.print(
                f"  set aside   {plural(line.set_aside, 'row')} cannot go out: {line.set_aside_error}", style="red"
            )
        if line.last_error is not None:
            out.print(f"  last error  {when(line.last_error_at)}  #{line.last_error_id} {line.last_error}")


def show_connector(job: JobState) -> None:
    match job.phase:
        case JobPhase.RUNNING | JobPhase.WAITING:
            out.print(f"          {job.name}: {job.detail or job.phase}")
        case JobPhase.FAILING | JobPhase.STOPPED:
            hint = f" ({job.hint})" if job.hint else ""
            out.print(f"          {job.name} {job.phase} since {moment(job.since)}: {job.detail}{hint}", style="red")


def when(value: datetime | None) -> str:
    return moment(value) if value else ""


def files(
    flow: FlowOption = None,
    status: Annotated[FileStatus | None, typer.Option(help="Only files with this status.", show_default=False)] = None,
    since: Annotated[
        str | None,
        typer.Option(
            metavar="WHEN",
            help="Only files loaded since: 2026-01-31, 2026-01-31T12:00Z, or 90m, 24h, 7d ago.",
            show_default=False,
        ),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, metavar="N", help="At most so many, the newest first.")] = 20,
    as_json: JsonOption = False,
) -> None:
    """What became of the files, the newest first.

    Examples:

      python main.py files --status rejected --since 24h

      python main.py files --flow vehicle_status --limit 1000 --json | jq .sha256
    """
    start = moment_since(since)
    with opened(prepare=False) as site:
        named(site.flows, flow)
        with site.connection() as connection:
            lines = ledger.lines(connection, flow=flow, status=status, since=start, limit=limit)
    if as_json:
        for line in lines:
            print_json(dataclasses.asdict(line))
        return
    aligned((f"#{line.id}", moment(line.loaded_at), line.status, line.flow or NO_FLOW, summary(line)) for line in lines)
    if not lines:
        out.print("no such file in the ledger")


def summary(line: ledger.Line) -> str:
    parts = [line.name, counts(line)] if line.records else [line.name]
    if line.duplicate_of is not None:
        parts.append(f"the same content as #{line.duplicate_of}")
    if line.superseded_by is not None:
        parts.append(f"loaded again as #{line.superseded_by}")
    if line.error is not None:
        parts.append(line.error)
    return "  ".join(parts)


def trace(
    flow: Annotated[str, typer.Argument(help="The flow; `flows` lists them.", metavar="FLOW", show_default=False)],
    key: Annotated[
        list[str],
        typer.Argument(help="The row's key, a value for each of its columns.", metavar="KEY", show_default=False),
    ],
    as_json: JsonOption = False,
) -> None:
    """Where a row came from: file, record, times, and what it replaced.

    Examples:

      python main.py trace work_orders 10

      python main.py trace detection_events van-17 2022-06-05T21:12:03.771Z bicycles
    """
    with opened(prepare=False) as site:
        chosen = named(site.flows, flow)
        assert chosen is not None
        with site.connection() as connection:
            found = lineage.trace(connection, chosen, key)
    if found is None:
        raise TidegateError(f"{chosen.sql_table.name} has no row with {lineage.told(chosen, key)}")
    if as_json:
        print_json(dataclasses.asdict(found))
        return
    rows = [(name, exactly(value)) for name, value in found.row.items()]
    rows += [("inserted at", moment(found.own["inserted_at"])), ("changed at", moment(found.own["changed_at"]))]
    rows.append(("came from", origin(found.came_from, found.own["record_position"])))
    if found.carried_by is not None:
        sent = found.carried_by
        rows.append(("went out in", f"#{sent.id} {sent.name}, written {when(sent.written_at)}"))
        if sent.delivered_at is not None:
            rows.append(("delivered", f"{moment(sent.delivered_at)}, answered {json.dumps(sent.delivered_as)}"))
    if found.replaced is not None:
        rows.append(("replaced", origin(found.replaced, found.own["replaced_position"])))
    aligned(rows)


def exactly(value: object) -> str:
    """A value of a row, as it can be typed again as a key."""
    return value.isoformat() if isinstance(value, datetime) else "" if value is None else str(value)


def origin(line: ledger.Line | None, position: int | None) -> str:
    if line is None:
        return "no file: inserted by another application"
    place = f", kept as {printable(line.filed_as)}" if line.filed_as else ""
    return f"record {position} of #{line.id} {line.name}, loaded {moment(line.loaded_at)}{place}"


def list_flows(as_json: JsonOption = False) -> None:
    """The flows: folder, envelope, table, key, policy.

    Example:

      python main.py flows --json | jq '.[].table'
    """
    settings, flows = configured()
    described = [describe(flow, settings) for flow in flows.values()]
    if as_json:
        print_json(described)
        return
    for number, flow in enumerate(described):
        if number:
            out.print()
        out.print(flow.pop("name"))
        aligned((f"  {name.replace('_', ' ')}", in_words(value)) for name, value in flow.items())


def describe(flow: Flow, settings: Settings) -> dict[str, object]:
    return {
        "name": flow.name,
        "folder": str(settings.input_dir / flow.name),
        "envelope": flow.envelope,
        "file_prefixes": list(flow.file_prefixes),
        "table": flow.sql_table.name,
        "key": list(flow.key),
        "newest_by": flow.newest_by or ("append only" if flow.append_only else "last received"),
        "partly_bad": flow.partly_bad.value,
    }


def in_words(value: object) -> str:
    return ", ".join(value) if isinstance(value, list) else "none" if value is None else str(value)
