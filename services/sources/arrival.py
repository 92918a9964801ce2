"""How a source's file arrives in the input folder: whole, durable, over no other."""

from pathlib import Path

from models.errors import RetryLater
from services.files import durable


def arrive(folder: Path, name: str, content: bytes, number: int) -> Path:
    """Put a file into `folder`; `number` makes its name its own. Raises RetryLater."""
    try:
        return durable.place(folder, name, content, number)
    except OSError as error:
        raise RetryLater(
            f"{name} cannot be written to {folder}: {error.strerror or error}",
            hint="make room or mend the permissions there; it is fetched again",
        ) from error
