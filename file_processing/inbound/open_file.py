"""An open dropped file: regular, inside the root, no link followed, no limit passed; hashed and unpacked."""

import errno
import gzip
import hashlib
import io
import os
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from models.errors import FileGone, RejectFile, RetryLater
from services.files.move import Identity

READ_BYTES = 1 << 20

GZIP_SUFFIX = ".gz"


@dataclass(slots=True)
class OpenFile:
    """An open regular file; a small one is read once and kept."""

    path: Path
    file: io.FileIO
    identity: Identity
    _bytes: bytes | None = None

    def sha256(self) -> bytes:
        """The digest of its bytes as they lie there, compressed or not. Raises RetryLater."""
        if self.identity.bytes > READ_BYTES:
            return hashlib.file_digest(self.raw(), "sha256").digest()
        try:
            data = os.pread(self.file.fileno(), self.identity.bytes, 0)
        except OSError as error:
            raise unreadable(error) from error
        self.check_unchanged()
        self._bytes = data
        return hashlib.sha256(data).digest()

    def raw(self) -> "Content":
        """Its bytes from the start; reading them raises RetryLater."""
        if self._bytes is not None:
            return _KeptBytes(self._bytes)
        self.file.seek(0)
        return io.BufferedReader(_File(self.file.fileno(), closefd=False), READ_BYTES)

    def check_unchanged(self) -> None:
        """Raises RetryLater when the file was written to while it was read; one that is kept was read once."""
        if self._bytes is None and Identity.of(os.fstat(self.file.fileno())) != self.identity:
            raise RetryLater("the file changed while it was read", hint="it is read again when it is at rest")


class _KeptBytes(io.BytesIO):
    """The bytes of a small file: a buffered reader over them would make room for a large one at each read."""

    def peek(self, size: int) -> bytes:
        return bytes(self.getbuffer()[self.tell() :][:size])


Content = io.BufferedReader | _KeptBytes
"""Bytes to be read, of which the first can be looked at before."""


class _File(io.FileIO):
    """A disk that cannot be read is no fault of what should stand on it."""

    def readinto(self, buffer: bytearray | memoryview) -> int | None:  # type: ignore[override]  # typeshed: Buffer
        try:
            return super().readinto(buffer)
        except OSError as error:
            raise RetryLater(f"cannot be read: {error.strerror}") from error


@contextmanager
def opened(path: Path, *, root: Path | None, max_bytes: int) -> Iterator[OpenFile]:
    """Open `path` for reading, inside the resolved folder `root` where one is given.

    Raises FileGone, RejectFile (not a regular file, outside the root, too large) or
    RetryLater (no permission, input/output error).
    """
    # O_NONBLOCK: opening a FIFO must not wait for a writer.
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        descriptor = os.open(path, flags)
    except OSError as error:
        raise explained(error) from None
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise RejectFile("not a regular file", hint="drop the file itself, not a link, pipe or device")
    with open(descriptor, "rb", buffering=0) as file:
        if root is not None and not _inside(root, descriptor, path):
            raise RejectFile("the path leads out of the input folder", hint="a folder on the way is a link")
        if status.st_size > max_bytes:
            raise RejectFile(
                f"{status.st_size} bytes are more than MAX_FILE_BYTES allows ({max_bytes})",
                hint="split the file or raise MAX_FILE_BYTES",
            )
        yield OpenFile(path, file, Identity.of(status))


def _inside(root: Path, descriptor: int, path: Path) -> bool:
    try:
        real = os.readlink(f"/proc/self/fd/{descriptor}")
    except OSError:  # no /proc here
        real = os.path.realpath(path)
    return real.startswith(f"{root}{os.sep}")


def explained(error: OSError) -> FileGone | RejectFile | RetryLater:
    match error.errno:
        case errno.ENOENT | errno.ENOTDIR | errno.ESTALE:
            return FileGone("the file is no longer there")
        case errno.ELOOP | errno.EMLINK:
            return RejectFile("a symbolic link", hint="links are not followed: drop the file itself")
        case errno.ENXIO:
            return RejectFile("not a regular file", hint="drop the file itself, not a socket or device")
        case errno.EACCES | errno.EPERM:
            return RetryLater("no permission to read the file", hint="chmod it so that Tidegate's user can read it")
        case _:
            return RetryLater(f"cannot be read: {error.strerror}")


def content(source: OpenFile, *, max_bytes: int, max_unpacked: int | None = None) -> Content:
    """The file's bytes from their start, decompressed where the name ends in `.gz`.

    max_unpacked: bytes that may come out of a file of this size; as many as of any where it is not given.
    Reading raises RejectFile when the compression is broken or more than `max_bytes` or `max_unpacked` come out.
    """
    if is_compressed(source.path.name):
        most = max_bytes if max_unpacked is None else max_unpacked
        return io.BufferedReader(_Gunzip(source.raw(), max_bytes, most), READ_BYTES)
    return source.raw()


def is_compressed(name: str) -> bool:
    return name.lower().endswith(GZIP_SUFFIX)


class _Gunzip(io.RawIOBase):
    """Decompresses up to a limit, and names what is wrong with the file rather than the codec."""

    def __init__(self, file: io.BufferedIOBase, max_bytes: int, max_unpacked: int) -> None:
        self._gzip = gzip.GzipFile(fileobj=file, mode="rb")
        self._left = max_bytes
        self._ratio_left = max_unpacked

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]  # typeshed: Buffer
        try:
            read = self._gzip.readinto(buffer)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise RejectFile(f"broken gzip: {error}", hint="compress and send it again") from None
        self._left -= read
        self._ratio_left -= read
        if self._left < 0:
            raise RejectFile(
                "decompressed it is larger than MAX_FILE_BYTES allows",
                hint="split the file or raise MAX_FILE_BYTES",
            )
        if self._ratio_left < 0:
            raise RejectFile(
                "it unpacks into more times its own size than MAX_UNPACK_RATIO allows",
                hint="send it unpacked; if files that repeat themselves so much are expected, raise MAX_UNPACK_RATIO",
            )
        return read


def unreadable(error: OSError) -> RetryLater:
    return RetryLater(f"cannot be read: {error.strerror or error}")
