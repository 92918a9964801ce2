"""The outbox: which rows have to go out, which files carry them, how far those are."""

import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from psycopg import Connection, Cursor, DataError, IsolationLevel, sql
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb
from pydantic_core import to_json
from sqlalchemy import Column
from sqlalchemy.dialects import postgresql

from file_processing.documents import Draft, Translator, file_name
from flows import Flows
from models.errors import RetryLater, TidegateError
from models.flow import Flow, primary_key
from models.ledger import OutboundStatus
from models.outbound import Form, Row
from models.tables import OWN_COLUMNS, ChildRow

_LOCK_SPACE = 0x7469_646F
"""The first key of the writers' advisory locks; the second is a hash of the flow's name."""


ROWS_AT_ONCE = 5000
"""Rows that are fixed in one transaction, in as many files as they take."""


BATCHES_AT_ONCE = 20

OPEN_FILES = 1000
"""Open files that are read at once: their content lies in memory."""


@dataclass(frozen=True, slots=True)
class OutboundFile:
    """A file that is fixed and not yet known to be on disk."""

    id: int
    name: str
    content: bytes
    records: int


@dataclass(frozen=True, slots=True)
class Fixed:
    """Files that were just fixed.

    due_seconds: until more can be: infinity when no row has to go out, the rest of `linger_ms`
        when a batch may still fill up.
    """

    files: Sequence[OutboundFile]
    due_seconds: float = 0.0


class AnotherWriter(RetryLater):
    """Another process writes the files of this flow."""


@contextmanager
def sole_writer(connection: Connection, flow: str) -> Iterator[None]:
    """Make this session the only one that fixes files of `flow`; raises AnotherWriter, and never waits."""
    taken = connection.execute("select pg_try_advisory_lock(%s, hashtext(%s))", [_LOCK_SPACE, flow]).fetchone()
    if taken != (True,):
        raise AnotherWriter(f"another process is writing files of {flow}")
    try:
        yield
    finally:
        if not connection.closed:
            connection.execute("select pg_advisory_unlock(%s, hashtext(%s))", [_LOCK_SPACE, flow])


_TAKE = """
select {columns} from {table}
where not is_synced and outbound_error is null {behind}
order by {order}
limit {limit}
"""

_TAKEN = ("inserted_at", "changed_at", "outbound_file_id")
"""The columns of `LandedRow` that a flow's function gets to see."""

_MARK = """
with marked as (
    update {table} t set outbound_file_id = s.file_id, is_synced = t.changed_at = s.changed_at,
        synced_at = case when t.changed_at = s.changed_at then now() else t.synced_at end
    from (select f.id as file_id, {fields}, (r ->> {last})::timestamptz as changed_at
          from tidegate.outbound_file f, jsonb_array_elements(f.taken) r
          where f.id = any(%(ids)s) and f.status = 'writing') s
    where {same_key}
)
update tidegate.outbound_file
set status = 'written', written_at = now(), content = null, taken = null, attempts = attempts + 1, last_error = null
where id = any(%(ids)s) and status = 'writing'
returning id
"""

_OVERTAKEN = """
update {table} t set is_synced = false
from tidegate.outbound_file mine, tidegate.outbound_file newer
where mine.id = any(%s) and newer.flow = mine.flow and newer.name = mine.name and newer.id >= mine.id
  and t.outbound_file_id = newer.id and t.is_synced
"""

_DONE = """
update {table} t set is_synced = true, synced_at = now()
from (select {fields}, (r ->> {last})::timestamptz as changed_at from jsonb_array_elements(%s) r) s
where {same_key} and t.changed_at = s.changed_at
"""

