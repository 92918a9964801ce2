"""The outbox: which changed rows go out now, sealed as which files."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from psycopg import Connection, IsolationLevel

from file_processing.outbound.translate import Draft, Translator, file_name
from models.flow import Flow
from models.outbound import Form, Row
from services.ledger import clock, outbound as ledger
from services.ledger.outbound import OutboundRows, SealedFile

ROWS_AT_ONCE = 5000
"""Rows that are sealed in one transaction, in as many files as they take."""

FILES_OF_BATCH = 512
"""They take at most so many: while a batch waits for the disk, the next is sealed and the last one marked."""

BATCHES_AT_ONCE = 20


@dataclass(frozen=True, slots=True)
class SealedBatch:
    """Files that were just sealed.

    due_seconds: until more can be: infinity when no row has to go out, the rest of `linger_ms`
        when a batch may still fill up.
    """

    files: Sequence[SealedFile]
    due_seconds: float = 0.0


class Outbox:
    """The outbox of one flow.

    The connection is in autocommit mode; each batch is a transaction of its own.
    """

    def __init__(self, flow: Flow, node: str) -> None:
        self.flow = flow
        self._node = node
        self._full = max(1 if outbound.form is Form.ONE else outbound.max_records for outbound in flow.outbound)
        files = min(ROWS_AT_ONCE // self._full, FILES_OF_BATCH)
        self._rows = OutboundRows(flow, max(files, 1) * self._full)
        self._translator = Translator(flow)

    @property
    def rows(self) -> OutboundRows:
        """What the ledger knows of this flow's outbound."""
        return self._rows

    def seal(self, connection: Connection, *, lingers: bool = True, beside_held: bool = False) -> Iterator[SealedBatch]:
        """Seal changed rows as files, batch by batch, each before a byte of it is written.

        It goes once through what has to go out and never back, so that a batch is not taken
        again while the one before it is still being written and marked. The last one has no files,
        but for the `BATCHES_AT_ONCE`th: so that other flows have their turn.
        lingers: whether a batch may wait for more rows.
        beside_held: files are held that could not be written: their rows wait for them, see `services.ledger.held`.
        """
        # A row and its children are read by two statements, and must be of one moment.
        connection.isolation_level = IsolationLevel.REPEATABLE_READ
        last: Row | None = None
        for _ in range(BATCHES_AT_ONCE):
            with connection.transaction():
                rows = self._rows.unsynced(connection, last, beside_held=beside_held)
                seconds = math.inf if not rows else self._lingers(connection, rows) if lingers else 0.0
                batch = SealedBatch([], seconds) if seconds else self._seal(connection, rows)
            yield batch
            if seconds:
                return
            last = rows[-1]

    def _lingers(self, connection: Connection, rows: Sequence[Row]) -> float:
        """How long a batch that is not full still waits: by the database's clock, which has dated its rows.

        A row that is dated behind now was there before that clock was set back, and has waited.
        """
        linger_seconds = max(outbound.linger_ms for outbound in self.flow.outbound) / 1000
        if len(rows) >= self._full or not linger_seconds:
            return 0.0
        waited = clock.age_seconds(connection, min(row["changed_at"] for row in rows))
        return linger_seconds - waited if 0 <= waited < linger_seconds else 0.0

    def _seal(self, connection: Connection, rows: Sequence[dict[str, Any]]) -> SealedBatch:
        sent, rows = self._already_sent(connection, rows)
        drafts = self._translator.drafts(rows)
        state = self._rows.state_of
        self._rows.nothing_to_send(connection, [state(row) for row in (*drafts.done, *sent)])
        self._rows.quarantine(connection, [(*state(row), why) for row, why in drafts.quarantined])
        return SealedBatch(self._write_down(connection, drafts.files))

    def _already_sent(
        self, connection: Connection, rows: Sequence[dict[str, Any]]
    ) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Rows of a `once` flow that went out before, as the rows or the files remember; and the others."""
        if not self.flow.once:
            return [], list(rows)
        names = {id(row): [file_name(outbound, row) for outbound in self.flow.outbound] for row in rows}
        there = self._rows.known_names(connection, [name for row in rows for name in names[id(row)]])
        sent = [row for row in rows if row["outbound_file_id"] is not None or there.issuperset(names[id(row)])]
        gone = set(map(id, sent))
        return sent, [row for row in rows if id(row) not in gone]

    def _write_down(self, connection: Connection, drafts: Sequence[Draft]) -> list[SealedFile]:
        if not drafts:
            return []
        ids = ledger.next_ids(connection, len(drafts))
        files = [
            SealedFile(number, draft.document, *draft.numbered(number), draft.records)
            for number, draft in zip(ids, drafts, strict=True)
        ]
        state = self._rows.state_of
        sealed = (
            (file, [state(row) for row in draft.completes], [state(row) for row in draft.carries])
            for file, draft in zip(files, drafts, strict=True)
        )
        ledger.seal(connection, self.flow.name, self._node, sealed)
        return files
