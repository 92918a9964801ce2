"""Deduplication: what is to be done with each file of a group, by what the ledger knows of its content."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from file_processing.inbound.read import ReadResult
from services.ledger.inbound import KnownFile


@dataclass(frozen=True, slots=True)
class LoadDecision:
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


def decide(
    files: Iterable[tuple[ReadResult, int]],
    known: Iterable[KnownFile],
    *,
    placed: Mapping[str, bool] = MappingProxyType({}),
    newest: int | None = None,
    last_to_arrive_wins: bool = False,
) -> list[LoadDecision]:
    """A decision for each file, in their order.

    Content that was loaded before is a duplicate. Where the last to arrive wins it may be a way back to an earlier
    state: there only what was loaded last is.

    files: each with its id in the ledger. known: the ledger's lines of these contents.
    placed: of files by their identity, whether they are loaded whatever is known of their content; or never again.
    newest: the line of the file that was loaded last.
    """
    loaded: dict[bytes | None, int] = {}
    unfiled: dict[tuple[bytes | None, str | None], list[KnownFile]] = defaultdict(list)
    for line in known:
        if not line.filed:
            unfiled[line.sha256, line.path].append(line)
        if line.loaded:
            loaded[line.sha256] = line.id
    decisions = []
    for read, file_id in files:
        file = read.file
        before, again = loaded.get(file.sha256), placed.get(file.state.identity.key)
        resumes = None if file.stays else _same_file(unfiled[file.sha256, file.place], file.state.identity.key)
        if resumes is not None:
            made = LoadDecision(read, file_id, resumes=resumes)
        elif before is None:
            made = LoadDecision(read, file_id)
        elif again or (again is None and last_to_arrive_wins and before != newest):
            made = LoadDecision(read, file_id, supersedes=before)
        else:
            made = LoadDecision(read, file_id, duplicate_of=before)
        if made.loads and file.sha256 is not None:
            loaded[file.sha256] = newest = file_id
        decisions.append(made)
    return decisions


def _same_file(unfiled: Iterable[KnownFile], identity: str) -> KnownFile | None:
    """The line of just this file, committed and not yet moved: not of one that lay there under its name before."""
    return next((line for line in unfiled if line.identity in (None, identity)), None)
