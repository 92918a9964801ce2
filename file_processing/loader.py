"""What a group of files does to the database: rows and ledger lines in one transaction."""

import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import repeat

from psycopg import Connection

from file_processing import interchanges, ledger, planning
from file_processing.batch import Batch
from file_processing.landing import Landed, Lander, Landing, RefusedByDatabase
from file_processing.ledger import Entry
from file_processing.planning import Incoming, Plan
from file_processing.refusal import Refused, refuse_by_database
from file_processing.report import Reports
from file_processing.validation import Checked
from models.errors import FileGone, RejectFile, RetryLater
from models.flow import Flow, PartlyBad
from models.ledger import FileStatus
from services.filing import Cabinet, Identity

ROWS_AT_ONCE = 50_000
"""Rows that one upsert takes; more than a batch of text holds, so that small files share one."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A file and its line in the ledger; `status` and `ledger_id` also of one that was there already."""

    file: Incoming
    ledger_id: int
    status: FileStatus
    entry: Entry | None
    """The new line; None where a committed file was still in its place: it only has to be filed."""


class Skipped(Exception):
    """Files of the group have to be left out; nothing is loaded, the others have to be read again."""


class _NothingLoads(Exception):
    """Files turned out to be refused as a whole after some of their rows were landed: start over."""


@dataclass(frozen=True, slots=True)
class Loader:
    """Loads files of one flow; without flow and lander, files that no flow takes."""

    flow: Flow | None
    lander: Lander | None
    cabinet: Cabinet
    node: str

    @property
    def flow_name(self) -> str | None:
        return self.flow.name if self.flow else None

    @property
    def all_or_nothing(self) -> bool:
        return self.flow is not None and self.flow.partly_bad is PartlyBad.ALL_OR_NOTHING

    def load(
        self, connection: Connection, files: Sequence[Incoming], *, filed_at: datetime | None = None
    ) -> list[Loaded]:
        """Load a group of files and write their ledger lines, in one transaction.

        A file that is no longer there, or no longer the same, is marked as `skipped` and left out.

        filed_at: set when the originals stay where they are.

        Raises Skipped when some cannot be read to their end or reported on, FlowBusy,
        RetryLater or psycopg.Error when the database cannot; then nothing of the group is loaded.
        """
        ids: list[int] = []
        while True:
            try:
                with connection.transaction():
                    ledger.lock_flow(connection, self.flow_name)
                    # Kept when it starts over: a refusal may name one of them.
                    ids = ids or ledger.next_ids(connection, len(files))
                    plans = self._plan(connection, files, ids, moves=filed_at is None)
                    landed = self._land(connection, [plan for plan in plans if plan.lands])
                    return self._write_down(connection, plans, landed, filed_at)
            except _NothingLoads:
                continue

    def _plan(
        self, connection: Connection, files: Sequence[Incoming], ids: Sequence[int], *, moves: bool
    ) -> list[Plan]:
        contents = {file.sha256 for file in files if file.sha256 is not None}
        without = [file.place for file in files if file.sha256 is None]
        known = ledger.known(connection, self.flow_name, contents, without)
        # Asked after the ledger: a file that another process filed before is gone by now.
        for file in files if moves else ():
            file.skipped = _not_in_place(file)
        there = [(file, file_id) for file, file_id in zip(files, ids, strict=True) if file.skipped is None]
        return planning.plan(there, known, moves=moves)

    def _land(self, connection: Connection, plans: Sequence[Plan]) -> Landed:
        landed = Landed.nothing()
        refused: list[tuple[Plan, list[Refused], Batch]] = []
        for portion in self._portions(plans):
            if self.lander is not None:
                rows = [
                    Landing(row, plan.file_id, position, children)
                    for plan, checked in portion
                    if not plan.file.is_test
                    for row, position, children in zip(
                        checked.rows, checked.positions, checked.children or repeat(None), strict=False
                    )
                ]
                new, bad = self.lander.land(connection, rows)
                landed.add(new)
                refused += _found_again(portion, bad)
        # Not before all is read: what reads a long file ahead counts its refusals too.
        unlandable = Counter[int]()
        for plan, records, _ in refused:
            unlandable[plan.file_id] += len(records)
        again = False
        for plan in plans:
            if self.all_or_nothing and (plan.file.refusals.records or unlandable[plan.file_id]):
                plan.file.lands = False
                again = True
            elif self._repeats(connection, plan, unlandable[plan.file_id]):
                again = True
        for plan, records, batch in refused:
            if not again or not plan.file.lands:  # what lands once more is refused once more
                plan.file.refusals.add(records, batch)
        if again:
            raise _NothingLoads
        return landed

    def _repeats(self, connection: Connection, plan: Plan, unlandable: int) -> bool:
        """Whether it is an interchange whose control reference was used before; then it is told why it is refused.

        unlandable: its records that the database refused just now.
        """
        if plan.file.is_test:
            return False  # it takes no reference either: the real one may have the same
        if plan.file.all_bad(unlandable):
            return False  # nothing of it loads: it may come again, mended, under the same reference
        if (refused := interchanges.claim(connection, plan)) is not None:
            plan.file.refuse(refused)
        return refused is not None

    def _portions(self, plans: Sequence[Plan]) -> Iterator[list[tuple[Plan, Checked]]]:
        """What the files hold, as much at a time as one upsert takes."""
        portion: list[tuple[Plan, Checked]] = []
        rows = 0
        for plan in plans:
            for checked in _read(plan.file):
                if self.all_or_nothing and plan.file.refusals.records:
                    continue  # it is only read to its end, so that every reason is told
                portion.append((plan, checked))
                rows += max(len(checked.rows), checked.records)  # refused ones take memory too
                if rows >= ROWS_AT_ONCE:
                    yield portion
                    portion, rows = [], 0
        if portion:
            yield portion

    def _write_down(
        self, connection: Connection, plans: Sequence[Plan], landed: Landed, filed_at: datetime | None
    ) -> list[Loaded]:
        done = []
        for plan in plans:
            if plan.resumes is not None:
                done.append(Loaded(plan.file, plan.resumes.id, plan.resumes.status, None))
            else:
                entry = self._entry(plan, landed, filed_at)
                done.append(Loaded(plan.file, entry.id, entry.status, entry))
        self._write_reports(done)
        ledger.write(connection, [loaded.entry for loaded in done if loaded.entry])
        bad = [loaded for loaded in done if loaded.entry and loaded.entry.rejected]
        if bad:
            ledger.write_rejected(
                connection, ((loaded.ledger_id, p) for loaded in bad for p in loaded.file.refusals.problems())
            )
        for loaded in done:
            if self.flow is not None and loaded.entry and loaded.status is not FileStatus.DUPLICATE:
                interchanges.answer(connection, loaded.file, flow=self.flow.name, node=self.node)
        return done

    def _write_reports(self, done: Sequence[Loaded]) -> None:
        refused = [
            (loaded.file, loaded.entry, self.reports(loaded.file, loaded.ledger_id))
            for loaded in done
            if loaded.entry and loaded.status in (FileStatus.PARTIAL, FileStatus.REJECTED)
        ]
        for file, entry, reports in refused:
            try:
                reports.write(entry, file.refusals, file.refused)
            except OSError as error:
                file.skipped = RetryLater(
                    f"its report cannot be written: {error}", hint="make room in REJECTED_DIR; it is tried again"
                )
        if any(file.skipped for file, _, _ in refused):
            for _, _, reports in refused:
                reports.discard()
            raise Skipped

    def reports(self, file: Incoming, ledger_id: int) -> Reports:
        return Reports(self.cabinet.refused(self.flow_name), file.name, ledger_id)

    def _entry(self, plan: Plan, landed: Landed, filed_at: datetime | None) -> Entry:
        file, file_id = plan.file, plan.file_id
        rejected = file.refusals.records
        if plan.duplicate_of is not None:
            status, rejected = FileStatus.DUPLICATE, 0
        elif not file.lands or file.all_bad():
            status = FileStatus.REJECTED
        else:
            status = FileStatus.PARTIAL if rejected else FileStatus.LOADED
        return Entry(
            id=file_id,
            flow=self.flow_name,
            name=file.name,
            path=file.place,
            sha256=file.sha256,
            bytes=file.identity.bytes,
            status=status,
            seen_at=file.dropped.seen_at,
            node=self.node,
            records=file.records,
            inserted=landed.inserted[file_id],
            updated=landed.updated[file_id],
            unchanged=landed.unchanged[file_id],
            stale=landed.stale[file_id],
            rejected=rejected,
            error=self._error(file, status),
            drift=file.drift or None,
            duplicate_of=plan.duplicate_of,
            supersedes=plan.supersedes,
            filed_at=filed_at,
        )

    def _error(self, file: Incoming, status: FileStatus) -> str | None:
        if status is FileStatus.DUPLICATE:
            return None
        if file.refused is not None:
            where = f" at line {file.refused.line}" if file.refused.line else ""
            return f"{file.refused.reason}{where}"
        first = next(file.refusals.problems(), None)
        if first is None:
            return None
        more = f" (and {file.refusals.records - 1} more records)" if file.refusals.records > 1 else ""
        nothing = "nothing loaded: " if self.all_or_nothing else ""
        return f"{nothing}record {first['record']} {first['pointer']}: {first['reason']}{more}"


