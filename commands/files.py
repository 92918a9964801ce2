"""`files`, `trace`: what became of files, and where a row came from."""

import dataclasses
import json
from datetime import datetime
from typing import Annotated

import typer

from commands.console import FlowOption, JsonOption, aligned, counts, moment, moment_since, out, print_json, when
from commands.site import named, opened
from models.errors import TidegateError
from models.ledger import NO_FLOW, FileStatus
from services.ledger import lineage, queries
from services.ledger.queries import LedgerLine


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
            lines = queries.files(connection, flow=flow, status=status, since=start, limit=limit)
    if as_json:
        for line in lines:
            print_json(dataclasses.asdict(line))
        return
    aligned((f"#{line.id}", moment(line.loaded_at), line.status, line.flow or NO_FLOW, summary(line)) for line in lines)
    if not lines:
        out.print("no such file in the ledger")


def summary(line: LedgerLine) -> str:
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
        raise TidegateError(f"{chosen.sql_table.name} has no row with {lineage.key_in_words(chosen, key)}")
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


def origin(line: LedgerLine | None, position: int | None) -> str:
    if line is None:
        return "no file: inserted by another application"
    place = f", kept as {line.filed_as}" if line.filed_as else ""
    return f"record {position} of #{line.id} {line.name}, loaded {moment(line.loaded_at)}{place}"
