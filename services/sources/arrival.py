"""How a source's file arrives in the input folder: whole, durable, over no other."""

from pathlib import Path

from models.errors import RetryLater
from services.files import durable
from services.files.directory import Folder


def arrive(folder: Folder, name: str, content: bytes, number: int) -> Path:
    """Put a file into `folder`; `number` makes its name its own. Raises RetryLater."""
    try:
        with folder.open(make=True) as opened:
            return durable.place(opened, name, content, number).path
    except OSError as error:
        raise RetryLater(
            f"{name} cannot be written to {folder.path}: {error.strerror or error}",
            hint="make room or mend the permissions there; it is fetched again",
        ) from error
