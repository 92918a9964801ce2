"""Receipts: what came in by HTTP, known before its file is loaded, and what became of it."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg import Connection, sql
from psycopg.rows import class_row, dict_row

from models.errors import TidegateError
from models.ledger import WAITING
from services.ledger.locks import try_lock_key
from services.ledger.statements import statement

SHOWN_ERRORS = 20
"""So many reasons an answer names; the report beside the rejected file has all of them."""


class InFlight(TidegateError):
    """A request with this key is being handled."""


class OtherBody(TidegateError):
    """This key came with another body before."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """One body: `name` is its file's, which no other body has."""

    id: str
    flow: str
    name: str
    sha256: bytes
    bytes: int
    received_at: datetime


_COLUMNS = "id, flow, name, sha256, bytes, received_at"
_BY_KEY = f"select {_COLUMNS} from tidegate.receipt where flow = %s and idempotency_key = %s"  # noqa: S608
_INSERT = f"""
insert into tidegate.receipt (flow, name, sha256, bytes, idempotency_key) values (%s, %s, %s, %s, %s)
returning {_COLUMNS}
"""  # noqa: S608


def issue(
    connection: Connection,
    *,
    flow: str,
    name: str,
    sha256: bytes,
    bytes: int,
    key: str | None,
    place: Callable[[], None],
) -> Receipt:
    """Put the file into its place and write its receipt; the one that there is when `key` came before.

    The file is in place before the receipt is committed. After a crash between the two the
    client, which got no answer, sends it again: it replaces the first file, or is its duplicate.
    The other way round a receipt could stand for a file that never comes.

    Raises InFlight or OtherBody.
    """
    with connection.transaction(), connection.cursor(row_factory=class_row(Receipt)) as cursor:
        if key is not None:
            if not try_lock_key(connection, flow, key):
                raise InFlight("a request with this Idempotency-Key is being handled", hint="wait for its answer")
            before = cursor.execute(_BY_KEY, [flow, key]).fetchone()
            if before is not None:
                if before.sha256 != sha256:
                    raise OtherBody("this Idempotency-Key came with another body", hint="send a key of its own")
                return before
        receipt = cursor.execute(_INSERT, [flow, name, sha256, bytes, key]).fetchone()
        assert receipt is not None
        place()
        return receipt


# A file that a crash left in the input folder, or that `retry` put back, has several lines.
_STATUS = statement(
    """
select r.id, r.flow, r.name, r.bytes, r.received_at, coalesce(f.status, {waiting}) as status, f.id as ledger_id,
    f.loaded_at, f.records, f.inserted, f.updated, f.unchanged, f.stale, f.rejected, f.duplicate_of, f.error
from tidegate.receipt r
left join lateral (
    select * from tidegate.inbound_file f
    where f.sha256 = r.sha256 and f.flow = r.flow and f.name = r.name and ({current} or {not_current})
    order by f.status = {duplicate}, f.id desc limit 1
) f on true
where r.id = %s
""",
    waiting=sql.Literal(WAITING),
)

_ERRORS = """
select position as record, pointer, line, "column", value, reason
from tidegate.rejected_record where inbound_file_id = %s order by id limit %s
"""


def look(connection: Connection, receipt_id: str) -> dict[str, Any] | None:
    """What became of a receipt's file, with the first errors; `None` when there is no such receipt."""
    with connection.cursor(row_factory=dict_row) as cursor:
        found = cursor.execute(_STATUS, [receipt_id]).fetchone()
        if found is None:
            return None
        errors = cursor.execute(_ERRORS, [found["ledger_id"], SHOWN_ERRORS]).fetchall()
        return {**found, "errors": errors}
