"""Rows as a test writes them down, encoded and upserted as the loader does it."""

from collections.abc import Sequence
from itertools import groupby
from operator import attrgetter
from typing import NamedTuple

from psycopg import Connection

from file_processing.inbound.encode import EncodedBatch, Encoder
from file_processing.inbound.formats.json import JsonBatch
from file_processing.inbound.upsert import RejectedByDatabase, Upsert, UpsertCounts
from file_processing.inbound.validate import CheckedBatch, ChildRows, RowValues
from models.flow import Flow


class Row(NamedTuple):
    """One row on its way into the table; without `children` its record says nothing of them."""

    values: RowValues
    file_id: int
    position: int
    children: ChildRows | None = None


class RowUpsert:
    """Upserts rows of one flow; a portion as often as it is called."""

    def __init__(self, flow: Flow) -> None:
        self._flow = flow
        self._upsert = Upsert(flow)

    def upsert(self, connection: Connection, rows: Sequence[Row]) -> tuple[UpsertCounts, list[RejectedByDatabase]]:
        target = self._upsert.begin(connection)
        encoder = Encoder(self._flow, target.types)
        batches = [encoded(encoder, list(file)) for _, file in groupby(rows, attrgetter("file_id"))]
        counts, rejected = self._upsert.upsert(connection, target, [batch.rows for batch in batches])
        misfits = [
            RejectedByDatabase(batch.rows.file_id, record.position, record.errors[0]["reason"])
            for batch in batches
            for record in batch.rejected
        ]
        return counts, misfits + rejected


def encoded(encoder: Encoder, rows: Sequence[Row]) -> EncodedBatch:
    """Rows of one file."""
    count = max(row.position for row in rows) + 1
    batch = JsonBatch([{}] * count, 0, b"[" + b",".join([b"{}"] * count) + b"]", to_list=())
    positions, children = [row.position for row in rows], [row.children for row in rows]
    checked = CheckedBatch(batch, count, [row.values for row in rows], positions, children, (), 0, {})
    return encoder.encode(checked, rows[0].file_id)
