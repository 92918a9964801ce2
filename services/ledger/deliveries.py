"""Deliveries: which written files wait for a destination, and what became of each attempt."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from psycopg import Connection
from psycopg.types.json import Jsonb

from models.ledger import OutboundStatus
from services import text
from services.ledger.statements import statement, transition


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file as it was written. folder: where, see `OutboundFileRow.written_in`."""

    id: int
    name: str
    sha256: bytes
    folder: str


@dataclass(frozen=True, slots=True)
class DueFile(StoredFile):
    """A written file that its destination does not have yet.

    doubtful: it was sent before, and nobody knows whether it arrived.
    """

    attempts: int
    doubtful: bool


_DUE = """
select id, name, sha256, coalesce(written_in, %(folder)s), attempts, sent_at is not null from tidegate.outbound_file
where flow = %(flow)s and status = {written} and document = any(%(documents)s)
    and ({rests}) is not true
order by id limit %(limit)s
"""

_DUE_IN_ORDER = """
select id, name, sha256, coalesce(written_in, %(folder)s), attempts, sent_at is not null from tidegate.outbound_file
where flow = %(flow)s and status = {written} and document = any(%(documents)s) and id < coalesce(
    (select min(id) from tidegate.outbound_file
     where flow = %(flow)s and status = {written} and document = any(%(documents)s)
        and {rests} and attempts < %(doubts)s), 9223372036854775807)
    and ({rests}) is not true
order by id limit %(limit)s
"""

_WAITING = statement("""
select count(*), (array_agg(coalesce(last_error, 'sent before the daemon ended, not answered') order by id))[1]
from tidegate.outbound_file
where flow = %(flow)s and status = {written} and document = any(%(documents)s) and {rests}
""")

# What another daemon wrote is for that one to file. Where it never comes back, it is not looked for for ever.
_UNFILED = statement("""
select id, name, sha256, coalesce(written_in, %(folder)s) from tidegate.outbound_file
where flow = %(flow)s and status = {delivered} and filed_as is null and document = any(%(documents)s)
    and (coalesce(written_in, %(folder)s) = %(folder)s or delivered_at > now() - interval '1 day')
order by id
""")

_OPEN = """
insert into tidegate.destination as d (flow, document, name)
select %(flow)s, document, %(name)s from unnest(%(documents)s::text[]) document
on conflict (flow, document) do update set name = excluded.name where d.name <> excluded.name
"""

_SENDING = """
update tidegate.outbound_file
set attempts = attempts + 1, sent_at = now(), next_attempt_at = now() + %s * interval '1 second' where id = %s
"""

_LATER = """
update tidegate.outbound_file set last_error = %s, next_attempt_at = now() + %s * interval '1 second' where id = %s
"""

_NOT_SENT = """
update tidegate.outbound_file
set last_error = %s, sent_at = case when %s then sent_at end, next_attempt_at = null where id = %s
"""

_FAILED = transition(
    """
    update tidegate.outbound_file
    set status = {target}, last_error = %s, sent_at = null, next_attempt_at = null where id = %s and status = {source}
    """,
    OutboundStatus.WRITTEN,
    OutboundStatus.FAILED,
)

_DELIVERED = transition(
    """
    update tidegate.outbound_file
    set status = {target}, delivered_at = now(), delivered_as = %s, last_error = null, next_attempt_at = null,
        content = null
    where id = %s and status = {source}
    """,
    OutboundStatus.WRITTEN,
    OutboundStatus.DELIVERED,
)

# The newer row is there before its content takes the name.
_SUPERSEDED = transition(
    """
    update tidegate.outbound_file o
    set status = {target}, last_error = null, next_attempt_at = null, content = null
    where id = %(id)s and status = {source} and exists (
        select 1 from tidegate.outbound_file n where n.flow = o.flow and n.name = o.name and n.id > o.id)
    """,
    OutboundStatus.WRITTEN,
    OutboundStatus.SUPERSEDED,
)


class Deliveries:
    """What one flow has for one destination.

    documents: the names of those that go there.
    in_order: whether a file without a clear answer holds back those behind it, unless it is tried so often
        that it is its own fault (`doubts`).
    longest_seconds: no file is to be tried again later than that, see `STATES`.
    folder: the output folder of who delivers, see `OutboundFileRow.written_in`.
    """

    def __init__(
        self,
        flow: str,
        documents: Sequence[str],
        *,
        in_order: bool,
        doubts: int,
        longest_seconds: float,
        folder: str = "",
    ) -> None:
        self._what: dict[str, Any] = {
            "flow": flow,
            "documents": list(documents),
            "doubts": doubts,
            "longest": longest_seconds,
            "folder": folder,
        }
        self._due = statement(_DUE_IN_ORDER if in_order else _DUE)

    def due(self, connection: Connection, limit: int) -> list[DueFile]:
        """The files to be delivered now, oldest first."""
        return [DueFile(*row) for row in connection.execute(self._due, self._what | {"limit": limit}).fetchall()]

    def waiting(self, connection: Connection) -> tuple[int, str | None]:
        """How many files wait to be tried again, and why the oldest of them does."""
        count, error = connection.execute(_WAITING, self._what).fetchone() or (0, None)
        return count, error

    def unfiled(self, connection: Connection) -> list[StoredFile]:
        """The delivered files that are not known to be moved away, oldest first."""
        return [StoredFile(*row) for row in connection.execute(_UNFILED, self._what).fetchall()]

    def open(self, connection: Connection, name: str) -> None:
        """From now on the ledger keeps what goes to this destination until it is there."""
        connection.execute(_OPEN, self._what | {"name": name})


def content(connection: Connection, file_id: int) -> bytes | None:
    """What is in a file, where the ledger has kept it."""
    query = "select content from tidegate.outbound_file where id = %s"
    found = connection.execute(query, [file_id], binary=True).fetchone()
    return found[0] if found else None


def sending(connection: Connection, file_id: int, not_before_seconds: float) -> None:
    """It is sent now. If the process ends meanwhile, it is tried again, and not before so many seconds from now."""
    connection.execute(_SENDING, [not_before_seconds, file_id])


def later(connection: Connection, file_id: int, reason: str, pause_seconds: float) -> None:
    """The partner may have it; it is tried again after the pause."""
    connection.execute(_LATER, [text.one_line(reason), pause_seconds, file_id])


def not_sent(connection: Connection, file_id: int, reason: str, *, doubtful: bool) -> None:
    """The partner certainly did not get it this time. doubtful: it may have it from an earlier time."""
    connection.execute(_NOT_SENT, [text.one_line(reason), doubtful, file_id])


def failed(connection: Connection, file_id: int, reason: str) -> None:
    """The partner turned it down for good: a dead letter."""
    connection.execute(_FAILED, [text.one_line(reason), file_id])


def delivered(connection: Connection, file_id: int, answer: object) -> None:
    """The partner has it. answer: what it said."""
    connection.execute(_DELIVERED, [Jsonb(text.storable_json(answer), dumps=_without_secrets), file_id])


def _without_secrets(answer: object) -> str:
    return text.hidden(json.dumps(answer), is_json=True)


def superseded(connection: Connection, file_id: int) -> bool:
    """Mark a file whose name a newer one has; false when there is none."""
    return bool(connection.execute(_SUPERSEDED, {"id": file_id}).rowcount)


def filed(connection: Connection, file_id: int, place: str) -> None:
    """Remember where a delivered file lies since."""
    connection.execute("update tidegate.outbound_file set filed_as = %s where id = %s", [place, file_id])
