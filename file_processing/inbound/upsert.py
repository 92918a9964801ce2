"""Rows into a flow's table: inserted while all are new, else staged, then one upsert.

Among the staged rows and against the table the newest record of a key wins; one that
says nothing new is not written at all.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import NamedTuple

from psycopg import Connection, sql

from file_processing.inbound.children import Children
from file_processing.inbound.encode import ColumnTypes, EncodedRows
from file_processing.inbound.insert import Insert
from file_processing.inbound.stage import Stage
from file_processing.inbound.validate import RowValues
from file_processing.inbound.winner import and_not_newer, newest_first
from models.errors import RejectFile
from models.flow import CHILDREN_DIGEST, Flow
from models.partitions import ByTime
from services.db import sqlstate
from services.db.identifiers import equal, name, names
from services.db.partitions import FIND_BY_KEY, PartitionsByTime
from services.db.triggers import loading
from services.ledger.arrival import AFTER_ALL, Arrivals, came_before


@dataclass(frozen=True, slots=True)
class UpsertCounts:
    """Rows per file id, by what became of them.

    unchanged: the table already said just this. stale: it says something newer.
    """

    inserted: Counter[int]
    updated: Counter[int]
    unchanged: Counter[int]
    stale: Counter[int]

    def __add__(self, other: "UpsertCounts") -> "UpsertCounts":
        return UpsertCounts(
            self.inserted + other.inserted,
            self.updated + other.updated,
            self.unchanged + other.unchanged,
            self.stale + other.stale,
        )


NO_ROWS = UpsertCounts(Counter(), Counter(), Counter(), Counter())


class RejectedByDatabase(NamedTuple):
    """A record whose rows the database would not take."""

    file_id: int
    position: int
    reason: str


_DESCRIBE = "select {columns} from {table} limit 0"

# One upsert cannot touch a key twice, so `newest` keeps one record per key. Its order
# also makes every loader lock rows in the same order, which prevents deadlocks.
_UPSERT = """
with newest as (
    select distinct on ({key}) {columns}, source_file_id, record_position
    from {stage}
    order by {key}, {newest_first}
),
written as (
    insert into {table} as t ({columns}, source_file_id, record_position)
    select {columns}, source_file_id, record_position from newest
    on conflict ({key}) {on_conflict}
    -- What an update replaces is set by the update alone, unless nothing is known of it; then it is older than now.
    returning t.source_file_id, t.replaced_file_id is null and t.inserted_at = t.changed_at as inserted
)
select source_file_id, count(*) filter (where inserted), count(*) filter (where not inserted)
from written
group by source_file_id
"""

_UPDATE = """do update set
    {assignments},
    replaced_file_id = t.source_file_id, replaced_position = t.record_position,
    source_file_id = excluded.source_file_id, record_position = excluded.record_position, source_said = null,
    confirmed_file_id = null, changed_at = now(), is_synced = false, outbound_error = null
where ({old}) is distinct from ({new}){and_not_newer}{and_not_said_again}"""

# Of two records of one time the later to arrive counts. But one that its source sends again overwrites nothing that
# was changed by hand since; `source_said` is null where nothing was.
_NOT_SAID_AGAIN = """
    and (t.source_said is null or t.{newest_by} < excluded.{newest_by} or not ({said_again}))"""

_OR_SAID_AGAIN = " or t.source_said is not null and {said_again}"

# A record without children says the same as one that has those of before. A column that the table got since is not
# among what its source said; there the row has what it got with the column. One that is no longer there says nothing.
_SAID_AGAIN = """(
    select before.said || (tidegate.as_said(again) - {unsaid}) = before.said
    from (select tidegate.as_said(t) || t.source_said as said offset 0) before, (select {values}) again)"""

_UNCHANGED = """
select s.source_file_id, count(*)
from {stage} s join {table} t using ({key})
where (t.source_file_id, t.record_position) is distinct from (s.source_file_id, s.record_position)
  and (({old}) is not distinct from ({staged}){or_said_again})
group by s.source_file_id
"""

# What is said again counts as of then, or of records that came between an older one might win. The rows are locked
# by the upsert.
_CONFIRM = """
update {table} t set confirmed_file_id = s.source_file_id
from (
    select distinct on ({key}) {columns}, source_file_id, record_position
    from {stage}
    order by {key}, {newest_first}
) s
where {same_key} and ({old}) is not distinct from ({staged})
  and s.source_file_id is distinct from coalesce(t.confirmed_file_id, t.source_file_id) and {counts_from_then}
