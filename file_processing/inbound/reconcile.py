"""Reconciling: what differs between the ledger and the folders, and files put back whose line in the ledger is gone.

A line goes where the database goes back behind what was answered: to a standby that did not have everything, or to a
backup.
"""

import hashlib
import os
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from psycopg import Connection

from file_processing.inbound.adhoc import came
from flows import Flows
from models.errors import FileGone, RetryLater, TidegateError
from services.files import directory, move
from services.files.directory import Entry, Folder, LeadsOut
from services.files.folders import Folders
from services.files.names import numbered, with_suffix
from services.ledger import reconcile as ledger
from services.ledger.reconcile import FoundFile, Kept, UnknownFile
from services.observer.scan import scan
from services.text import printable

_REPORT = re.compile(r"\.errors\.json$|\.rejected\.[a-z0-9]+(\.gz)?$")
"""How the names of reports end, and of bad records, which lie beside rejected files."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A file of which the ledger knows nothing.

    put_back: where it lies now, if it was. left: why it cannot be put back.
    """

    file: UnknownFile
    put_back: Path | None = None
    left: str | None = None


@dataclass(frozen=True, slots=True)
class Reconciler:
    """Compares the folders of one site with the ledger, safely beside a running daemon: it never writes to the ledger.

    chosen: the flows to look at; None for the files of no flow.
    """

    flows: Flows
    chosen: Sequence[str | None]
    folders: Folders
    input_dir: Path
    output_dir: Path

    def found(self) -> Iterator[FoundFile]:
        """All that lies in the folders of these flows. Raises TidegateError where one cannot be read."""
        for flow in self.chosen:
            archive = self.folders.archive_of(flow).path
            for path in _files(archive):
                day, moment, _ = came(path)
                if path.parent.parent == archive and day:
                    yield from _found(Kept.ARCHIVE, flow, path, path.name, day, moment)
            for path in _files(self.folders.rejected_of(flow).path):
                if not _REPORT.search(path.name):
                    _, moment, _ = came(path)
                    yield from _found(Kept.REJECTED, flow, path, path.name, "", moment)
            if flow is not None:
                output = self.output_dir / flow
                for path in _files(output):
                    yield from _found(Kept.OUTPUT, flow, path, str(path.relative_to(output)), "", 0)

    def differences(self, connection: Connection, *, mend: bool) -> Iterator[Difference]:
        """The files of which the ledger knows nothing, by flow and in the order in which they came.

        connection: in autocommit mode; it was told what was found.
        mend: put files that were archived or rejected back into the input folder, so that they are handled again.
        """
        for page in ledger.unknown(connection):
            known = _known_by_content(connection, page)
            for file in page:
                if file.number in known:
                    continue
                if not mend or file.kind is Kept.OUTPUT:
                    yield Difference(file)
                else:
                    yield self._mended(connection, file)

    def _mended(self, connection: Connection, file: UnknownFile) -> Difference:
        flow = self.flows.get(file.flow) if file.flow else None
        if flow is not None and flow.last_to_arrive_wins and ledger.is_behind(connection, file):
            archive = self.folders.archive_of(file.flow).path
            return Difference(
                file,
                left=f"the last file of {file.flow} that comes wins, and newer ones are loaded: stop the daemons, and "
                f"load all of them in their order: python main.py ingest {archive}",
            )
        try:
            return Difference(file, put_back=self._put_back(file))
        except (OSError, FileGone, RetryLater) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            return Difference(file, left=f"it cannot be put back: {reason}")

    def _put_back(self, file: UnknownFile) -> Path:
        target = Folder(self.input_dir) / file.flow if file.flow else Folder(self.input_dir)
        with self._kept_in(file).open() as here, target.open(make=True) as there:
            source = here.entry(file.name)
            moved = move.move(source, there, file.name, file.came, None)
            if file.kind is Kept.REJECTED:
                here.entry(with_suffix(file.name, ".errors.json")).unlink(missing_ok=True)
            there.sync()
        return moved.path

    def _kept_in(self, file: UnknownFile) -> Folder:
        is_archived = file.kind is Kept.ARCHIVE
        root = self.folders.archive_of(file.flow) if is_archived else self.folders.rejected_of(file.flow)
        return directory.within(root.path, file.place)[0]


def _files(folder: Path) -> Iterator[Path]:
    if folder.is_dir():
        for listed in scan(str(folder), failed=_unreadable):
            yield Path(listed.path)


def _unreadable(folder: str, error: OSError) -> None:
    raise TidegateError(f"{folder} cannot be read: {error.strerror}")


def _found(kind: Kept, flow: str | None, path: Path, name: str, day: str, moment: int) -> Iterator[FoundFile]:
    try:
        size = os.lstat(path).st_size
    except FileNotFoundError:
        return  # moved meanwhile
    yield FoundFile(kind, flow, printable(str(path)), printable(name), size, day, moment)


def _known_by_content(connection: Connection, page: Iterable[UnknownFile]) -> set[int]:
    """The files of which there is a line that does not say, or no longer, where its file lies."""
    names: dict[int, str] = {}
    contents: dict[int, tuple[str | None, bytes]] = {}
    for file in page:
        if file.kind is not Kept.OUTPUT and (digest := _digest(Path(file.place))) is not None:
            names[file.number] = file.name
            contents[file.number] = (file.flow, digest)
    lines = ledger.lines_of(connection, contents) if contents else []
    return {number for number, line, name in lines if names[number] in (printable(name), numbered(name, line))}


def _digest(path: Path) -> bytes | None:
    """The SHA-256 of a regular file, None of what is none or gone."""
    try:
        with Folder(path.parent).open() as folder:
            entry: Entry = folder.entry(path.name)
            if not stat.S_ISREG(entry.status().st_mode):
                return None
            with open(entry.open_to_read(), "rb") as content:
                return hashlib.file_digest(content, "sha256").digest()
    except (FileNotFoundError, LeadsOut):
        return None
