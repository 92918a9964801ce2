"""Recovery: what a crash left half-done between the commit of a file and the last step of archiving it."""

import hashlib
import stat
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from datetime import date, timedelta
from pathlib import Path

from loguru import logger
from psycopg import Connection

from file_processing.inbound import error_report
from models.ledger import FileStatus
from services.db import connection as connections
from services.files import durable
from services.files.directory import Entry, Folder, OpenFolders
from services.files.folders import Folders
from services.files.move import Identity
from services.files.names import numbered
from services.ledger import inbound as ledger, locks, queries
from services.ledger.inbound import UnfiledFile
from services.text import printable


def recover(connection: Connection, flow: str | None, folders: Folders, input_folder: Folder | None) -> None:
    """Mark as filed what is found where it belongs, and put reports into place or remove them.

    A file that still lies in the input folder is none of this: it is seen again, and moved.
    input_folder: where connectors put files of this flow, or the observer its canary; what one left there is removed.
    Raises FlowBusy, OSError or psycopg.Error.
    """
    with OpenFolders() as opened:
        if input_folder is not None:
            _remove_abandoned(opened, input_folder)
        with connection.transaction():
            # While we hold it, whoever wrote a report has committed or is dead.
            locks.lock_flow(connection, flow)
            if lines := ledger.unfiled(connection, flow):
                connections.may_be_idle(connection)  # while a long file is hashed
            rejected = folders.rejected_of(flow)
            places = _places(opened, lines, folders, flow)
            for folder in places:
                _remove_abandoned(opened, folder)
            if found := _found(connection, lines, [_entries(opened, folder) for folder in places], rejected.path):
                ledger.mark_filed(connection, found)
                logger.info("{}: {} files were archived before a crash", flow, len(found))
            _recover_reports(connection, rejected)


def _remove_abandoned(opened: OpenFolders, folder: Folder) -> None:
    with suppress(OSError):  # it is not there, or not ours: what is to be recovered lies elsewhere
        durable.remove_abandoned(opened.open(folder))


def _entries(opened: OpenFolders, folder: Folder) -> list[Entry]:
    try:
        return opened.open(folder).entries()
    except FileNotFoundError:
        return []


def _places(opened: OpenFolders, lines: Sequence[UnfiledFile], folders: Folders, flow: str | None) -> list[Folder]:
    """The folders where files of these lines may lie."""
    if not lines:
        return []
    # The database has dated the line, this machine the folder.
    since = (min(line.loaded_on for line in lines) - timedelta(days=1)).isoformat()
    archive = folders.archive_of(flow)
    days = [entry.name for entry in _entries(opened, archive) if entry.name >= since]
    return [folders.rejected_of(flow), *(archive / day for day in days if _is_day(day))]


def _is_day(name: str) -> bool:
    try:
        date.fromisoformat(name)
    except ValueError:
        return False
    return True


def _found(
    connection: Connection, lines: Sequence[UnfiledFile], places: Sequence[Sequence[Entry]], rejected: Path
) -> list[tuple[int, str | None]]:
    """The ids of unfiled lines whose files have left the input folder, each with its file's place."""
    could_be: dict[str, list[UnfiledFile]] = defaultdict(list)
    for line in lines:
        if not _lies_there(line):
            could_be[line.name].append(line)
            could_be[numbered(line.name, line.id)].append(line)
    entries = [entry for place in places for entry in place if printable(entry.name) in could_be]
    taken = ledger.taken_places(connection, (str(entry.path) for entry in entries))
    found: dict[int, str | None] = {}
    for entry in entries:
        path = str(entry.path)
        for line in could_be[printable(entry.name)] if path not in taken else ():
            fits = (entry.path.parent == rejected) == (line.status == FileStatus.REJECTED)
            if line.id not in found and fits and _holds(entry, line):
                found[line.id] = path
                break
    return list(found.items())


def _is_at(path: Path, line: UnfiledFile) -> bool:
    """Whether the line's content lies at a path, as the ledger has it."""
    try:
        with Folder(path.parent).open() as folder:
            return _holds(folder.entry(path.name), line)
    except OSError:
        return False


def _lies_there(line: UnfiledFile) -> bool:
    """Whether the line's file is where it was dropped; a new one under its name is another."""
    if line.identity is None:
        return _is_at(Path(line.path), line)
    path = Path(line.path)
    try:
        with Folder(path.parent).open() as folder:
            return Identity.of(folder.entry(path.name).status()).key == line.identity
    except OSError:
        return False


def _holds(entry: Entry, line: UnfiledFile) -> bool:
    """Whether the line's content lies there."""
    try:
        status = entry.status()
        if status.st_size != line.bytes:
            return False
        if line.sha256 is None:
            return True
        if not stat.S_ISREG(status.st_mode):
            return False
        with open(entry.open_to_read(), "rb") as file:
            return hashlib.file_digest(file, "sha256").digest() == line.sha256
    except OSError:
        return False


def _recover_reports(connection: Connection, folder: Folder) -> None:
    reports = error_report.pending(folder)
    ids = [report.file_id for report in reports]
    lines = {line.id: line for line in queries.by_id(connection, ids)} if ids else {}
    for report in reports:
        line = lines.get(report.file_id)
        if line is None:
            report.discard()
        elif line.filed_at is not None:
            report.publish(Path(line.filed_as).name if line.filed_as else line.name)