"""


class Target(NamedTuple):
    """What the tables of a flow are like, which stays so until the transaction that looked ends.

    types: of their columns. key_is_unique: see `insert.KEY_IS_UNIQUE`.
    """

    types: ColumnTypes
    key_is_unique: bool


class Upsert:
    """Upserts rows of one flow. The statements are made once from its declaration."""

    def __init__(self, flow: Flow) -> None:
        table = flow.sql_table
        self._insert = Insert(flow)
        self._all_new = True  # as far as is known: what came last was
        self._stage = Stage(table, flow.columns)
        data = [column for column in flow.columns if column not in flow.key]
        parts: dict[str, sql.Composable] = {
            "stage": self._stage.name,
            "table": sql.Identifier(table.name),
            "key": names(flow.key),
            "columns": names(flow.columns),
            "newest_first": newest_first(flow),
            "old": names(data, "t"),
            "new": sql.SQL(", ").join(_new(column, "excluded") for column in data),
            "staged": sql.SQL(", ").join(_new(column, "s") for column in data),
        }
        if not data:
            on_conflict: sql.Composable = sql.SQL("do nothing")
        else:
            on_conflict = sql.SQL(_UPDATE).format(
                **parts,
                assignments=sql.SQL(", ").join(
                    sql.SQL("{} = {}").format(sql.Identifier(column), _new(column, "excluded")) for column in data
                ),
                and_not_newer=and_not_newer(flow),
                and_not_said_again=_said_again(flow, _NOT_SAID_AGAIN, "excluded"),
            )
        if not data:
            parts |= {"old": sql.SQL("true"), "staged": sql.SQL("true")}
        self._children = [Children(flow, number, parts) for number in range(len(flow.children))]
        self._partitions = PartitionsByTime(flow, flow.partitions) if isinstance(flow.partitions, ByTime) else None
        self._upsert = sql.SQL(_UPSERT).format(**parts, on_conflict=on_conflict)
        staged_later = came_before(sql.SQL("s.source_file_id"))
        self._confirm = sql.SQL(_CONFIRM).format(
            **parts,
            same_key=equal(flow.key, "s", "t"),
            counts_from_then=sql.SQL("not ") + staged_later if flow.append_only else staged_later,
        )
        self._unchanged = sql.SQL(_UNCHANGED).format(**parts, or_said_again=_said_again(flow, _OR_SAID_AGAIN, "s"))
        children = ([*flow.key, *flow.child_columns(number)] for number in range(len(flow.children)))
        describe = [
            sql.SQL(_DESCRIBE).format(columns=names(columns), table=sql.Identifier(each.name))
            for each, columns in zip(flow.sql_tables, [flow.columns, *children], strict=True)
        ]
        # The tables first: while they are open nobody drops an index of theirs.
        find = [sql.SQL(FIND_BY_KEY)] if flow.partitions else []
        self._begin = sql.SQL("; ").join([*describe, self._insert.key_is_unique, loading(flow), *find]).as_bytes(None)

    def begin(self, connection: Connection) -> Target:
        """Look at the tables in the connection's transaction, and tell the server that it loads into them."""
        with connection.cursor() as cursor:
            cursor.execute(self._begin, prepare=False)  # one round trip, which it is only while it is not prepared
            found: list[tuple[int, ...]] = []
            for _ in range(1 + len(self._children)):
                found.append(tuple(column.type_code for column in cursor.description or ()))
                cursor.nextset()
            table, *children = found
            return Target(ColumnTypes(table, tuple(children)), cursor.rowcount == 1)

    def upsert(
        self, connection: Connection, target: Target, blocks: Sequence[EncodedRows], arrivals: Arrivals = AFTER_ALL
    ) -> tuple[UpsertCounts, list[RejectedByDatabase]]:
        """Upsert rows within the connection's transaction, which began with `begin`.

        arrivals: of the files that they come from.

        A record whose rows the database rejects is left out and returned with the reason;
        all others are in the table. Raises psycopg.Error for what is not a record's fault.
        """
        counts, rejected = NO_ROWS, list[RejectedByDatabase]()
        blocks = [block for block in blocks if len(block)]
        if not blocks:
            return counts, rejected
        if self._partitions is not None:
            self._partitions.make_for(connection, (key for block in blocks for key in block.keys))
        rows = _by_file(blocks)
        if self._all_new and target.key_is_unique and self._insert.insert(connection, blocks):
            return replace(counts, inserted=rows), rejected
        for stage in (self._stage, *(child.stage for child in self._children)):
            stage.create(connection)
        waiting = self._rounds(blocks)[::-1]
        while waiting:
            part = waiting.pop()
            try:
                with connection.transaction():
                    new = self._upsert_part(connection, part, arrivals)
                counts += new
            except Exception as error:
                fault = sqlstate.translate(error)
                if not isinstance(fault, RejectFile):
                    raise
                halves = _halves(part)
                if len(halves) == 1:
                    rejected.append(RejectedByDatabase(part[0].file_id, part[0].positions[0], fault.reason))
                else:
                    waiting += reversed(halves)
        self._all_new = counts.inserted == rows
        return counts, rejected

    def _rounds(self, blocks: Sequence[EncodedRows]) -> list[Sequence[EncodedRows]]:
        """The rows as they may be upserted together: one without children after those that bring its key some.

        One upsert keeps a single record of a key, and with it what that one says of the children.
        """
        if not self._children or not any(block.says_nothing(row) for block in blocks for row in range(len(block))):
            return [blocks]
        rounds: list[list[EncodedRows]] = []
        latest: dict[
            RowValues, tuple[int, bool]
        ] = {}  # by key: the round of its last row, and whether that has children
        for block in blocks:
            of_block: dict[int, list[int]] = {}
            for _, group in groupby(range(len(block)), block.positions.__getitem__):
                record = list(group)
                before = [(*latest.get(block.keys[row], (0, False)), block.says_nothing(row)) for row in record]
                number = max(last + (brought and nothing) for last, brought, nothing in before)
                for row, (last, brought, nothing) in zip(record, before, strict=True):
                    latest[block.keys[row]] = number, not nothing or (brought and last == number)
                of_block.setdefault(number, []).extend(record)
            for number, own in of_block.items():
                rounds += [[] for _ in range(number + 1 - len(rounds))]
                rounds[number].append(block.select(own))
        return list(rounds)

    def _upsert_part(self, connection: Connection, blocks: Sequence[EncodedRows], arrivals: Arrivals) -> UpsertCounts:
        with connection.cursor() as cursor:
            self._stage.fill(cursor, (block.data for block in blocks))
            written = cursor.execute(self._upsert, arrivals.parameters).fetchall()
            inserted = Counter({file_id: count for file_id, count, _ in written})
            updated = Counter({file_id: count for file_id, _, count in written})
            left = _by_file(blocks) - inserted - updated
            unchanged: Counter[int] = Counter(dict(cursor.execute(self._unchanged).fetchall() if left else ()))
            if unchanged and not arrivals.in_order:
                cursor.execute(self._confirm, arrivals.parameters)
            counts = UpsertCounts(inserted, updated, unchanged, left - unchanged)
            for child in self._children:
                child.replace(cursor, blocks)
            self._stage.empty(cursor)
        return counts