_SET_ASIDE = """
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

_COPY = """
copy tidegate.outbound_file (id, flow, name, sha256, bytes, records, status, node, content, taken)
from stdin (format binary)
"""
_COPY_TYPES = ("int8", "text", "text", "bytea", "int8", "int4", "text", "text", "bytea", "jsonb")


class Outbox:
    """The outbox of one flow. The statements are made once from its declaration.

    The connection is in autocommit mode; each method is a transaction of its own.
    """

    def __init__(self, flow: Flow, node: str) -> None:
        self.flow = flow
        self._node = node
        self._key = flow.key
        self._full = max(1 if outbound.form is Form.ONE else outbound.max_records for outbound in flow.outbound)
        self._rows_at_once = max(ROWS_AT_ONCE // self._full * self._full, self._full)
        table = flow.sql_table
        fields = [
            sql.SQL("(r ->> {})::{} as {}").format(
                sql.Literal(number), sql.SQL(type_of(table.columns[column])), sql.Identifier(column)
            )
            for number, column in enumerate(flow.key)
        ]
        business = [column.name for column in table.columns if column.name not in OWN_COLUMNS]
        parts: dict[str, sql.Composable] = {
            "table": sql.Identifier(table.name),
            "columns": sql.SQL(", ").join(map(sql.Identifier, [*business, *_TAKEN])),
            "order": sql.SQL(", ").join(map(sql.Identifier, flow.outbound_order)),
            "limit": sql.Literal(self._rows_at_once),
            "fields": sql.SQL(", ").join(fields),
            "last": sql.Literal(len(flow.key)),
            "reason": sql.Literal(len(flow.key) + 1),
            "key": sql.SQL(", ").join(map(sql.Identifier, flow.key)),
            "same_child_key": sql.SQL(" and ").join(
                sql.SQL("c.{0} = s.{0}").format(sql.Identifier(column)) for column in flow.key
            ),
            "same_key": sql.SQL(" and ").join(
                sql.SQL("t.{0} = s.{0}").format(sql.Identifier(column)) for column in flow.key
            ),
        }
        behind = sql.SQL("and ({order}) > ({values})").format(
            order=parts["order"], values=sql.SQL(", ").join([sql.Placeholder()] * len(flow.outbound_order))
        )
        self._take_first = sql.SQL(_TAKE).format(**parts, behind=sql.SQL(""))
        self._take_next = sql.SQL(_TAKE).format(**parts, behind=behind)
        # Which rows these are can be read of any row.
        which = parts | {"columns": sql.SQL("{key}, changed_at").format(**parts)}
        self._which_first = sql.SQL(_TAKE).format(**which, behind=sql.SQL(""))
        self._which_next = sql.SQL(_TAKE).format(**which, behind=behind)
        self._mark = sql.SQL(_MARK).format(**parts)
        self._overtaken = sql.SQL(_OVERTAKEN).format(**parts)
        self._done = sql.SQL(_DONE).format(**parts)
        self._set_aside = sql.SQL(_SET_ASIDE).format(**parts)
        self._children = [
            (child.__tablename__, sql.SQL(_CHILDREN).format(**_child_parts(child), **parts)) for child in flow.children
        ]

    def open_files(self, connection: Connection) -> list[OutboundFile]:
        """The files that are fixed and not yet on disk, oldest first; a crash may have left some."""
        rows = connection.execute(
            """
            select id, name, content, records from tidegate.outbound_file
            where flow = %s and status = 'writing' order by id limit %s
            """,
            [self.flow.name, OPEN_FILES],
            binary=True,
        ).fetchall()
        return [OutboundFile(*row) for row in rows]

    def take(self, connection: Connection, translator: Translator, *, lingers: bool = True) -> Iterator[Fixed]:
        """Fix changed rows as files, batch by batch, each before a byte of it is written.

        It goes once through what has to go out and never back, so that a batch is not taken
        again while the one before it is still being written and marked. The last one has no files,
        but for the `BATCHES_AT_ONCE`th: so that other flows have their turn.
        lingers: whether a batch may wait for more rows.
        """
        # A row and its children are read by two statements, and must be of one moment.
        connection.isolation_level = IsolationLevel.REPEATABLE_READ
        last: Row | None = None
        for _ in range(BATCHES_AT_ONCE):
            with connection.transaction():
                rows = self._next(connection, last)
                seconds = math.inf if not rows else self._lingers(rows) if lingers else 0.0
                fixed = Fixed([], seconds) if seconds else self._fix(connection, translator, rows)
            yield fixed
            if seconds:
                return
            last = rows[-1]

    def _next(self, connection: Connection, last: Row | None) -> list[dict[str, Any]]:
        behind = [last[column] for column in self.flow.outbound_order] if last else []
        with connection.cursor(row_factory=dict_row, binary=True) as cursor:
            cursor.execute(self._take_next if last else self._take_first, behind)
            try:
                return cursor.fetchall()
            except DataError:
                which = connection.execute(self._which_next if last else self._which_first, behind).fetchall()
                return self._readable(connection, cursor, which)

    def _readable(
        self, connection: Connection, cursor: Cursor[dict[str, Any]], which: Sequence[tuple[Any, ...]]
    ) -> list[dict[str, Any]]:
        """The rows that Python can read; the others (a time after year 9999, or infinity) are set aside.

        which: key and `changed_at` of each row.
        """
        rows: list[dict[str, Any]] = []
        cursor.scroll(0, mode="absolute")
        for *key, changed_at in which:
            try:
                rows += filter(None, [cursor.fetchone()])
            except DataError as error:
                connection.execute(self._set_aside, [_json([(*key, changed_at, f"it cannot be read: {error}")])])
                cursor.scroll(1)
        return rows

    def _fix(self, connection: Connection, translator: Translator, rows: Sequence[dict[str, Any]]) -> Fixed:
        self._add_children(connection, rows)
        sent, rows = self._already_sent(connection, rows)
        drafts = translator.drafts(rows)
        self._update(connection, self._done, [self._taken(row) for row in (*drafts.done, *sent)])
        self._update(connection, self._set_aside, [(*self._taken(row), why) for row, why in drafts.set_aside])
        return Fixed(self._insert(connection, drafts.files))

    def _lingers(self, rows: Sequence[Row]) -> float:
        if len(rows) >= self._full:
            return 0.0
        waited = (datetime.now(UTC) - min(row["changed_at"] for row in rows)).total_seconds()
        return float(max(0.0, max(outbound.linger_ms for outbound in self.flow.outbound) / 1000 - waited))

    def _add_children(self, connection: Connection, rows: Sequence[dict[str, Any]]) -> None:
        for table, statement in self._children:
            by_key = {self._keys(row): row.setdefault(table, []) for row in rows}
            with connection.cursor(row_factory=dict_row, binary=True) as cursor:
                for child in cursor.execute(statement, [_json(map(self._keys, rows))]):
                    by_key[self._keys(child)].append(child)

    def _already_sent(
        self, connection: Connection, rows: Sequence[dict[str, Any]]
    ) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Rows of a `once` flow that went out before, as the rows or the files remember; and the others."""
        if not self.flow.once:
            return [], list(rows)
        names = {id(row): [file_name(outbound, row) for outbound in self.flow.outbound] for row in rows}
        known = connection.execute(
            "select name from tidegate.outbound_file where flow = %s and name = any(%s)",
            [self.flow.name, [name for row in rows for name in names[id(row)]]],
        ).fetchall()
        there = {name for (name,) in known}
        sent = [row for row in rows if row["outbound_file_id"] is not None or there.issuperset(names[id(row)])]
        gone = set(map(id, sent))
        return sent, [row for row in rows if id(row) not in gone]

    def _insert(self, connection: Connection, drafts: Sequence[Draft]) -> list[OutboundFile]:
        if not drafts:
            return []
        numbers = connection.execute(
            "select nextval('tidegate.outbound_file_id_seq') from generate_series(1, %s) order by 1", [len(drafts)]
        ).fetchall()
        files = [
            OutboundFile(number, *draft.numbered(number), draft.records)
            for (number,), draft in zip(numbers, drafts, strict=True)
        ]
        with connection.cursor() as cursor, cursor.copy(_COPY) as copy:
            copy.set_types(_COPY_TYPES)
            for file, draft in zip(files, drafts, strict=True):
                taken = list(map(self._taken, draft.completes))
                digest = hashlib.sha256(file.content).digest()
                known = (file.id, self.flow.name, file.name, digest, len(file.content), file.records)
                copy.write_row((*known, OutboundStatus.WRITING.value, self._node, file.content, _json(taken)))
        return files

    def _keys(self, row: Row) -> tuple[Any, ...]:
        return tuple(row[column] for column in self._key)

    def _taken(self, row: Row) -> tuple[Any, ...]:
        """Which row this is, and in which state."""
        return (*self._keys(row), row["changed_at"])

    def _update(self, connection: Connection, statement: sql.Composed, rows: Sequence[tuple[Any, ...]]) -> None:
        if rows:
            connection.execute(statement, [_json(rows)])

    def mark_written(self, connection: Connection, file_ids: Sequence[int]) -> None:
        """The files are on disk: mark the rows they carry, where they did not change meanwhile.

        A file that another process has marked already may lie over a newer state of it, which
        that one wrote: then its row goes out once more.
        """
        marked = connection.execute(self._mark, {"ids": file_ids}).fetchall()
        if len(marked) < len(file_ids) and not self.flow.once:
            overtaken = set(file_ids).difference(number for (number,) in marked)
            connection.execute(self._overtaken, [list(overtaken)])

    def mark_failed(self, connection: Connection, file_id: int, error: str) -> None:
        """The file could not be written: it is tried again."""
        connection.execute(
            "update tidegate.outbound_file set attempts = attempts + 1, last_error = %s where id = %s", [error, file_id]
        )


