"""Recovery: what a crash left half-done between the commit of a file and the last step of archiving it."""

import hashlib
import stat
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from loguru import logger
from psycopg import Connection

from file_processing.inbound import error_report
from models.ledger import FileStatus
from services.files import durable
from services.files.folders import Folders
from services.files.names import numbered
from services.ledger import inbound as ledger, locks, queries
from services.ledger.inbound import UnfiledFile
from services.text import printable


def recover(connection: Connection, flow: str | None, folders: Folders, input_folder: Path | None) -> None:
    """Mark as filed what is found where it belongs, and put reports into place or remove them.

    A file that still lies in the input folder is none of this: it is seen again, and moved.
    input_folder: where connectors put files of this flow; what one left unfinished there is removed.
    Raises FlowBusy or psycopg.Error.
    """
    if input_folder is not None:
        durable.remove_abandoned(input_folder)
    with connection.transaction():
        # While we hold it, whoever wrote a report has committed or is dead.
        locks.lock_flow(connection, flow)
        lines = ledger.unfiled(connection, flow)
        places = _places(lines, folders, flow)
        for folder in places:
            durable.remove_abandoned(folder)
        if found := _found(connection, lines, places, folders.rejected_of(flow)):
            ledger.mark_filed(connection, found)
            logger.info("{}: {} files were archived before a crash", flow, len(found))
        _recover_reports(connection, folders.rejected_of(flow))


def _places(lines: Sequence[UnfiledFile], folders: Folders, flow: str | None) -> list[Path]:
    """The folders where files of these lines may lie."""
    if not lines:
        return []
    since = min(line.loaded_on for line in lines).isoformat()
    return [folders.rejected_of(flow), *(day for day in _inside(folders.archive_of(flow)) if day.name >= since)]


def _found(
    connection: Connection, lines: Sequence[UnfiledFile], folders: Sequence[Path], rejected: Path
) -> list[tuple[int, str | None]]:
    """The ids of unfiled lines whose files have left the input folder, each with its file's place."""
    could_be: dict[str, list[UnfiledFile]] = defaultdict(list)
    for line in lines:
        if not _holds(Path(line.path), line):
            could_be[line.name].append(line)
            could_be[numbered(line.name, line.id)].append(line)
    places = [path for folder in folders for path in _inside(folder) if printable(path.name) in could_be]
    taken = ledger.taken_places(connection, map(str, places))
    found: dict[int, str | None] = {}
    for path in places:
        for line in could_be[printable(path.name)] if str(path) not in taken else ():
            fits = (path.parent == rejected) == (line.status == FileStatus.REJECTED)
            if line.id not in found and fits and _holds(path, line):
                found[line.id] = str(path)
                break
    return list(found.items())


def _inside(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _holds(path: Path, line: UnfiledFile) -> bool:
    """Whether the line's content lies there."""
    try:
        status = path.lstat()
        if status.st_size != line.bytes or line.sha256 is None:
            return status.st_size == line.bytes
        if not stat.S_ISREG(status.st_mode):
            return False
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest() == line.sha256
    except OSError:
        return False


def _recover_reports(connection: Connection, folder: Path) -> None:
    reports = error_report.pending(folder)
    ids = [report.file_id for report in reports]
    lines = {line.id: line for line in queries.by_id(connection, ids)} if ids else {}
    for report in reports:
        line = lines.get(report.file_id)
        if line is None:
            report.discard()
        elif line.filed_at is not None:
            report.publish(Path(line.filed_as).name if line.filed_as else line.name)