def _by_file(blocks: Iterable[EncodedRows]) -> Counter[int]:
    """How many rows are of each file."""
    rows = Counter[int]()
    for block in blocks:
        rows[block.file_id] += len(block)
    return rows


def _halves(blocks: Sequence[EncodedRows]) -> list[Sequence[EncodedRows]]:
    """Two parts of about the same size; the rows of one record stay together."""
    if len(blocks) > 1:
        middle = len(blocks) // 2
        return [blocks[:middle], blocks[middle:]]
    (block,) = blocks
    for middle in _outward(len(block)):
        if block.positions[middle - 1] != block.positions[middle]:
            return [[block.select(range(middle))], [block.select(range(middle, len(block)))]]
    return [blocks]


def _outward(length: int) -> Iterator[int]:
    """Every split point from the middle on: 5 → 2, 3, 1, 4."""
    middle = length // 2
    for distance in range(length):
        for at in {middle + distance, middle - distance}:
            if 0 < at < length:
                yield at


def _new(column: str, source: str) -> sql.Composable:
    """The value a column gets; a record that says nothing of the children leaves them and their digest."""
    if column == CHILDREN_DIGEST:
        return sql.SQL("coalesce({}, {})").format(sql.Identifier(source, column), sql.Identifier("t", column))
    return name(column, source)


def _said_again(flow: Flow, clause: str, source: str) -> sql.Composable:
    """A clause on whether a record says what the source of a row said before the row was changed by hand."""
    if not flow.said:
        return sql.SQL("")
    unsaid = sql.SQL("case when {} is null then {} else '' end").format(
        sql.Identifier(source, CHILDREN_DIGEST), sql.Literal(CHILDREN_DIGEST)
    )
    said_again = sql.SQL(_SAID_AGAIN).format(
        unsaid=unsaid if flow.children else sql.Literal(""),
        values=sql.SQL(", ").join(
            sql.SQL("{} as {}").format(name(column, source), sql.Identifier(column)) for column in flow.said
        ),
    )
    return sql.SQL(clause).format(newest_by=sql.Identifier(flow.newest_by or ""), said_again=said_again)
