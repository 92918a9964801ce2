"""What the commands print, and how: tables for people, JSON for machines."""

import json
import sys
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer
from rich.console import Console

from models.errors import TidegateError

ALL_WELL, REJECTED, WRONG_USE = 0, 1, 2
"""Exit codes."""

COUNTS = ("records", "inserted", "updated", "unchanged", "stale", "rejected")

# A pipe has no width: whole lines serve grep better than cut ones.
out = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 1000)
err = Console(stderr=True, highlight=False, soft_wrap=True)


FlowOption = Annotated[str | None, typer.Option("--flow", help="The flow; `flows` lists them.")]
JsonOption = Annotated[bool, typer.Option("--json", help="JSON for machines instead of tables.")]


def print_json(value: object) -> None:
    print(json.dumps(value, default=str))  # noqa: T201


def text(value: object) -> str:
    if isinstance(value, datetime):
        return moment(value)
    return "" if value is None else str(value)


def moment(value: datetime) -> str:
    return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def moment_since(value: str | None) -> datetime | None:
    """`90m`, `24h` or `7d` ago, or an ISO 8601 date or time (UTC unless it says otherwise)."""
    if value is None:
        return None
    units = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1)}
    if value[:-1].isdigit() and value[-1:] in units:
        return datetime.now(UTC) - int(value[:-1]) * units[value[-1]]
    try:
        parsed = datetime.fromisoformat(value)
    except ValueError:
        raise TidegateError(
            f"--since {value!r} is no time", hint="2026-01-31, 2026-01-31T12:00Z, 90m, 24h or 7d"
        ) from None
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)
