"""What the commands print, and how: lines for people, which a terminal may wrap, and JSON for machines."""

import json
import os
import shutil
import sys
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Protocol, TextIO

import typer

from models.errors import TidegateError
from services.ledger.inbound import COUNTS
from services.text import hidden, one_line, printable

if TYPE_CHECKING:
    from rich.console import Console

ALL_WELL, REJECTED, WRONG_USE = 0, 1, 2
"""Exit codes."""

_SAYS_TERMINAL = ("FORCE_COLOR", "TTY_COMPATIBLE")
"""By these variables rich takes for a terminal what is none."""


class _Lines:
    """Prints each text as one line, whatever it holds: much of it comes from files and partners.

    Colours are for a terminal: what goes elsewhere does without rich, whose import takes longer than most commands.
    """

    def __init__(self, *, stderr: bool = False) -> None:
        self._stderr = stderr

    @property
    def _file(self) -> TextIO | None:
        """None when it is closed from the start: `>&-`."""
        stream = sys.stderr if self._stderr else sys.stdout
        return getattr(stream, "rich_proxied_file", stream)  # a progress bar stands in between

    @cached_property
    def console(self) -> "Console":
        from rich.console import Console

        # soft_wrap: the terminal wraps what is too long for it; rich would cut words and pad lines.
        return Console(stderr=self._stderr, highlight=False, soft_wrap=True, markup=False, emoji=False)

    @property
    def is_terminal(self) -> bool:
        file = self._file
        may_be = file is not None and (file.isatty() or any(name in os.environ for name in _SAYS_TERMINAL))
        return may_be and self.console.is_terminal

    def print(self, text: str = "", *, style: str | None = None) -> None:
        line, file = printable(text), self._file
        if self.is_terminal:
            self.console.print(line, style=style)
            return
        if file is None:
            return
        try:
            file.write(f"{line}\n")
            file.flush()
        except BrokenPipeError:
            self.console.on_broken_pipe()


out = _Lines()
err = _Lines(stderr=True)


FlowOption = Annotated[
    str | None, typer.Option("--flow", metavar="NAME", help="Only this flow; `flows` lists them.", show_default=False)
]
JsonOption = Annotated[bool, typer.Option("--json", help="JSON for machines instead of text.", show_default=False)]


class Counted(Protocol):
    """Anything with the ledger's counts."""

    @property
    def records(self) -> int: ...
    @property
    def inserted(self) -> int: ...
    @property
    def updated(self) -> int: ...
    @property
    def unchanged(self) -> int: ...
    @property
    def stale(self) -> int: ...
    @property
    def rejected(self) -> int: ...


def print_json(value: object) -> None:
    print(hidden(json.dumps(value, default=_plain), is_json=True), flush=True)  # noqa: T201


def _plain(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def complain(error: TidegateError | str) -> None:
    """One sentence on standard error."""
    err.print(one_line(str(error)), style="red")


def aligned(rows: Iterable[Iterable[object]], *, right: frozenset[int] = frozenset()) -> None:
    """Print rows in columns as wide as they must be; `right` names the columns that hold numbers.

    The last column is never padded, so that a long one wraps and nothing is cut.
    """
    cells = [[printable(str(cell)) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*(row[:-1] for row in cells), strict=True)]
    for *row, last in cells:
        padded = [
            cell.rjust(width) if index in right else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        out.print("  ".join([*padded, last]).rstrip())


def counts(entry: Counted) -> str:
    """`5 records: 1 inserted, 4 stale`; what is 0 is left out."""
    told = ", ".join(f"{value} {name}" for name in COUNTS[1:] if (value := getattr(entry, name)))
    return f"{plural(entry.records, 'record')}{': ' if told else ''}{told}"


def plural(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def moment(value: datetime) -> str:
    return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def when(value: datetime | None) -> str:
    return moment(value) if value else ""


def moment_since(value: str | None) -> datetime | None:
    """`90m`, `24h` or `7d` ago, or an ISO 8601 date or time (UTC unless it says otherwise)."""
    if value is None:
        return None
    units = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1)}
    try:
        if value[:-1].isdecimal() and value[-1:] in units:
            return datetime.now(UTC) - int(value[:-1]) * units[value[-1]]
        parsed = datetime.fromisoformat(value)
        return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise TidegateError(
            f"--since {value!r} is no time", hint="2026-01-31, 2026-01-31T12:00Z, 90m, 24h or 7d"
        ) from None


def this_program() -> str:
    """How a person calls this program again, from the same folder."""
    python = Path(sys.executable)
    found = shutil.which("python")
    if found is not None and Path(found) == python:
        return f"python {sys.argv[0]}"
    return f"{from_here(python)} {sys.argv[0]}"


def from_here(path: Path) -> Path:
    """The path as it is shortest to type."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
