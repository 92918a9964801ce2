"""What a group of files does to the database: rows and ledger lines in one transaction."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from psycopg import Connection

from file_processing import ledger
from file_processing.filing import Cabinet
from file_processing.landing import Landed, Lander, Landing
from file_processing.ledger import Entry, Known
from file_processing.opening import Identity
from file_processing.report import Refusals, Reports
from file_processing.validation import Checked, Refused, refuse_by_database
from models.errors import RejectFile
from models.flow import Flow, PartlyBad
from models.ledger import FileStatus

ROWS_AT_ONCE = 50_000
"""Rows that one upsert takes; more than a batch of text holds, so that small files share one."""

LOCK_WAIT_SECONDS = 5.0


@dataclass(slots=True)
class Incoming:
    """A file on its way into the database.

    name: as the sender called it, printable.
    batches: what its records came to; a long file gives them only once.
    refused: why it is refused as a whole, known from the start or found on the way.
    lands: whether its good records may load.
    """

    path: Path
    name: str
    seen_at: datetime
    identity: Identity
    sha256: bytes | None = None
    batches: Iterable[Checked] = ()
    refused: RejectFile | None = None
    lands: bool = True
    records: int = 0
    refusals: Refusals = field(default_factory=Refusals)
    drift: Counter[str] = field(default_factory=Counter)

    def take(self, checked: Checked) -> None:
        """Count a batch in."""
        self.records += checked.records
        self.drift.update(checked.drift)
        self.refusals.add(checked.refused, checked.batch)

    def refuse(self, error: RejectFile) -> None:
        self.refused, self.lands = error, False


@dataclass(frozen=True, slots=True)
class Loaded:
    """A file and its line in the ledger; `status` and `ledger_id` also of one that was there already."""

    file: Incoming
    ledger_id: int
    status: FileStatus
    entry: Entry | None
    """The new line; None where a crash left a committed file in its place: it only has to be filed."""


@dataclass(frozen=True, slots=True)
class _Plan:
    """What the ledger says is to be done with a file."""

    file: Incoming
    file_id: int
    resumes: Known | None = None
    duplicate_of: int | None = None
    supersedes: int | None = None

    @property
    def lands(self) -> bool:
        return self.file.lands and self.resumes is None and self.duplicate_of is None


class _NothingLoads(Exception):
    """A file turned out to be refused as a whole after some of its rows were landed: start over."""


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

        filed_at: set when the originals stay where they are.

        Raises psycopg.Error when the database cannot, OSError when a report cannot be
        written; then nothing of the group is loaded.
        """
        while True:
            try:
                with connection.transaction():
                    ledger.lock_flow(connection, self.flow_name or "", wait_seconds=LOCK_WAIT_SECONDS)
                    plans = self._plan(connection, files, moves=filed_at is None)
                    landed = self._land(connection, [plan for plan in plans if plan.lands])
                    return self._write_down(connection, plans, landed, filed_at)
            except _NothingLoads:
                continue

    def _plan(self, connection: Connection, files: Sequence[Incoming], *, moves: bool) -> list[_Plan]:
        contents = {file.sha256 for file in files if file.sha256 is not None}
        known = ledger.known(connection, self.flow_name, contents) if contents else {}
        first_with: dict[bytes | None, int] = {}
        plans = []
        for file, file_id in zip(files, ledger.next_ids(connection, len(files)), strict=True):
            lines = known.get(file.sha256 or b"", [])
            unfiled = [line for line in lines if moves and not line.filed and line.name == file.name]
            loaded = [line for line in lines if line.status in (FileStatus.LOADED, FileStatus.PARTIAL)]
            if unfiled:
                plan = _Plan(file, file_id, resumes=unfiled[0])
            elif loaded and loaded[0].reload:
                plan = _Plan(file, file_id, supersedes=loaded[0].id)
            elif loaded:
                plan = _Plan(file, file_id, duplicate_of=loaded[0].id)
            else:
                plan = _Plan(file, file_id, duplicate_of=first_with.get(file.sha256))
            if plan.lands and file.sha256:
                first_with[file.sha256] = file_id
            plans.append(plan)
        return plans

    def _land(self, connection: Connection, plans: Sequence[_Plan]) -> Landed:
        landed = Landed.nothing()
        refused: dict[int, list[tuple[list[Refused], Checked]]] = {}

        def flush(waiting: Sequence[tuple[int, Checked]]) -> None:
            if self.lander is None or not waiting:
                return
            rows = [
                Landing(row, file_id, position)
                for file_id, checked in waiting
                for row, position in zip(checked.rows, checked.positions, strict=True)
            ]
            new, bad = self.lander.land(connection, rows)
            landed.add(new)
            for file_id, checked in waiting if bad else ():
                span = range(checked.batch.first, checked.batch.first + checked.records)
                reasons = {
                    r.position - span.start: r.reason for r in bad if r.file_id == file_id and r.position in span
                }
                if reasons:
                    refused.setdefault(file_id, []).append((refuse_by_database(checked.batch, reasons), checked))

        waiting: list[tuple[int, Checked]] = []
        rows_waiting = 0
        for plan in plans:
            try:
                for checked in plan.file.batches:
                    if self.all_or_nothing and plan.file.refusals.records:
                        continue  # it is only read to its end, so that every reason is told
                    waiting.append((plan.file_id, checked))
                    rows_waiting += len(checked.rows)
                    if rows_waiting >= ROWS_AT_ONCE:
                        flush(waiting)
                        waiting, rows_waiting = [], 0
            except RejectFile as error:
                plan.file.refuse(error)
                raise _NothingLoads from None
        flush(waiting)
        self._settle(plans, refused)
        return landed

    def _settle(self, plans: Sequence[_Plan], refused: dict[int, list[tuple[list[Refused], Checked]]]) -> None:
        for plan in plans:
            for records, checked in refused.get(plan.file_id, ()) if self.all_or_nothing else ():
                plan.file.refusals.add(records, checked.batch)
            if self.all_or_nothing and plan.file.refusals.records:
                plan.file.lands = False
                # What others of the group lost to the database is found again in the next round.
                raise _NothingLoads
        for plan in plans:
            for records, checked in refused.get(plan.file_id, ()):
                plan.file.refusals.add(records, checked.batch)

    def _write_down(
        self, connection: Connection, plans: Sequence[_Plan], landed: Landed, filed_at: datetime | None
    ) -> list[Loaded]:
        done = []
        for plan in plans:
            if plan.resumes is not None:
                done.append(Loaded(plan.file, plan.resumes.id, plan.resumes.status, None))
                continue
            entry = self._entry(plan, landed, filed_at)
            if entry.status in (FileStatus.PARTIAL, FileStatus.REJECTED):
                self.reports(plan.file, entry.id).write(entry, plan.file.refusals, plan.file.refused)
            done.append(Loaded(plan.file, entry.id, entry.status, entry))
        new = [loaded for loaded in done if loaded.entry is not None]
        ledger.write(connection, [loaded.entry for loaded in new if loaded.entry])
        bad = [loaded for loaded in new if loaded.entry and loaded.entry.rejected]
        if bad:
            ledger.write_rejected(
                connection, ((loaded.ledger_id, p) for loaded in bad for p in loaded.file.refusals.problems())
            )
        return done

    def reports(self, file: Incoming, ledger_id: int) -> Reports:
        return Reports(self.cabinet.refused(self.flow_name), file.name, ledger_id)

    def _entry(self, plan: _Plan, landed: Landed, filed_at: datetime | None) -> Entry:
        file, file_id = plan.file, plan.file_id
        rejected = file.refusals.records
        if plan.duplicate_of is not None:
            status, rejected = FileStatus.DUPLICATE, 0
        elif not file.lands or (rejected and rejected == file.records):
            status = FileStatus.REJECTED
        else:
            status = FileStatus.PARTIAL if rejected else FileStatus.LOADED
        return Entry(
            id=file_id,
            flow=self.flow_name,
            name=file.name,
            sha256=file.sha256,
            bytes=file.identity.bytes,
            status=status,
            seen_at=file.seen_at,
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
