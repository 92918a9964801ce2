"""Where log lines go: the console and a rotating file, as text or JSON, one line for each message."""

import contextlib
import errno
import itertools
import json
import os
import stat
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

_NOT_REGULAR = "it is no regular file"

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
            f"LOG_FILE {settings.log_file} cannot be written: {error.strerror}",
            hint="set LOG_FILE to a file itself, which may be missing yet",
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
        self._file = self._open()
        self._complaint = ""

    def write(self, message: "Message") -> None:
        lines = self._line(message.record)
        if self._console is not None:
            self._console.write(lines)
            self._console.flush()
        data = lines.encode("utf-8", "backslashreplace")
        try:
            self._make_room(len(data))
        except OSError as error:
            self._complain(error)
        else:
            self._complaint = ""
        os.write(self._file, data)  # whole lines, whoever else appends

    def stop(self) -> None:
        """Called by loguru in the end."""
        os.close(self._file)

    def _open(self) -> int:
        """Whoever may write to the folder must not have us write elsewhere, nor wait for a reader."""
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            file = os.open(self._path, flags, 0o640)
        except OSError as error:
            if self._path.is_symlink():
                raise OSError(errno.ELOOP, "it is a link, which is not followed") from error
            if error.errno == errno.ENXIO:  # a pipe that nobody reads
                raise OSError(errno.ENXIO, _NOT_REGULAR) from error
            raise
        if not stat.S_ISREG(os.fstat(file).st_mode):
            os.close(file)
            raise OSError(errno.EINVAL, _NOT_REGULAR)
        return file

    def _make_room(self, size: int) -> None:
        ours = os.fstat(self._file)
        with contextlib.suppress(FileNotFoundError):
            status = self._path.lstat()
            if (status.st_ino, status.st_dev) == (ours.st_ino, ours.st_dev):
                if not 0 < status.st_size > ROTATE_BYTES - size:
                    return
                self._rotate()
        opened = self._open()
        os.close(self._file)
        self._file = opened

    def _complain(self, error: OSError) -> None:
        """Once; the lines go on into the file that is open, wherever it lies by now."""
        complaint = f"LOG_FILE {self._path} cannot be opened anew: {error.strerror}; lines go on where they went"
        if complaint != self._complaint and sys.stderr is not None:
            sys.stderr.write(f"{printable(complaint)}\n")
        self._complaint = complaint

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
