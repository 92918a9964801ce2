"""Deduplication: what is to be done with each file of a group, by what the ledger knows of its content."""

from collections.abc import Iterable
from dataclasses import dataclass

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


def decide(files: Iterable[tuple[ReadResult, int]], known: Iterable[KnownFile]) -> list[LoadDecision]:
    """A decision for each file, in their order.

    files: each with its id in the ledger. known: the ledger's lines of these contents.
    """
    loaded: dict[bytes | None, KnownFile] = {}
    unfiled: dict[tuple[bytes | None, str | None], KnownFile] = {}
    for line in known:
        if not line.filed:
            unfiled[line.sha256, line.path] = line
        if line.loaded:
            loaded[line.sha256] = line
    first: dict[bytes | None, int] = {}
    decisions = []
    for read, file_id in files:
        sha256, place, stays = read.file.sha256, read.file.place, read.file.stays
        before, resumes = loaded.get(sha256), None if stays else unfiled.get((sha256, place))
        if resumes is not None:
            made = LoadDecision(read, file_id, resumes=resumes)
        elif sha256 in first:
            made = LoadDecision(read, file_id, duplicate_of=first[sha256])
        elif before is not None and before.reload:
            made = LoadDecision(read, file_id, supersedes=before.id)
        else:
            made = LoadDecision(read, file_id, duplicate_of=before.id if before else None)
        if made.loads and sha256 is not None:
            first[sha256] = file_id
        decisions.append(made)
    return decisions
