"""Deduplication: what is to be done with each file of a group, by what the ledger knows of its content."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from psycopg import Connection

from file_processing.inbound.intake import InboundFile
from file_processing.inbound.read import ReadResult
from models.flow import Flow
from models.ledger import FileStatus
from services.ledger import arrival, inbound as ledger
from services.ledger.inbound import KnownFile, Look


class LoadDecision(NamedTuple):
    """What is to be done with a file.

    file_id: reserved for its line in the ledger, and left unused where it `resumes` the line it has already, as it
        only remains to be archived.
    duplicate_of: the file that holds the same. supersedes: the one whose place it takes, loaded again.
    """

    read: ReadResult
    file_id: int
    resumes: KnownFile | None = None
    duplicate_of: int | None = None
    supersedes: int | None = None

    @property
    def loads(self) -> bool:
        return self.read.loads and self.resumes is None and self.duplicate_of is None


class Deduplicator:
    """Decides for the files of one flow; without flow, for those that no flow takes."""

    def __init__(self, flow: Flow | None, node: str) -> None:
        self._flow = flow
        self._node = node
        self._since: int | None = None
        self.was_alone = False  # at the last look
        self._newest: tuple[int, int] | None = None

    def look(self, connection: Connection, files: Iterable[InboundFile], *, new_ids: int) -> Look:
        """Ask the ledger of these files; what somebody has placed to be loaded again is taken with it."""
        files = list(files)
        look = ledger.look(
            connection,
            self._flow.name if self._flow else None,
            self._node,
            new_ids=new_ids,
            contents={file.sha256 for file in files if file.sha256 is not None},
            paths=[file.place for file in files if file.sha256 is None],
            identities=[file.state.identity.key for file in files],
        )
        self.was_alone = look.alone
        return look

    def are_last(self, connection: Connection, look: Look, decisions: Sequence[LoadDecision]) -> bool:
        """Whether no file of the flow is loaded that came after those that load; asked by who loads alone in it.

        What was found is remembered as long as nobody else writes a line.
        """
        arrivals = [made.read.file.dropped.arrival for made in decisions if made.loads]
        if self._flow is None or not arrivals:
            return False
        if self._newest is None or self._newest[0] != look.last_id:
            self._newest = look.last_id, arrival.newest(connection, self._flow.name)
        newest = self._newest[1]
        self._newest = max(made.file_id for made in decisions), max(newest, *arrivals)
        return newest < min(arrivals)

    def decide(
        self, connection: Connection, look: Look, files: Sequence[tuple[ReadResult, int]], *, in_order: bool
    ) -> list[LoadDecision]:
        """A decision for each file, in their order.

        files: each with its id in the ledger, in the order in which they came.
        in_order: no other file of the flow that came before one of them is still to be loaded, or being loaded.
        """
        self._since = self._since or files[0][1]
        if unfiled := [line.id for line in look.known if not line.filed]:
            ledger.confirm(connection, unfiled)
        flow = self._flow
        if flow is None or not flow.last_to_arrive_wins:
            return _decided(files, look)

        def came_between(line: KnownFile, file: InboundFile) -> bool:
            # Going through an archive once more leaves the table as it is; what is new in it counts.
            since = self._since if file.stays else None
            known = arrival.came_between(connection, flow.name, line.arrival, file.arrival, since or 0)
            return known or not (in_order or file.stays)

        return _decided(files, look, came_between)


def _decided(
    files: Iterable[tuple[ReadResult, int]],
    look: Look,
    came_between: Callable[[KnownFile, InboundFile], bool] | None = None,
) -> list[LoadDecision]:
    """Content that was loaded before is a duplicate, unless it is a way back to an earlier state.

    A file that was placed is loaded whatever is known of its content; or never again.
    came_between: where the last to arrive wins, whether another file may have come between the line of some content
        and its repetition.
    """
    loaded: dict[bytes | None, KnownFile] = {}
    unfiled: dict[tuple[bytes | None, str | None], list[KnownFile]] = defaultdict(list)
    for line in look.known:
        if not line.filed:
            unfiled[line.sha256, line.path].append(line)
        if line.loaded:
            loaded[line.sha256] = line
    decisions = []
    last: int | None = None  # of this group, the last that loads
    for read, file_id in files:
        file = read.file
        before = loaded.get(file.sha256)
        again = look.placed.get(file.state.identity.key) if look.placed else None
        resumes = None
        if unfiled and not file.stays:
            resumes = _same_file(unfiled[file.sha256, file.place], file.state.identity.key)
        if resumes is not None:
            made = LoadDecision(read, file_id, resumes=resumes)
        elif before is None:
            made = LoadDecision(read, file_id)
        elif again or (again is None and came_between and _is_way_back(file, before, last, came_between)):
            made = LoadDecision(read, file_id, supersedes=before.id)
        else:
            made = LoadDecision(read, file_id, duplicate_of=before.id)
        if made.loads:
            last = file_id
            if file.sha256 is not None:
                loaded[file.sha256] = _as_known(file, file_id)
        decisions.append(made)
    return decisions


def _is_way_back(
    file: InboundFile, before: KnownFile, last: int | None, came_between: Callable[[KnownFile, InboundFile], bool]
) -> bool:
    """Whether known content came again behind another file, and is the state that holds from then on."""
    if before.arrival >= file.arrival:
        return False
    return (last is not None and last != before.id) or came_between(before, file)


def _as_known(file: InboundFile, file_id: int) -> KnownFile:
    """The line that a file of this group will have."""
    identity, arrived_at = file.state.identity.key, file.dropped.arrival
    return KnownFile(file_id, file.place, file.sha256, FileStatus.LOADED, True, identity, file.name, arrived_at)


def _same_file(unfiled: Iterable[KnownFile], identity: str) -> KnownFile | None:
    """The line of just this file, committed and not yet moved: not of one that lay there under its name before."""
    return next((line for line in unfiled if line.identity in (None, identity)), None)
