"""Putting a filed file back into the input folder, to be handled again."""

import errno
import os
import shutil
from pathlib import Path

from psycopg import Connection

from file_processing.ledger import Line
from models.errors import TidegateError
from models.ledger import FileStatus
from services import filing


def put_back(connection: Connection, line: Line, input_dir: Path, *, force: bool) -> Path:
    """Put the file of a ledger line back into its flow's folder; the new path.

    A refused file moves. One that was loaded is copied out of the archive, and the ledger
    remembers that its known content is to be loaded once more.

    Raises TidegateError when the line cannot be retried, or its file is no longer there.
    """
    source = _kept(line, force=force)
    folder = input_dir / line.flow if line.flow else input_dir
    part = folder / f".{line.id}.retry.part"
    moves = line.status == FileStatus.REJECTED
    try:
        folder.mkdir(parents=True, exist_ok=True)
        part.unlink(missing_ok=True)
        _bring(source, part, moves=moves)
        with connection.transaction():
            if moves:
                # Its place may be another refused file's one day.
                connection.execute("update tidegate.inbound_file set filed_as = null where id = %s", [line.id])
            else:
                connection.execute("update tidegate.inbound_file set reload = true where id = %s", [line.id])
        target = _publish(part, folder, source.name, line.id)
        if moves:
            source.unlink()
            _remove_report(source, line.id)
    except OSError as error:
        raise TidegateError(f"#{line.id} cannot be put back into {folder}: {error.strerror}") from error
    return target


def _kept(line: Line, *, force: bool) -> Path:
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


def _bring(source: Path, part: Path, *, moves: bool) -> None:
    """Give the file a hidden name in the input folder: a link where it moves, a copy where it stays."""
    if moves:
        try:
            os.link(source, part, follow_symlinks=False)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
        else:
            return
    shutil.copyfile(source, part, follow_symlinks=False)
    if not part.is_symlink():
        with part.open("rb") as file:
            os.fsync(file.fileno())


def _remove_report(source: Path, number: int) -> None:
    """What was said of the file when it was refused; another file's report may bear the plain name."""
    name = filing.with_suffix(source.name, ".errors.json")
    numbered = source.parent / filing.numbered(name, number)
    (numbered if numbered.exists() else source.parent / name).unlink(missing_ok=True)


_NO_LINKS = {errno.EXDEV, errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.ENOSYS}


def _publish(part: Path, folder: Path, name: str, number: int) -> Path:
    """Rename `part` without ever showing the daemon an empty file, or replacing one that waits."""
    for target in (folder / name, folder / filing.numbered(name, number)):
        try:
            os.link(part, target, follow_symlinks=False)
        except FileExistsError:
            continue
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            if os.path.lexists(target):
                continue
            part.rename(target)
            return target
        part.unlink()
        _wake(target)
        return target
    part.unlink()
    raise TidegateError(f"{folder / name} is there already and waits")


def _wake(path: Path) -> None:
    """A link is no event for a watcher, a writer that closes the file is one."""
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC))
    except OSError:
        pass  # taken already, or no regular file: the next scan sees it
