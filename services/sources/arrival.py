"""How a source's file arrives in the input folder: whole, durable, over no other, and loaded as its source means it."""

import os
from pathlib import Path

from psycopg import Connection

from models.errors import RetryLater
from services.files import durable
from services.files.directory import Folder
from services.files.move import Identity
from services.ledger import replay


def arrive(connection: Connection, folder: Folder, name: str, content: bytes, number: int) -> Path:
    """Put a file into `folder`, which has its flow's name; `number` makes its own name its own.

    A source that goes back to an earlier state sends content that was loaded before, and it is loaded again.
    Raises RetryLater or psycopg.Error.
    """
    try:
        with folder.open(make=True) as opened:
            with durable.Temporary(opened) as file:
                file.file.write(content)
                file.sync()
                replay.place_again(connection, folder.path.name, Identity.of(os.fstat(file.file.fileno())).key)
                path = file.place(name, number).path
            opened.sync()
    except OSError as error:
        raise RetryLater(
            f"{name} cannot be written to {folder.path}: {error.strerror or error}",
            hint="make room or mend the permissions there; it is fetched again",
        ) from error
    return path
