"""What the batches of one file add up to, and the line in the ledger that this makes."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from file_processing.inbound import error_report
from file_processing.inbound.deduplicate import LoadDecision
from file_processing.inbound.encode import EncodedBatch
from file_processing.inbound.error_report import RejectedRecords
from file_processing.inbound.formats.base import Exchange, RecordForm, Rejection
from file_processing.inbound.limits import Limits
from file_processing.inbound.record_errors import RejectedText, rejected_by_database
from file_processing.inbound.upsert import RejectedByDatabase, UpsertCounts
from file_processing.inbound.validate import CheckedBatch
from models.flow import Flow, PartlyBad
from models.ledger import IN_TABLE, FileStatus
from services.ledger.inbound import LedgerEntry
from services.text import storable


@dataclass(slots=True)
class Tally:
    """What the batches of one file add up to, as far as they are taken."""

    rejected: RejectedRecords
    records: int = 0
    drift: Counter[str] | None = None
    form: RecordForm | None = None
    exchange: Exchange | None = None

    def take(self, checked: CheckedBatch | EncodedBatch) -> None:
        self.records += checked.records
        if checked.bad:
            self.rejected.add(checked.rejected)
            self.rejected.count += checked.bad - len(checked.rejected)
        if checked.drift:
            self.drift = self.drift or Counter()
            self.drift.update(checked.drift)
        self.form = checked.batch.form
        self.exchange = checked.batch.exchange

    def reject(self, records: Sequence[RejectedText]) -> None:
        """Of those taken, these the database would not have."""
        self.rejected.add(records)

    @property
    def is_test(self) -> bool:
        return self.exchange is not None and self.exchange.is_test

    def too_many(self, limits: Limits) -> Rejection | None:
        """Why it is rejected as a whole, where too many of its records are."""
        if not limits.too_many(self.rejected.count, self.records):
            return None
        reason, hint = limits.why_too_many(self.rejected.count, self.records)
        return Rejection(reason, hint, exchange=self.exchange)

    def all_bad(self) -> bool:
        """Whether no record of it is good; an empty list is."""
        return bool(self.rejected.count) and self.rejected.count == self.records


def of(made: LoadDecision) -> Tally:
    """What is known of a file before it is loaded: nothing, but where it is only looked through, all that was read."""
    tally = Tally(RejectedRecords(error_report.most_bytes(made.read.file.state.identity.bytes)))
    if not made.loads:
        for checked in made.read.batches:
            tally.take(checked)
    return tally


def reject_by_database(
    tallies: Mapping[int, Tally], portion: Sequence[EncodedBatch], bad: Sequence[RejectedByDatabase]
) -> None:
    """Reject records that the database would not have, each with its text. portion: the batches with all of them."""
    reasons: dict[int, dict[int, str]] = defaultdict(dict)
    for record in bad:
        reasons[record.file_id][record.position] = record.reason
    for checked in portion if bad else ():
        file_id, first = checked.rows.file_id, checked.batch.first
        here = {
            position - first: reason
            for position, reason in reasons[file_id].items()
            if first <= position < first + checked.records
        }
        if here:
            tallies[file_id].reject(rejected_by_database(checked.batch, here))


def entry(made: LoadDecision, tally: Tally, counts: UpsertCounts, *, flow: Flow | None, node: str) -> LedgerEntry:
    """The ledger's line of a file."""
    file, file_id = made.read.file, made.file_id
    status, identity = _status(made, tally), file.state.identity
    told = None if status is FileStatus.DUPLICATE else _error(made.read.rejection, tally, flow)
    return LedgerEntry(
        file_id,
        flow.name if flow else None,
        file.name,
        file.place,
        file.sha256,
        identity.bytes,
        status,
        file.dropped.seen_at,
        node,
        identity.key,
        file.dropped.arrival,
        tally.records,
        inserted=counts.inserted.get(file_id, 0),
        updated=counts.updated.get(file_id, 0),
        unchanged=counts.unchanged.get(file_id, 0),
        stale=counts.stale.get(file_id, 0),
        rejected=0 if status is FileStatus.DUPLICATE else tally.rejected.count,
        error=told and storable(told),
        drift=tally.drift,
        duplicate_of=made.duplicate_of,
        supersedes=made.supersedes if status in IN_TABLE else None,
        filed_at=datetime.now(UTC) if file.stays else None,
    )


def _status(made: LoadDecision, tally: Tally) -> FileStatus:
    if made.duplicate_of is not None:
        return FileStatus.DUPLICATE
    if not made.read.loads or tally.all_bad():
        return FileStatus.REJECTED
    return FileStatus.PARTIAL if tally.rejected.count else FileStatus.LOADED


def _error(rejection: Rejection | None, tally: Tally, flow: Flow | None) -> str | None:
    if rejection is not None:
        where = f" at line {rejection.line}" if rejection.line else ""
        return f"{rejection.reason}{where}"
    first = next(tally.rejected.errors(), None) if tally.rejected.count else None
    if first is None:
        return None
    others = tally.rejected.count - 1
    more = f" (and {others} more record{'s' * (others > 1)})" if others else ""
    nothing = "nothing loaded: " if flow is not None and flow.partly_bad is PartlyBad.ALL_OR_NOTHING else ""
    return f"{nothing}record {first['record']} {first['pointer']}: {first['reason']}{more}"
