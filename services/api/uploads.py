"""A request's body on its way to a file in the input folder: nobody sees it before it is whole and on disk."""

import hashlib
import os
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Self

from models.errors import RetryLater, TidegateError
from services.files.directory import Folder
from services.files.durable import Temporary
from services.files.move import Identity


class TooLarge(TidegateError):
    """There are more bytes than a file may have."""


class Upload:
    """Bytes for `folder/name`: `write` them, `sync` them, then `place` the file; otherwise it leaves nothing.

    All of it raises RetryLater when the folder cannot take the file.
    """

    def __init__(self, folder: Folder, suffix: str, max_bytes: int) -> None:
        self.name = f"webhook-{uuid.uuid4().hex}{suffix}"
        self.bytes = 0
        self._suffix = suffix
        self._max_bytes = max_bytes
        self._digest = hashlib.sha256()
        with _disk(), ExitStack() as opened:
            self._folder = opened.enter_context(folder.open(make=True))
            self._temporary = opened.enter_context(Temporary(self._folder))
            self._open = opened.pop_all()

    @property
    def sha256(self) -> bytes:
        return self._digest.digest()

    def write(self, data: bytes) -> None:
        """Raises TooLarge."""
        self.bytes += len(data)
        if self.bytes > self._max_bytes:
            raise TooLarge(
                f"the body is larger than MAX_FILE_BYTES allows ({self._max_bytes})",
                hint="split it or raise MAX_FILE_BYTES",
            )
        self._digest.update(data)
        with _disk():
            self._temporary.file.write(data)

    def name_after(self, key: str) -> None:
        """Name the file after a key and its content, so that the same request again names it the same."""
        unique = hashlib.sha256(key.encode() + b"\0" + self.sha256).hexdigest()[:32]
        self.name = f"webhook-{unique}{self._suffix}"

    def sync(self) -> None:
        with _disk():
            self._temporary.sync()

    @property
    def identity(self) -> Identity:
        """Which file it is; known when it is synced."""
        with _disk():
            return Identity.of(os.fstat(self._temporary.file.fileno()))

    def place(self) -> None:
        """Give the file its name; when this returns, a power cut leaves it where it is."""
        with _disk():
            self._temporary.replace(self.name)
            self._folder.sync()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with _disk():
            self._open.__exit__(kind, error, trace)


@contextmanager
def _disk() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RetryLater(
            f"the input folder cannot take the file: {error.strerror or error}",
            hint="make room or mend the permissions there",
        ) from error
