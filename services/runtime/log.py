"""Where log lines go: the console and a rotating file, as text or JSON, one line for each message."""

import contextlib
import itertools
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TextIO

from loguru import logger

from models.errors import StopDaemon
from services.text import hidden, printable
from settings import Settings

if TYPE_CHECKING:
    from loguru import Message, Record

ROTATE_BYTES = 10 << 20
KEEP_FILES = 10
"""`app.log`, and so many older ones: `app.log.1` is the youngest of them."""

_LINES = "lines"
"""Under this name a record has the lines that it is, where there are several."""


def configure(settings: Settings, *, console: bool = True) -> None:
    """Send the log to LOG_FILE and, for the daemon, to standard error.

    Raises StopDaemon when LOG_FILE cannot be written.
    """
    logger.remove()
    try:
        settings.log_file.parent.mkdir(parents=True, exist_ok=True)
        sink = _Sink(settings.log_file, sys.stderr if console else None, as_json if settings.log_json else as_text)
    except OSError as error:
        raise StopDaemon(
            f"LOG_FILE {settings.log_file} cannot be written: {error.strerror}", hint="set LOG_FILE"
        ) from error
    logger.add(
        sink,
        level=settings.log_level.value,
        format=lambda _record: "",  # the sink makes the line, once for both places
        colorize=False,
        backtrace=False,
        diagnose=False,  # a traceback must not show the values of variables, which are records and secrets
    )


class Line(NamedTuple):
    """A message of its own among several. fields: what it is bound to."""

    level: str
    message: str
    fields: Mapping[str, object]


def several(lines: Iterable[Line]) -> None:
    """Log messages of one moment, in their order: a line each, for little more than what one alone costs."""
    for level, together in itertools.groupby(lines, key=attrgetter("level")):
        same = list(together)
        logger.bind(**{_LINES: same}).log(level, "{}", "\n".join([line.message for line in same]))


def lines_of(record: "Record") -> Sequence[Line]:
    """The lines that a record is: one, but for `several`."""
    return record["extra"].get(_LINES) or (Line(record["level"].name, record["message"], record["extra"]),)


class _Sink:
    """Writes to the console and to a file, which others may write to, rotate or remove as well."""

    def __init__(self, path: Path, console: TextIO | None, line: Callable[["Record"], str]) -> None:
        self._path = path
        self._console = console
        self._line = line
        self._open()

    def write(self, message: "Message") -> None:
        lines = self._line(message.record)
        if self._console is not None:
            self._console.write(lines)
            self._console.flush()
        data = lines.encode("utf-8", "backslashreplace")
        self._make_room(len(data))
        os.write(self._file, data)  # whole lines, whoever else appends

    def stop(self) -> None:
        """Called by loguru in the end."""
        os.close(self._file)

    def _open(self) -> None:
        self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        self._inode = os.fstat(self._file).st_ino

    def _make_room(self, size: int) -> None:
        try:
            status = self._path.stat()
        except FileNotFoundError:
            status = None
        if status is not None and status.st_ino == self._inode:
            if not 0 < status.st_size > ROTATE_BYTES - size:
                return
            self._rotate()
        os.close(self._file)
        self._open()

    def _rotate(self) -> None:
        older = [self._path, *(self._path.with_name(f"{self._path.name}.{n}") for n in range(1, KEEP_FILES + 1))]
        for younger, place in reversed([*itertools.pairwise(older)]):
            with contextlib.suppress(FileNotFoundError):
                younger.replace(place)


def as_text(record: "Record") -> str:
    """Time, level and message, on one line but for a traceback."""
    time = record["time"].astimezone(UTC).isoformat(" ", "milliseconds").replace("+00:00", "Z")
    start = f"{time} | {record['level'].name:<7} | "
    lines = [start + printable(line.message) for line in lines_of(record)]
    lines += [line for part in _traceback(record) for line in _lines(part)]
    return "".join([f"{line}\n" for line in lines])


def as_json(record: "Record") -> str:
    """One flat object a line: time, level, message, then what it was bound to (flow, file, ledger_id, …)."""
    start = {
        "time": record["time"].astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "level": record["level"].name,
    }
    end = {"exception": "".join(_traceback(record))} if record["exception"] is not None else {}
    flat = ({**start, "message": line.message, **line.fields, **end} for line in lines_of(record))
    return "".join([hidden(json.dumps(line, default=str), is_json=True) + "\n" for line in flat])


def _traceback(record: "Record") -> list[str]:
    """What Python shows of an error, in parts: the places in the code, and what each error says."""
    caught = record["exception"]
    return traceback.format_exception(caught.type, caught.value, caught.traceback) if caught else []


def _lines(part: str) -> list[str]:
    """A part's lines. What an error says stays on one: it may quote a partner or a file."""
    part = part.removesuffix("\n")
    ours = part.startswith(('  File "', "\n"))
    return [printable(line) for line in (part.split("\n") if ours else [part])]