def _child_parts(child: type[ChildRow]) -> dict[str, sql.Composable]:
    return {
        "child": sql.Identifier(child.__tablename__),
        "child_key": sql.SQL(", ").join(sql.Identifier("c", column) for column in primary_key(child)),
    }


def type_of(column: Column[Any]) -> str:
    """PostgreSQL's name of a column's type, with its modifiers: `character` alone would be one character."""
    return column.type.compile(dialect=postgresql.dialect())  # type: ignore[no-untyped-call]


def _json(rows: Iterable[object]) -> Jsonb:
    return Jsonb(list(rows), dumps=to_json)


def unset_aside(connection: Connection, flow: Flow) -> int:
    """Try the rows again that could not be translated; how many there are."""
    statement = sql.SQL(
        "update {} set outbound_error = null, is_synced = false where outbound_error is not null"
    ).format(sql.Identifier(flow.sql_table.name))
    return connection.execute(statement).rowcount


def send_again(connection: Connection, flows: Flows, file_id: int) -> int:
    """Have the rows go out again that an outbound file carried; how many there are.

    A row that changed since has gone out in another file, and stays as it is.
    Raises TidegateError when there is no such file, or its rows go out once in their life.
    """
    found = connection.execute("select flow from tidegate.outbound_file where id = %s", [file_id]).fetchone()
    if found is None or found[0] not in flows:
        raise TidegateError(f"there is no outbound file #{file_id}", hint="`trace` and the log show them")
    flow = flows[found[0]]
    if flow.once:
        raise TidegateError(
            f"#{file_id}: what {flow.name} sends goes out once, and never again",
            hint="put the file back as it was: one that a partner refused is then delivered again",
        )
    statement = sql.SQL("update {} set is_synced = false where outbound_file_id = %s and is_synced").format(
        sql.Identifier(flow.sql_table.name)
    )
    return connection.execute(statement, [file_id]).rowcount
