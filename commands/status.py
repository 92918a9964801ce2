"""`status`: how the daemon, the database and each flow stand."""

import dataclasses
from collections import Counter
from typing import Annotated

import typer

from commands.console import ALL_WELL, WRONG_USE, JsonOption, aligned, moment, out, plural, print_json, when
from commands.site import Site, configured, room
from models.errors import TidegateError
from models.ledger import NO_FLOW
from services.db import engine as databases
from services.files.room import NoRoom
from services.ledger import daemons as fleet, overview
from services.ledger.daemons import NAMESAKE_HINT, KnownDaemon
from services.observer import scan
from services.runtime import status_file
from services.runtime.status_file import DaemonState, JobPhase, JobState

SHOWN_WAITING = 10
_STATUS_COLUMNS = ("waiting", "loaded", "partial", "rejected", "duplicate", "rows", "unsynced")


@dataclasses.dataclass(frozen=True, slots=True)
class Health:
    """What `status` tells.

    daemons: that run here. known: that the database knows, on whatever machine.
    fault: why the database does not answer, or answers wrongly.
    version: of the database; it may be known beside a fault. risks: see `engine.risks`.
    shortages: of room on disks, for which nothing is taken in.
    """

    daemons: list[DaemonState]
    waiting: Counter[str]
    version: str | None
    fault: str | None
    flows: list[overview.FlowOverview]
    risks: list[str]
    shortages: list[NoRoom]
    known: list[KnownDaemon]


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
            "database": {
                "up": health.fault is None,
                "version": health.version,
                "error": health.fault,
                "risks": health.risks,
                "daemons": [dataclasses.asdict(one) for one in health.known],
            },
            "disks": {"enough": not health.shortages, "errors": [str(error) for error in health.shortages]},
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
    known: list[KnownDaemon] = []
    risks: list[str] = []
    version = fault = None
    folders = scan.count(settings.input_dir)
    try:
        with databases.open_database(settings) as database:
            version = databases.ping(database.engine)
            risks = databases.risks(database.engine)
            with Site(settings, flows, database).connection() as connection:
                lines = overview.overview(connection, flows, folders)
                known = fleet.known(connection)
    except TidegateError as error:
        fault = str(error)
    shortages = [*room(settings).shortages()]
    return Health(status_file.running(settings.data_dir), folders, version, fault, lines, risks, shortages, known)


def show_status(health: Health) -> None:
    for daemon in health.daemons:
        show_daemon(daemon)
    if not health.daemons:
        out.print("daemon    none runs here: python main.py run")
    show_database(health)
    told = {daemon.fault.text for daemon in health.daemons if daemon.fault}
    for error in health.shortages:
        if error.reason not in told:
            out.print(f"disk      {error}", style="red")
    if health.fault is not None:
        total = sum(health.waiting.values())
        where = ", ".join(f"{count} {folder}" for folder, count in sorted(health.waiting.items()))
        out.print(f"waiting   {plural(total, 'file')}" + (f": {where}" if where else ""))
        return
    show_known(health)
    out.print()
    rows = [(line.flow, *(getattr(line, name) for name in _STATUS_COLUMNS), "") for line in health.flows]
    aligned([("flow", *_STATUS_COLUMNS, ""), *rows], right=frozenset(range(1, 1 + len(_STATUS_COLUMNS))))
    for line in health.flows:
        if line.last_file or line.outbound_file or line.writing_error or line.quarantined or line.table_error:
            show_flow(line)


