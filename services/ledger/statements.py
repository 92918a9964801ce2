"""Statements as text, with the ledger's states filled in from their one table; and rows, with their states read."""

from collections.abc import Callable, Iterable
from enum import StrEnum
from typing import Any, TypeVar

from psycopg import sql
from psycopg.rows import BaseRowFactory, kwargs_row

from models.ledger import IN_TABLE, OUTBOUND_TRANSITIONS, FileStatus, OutboundStatus

T = TypeVar("T")


def _listed(states: Iterable[StrEnum]) -> sql.Composable:
    return sql.SQL("({})").format(sql.SQL(", ").join(sql.Literal(state.value) for state in sorted(states)))


STATES: dict[str, sql.Composable] = {
    **{state.name.lower(): sql.Literal(state.value) for state in (*FileStatus, *OutboundStatus)},
    "in_table": _listed(IN_TABLE),
    "current": sql.SQL("(status in {} and superseded_by is null)").format(_listed(IN_TABLE)),
    "not_current": sql.SQL("(status in {} or superseded_by is not null)").format(_listed({*FileStatus} - {*IN_TABLE})),
    "rests": sql.SQL("next_attempt_at > now() and next_attempt_at <= now() + %(longest)s * interval '1 second'"),
}
"""`{written}` is a state; `{in_table}` are the states of a file of which records are in the flow's table.

`{current}`: the line by which a content counts as loaded, of which a flow has one at most. It and `{not_current}` are
what two indexes are of: who looks for any line of a content names both, joined by `or`.
`{rests}`: whether an outbound file is to be tried again later. One that would be so after more than the longest pause,
in seconds, is not: the clock was set back since.
"""


def statement(text: str, **parts: sql.Composable) -> bytes:
    """The statement with states and parts in the place of their names in braces."""
    return sql.SQL(text).format(**STATES, **parts).as_bytes(None)


def array(values: Iterable[int | str | None]) -> str:
    """A parameter for an array in a statement; psycopg makes one from a list in ten times the time.

    Numbers, and text; `bytea` as the text that it is to the server, `\\x` and digits.
    """
    return f"{{{','.join([_element(value) for value in values])}}}"


def _element(value: int | str | None) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, int):
        return str(value)
    return '"' + value.replace("\\", r"\\").replace('"', r"\"") + '"'


def file_row(kind: Callable[..., T]) -> BaseRowFactory[T]:
    """Makes what is asked of inbound files, by the names of its columns, with `status` as one of the states."""

    def made(status: str, **others: Any) -> T:
        return kind(status=FileStatus(status), **others)

    return kwargs_row(made)


def transition(text: str, source: OutboundStatus, target: OutboundStatus, **parts: sql.Composable) -> bytes:
    """The same for a statement that changes outbound files from `{source}` to `{target}`.

    Raises ValueError, when the module is imported, for a change that the table of transitions does not have.
    """
    if target not in OUTBOUND_TRANSITIONS[source]:
        raise ValueError(f"an outbound file that is {source} never becomes {target}")
    return statement(text, source=sql.Literal(source.value), target=sql.Literal(target.value), **parts)
