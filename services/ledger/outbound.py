"""Outbound files: rows that have to go out, and the files that are sealed to carry them."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from operator import itemgetter
from typing import Any

from psycopg import Connection, Cursor, DataError, sql
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb
from pydantic_core import to_json

from models.flow import Flow, primary_key
from models.ledger import OutboundStatus
from models.outbound import Row
from models.tables import OWN_COLUMNS, ChildRow
from services.db import types
from services.db.identifiers import equal, names
from services.db.triggers import CHANNEL
from services.ledger import locks
from services.ledger.statements import STATES, statement, transition

SHOWN_COLUMNS = ("inserted_at", "changed_at", "outbound_file_id")
"""Of Tidegate's own columns those that a flow's function gets to see."""


@dataclass(frozen=True, slots=True)
class SealedFile:
    """A file that is fixed in the ledger, and not yet known to be on disk.

    document: see `OutboundFileRow`. attempts: how often it could not be written.
    """

    id: int
    document: str | None
    name: str
    content: bytes
    records: int
    attempts: int = 0


def next_ids(connection: Connection, count: int) -> list[int]:
    """Ids for so many files, ascending."""
    query = "select nextval('tidegate.outbound_file_id_seq') from generate_series(1, %s) order by 1"
    return [number for (number,) in connection.execute(query, [count]).fetchall()]


_CONTINUE = """
select last, setval('tidegate.outbound_file_id_seq', %(go_on_behind)s)
from (select last_value as last from tidegate.outbound_file_id_seq) s where last < %(highest)s
"""


def continue_numbers(connection: Connection, highest: int, go_on_behind: int) -> int | None:
    """Where the last id is lower than `highest`, have the next ones be higher than `go_on_behind`; that last id."""
    with connection.transaction():
        locks.lock_numbers(connection)
        found = connection.execute(_CONTINUE, {"highest": highest, "go_on_behind": go_on_behind}).fetchone()
    return int(found[0]) if found else None


_COPY = """
copy tidegate.outbound_file (id, flow, document, name, sha256, bytes, records, status, node, content, taken, carries)
from stdin (format binary)
"""
_COPY_TYPES = ("int8", "text", "text", "text", "bytea", "int8", "int4", "text", "text", "bytea", "jsonb", "jsonb")

RowStates = Sequence[Sequence[Any]]
"""Rows as `[key…, changed_at]`: which, and in which state."""


def seal(
    connection: Connection, flow: str, node: str, files: Iterable[tuple[SealedFile, RowStates, RowStates]]
) -> None:
    """Write files with their content, before a byte of them is on disk.

    files: each with the rows that it completes, and its others.
    """
    with connection.cursor() as cursor, cursor.copy(_COPY) as copy:
        copy.set_types(_COPY_TYPES)
        for file, completed, others in files:
            told = (file.id, flow, file.document, file.name, hashlib.sha256(file.content).digest(), len(file.content))
            rows = (as_json(completed), as_json(others) if others else None)
            copy.write_row((*told, file.records, OutboundStatus.WRITING.value, node, file.content, *rows))


def seal_answer(connection: Connection, flow: str, node: str, file: SealedFile) -> None:
    """Seal a file that carries no row, and wake the writer when this transaction commits."""
    seal(connection, flow, node, [(file, [], [])])
    connection.execute("select pg_notify(%s, %s)", [CHANNEL, flow])


def listen(connection: Connection) -> None:
    """Have the connection told, by the flow's name, whenever a row has to go out."""
    connection.execute(sql.SQL("listen {}").format(sql.Identifier(CHANNEL)))


_UNSYNCED = """
select {columns} from {table} t
where not is_synced and outbound_error is null {behind} {beside}
order by {order}
limit {limit}
"""

# The rows of a file that could not be written go out in it, or its older state would come behind theirs.
_BESIDE_HELD = """
and not exists (
    select from (select {fields} from tidegate.outbound_file f, jsonb_array_elements(f.taken) r
                 where f.flow = {flow} and f.status = {writing}) s
    where {same_key}
)
"""

_UNSEALED_SINCE = """
select exists (select from {table} where not is_synced and outbound_error is null and changed_at <= %s)
"""


def is_behind(connection: Connection, flow: Flow, moment: datetime) -> bool:
    """Whether rows that changed up to this moment, by the database's clock, have still to go out."""
    query = sql.SQL(_UNSEALED_SINCE).format(table=sql.Identifier(flow.sql_table.name))
    (behind,) = connection.execute(query, [moment]).fetchone() or (False,)
    return bool(behind)