def show_daemon(daemon: DaemonState) -> None:
    out.print(f"daemon    {daemon.state} as {daemon.node} since {moment(daemon.started_at)}")
    if daemon.fault:
        hint = f" ({daemon.fault.hint})" if daemon.fault.hint else ""
        out.print(f"          {daemon.fault.text}{hint}, since {moment(daemon.fault.since)}", style="red")
    for name, fault in daemon.resting.items():
        hint = f" ({fault.hint})" if fault.hint else ""
        out.print(f"          files of {name} rest: {fault.text}{hint}, since {moment(fault.since)}", style="red")
    for name, reason in daemon.outbound.items():
        out.print(f"          outbound files of {name} wait: {reason}", style="red")
    for name, reason in daemon.waiting[:SHOWN_WAITING]:
        out.print(f"          waits: {name}: {reason}")
    more = max(len(daemon.waiting), daemon.counters.get("waiting", 0)) - SHOWN_WAITING
    if more > 0:
        out.print(f"          and {more} more wait")
    for folder, count in daemon.crowds.items():
        known = f"very many files wait in {folder}, {count} are known"
        out.print(f"          {known}; files of other folders pass them", style="red")
    for job in daemon.connectors:
        show_connector(job)


def show_known(health: Health) -> None:
    """The daemons of the database, here and elsewhere."""
    if not health.known:
        return
    out.print()
    columns = ("daemon", "version", "since", "flows", "files/min", "records/min", "seen")
    rows = [
        (
            one.node,
            one.version,
            moment(one.started_at),
            len(one.flows),
            *(("", "") if one.is_silent else (one.files_of_minute, one.records_of_minute)),
            ago(one.silent_seconds),
        )
        for one in health.known
    ]
    aligned([columns, *rows], right=frozenset({3, 4, 5}))
    here = {line.flow for line in health.flows} - {NO_FLOW}
    for one in health.known:
        if one.is_silent:
            out.print(
                f"{one.node} was last seen {ago(one.silent_seconds)}: it ended without a word, or has no database",
                style="red",
            )
        elif one.shares_node:
            out.print(f"another daemon is called {one.node} as well: {NAMESAKE_HINT}", style="red")
        elif missing := sorted(here.difference(one.flows)):
            out.print(f"{one.node} has no flow {', '.join(missing)}")


def ago(seconds: float) -> str:
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"


def show_database(health: Health) -> None:
    if health.version is None:
        out.print(f"database  does not answer: {health.fault}", style="red")
        return
    out.print(f"database  PostgreSQL {health.version}")
    for risk in health.risks:
        out.print(f"          {risk}", style="red")
    if health.fault is not None:
        out.print(f"          {health.fault}", style="red")


def show_flow(line: overview.FlowOverview) -> None:
    """The last file each way, and what is in the way."""
    out.print()
    out.print(f"{line.flow}")
    if line.last_file is not None:
        out.print(f"  last file     {when(line.last_at)}  {line.last_file}, {line.last_status}")
    if line.outbound_file is not None:
        out.print(f"  outbound      {when(line.outbound_at)}  {line.outbound_file}")
    if line.writing_error is not None:
        held = plural(line.writing_held, "file")
        out.print(f"  outbound waits: {held} cannot be written: {line.writing_error}", style="red")
    if line.undelivered:
        out.print(f"  delivery      {plural(line.undelivered, 'file')} not delivered yet")
    if line.dead_letters:
        last = f"the last is #{line.dead_letter_id}: {line.dead_letter_error}"
        out.print(
            f"  dead letters  {plural(line.dead_letters, 'file')} that a partner turned down, {last}", style="red"
        )
    if line.quarantined:
        rows = plural(line.quarantined, "row")
        out.print(f"  quarantined   {rows} cannot go out: {line.quarantined_error}", style="red")
    if line.table_error is not None:
        out.print(f"  its table     {line.table_error}", style="red")
    if line.last_error is not None:
        out.print(f"  last error    {when(line.last_error_at)}  #{line.last_error_id} {line.last_error}")


def show_connector(job: JobState) -> None:
    match job.phase:
        case JobPhase.RUNNING | JobPhase.WAITING:
            out.print(f"          {job.name}: {job.detail or job.phase}")
        case JobPhase.FAILING | JobPhase.STOPPED:
            hint = f" ({job.hint})" if job.hint else ""
            out.print(f"          {job.name} {job.phase} since {moment(job.since)}: {job.detail}{hint}", style="red")
