"""Putting a kept file back into the input folder, to be handled again."""

import os
import shutil
from pathlib import Path

from psycopg import Connection

from models.errors import FileGone, RetryLater, TidegateError
from models.ledger import FileStatus
from services.files import directory, durable, move
from services.files.directory import Directory, Entry, Folder
from services.files.folders import Folders
from services.files.move import Identity
from services.files.names import numbered, with_suffix
from services.ledger import queries, replay
from services.ledger.queries import LedgerLine


def kept_rejected(connection: Connection, flow: str | None) -> list[int]:
    """The ledger ids of the rejected files that are still where they were put."""
    return [line.id for line in queries.rejected(connection, flow) if line.filed_as and os.path.lexists(line.filed_as)]


def put_back(connection: Connection, line: LedgerLine, folders: Folders, input_dir: Path, *, force: bool) -> Path:
    """Put the file of a ledger line back into its flow's folder; the new path.

    A rejected file moves. One that was loaded is copied out of the archive, and the ledger
    remembers that the copy is to be loaded although its content is known.

    Raises TidegateError when the line cannot be retried, or its file is no longer there.
    """
    kept_in, name = _kept(line, folders, force=force)
    target = Folder(input_dir) / line.flow if line.flow else Folder(input_dir)
    try:
        with kept_in.open() as here, target.open(make=True) as there:
            source = here.entry(name)
            if line.status == FileStatus.REJECTED:
                return _move_back(connection, line, source, there)
            return _copy_back(connection, line, source, there)
    except (OSError, FileGone, RetryLater) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise TidegateError(f"#{line.id} cannot be put back into {target.path}: {reason}") from error


def _move_back(connection: Connection, line: LedgerLine, source: Entry, folder: Directory) -> Path:
    # Its place may be another rejected file's one day, so the ledger forgets it first.
    with connection.transaction():
        replay.set_place(connection, line.id, None)
    try:
        target = move.move(source, folder, source.name, line.id, None)
    except BaseException:
        with connection.transaction():
            replay.set_place(connection, line.id, line.filed_as)
        raise
    _remove_report(source, line.id)
    return target.path


def _copy_back(connection: Connection, line: LedgerLine, source: Entry, folder: Directory) -> Path:
    with (
        open(source.open_to_read(), "rb") as original,
        durable.Temporary(folder) as copy,
    ):
        shutil.copyfileobj(original, copy.file)
        copy.sync()
        if line.flow is not None:
            replay.place_again(connection, line.flow, Identity.of(os.fstat(copy.file.fileno())).key)
        target = copy.place(source.name, line.id)
    folder.sync()
    return target.path


def _kept(line: LedgerLine, folders: Folders, *, force: bool) -> tuple[Folder, str]:
    """Where the file of a line that may be retried lies, and its name there."""
    if line.status == FileStatus.DUPLICATE:
        raise TidegateError(f"#{line.id} is a duplicate", hint=f"retry the original: #{line.duplicate_of}")
    if line.superseded_by is not None:
        raise TidegateError(f"#{line.id} was loaded again as #{line.superseded_by}", hint="retry that one")
    if line.status == FileStatus.LOADED and not force:
        raise TidegateError(f"#{line.id} is loaded", hint="--force loads it once more")
    if line.filed_as is None:
        raise TidegateError(
            f"no copy of #{line.id} {line.name} is kept: it was put back before, or ingested from where it lay",
            hint="drop the file, or call ingest with it",
        )
    kept_in = folders.rejected_of(line.flow) if line.status == FileStatus.REJECTED else folders.archive_of(line.flow)
    try:
        found = directory.within(kept_in.path, line.filed_as)
    except OSError as error:
        raise TidegateError(
            f"#{line.id}: {line.filed_as} does not lie in {kept_in.path}",
            hint="retry it where the daemon that loaded it runs, or drop the file again",
        ) from error
    if not os.path.lexists(line.filed_as):
        raise TidegateError(f"#{line.id}: {line.filed_as} is no longer there", hint="drop the file again")
    return found


def _remove_report(source: Entry, number: int) -> None:
    """What was said of the file when it was rejected; another file's report may bear the plain name."""
    name = with_suffix(source.name, ".errors.json")
    own = source.folder.entry(numbered(name, number))
    try:
        own.unlink()
    except FileNotFoundError:
        source.folder.entry(name).unlink(missing_ok=True)
