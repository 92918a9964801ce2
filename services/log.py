"""Where log lines go: the console and a rotating file, as text or JSON."""

import sys
from datetime import UTC
from typing import TYPE_CHECKING

from loguru import logger

from settings import Settings

if TYPE_CHECKING:
    from loguru import Record

ROTATE_BYTES = 10 << 20
KEEP_FILES = 10

_TEXT = "{time:YYYY-MM-DD HH:mm:ss.SSS}Z | {level:<7} | {message}\n{exception}"


def configure(settings: Settings, *, console: bool = True) -> None:
    """Send the log to LOG_FILE and, for the daemon, to standard error."""
    logger.remove()
    # diagnose=False: a traceback must not show the values of variables, which are records and secrets.
    common = {"level": settings.log_level.value, "serialize": settings.log_json, "format": _format, "diagnose": False}
    if console:
        logger.add(sys.stderr, colorize=False, **common)  # type: ignore[arg-type]
    settings.log_file.parent.mkdir(parents=True, exist_ok=True)
    logger.add(
        settings.log_file,
        rotation=ROTATE_BYTES,
        retention=KEEP_FILES,
        encoding="utf-8",
        **common,  # type: ignore[arg-type]
    )


def _format(record: "Record") -> str:
    record["time"] = record["time"].astimezone(UTC)
    return _TEXT