_WRITTEN = """
with marked as (
    update {table} t set outbound_file_id = s.file_id, is_synced = t.changed_at = s.changed_at,
        synced_at = case when t.changed_at = s.changed_at then now() else t.synced_at end
    from (select f.id as file_id, {fields}, (r ->> {last})::timestamptz as changed_at
          from tidegate.outbound_file f, jsonb_array_elements(f.taken) r
          where f.id = any(%(ids)s) and f.status = {source}) s
    where {same_key}
)
update tidegate.outbound_file o
set status = {target}, written_at = now(), written_in = %(folder)s, taken = null,
    attempts = 1, next_attempt_at = null, last_error = null,
    content = case when exists (
        select from tidegate.destination d where d.flow = o.flow and d.document = o.document) then o.content end
where id = any(%(ids)s) and status = {source}
returning id
"""

# Another process wrote a newer state under this name, and this file may lie over it.
_OVERTAKEN = """
update {table} t set is_synced = false
from tidegate.outbound_file mine, tidegate.outbound_file newer
where mine.id = any(%s) and newer.flow = mine.flow and newer.name = mine.name and newer.id >= mine.id
  and t.outbound_file_id = newer.id and t.is_synced
"""

_NOTHING_TO_SEND = """
update {table} t set is_synced = true, synced_at = now()
from (select {fields}, (r ->> {last})::timestamptz as changed_at from jsonb_array_elements(%s) r) s
where {same_key} and t.changed_at = s.changed_at
"""

_QUARANTINE = """
update {table} t set outbound_error = s.error
from (select {fields}, (r ->> {last})::timestamptz as changed_at, r ->> {reason} as error
      from jsonb_array_elements(%s) r) s
where {same_key} and t.changed_at = s.changed_at
"""

_CHILDREN = """
select c.* from {child} c
join (select {fields} from jsonb_array_elements(%s) r) s on {same_child_key}
order by {child_key}
"""

_GIVE_UP_HELD = """
update tidegate.outbound_file o
set status = {target}, content = null, taken = null, last_error = null, next_attempt_at = null
where o.flow = {flow} and o.status = {source} and o.attempts > 0 and (
    exists (select from tidegate.outbound_file n where n.flow = o.flow and n.name = o.name and n.id > o.id)
    or jsonb_array_length(o.taken) = 1 and not exists (
        select from (select {fields}, (r ->> {last})::timestamptz as changed_at
                     from jsonb_array_elements(o.taken) r) s
        join {table} t on {same_key} and t.changed_at = s.changed_at))
"""