def _read(file: Incoming) -> Iterator[Checked]:
    """The batches of a file. Raises _NothingLoads or Skipped, and tells the file why."""
    try:
        yield from file.batches
    except RejectFile as error:
        file.refuse(error)
        raise _NothingLoads from None
    except (FileGone, RetryLater) as error:
        file.skipped = error
        raise Skipped from None


def _not_in_place(file: Incoming) -> FileGone | RetryLater | None:
    try:
        if Identity.of(os.lstat(file.dropped.path)) == file.identity:
            return None
    except OSError:
        return FileGone("it is no longer there")
    return RetryLater("it changed after it was read", hint="it is read again when it is at rest")


def _found_again(
    portion: Sequence[tuple[Plan, Checked]], bad: Sequence[RefusedByDatabase]
) -> Iterator[tuple[Plan, list[Refused], Batch]]:
    """The records that the database refused, with their text."""
    reasons: dict[int, dict[int, str]] = defaultdict(dict)
    for record in bad:
        reasons[record.file_id][record.position] = record.reason
    for plan, checked in portion if bad else ():
        first = checked.batch.first
        here = {
            position - first: reason
            for position, reason in reasons[plan.file_id].items()
            if first <= position < first + checked.records
        }
        if here:
            yield plan, refuse_by_database(checked.batch, here), checked.batch
