"""Loading: a group of files of one flow into its table and the ledger, in one transaction."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from psycopg import Connection

from file_processing.inbound import answer, error_report, tally as tallying
from file_processing.inbound.claim import InOtherHands, claim
from file_processing.inbound.deduplicate import Deduplicator, LoadDecision
from file_processing.inbound.encode import ColumnTypes, EncodedBatch, EncodedRows, Encoder
from file_processing.inbound.error_report import PendingReport
from file_processing.inbound.formats.base import Rejection
from file_processing.inbound.intake import InboundFile, LeftFile, Wait
from file_processing.inbound.limits import Limits
from file_processing.inbound.read import ReadResult, unexpected
from file_processing.inbound.routing import DroppedFile
from file_processing.inbound.tally import Tally
from file_processing.inbound.upsert import NO_ROWS, RejectedByDatabase, Upsert, UpsertCounts
from models.errors import FileGone, RejectFile, RetryLater, StopDaemon
from models.flow import Flow, PartlyBad
from models.ledger import FileStatus
from services.db import migrate, sqlstate
from services.db.connection import KeepAlive
from services.files.directory import Folder
from services.ledger import arrival, inbound as ledger, interchanges
from services.ledger.arrival import Arrivals
from services.ledger.inbound import LedgerEntry, Look

ROWS_AT_ONCE = 50_000
"""Rows that one upsert takes; more than a batch of text holds, so that small files share one."""

ROWS_AS_READ = 8_000
"""Of a long file one upsert takes fewer, children among them: the database is at these while the next are read."""

PORTIONS_AS_READ = 32
"""So many portions of a long file are that small: each is a savepoint, and more than 64 cost every other session."""

Progress = Callable[[DroppedFile, int], None]
_Encoded = Callable[[LoadDecision], Iterator[EncodedBatch]]
_Upserting = Callable[[Sequence[EncodedRows]], tuple[UpsertCounts, list[RejectedByDatabase]]]


class CommittedFile(NamedTuple):
    """A file of which the ledger has a line.

    entry: the line, where it is new; none of a file that was committed before, and only has to be archived.
    report: what is to be put beside it, where it is rejected, wholly or in part.
    """

    file: InboundFile
    ledger_id: int
    status: FileStatus
    entry: LedgerEntry | None
    report: PendingReport | None = None


@dataclass(frozen=True, slots=True)
class Loaded:
    """What became of a group of files."""

    committed: tuple[CommittedFile, ...]
    left: tuple[LeftFile, ...]


@dataclass(frozen=True, slots=True)
class _Verdict:
    """Nothing of a file loads, which turned out while it was loaded; its batches may not come again."""

    tally: Tally
    rejection: Rejection | None


class _StartOver(Exception):
    """The transaction is to be tried again, without these files, or without loading these."""

    def __init__(
        self, *, left: Mapping[int, LeftFile] | None = None, verdicts: Mapping[int, _Verdict] | None = None
    ) -> None:
        super().__init__()
        self.left = left or {}
        self.verdicts = verdicts or {}


@dataclass(frozen=True, slots=True)
class Loader:
    """Loads files of one flow; without flow and upsert, files that no flow takes, which are rejected.

    reports: the folder for the reports of rejected files.
    progress: told how many bytes of a file are read, while its records are taken; again when they are taken again.
    """

    flow: Flow | None
    upsert: Upsert | None
    deduplicator: Deduplicator
    reports: Folder
    node: str
    limits: Limits
    progress: Progress = lambda _file, _bytes: None

    @property
    def flow_name(self) -> str | None:
        return self.flow.name if self.flow else None

    @property
    def all_or_nothing(self) -> bool:
        return self.flow is not None and self.flow.partly_bad is PartlyBad.ALL_OR_NOTHING

    def load(self, connection: Connection, reads: Sequence[ReadResult], *, in_order: bool = True) -> Loaded:
        """Load a group of files and write their ledger lines, in one transaction.

        in_order: no other file of the flow that came before one of them is still to be loaded by this daemon.

        A file is left that is gone or changed, that others have in hand, that cannot be read to its end, or whose
        report cannot be written; then the others load without it.

        Raises RetryLater (FlowBusy, RestFlow) or psycopg.Error when the database cannot, and whatever else goes wrong
        with a group; then nothing of it is loaded. A file alone that goes wrong is rejected.
        """
        reads = sorted(reads, key=lambda read: read.file.arrival)
        busy, ids = list[LeftFile](), list[int]()
        left, verdicts = dict[int, LeftFile](), dict[int, _Verdict]()
        tallies: dict[int, Tally] = {}
        while reads:
            try:
                with sqlstate.transaction_of_a_flow(connection):
                    likely_alone = in_order and self.deduplicator.was_alone
                    is_alone = claim(connection, self.flow_name, reads, wait=bool(ids), likely_alone=likely_alone)
                    asked = [read.file for number, read in enumerate(reads) if not (ids and ids[number] in left)]
                    look = self.deduplicator.look(connection, asked, new_ids=0 if ids else len(reads))
                    migrate.stop_if_newer(look.revision)
                    ids = ids or look.ids  # kept when it starts over: a rejection may name one of them
                    judged = ((_judged(read, verdicts.get(n)), n) for read, n in zip(reads, ids, strict=True))
                    wanted = [(read, number) for read, number in judged if number not in left]
                    decisions = self._decide(connection, look, wanted, in_order and look.alone)
                    tallies = {
                        made.file_id: found.tally if (found := verdicts.get(made.file_id)) else tallying.of(made)
                        for made in decisions
                    }
                    are_last = is_alone and self.deduplicator.are_last(connection, look, decisions)
                    counts = self._upsert(connection, decisions, tallies, in_order and look.alone, are_last)
                    committed = self._write_down(connection, decisions, tallies, counts)
                return Loaded(tuple(committed), (*left.values(), *busy))
            except InOtherHands as found:
                reads, others = found.among(reads)
                busy += others
            except _StartOver as found:
                left |= found.left
                verdicts |= found.verdicts
            except Exception as error:
                fault = sqlstate.translate(error) or error
                alone = len(reads) == 1 and tallies.keys() - verdicts
                if not alone or isinstance(fault, RetryLater | StopDaemon):
                    raise
                verdicts |= {number: _Verdict(tallies[number], _rejection(reads[0], fault)) for number in alone}
        return Loaded((), tuple(busy))

    def _decide(
        self, connection: Connection, look: Look, wanted: Sequence[tuple[ReadResult, int]], in_order: bool
    ) -> list[LoadDecision]:
        decisions = self.deduplicator.decide(connection, look, wanted, in_order=in_order) if wanted else []
        # Asked after the ledger: a file that another process archived before is gone by now.
        looks = {number: _not_in_place(read.file) for read, number in wanted}
        if left := {number: file for number, file in looks.items() if file is not None}:
            raise _StartOver(left=left)
        return decisions

    def _upsert(
        self,
        connection: Connection,
        decisions: Sequence[LoadDecision],
        tallies: Mapping[int, Tally],
        in_order: bool,
        are_last: bool,
    ) -> UpsertCounts:
        """Raises _StartOver when files turn out to be rejected after some of their rows were upserted."""
        counts, decisions = NO_ROWS, [made for made in decisions if made.loads]
        arrivals = Arrivals({made.file_id: made.read.file.arrival for made in decisions}, in_order, are_last)
        if self.flow is not None and self.upsert is not None and decisions:
            with sqlstate.of_a_flow():
                target = self.upsert.begin(connection)
            encoded = partial(_encoded, Encoder(self.flow, target.types), target.types)
            upsert = partial(self.upsert.upsert, connection, target, arrivals=arrivals)
            for portion in self._portions(decisions, encoded, tallies, KeepAlive(connection)):
                counts += self._upsert_portion(upsert, portion, tallies)
        verdicts = {made.file_id: self._verdict(connection, made, tallies[made.file_id]) for made in decisions}
        if found := {file_id: verdict for file_id, verdict in verdicts.items() if verdict is not None}:
            raise _StartOver(verdicts=found)
        return counts

    def _upsert_portion(
        self, upsert: _Upserting, portion: Sequence[EncodedBatch], tallies: Mapping[int, Tally]
    ) -> UpsertCounts:
        with sqlstate.of_a_flow():
            blocks = [batch.rows for batch in portion if not tallies[batch.rows.file_id].is_test]
            counts, bad = upsert(blocks)
        tallying.reject_by_database(tallies, portion, bad)
        found = {batch.rows.file_id: tallies[batch.rows.file_id].too_many(self.limits) for batch in portion}
        if verdicts := {file_id: _Verdict(tallies[file_id], why) for file_id, why in found.items() if why}:
            raise _StartOver(verdicts=verdicts)
        return counts

    def _verdict(self, connection: Connection, made: LoadDecision, tally: Tally) -> _Verdict | None:
        """Why nothing of a file may load after all."""
        if self.all_or_nothing and tally.rejected.count:
            return _Verdict(tally, None)
        if tally.exchange is None or tally.is_test:
            return None  # a test takes no reference: the real one may have the same
        if tally.all_bad():
            return None  # nothing of it loads: it may come again, mended, under the same reference
        earlier = interchanges.claim(connection, tally.exchange.reference, made.file_id, made.supersedes)
        return None if earlier is None else _Verdict(tally, Rejection.of(tally.exchange.repeated(earlier)))

    def _portions(
        self,
        decisions: Sequence[LoadDecision],
        encoded: _Encoded,
        tallies: Mapping[int, Tally],
        keep_alive: KeepAlive,
    ) -> Iterator[list[EncodedBatch]]:
        """What the files hold, as much at a time as one upsert takes; each is used before the next is asked for."""
        portion: list[EncodedBatch] = []
        rows = portions = 0
        for made in decisions:
            tally = tallies[made.file_id]
            for batch in _taken(made, encoded, tally):
                keep_alive.show()
                self.progress(made.read.file.dropped, made.read.file.bytes_read)
                if self.all_or_nothing and tally.rejected.count:
                    continue  # it is only read to its end, so that every reason is told
                portion.append(batch)
                rows += max(batch.rows.all, batch.records)  # rejected ones take memory too
                is_small = made.read.long is not None and portions < PORTIONS_AS_READ
                if rows >= (ROWS_AS_READ if is_small else ROWS_AT_ONCE):
                    yield portion
                    portion.clear()  # before more is taken: one portion stands in memory at a time
                    rows, portions = 0, portions + 1
        if portion:
            yield portion

    def _write_down(
        self,
        connection: Connection,
        decisions: Sequence[LoadDecision],
        tallies: Mapping[int, Tally],
        counts: UpsertCounts,
    ) -> list[CommittedFile]:
        committed = [self._committed(made, tallies[made.file_id], counts) for made in decisions]
        committed = self._with_reports(committed, decisions, tallies)
        ledger.write(connection, [done.entry for done in committed if done.entry])
        if self.flow is not None and self.flow.last_to_arrive_wins:
            again = [(made.duplicate_of, made.read.file.arrival.at) for made in decisions if made.duplicate_of]
            arrival.came_again(connection, again)
        bad = [done for done in committed if done.entry and done.entry.rejected]
        if bad:
            errors = ((done.ledger_id, error) for done in bad for error in tallies[done.ledger_id].rejected.errors())
            ledger.write_rejected(connection, errors)
        for made, done in zip(decisions, committed, strict=True):
            if self.flow is not None and done.entry and done.status is not FileStatus.DUPLICATE:
                answer.seal(connection, self.flow.name, self.node, made, tallies[made.file_id])
        return committed

    def _committed(self, made: LoadDecision, tally: Tally, counts: UpsertCounts) -> CommittedFile:
        if made.resumes is not None:
            report = error_report.pending_of(self.reports, made.resumes.id)
            return CommittedFile(made.read.file, made.resumes.id, made.resumes.status, None, report)
        entry = tallying.entry(made, tally, counts, flow=self.flow, node=self.node)
        return CommittedFile(made.read.file, entry.id, entry.status, entry)

    def _with_reports(
        self, committed: Sequence[CommittedFile], decisions: Sequence[LoadDecision], tallies: Mapping[int, Tally]
    ) -> list[CommittedFile]:
        """The files, those that are rejected with their reports, which are on disk then."""
        reported: list[CommittedFile] = []
        left: dict[int, LeftFile] = {}
        for done, made in zip(committed, decisions, strict=True):
            report, tally = done.report, tallies[made.file_id]
            if done.entry is not None and done.status in (FileStatus.PARTIAL, FileStatus.REJECTED):
                try:
                    report = error_report.write(
                        self.reports, done.entry, tally.rejected, tally.form, made.read.rejection
                    )
                except OSError as error:
                    wait = Wait(
                        f"its report cannot be written: {error}", "make room in REJECTED_DIR; it is tried again"
                    )
                    left[made.file_id] = LeftFile(done.file.dropped, wait)
            reported.append(done if report is done.report else done._replace(report=report))
        if left:
            for done in reported:
                if done.entry is not None and done.report is not None:
                    done.report.discard()
            raise _StartOver(left=left)
        return reported


def _rejection(read: ReadResult, error: Exception) -> Rejection:
    return Rejection.of(error) if isinstance(error, RejectFile) else unexpected(read.file, error)


def _judged(read: ReadResult, verdict: _Verdict | None) -> ReadResult:
    return read if verdict is None else read.not_loading(verdict.rejection)


def _encoded(encoder: Encoder, types: ColumnTypes, made: LoadDecision) -> Iterator[EncodedBatch]:
    """The batches of a file, encoded: by who reads it, where it is long."""
    if made.read.long is not None:
        return made.read.long.encoded(types, made.file_id)
    return (encoder.encode(checked, made.file_id) for checked in made.read.batches)


def _taken(made: LoadDecision, encoded: _Encoded, tally: Tally) -> Iterator[EncodedBatch]:
    """The batches of a file, counted. Raises _StartOver."""
    try:
        for batch in encoded(made):
            tally.take(batch)
            yield batch
    except RejectFile as error:
        raise _StartOver(verdicts={made.file_id: _Verdict(tally, Rejection.of(error))}) from None
    except (FileGone, RetryLater) as error:
        raise _StartOver(left={made.file_id: LeftFile.because(made.read.file.dropped, error)}) from None


def _not_in_place(file: InboundFile) -> LeftFile | None:
    try:
        if file.state.fits(file.entry.status()):
            return None
    except OSError:
        return LeftFile(file.dropped)
    return LeftFile(file.dropped, Wait("it changed after it was read", "it is read again when it is at rest"))
