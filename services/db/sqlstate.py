"""What an error of the database means for the daemon: one table, by SQLSTATE."""

import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import sqlalchemy.exc

from models.errors import Contention, NoDatabase, RejectFile, RestFlow, RetryLater, StopDaemon, TidegateError

_UPGRADE = 'run "python main.py db upgrade"'
_CREDENTIALS = "check user and password in DATABASE_URL"
_RAISED = (
    "if it speaks of single records, let it raise using errcode = 'check_violation', and only these are rejected; "
    "else mend what it complains of"
)

# The longest prefix of the SQLSTATE decides. Only what is known to be a record's fault rejects one.
_RULES: dict[str, tuple[type[TidegateError], str]] = {
    "08": (NoDatabase, ""),  # connection exception
    "0A": (StopDaemon, "this server lacks a feature: use a newer PostgreSQL"),
    "22": (RejectFile, ""),  # data exception
    "23": (RejectFile, ""),  # integrity constraint violation
    "25006": (NoDatabase, "the server is read-only: a standby?"),
    "25P03": (RetryLater, ""),  # idle in transaction timeout
    "25P04": (RetryLater, "raise transaction_timeout of the server or the role"),
    "28": (StopDaemon, _CREDENTIALS),
    "3D": (StopDaemon, "create the database, or correct its name in DATABASE_URL"),
    "3F": (StopDaemon, _UPGRADE),  # invalid schema name
    "40": (RetryLater, ""),  # serialization failure, for one
    "40P01": (Contention, ""),  # deadlock
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
    "57P01": (NoDatabase, ""),  # it is shut down, or this connection is ended
    "57P02": (NoDatabase, ""),  # it has crashed
    "57P03": (NoDatabase, ""),  # it still starts
    "58": (RetryLater, ""),  # I/O error
    "P0": (RestFlow, _RAISED),  # by a trigger of the table: for a record, or for any of them, nobody can tell
    "XX": (RetryLater, ""),  # internal error, damaged data
}

# A check that is broken has a name, and one that a trigger raises has no table.
_NO_PARTITION = (
    RestFlow,
    "attach the partition that its rows need, or one for all others (partition of … default)",
)

_UNKNOWN = (RestFlow, "look this error up in PostgreSQL's list of codes; it is tried again until it is gone")

# libpq knows no SQLSTATE for a connection refused by the server, only the server's words.
_REFUSED = {
    "28": r'password authentication failed|no password supplied|role ".*" does not exist|no pg_hba\.conf entry',
    "3D": r'database ".*" does not exist',
    "42501": r"permission denied for database",
    "53300": r"too many clients|remaining connection slots|too many connections",
}

# What a value raises that cannot even be sent.
_UNSENDABLE = (psycopg.DataError, OverflowError, UnicodeEncodeError, struct.error)
_UNREACHABLE = (psycopg.OperationalError, psycopg.InterfaceError)


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
    return kind(_message(original) + (_origin(original) if kind is RestFlow else ""), hint=hint)


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


@contextmanager
def of_a_flow() -> Iterator[None]:
    """The same for statements on a flow's own tables: what is wrong with these ends no daemon, the flow rests."""
    try:
        with translated():
            yield
    except StopDaemon as error:
        hint = error.hint or "mend the table, or what its triggers call"
        raise RestFlow(error.reason + _origin(error.__cause__), hint=hint) from error.__cause__


@contextmanager
def transaction_of_a_flow(connection: psycopg.Connection) -> Iterator[None]:
    """A transaction at whose end only a flow's own tables speak, by deferred constraints and triggers."""
    committing = False
    try:
        with connection.transaction():
            yield
            committing = True
    except psycopg.Error:
        if not committing:
            raise
        with of_a_flow():
            raise


def _original(error: BaseException) -> BaseException:
    if isinstance(error, sqlalchemy.exc.StatementError) and error.orig is not None:
        return error.orig
    return error


def _rule(error: BaseException) -> tuple[type[TidegateError], str] | None:
    code = _code(error)
    if isinstance(error, psycopg.errors.CheckViolation) and error.diag.table_name and not error.diag.constraint_name:
        return _NO_PARTITION
    if code:
        return next((_RULES[code[:n]] for n in (5, 2) if code[:n] in _RULES), _UNKNOWN)
    if isinstance(error, _UNSENDABLE):
        return RejectFile, ""
    if isinstance(error, _UNREACHABLE):
        return NoDatabase, ""
    if isinstance(error, sqlalchemy.exc.TimeoutError):  # of the pool
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


def _origin(error: BaseException | None) -> str:
    """The function that raised it, which a trigger called; and its code, where that says more than the sentence."""
    if not isinstance(error, psycopg.Error):
        return ""
    function = re.search(r"^PL/pgSQL function (\S+)", error.diag.context or "", re.MULTILINE)
    known = [f"raised by {function[1]}"] if function else []
    known += [f"SQLSTATE {code}"] if (code := _code(error)) and _rule(error) is _UNKNOWN else []
    return f" ({', '.join(known)})" if known else ""
