"""What a crash left half-done between the commit of a file and the last step of filing it."""

import hashlib
import stat
from collections import defaultdict
from pathlib import Path

from loguru import logger
from psycopg import Connection

from file_processing import ledger, report, routing
from file_processing.ledger import Unfiled
from file_processing.report import Reports
from models.ledger import FileStatus
from services import filing
from services.filing import Cabinet


def heal(connection: Connection, flow: str | None, cabinet: Cabinet) -> None:
    """Mark as filed what is found filed, and put reports into place or remove them.

    A file that still lies in the input folder is none of this: it is seen again, and moved.
    Raises FlowBusy or psycopg.Error.
    """
    with connection.transaction():
        # While we hold it, whoever wrote a report has committed or is dead.
        ledger.lock_flow(connection, flow)
        if places := _found(connection, flow, cabinet):
            ledger.mark_filed(connection, places)
            logger.info("{}: {} files were filed before a crash", flow, len(places))
        _heal_reports(connection, cabinet.refused(flow))


def _found(connection: Connection, flow: str | None, cabinet: Cabinet) -> list[tuple[int, str | None]]:
    """The ids of unfiled lines whose files have left the input folder, each with its file's place."""
    lines = [line for line in ledger.unfiled(connection, flow) if not _holds(Path(line.path), line)]
    if not lines:
        return []
    could_be: dict[str, list[Unfiled]] = defaultdict(list)
    for line in lines:
        could_be[line.name].append(line)
        could_be[filing.numbered(line.name, line.id)].append(line)
    since = min(line.loaded_on for line in lines).isoformat()
    days = (day for day in _inside(cabinet.archive_of(flow)) if day.name >= since)
    folders = [cabinet.refused(flow), *days]
    places = [path for folder in folders for path in _inside(folder) if routing.printable(path.name) in could_be]
    taken = ledger.claimed(connection, map(str, places))
    found: dict[int, str | None] = {}
    for path in places:
        refused = path.parent == cabinet.refused(flow)
        for line in could_be[routing.printable(path.name)] if str(path) not in taken else ():
            if line.id not in found and refused == (line.status == FileStatus.REJECTED) and _holds(path, line):
                found[line.id] = str(path)
                break
    return list(found.items())


def _inside(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _holds(path: Path, line: Unfiled) -> bool:
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


def _heal_reports(connection: Connection, folder: Path) -> None:
    hidden = report.hidden(folder)
    lines = {line.id: line for line in ledger.by_id(connection, sorted(hidden))} if hidden else {}
    for file_id in sorted(hidden):
        line = lines.get(file_id)
        reports = Reports(folder, "", file_id)
        if line is None:
            reports.discard()
        elif line.filed_at is not None:
            reports.publish(Path(line.filed_as).name if line.filed_as else line.name)
