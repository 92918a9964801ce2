"""Deduplication: what is to be done with each file of a group, by what the ledger knows of its content."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from psycopg import Connection

from file_processing.inbound.intake import InboundFile
from file_processing.inbound.read import ReadResult
from models.flow import Flow
from services.ledger import inbound as ledger
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

    def __init__(self, flow: Flow | None) -> None:
        self._flow = flow
        self._since: int | None = None

    def look(self, connection: Connection, files: Iterable[InboundFile], *, new_ids: int) -> Look:
        """Ask the ledger of these files; what somebody has placed to be loaded again is taken with it."""
        files = list(files)
        return ledger.look(
            connection,
            self._flow.name if self._flow else None,
            new_ids=new_ids,
            contents={file.sha256 for file in files if file.sha256 is not None},
            paths=[file.place for file in files if file.sha256 is None],
            identities=[file.state.identity.key for file in files],
        )

    def decide(self, connection: Connection, look: Look, files: Sequence[tuple[ReadResult, int]]) -> list[LoadDecision]:
        """A decision for each file, in their order. files: each with its id in the ledger."""
        self._since = self._since or files[0][1]
        if unfiled := [line.id for line in look.known if not line.filed]:
            ledger.confirm(connection, unfiled)
        if self._flow is None or not self._flow.last_to_arrive_wins:
            return _decided(files, look)
        newest = ledger.newest(connection, self._flow.name) if look.known else None
        return _decided(files, look, _Newest(newest or 0, self._since))


class _Newest(NamedTuple):
    """Where the last to arrive wins: the line of the file that was loaded last, and the first one of this run."""

    id: int
    since: int


def _decided(files: Iterable[tuple[ReadResult, int]], look: Look, newest: _Newest | None = None) -> list[LoadDecision]:
    """Content that was loaded before is a duplicate, unless it is a way back to an earlier state.

    A file that was placed is loaded whatever is known of its content; or never again.
    """
    loaded: dict[bytes | None, int] = {}
    unfiled: dict[tuple[bytes | None, str | None], list[KnownFile]] = defaultdict(list)
    for line in look.known:
        if not line.filed:
            unfiled[line.sha256, line.path].append(line)
        if line.loaded:
            loaded[line.sha256] = line.id
    decisions = []
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
        elif again or (again is None and _is_way_back(file, before, newest)):
            made = LoadDecision(read, file_id, supersedes=before)
        else:
            made = LoadDecision(read, file_id, duplicate_of=before)
        if made.loads and file.sha256 is not None:
            loaded[file.sha256] = file_id
            newest = newest and newest._replace(id=file_id)
        decisions.append(made)
    return decisions


def _is_way_back(file: InboundFile, before: int, newest: _Newest | None) -> bool:
    """Whether known content, which is not what was loaded last, is the state that holds from now on.

    Of files that are given and stay, only those behind a new one are: going through an archive once more leaves the
    table as it is.
    """
    return newest is not None and before != newest.id and (not file.stays or newest.id >= newest.since)


def _same_file(unfiled: Iterable[KnownFile], identity: str) -> KnownFile | None:
    """The line of just this file, committed and not yet moved: not of one that lay there under its name before."""
    return next((line for line in unfiled if line.identity in (None, identity)), None)