class OutboundRows:
    """The rows of one flow on their way out. The statements are made once from its declaration.

    Row lists given to it are `[key…, changed_at]`: which row, and in which state.
    """

    def __init__(self, flow: Flow, rows_at_once: int) -> None:
        self._flow = flow
        self._key = flow.key
        self._state_of: Callable[[Row], tuple[Any, ...]] = itemgetter(*flow.key, "changed_at")
        parts = _parts(flow, rows_at_once)
        # Which rows these are can be read of any row.
        which: dict[str, sql.Composable] = {**parts, "columns": sql.SQL("{key}, changed_at").format(**parts)}
        nothing, beside = sql.SQL(""), sql.SQL(_BESIDE_HELD).format(**STATES, **parts)
        behind = sql.SQL("and ({order}) > ({values})").format(
            order=parts["order"], values=sql.SQL(", ").join([sql.Placeholder()] * len(flow.outbound_order))
        )
        self._unsynced = {
            (start is behind, but is beside): [
                statement(_UNSYNCED, **some, behind=start, beside=but) for some in (parts, which)
            ]
            for start in (nothing, behind)
            for but in (nothing, beside)
        }
        self._written = transition(_WRITTEN, OutboundStatus.WRITING, OutboundStatus.WRITTEN, **parts)
        self._give_up_held = transition(_GIVE_UP_HELD, OutboundStatus.WRITING, OutboundStatus.SUPERSEDED, **parts)
        self._overtaken = statement(_OVERTAKEN, **parts)
        self._nothing_to_send = statement(_NOTHING_TO_SEND, **parts)
        self._quarantine = statement(_QUARANTINE, **parts)
        self._children = [
            (child.__tablename__, statement(_CHILDREN, **_child_parts(child), **parts)) for child in flow.children
        ]

    def unsynced(self, connection: Connection, last: Row | None, *, beside_held: bool = False) -> list[dict[str, Any]]:
        """The next rows that have to go out, behind `last`, with their children.

        A row that Python cannot read (a time after year 9999, or infinity) is quarantined.
        beside_held: without those of files that are sealed and not written.
        """
        behind = [last[column] for column in self._flow.outbound_order] if last else []
        wanted, which_wanted = self._unsynced[last is not None, beside_held]
        with connection.cursor(row_factory=dict_row, binary=True) as cursor:
            cursor.execute(wanted, behind)
            try:
                rows = cursor.fetchall()
            except DataError:
                which = connection.execute(which_wanted, behind).fetchall()
                rows = self._readable(connection, cursor, which)
        self._add_children(connection, rows)
        return rows

    def _readable(
        self, connection: Connection, cursor: Cursor[dict[str, Any]], which: Sequence[tuple[Any, ...]]
    ) -> list[dict[str, Any]]:
        """which: key and `changed_at` of each row."""
        rows: list[dict[str, Any]] = []
        for number, (*key, changed_at) in enumerate(which):
            cursor.scroll(number, mode="absolute")
            try:
                rows += filter(None, [cursor.fetchone()])
            except DataError as error:
                self.quarantine(connection, [(*key, changed_at, f"it cannot be read: {error}")])
        return rows

    def _add_children(self, connection: Connection, rows: Sequence[dict[str, Any]]) -> None:
        for table, query in self._children if rows else ():
            by_key = {self._key_of(row): row.setdefault(table, []) for row in rows}
            with connection.cursor(row_factory=dict_row, binary=True) as cursor:
                for child in cursor.execute(query, [as_json(map(self._key_of, rows))]):
                    by_key[self._key_of(child)].append(child)

    def _key_of(self, row: Row) -> tuple[Any, ...]:
        return tuple([row[column] for column in self._key])

    def state_of(self, row: Row) -> tuple[Any, ...]:
        """Which row this is, and in which state."""
        return self._state_of(row)

    def known_names(self, connection: Connection, names: Sequence[str]) -> set[str]:
        """Those of the names that a file of this flow has, or had."""
        query = "select name from tidegate.outbound_file where flow = %s and name = any(%s)"
        return {name for (name,) in connection.execute(query, [self._flow.name, names]).fetchall()}

    def nothing_to_send(self, connection: Connection, rows: Sequence[Sequence[Any]]) -> None:
        """Mark rows that have no document to go out."""
        if rows:
            connection.execute(self._nothing_to_send, [as_json(rows)])

    def quarantine(self, connection: Connection, rows: Sequence[Sequence[Any]]) -> None:
        """Take rows out of what has to go out, each with the reason behind it, until somebody mends them."""
        if rows:
            connection.execute(self._quarantine, [as_json(rows)])

    def mark_written(self, connection: Connection, file_ids: Sequence[int], folder: str) -> None:
        """The files are on disk: mark the rows they carry, where they did not change meanwhile.

        A file that another process has marked already may lie over a newer state of it, which
        that one wrote: then its row goes out once more.
        """
        marked = connection.execute(self._written, {"ids": file_ids, "folder": folder}).fetchall()
        if len(marked) < len(file_ids) and not self._flow.once:
            overtaken = set(file_ids).difference(number for (number,) in marked)
            connection.execute(self._overtaken, [list(overtaken)])

    def give_up_held(self, connection: Connection) -> None:
        """Have done with files that could not be written and whose row has changed since: it goes out anew."""
        if not self._flow.once:
            connection.execute(self._give_up_held)


def key_of_state(flow: Flow) -> sql.Composed:
    """The columns of a row's key, of `r`: the row as `[key…, changed_at]` in JSON."""
    return sql.SQL(", ").join(
        sql.SQL("(r ->> {})::{} as {}").format(
            sql.Literal(number),
            sql.SQL(types.full_name(flow.sql_table.columns[column])),
            sql.Identifier(column),
        )
        for number, column in enumerate(flow.key)
    )


def _parts(flow: Flow, rows_at_once: int) -> dict[str, sql.Composable]:
    table = flow.sql_table
    business = [column.name for column in table.columns if column.name not in OWN_COLUMNS]
    return {
        "flow": sql.Literal(flow.name),
        "table": sql.Identifier(table.name),
        "columns": names([*business, *SHOWN_COLUMNS]),
        "order": names(flow.outbound_order),
        "limit": sql.Literal(rows_at_once),
        "fields": key_of_state(flow),
        "last": sql.Literal(len(flow.key)),
        "reason": sql.Literal(len(flow.key) + 1),
        "key": names(flow.key),
        "same_child_key": equal(flow.key, "c", "s"),
        "same_key": equal(flow.key, "t", "s"),
    }


def _child_parts(child: type[ChildRow]) -> dict[str, sql.Composable]:
    return {"child": sql.Identifier(child.__tablename__), "child_key": names(primary_key(child), "c")}


def as_json(rows: Iterable[object]) -> Jsonb:
    return Jsonb(list(rows), dumps=to_json)
