"""The children of rows that were upserted: those of a written parent replace its old ones."""

from collections.abc import Mapping, Sequence
from itertools import chain

from psycopg import Cursor, sql

from file_processing.inbound.encode import EncodedRows
from file_processing.inbound.stage import Stage
from models.flow import Flow
from services.db.identifiers import equal, names

# A parent is written when its row now comes from the record that brought these children.
_DELETE_CHILDREN = """
delete from {child} c using {table} t, {stage} s
where {same_child_key} and {same_key} and s.children_digest is not null
  and (t.source_file_id, t.record_position) = (s.source_file_id, s.record_position)
"""

_INSERT_CHILDREN = """
insert into {child} ({child_columns})
select {staged_child_columns} from {child_stage} c join {table} t on {same_child_key}
where (t.source_file_id, t.record_position) = (c.source_file_id, c.record_position)
"""


class Children:
    """The children in one table of a flow."""

    def __init__(self, flow: Flow, number: int, parts: Mapping[str, sql.Composable]) -> None:
        table = flow.sql_tables[1 + number]
        columns = [*flow.key, *flow.child_columns(number)]
        self.stage = Stage(table, columns)
        self._number = number
        parts = {
            **parts,
            "child": sql.Identifier(table.name),
            "child_stage": self.stage.name,
            "child_columns": names(columns),
            "staged_child_columns": names(columns, "c"),
            "same_child_key": equal(flow.key, "c", "t"),
            "same_key": equal(flow.key, "s", "t"),
        }
        self._delete = sql.SQL(_DELETE_CHILDREN).format(**parts)
        self._insert = sql.SQL(_INSERT_CHILDREN).format(**parts)

    def replace(self, cursor: Cursor, blocks: Sequence[EncodedRows]) -> None:
        rows = (block.children[self._number].with_source(block.file_id, block.positions) for block in blocks)
        self.stage.fill(cursor, chain.from_iterable(rows))
        cursor.execute(self._delete)
        cursor.execute(self._insert)
        self.stage.empty(cursor)
