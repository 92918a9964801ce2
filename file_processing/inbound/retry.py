"""Putting a kept file back into the input folder, to be handled again."""

import os
import shutil
from pathlib import Path

from psycopg import Connection

from models.errors import FileGone, RetryLater, TidegateError
from models.ledger import FileStatus
from services.files import durable, move
from services.files.names import numbered, with_suffix
from services.ledger import queries, replay
from services.ledger.queries import LedgerLine


def kept_rejected(connection: Connection, flow: str | None) -> list[int]:
    """The ledger ids of the rejected files that are still where they were put."""
    return [line.id for line in queries.rejected(connection, flow) if line.filed_as and os.path.lexists(line.filed_as)]


def put_back(connection: Connection, line: LedgerLine, input_dir: Path, *, force: bool) -> Path:
    """Put the file of a ledger line back into its flow's folder; the new path.

    A rejected file moves. One that was loaded is copied out of the archive, and the ledger
    remembers that its known content is to be loaded once more.

    Raises TidegateError when the line cannot be retried, or its file is no longer there.
    """
    source = _kept(line, force=force)
    folder = input_dir / line.flow if line.flow else input_dir
    try:
        if line.status == FileStatus.REJECTED:
            return _move_back(connection, line, source, folder)
        with connection.transaction():
            replay.reload_file(connection, line.id)
        return _copy_back(source, folder, line.id)
    except (OSError, FileGone, RetryLater) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise TidegateError(f"#{line.id} cannot be put back into {folder}: {reason}") from error


def _move_back(connection: Connection, line: LedgerLine, source: Path, folder: Path) -> Path:
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
    return target


def _copy_back(source: Path, folder: Path, number: int) -> Path:
    with source.open("rb") as original, durable.Temporary(folder) as copy:
        shutil.copyfileobj(original, copy.file)
        copy.sync()
        target = copy.place(source.name, number)
    durable.sync_folder(folder)
    return target


def _kept(line: LedgerLine, *, force: bool) -> Path:
    """The file of a line that may be retried."""
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
    source = Path(line.filed_as)
    if not os.path.lexists(source):
        raise TidegateError(f"#{line.id}: {source} is no longer there", hint="drop the file again")
    return source


def _remove_report(source: Path, number: int) -> None:
    """What was said of the file when it was rejected; another file's report may bear the plain name."""
    name = with_suffix(source.name, ".errors.json")
    own = source.parent / numbered(name, number)
    (own if own.exists() else source.parent / name).unlink(missing_ok=True)
