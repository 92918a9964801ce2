"""What an error of the database means for the daemon: one table, by SQLSTATE."""

import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import sqlalchemy.exc

from models.errors import RejectFile, RetryLater, StopDaemon, TidegateError

_UPGRADE = 'run "python main.py db upgrade"'
_CREDENTIALS = "check user and password in DATABASE_URL"

# The longest prefix of the SQLSTATE decides. A code that is not here is a bug of ours.
_RULES: dict[str, tuple[type[TidegateError], str]] = {
    "08": (RetryLater, ""),  # connection exception
    "0A": (StopDaemon, "this server lacks a feature: use a newer PostgreSQL"),
    "22": (RejectFile, ""),  # data exception
    "23": (RejectFile, ""),  # integrity constraint violation
    "25006": (RetryLater, "the server is read-only: a standby?"),
    "25P03": (RetryLater, ""),  # idle in transaction timeout
    "28": (StopDaemon, _CREDENTIALS),
    "3D": (StopDaemon, "create the database, or correct its name in DATABASE_URL"),
    "3F": (StopDaemon, _UPGRADE),  # invalid schema name
    "40": (RetryLater, ""),  # deadlock, serialization failure
    "42": (StopDaemon, ""),
    "42501": (StopDaemon, "grant the user of DATABASE_URL this right"),
    "42P01": (StopDaemon, _UPGRADE),  # undefined table
    "42P10": (StopDaemon, _UPGRADE),  # no unique index for the upsert's key
    "42703": (StopDaemon, _UPGRADE),  # undefined column
    "44": (RejectFile, ""),  # a view's check option
    "53": (RetryLater, ""),
    "53100": (RetryLater, "the server's disk is full"),
    "53300": (RetryLater, "raise max_connections of the server, or lower WORKERS"),
    "54000": (RejectFile, ""),  # a value too large for an index or a row
    "55": (RetryLater, ""),  # lock not available
    "57": (RetryLater, ""),  # the operator: shutdown, cancelled, still starting
    "58": (RetryLater, ""),  # I/O error
    "P0001": (RejectFile, ""),  # raised by a trigger of the table
    "XX": (RetryLater, ""),  # internal error, damaged data
}

# libpq knows no SQLSTATE for a connection refused by the server, only the server's words.
_REFUSED = {
    "28": r'password authentication failed|no password supplied|role ".*" does not exist|no pg_hba\.conf entry',
    "3D": r'database ".*" does not exist',
    "42501": r"permission denied for database",
    "53300": r"too many clients|remaining connection slots|too many connections",
}

# What a value raises that cannot even be sent.
_UNSENDABLE = (psycopg.DataError, OverflowError, UnicodeEncodeError, struct.error)
_UNREACHABLE = (psycopg.OperationalError, psycopg.InterfaceError, sqlalchemy.exc.TimeoutError)


def classify(error: BaseException) -> type[TidegateError] | None:
    """What the daemon does about this error of psycopg or SQLAlchemy; None: not the database's."""
    rule = _rule(_original(error))
    return rule and rule[0]


def translate(error: BaseException) -> TidegateError | None:
    """The error as one of ours, with PostgreSQL's primary message and no more: details quote values."""
    original = _original(error)
    rule = _rule(original)
    if rule is None:
        return None
    kind, hint = rule
    return kind(_message(original), hint=hint)


@contextmanager
def translated() -> Iterator[None]:
    """Raise the database's errors in this block as ours."""
    try:
        yield
    except Exception as error:
        ours = translate(error)
        if ours is None:
            raise
        raise ours from error


def _original(error: BaseException) -> BaseException:
    if isinstance(error, sqlalchemy.exc.StatementError) and error.orig is not None:
        return error.orig
    return error


def _rule(error: BaseException) -> tuple[type[TidegateError], str] | None:
    code = _code(error)
    if code:
        return next((_RULES[code[:n]] for n in (5, 2) if code[:n] in _RULES), None)
    if isinstance(error, _UNSENDABLE):
        return RejectFile, ""
    if isinstance(error, _UNREACHABLE):
        return RetryLater, ""
    return None


def _code(error: BaseException) -> str:
    if not isinstance(error, psycopg.Error):
        return ""
    if error.sqlstate:
        return error.sqlstate
    if isinstance(error, psycopg.OperationalError):
        return next((code for code, words in _REFUSED.items() if re.search(words, str(error))), "")
    return ""


def _message(error: BaseException) -> str:
    primary = error.diag.message_primary if isinstance(error, psycopg.Error) else None
    if primary:
        return primary
    if isinstance(error, UnicodeEncodeError):
        return f"text that is not valid Unicode: {error.reason}"
    return str(error).partition("\n")[0] or type(error).__name__
