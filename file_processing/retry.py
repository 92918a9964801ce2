"""Putting a filed file back into the input folder, to be handled again."""

import shutil
from pathlib import Path

from psycopg import Connection

from file_processing import filing
from file_processing.ledger import Line
from models.errors import TidegateError
from models.ledger import FileStatus


def put_back(connection: Connection, line: Line, input_dir: Path, *, force: bool) -> Path:
    """Put the file of a ledger line back into its flow's folder; the new path.

    A refused file moves. One that was loaded is copied out of the archive, and the ledger
    remembers that its known content is to be loaded once more.

    Raises TidegateError when the line cannot be retried, or its file is no longer there.
    """
    if line.status == FileStatus.DUPLICATE:
        raise TidegateError(f"#{line.id} is a duplicate", hint=f"retry the original: #{line.duplicate_of}")
    if line.status == FileStatus.LOADED and not force:
        raise TidegateError(f"#{line.id} is loaded", hint="--force loads it again")
    if line.superseded_by is not None:
        raise TidegateError(f"#{line.id} was loaded again as #{line.superseded_by}", hint="retry that one")
    if line.filed_as is None:
        raise TidegateError(
            f"#{line.id} has no filed copy: it was loaded from where it lay", hint="call ingest with it again"
        )
    source = Path(line.filed_as)
    if not source.exists():
        raise TidegateError(f"#{line.id}: {source} is no longer there", hint="was it retried or cleaned up before?")
    folder = input_dir / line.flow if line.flow else input_dir
    name = source.name
    if line.status == FileStatus.REJECTED:
        target = filing.move(source, folder, name, line.id, None)
        (source.parent / filing.with_suffix(name, ".errors.json")).unlink(missing_ok=True)
        return target
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f".{line.id}.retry.part"
    shutil.copyfile(source, part)
    with connection.transaction():
        connection.execute("update tidegate.inbound_file set reload = true where id = %s", [line.id])
    target = filing.reserve(folder, name, line.id)
    part.rename(target)
    return target
