"""An open dropped file: regular, at rest, no link followed, no limit passed; hashed and unpacked."""

import errno
import gzip
import hashlib
import io
import os
import stat
import time
import zlib
from dataclasses import dataclass
from typing import Self

from file_processing.inbound.formats.base import GZIP_SUFFIX
from models.errors import FileGone, RejectFile, RetryLater
from services.files import lease
from services.files.directory import Entry, LeadsOut, OpenFolders
from services.files.lease import WriterState
from services.files.move import Identity, ReadState

READ_BYTES = 1 << 20

_TICK_SECONDS = 0.02
"""Two changes of a file within this time may leave it with the same times."""

_STILL_WRITTEN_SECONDS = 0.2
"""When a file that somebody writes is looked at again; its closing tells sooner."""


@dataclass(slots=True)
class OpenFile:
    """An open regular file, as long as this is in use; a small one was read at once, and is kept.

    times_tell: whether writing to it changes its times for certain.
    apart: it is read with a place in the file of its own, not with the one that all share who have it open by this
        descriptor, in another process too.
    """

    name: str
    descriptor: int
    identity: Identity
    times_tell: bool
    _bytes: bytes | None = None
    apart: bool = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.is_open:
            os.close(self.descriptor)

    def sha256(self) -> bytes:
        """The digest of its bytes as they lie there, compressed or not. Raises RetryLater."""
        if self._bytes is not None:
            return hashlib.sha256(self._bytes).digest()
        return hashlib.file_digest(self.raw(), "sha256").digest()

    def read_state(self, sha256: bytes) -> ReadState:
        """What was read, as `move` wants it."""
        return ReadState(self.identity, None if self.times_tell else sha256)

    def raw(self) -> "Content":
        """Its bytes from the start; reading them raises RetryLater."""
        if self._bytes is not None:
            return _KeptBytes(self._bytes)
        if self.apart:
            return io.BufferedReader(_FileApart(self.descriptor), READ_BYTES)
        os.lseek(self.descriptor, 0, os.SEEK_SET)
        return io.BufferedReader(_File(self.descriptor, closefd=False), READ_BYTES)

    @property
    def is_open(self) -> bool:
        """Whether it is still to be read, and to be closed then."""
        return self._bytes is None

    @property
    def bytes_read(self) -> int:
        """So many of its bytes, as they lie there, have been read for their content."""
        return self.identity.bytes if self._bytes is not None else os.lseek(self.descriptor, 0, os.SEEK_CUR)

    def check_unchanged(self) -> None:
        """Raises RetryLater when the file was written to while it was read; one that is kept was read once."""
        if self.is_open:
            _check_unwritten(lease.writer_state(self.descriptor))
            _check_same(self.descriptor, self.identity)


def _check_unwritten(writer: WriterState) -> None:
    """Raises RetryLater."""
    if writer is WriterState.WRITING:
        raise RetryLater(
            "still being written", hint="it is read when it is closed", after_seconds=_STILL_WRITTEN_SECONDS
        )


def _check_same(descriptor: int, identity: Identity) -> None:
    """Raises RetryLater."""
    if Identity.of(os.fstat(descriptor)) != identity:
        raise RetryLater(
            "the file changed while it was read",
            hint="it is read again when it is at rest",
            after_seconds=_STILL_WRITTEN_SECONDS,
        )


class _KeptBytes(io.BytesIO):
    """The bytes of a small file: a buffered reader over them would make room for a large one at each read."""

    def peek(self, size: int) -> bytes:
        at = self.tell()
        return self.getvalue()[at : at + size]


Content = io.BufferedReader | _KeptBytes
"""Bytes to be read, of which the first can be looked at before."""


class _File(io.FileIO):
    """A disk that cannot be read is no fault of what should stand on it."""

    def readinto(self, buffer: bytearray | memoryview) -> int | None:  # type: ignore[override]  # typeshed: Buffer
        try:
            return super().readinto(buffer)
        except OSError as error:
            raise RetryLater(f"cannot be read: {error.strerror}") from error


class _FileApart(io.RawIOBase):
    """Reads from a place of its own."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._place = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]  # typeshed: Buffer
        try:
            read = os.preadv(self._descriptor, [buffer], self._place)
        except OSError as error:
            raise unreadable(error) from error
        self._place += read
        return read


def entry_of(folders: OpenFolders, path: str, root: str | None) -> Entry:
    """What lies at `path`, below `root` where one is given. Raises FileGone or RetryLater."""
    try:
        return folders.entry(path, root)
    except OSError as error:
        raise _left(error) from None


def opened(entry: Entry, *, max_bytes: int, seen: tuple[int, int] | None = None, only_looks: bool = False) -> OpenFile:
    """Open a file for reading, unless somebody writes it; a small one is read, and closed again.

    seen: its size in bytes and its mtime in nanoseconds when it was found complete. It has to be the same still
        where the kernel cannot tell who writes it.
    only_looks: nothing is concluded from what is read, so that it is not waited for until its times tell of changes.

    Raises FileGone, RejectFile (not a regular file, too large) or
    RetryLater (being written, changed, no permission, input/output error).
    """
    # O_NONBLOCK: opening a FIFO must not wait for a writer.
    try:
        descriptor = entry.open_to_read()
    except OSError as error:
        raise _explained(error) from None
    try:
        source = _opened(entry.name, descriptor, max_bytes, seen, only_looks)
    except BaseException:
        os.close(descriptor)  # and with it the lease
        raise
    if not source.is_open:
        os.close(descriptor)
    return source


def _opened(name: str, descriptor: int, max_bytes: int, seen: tuple[int, int] | None, only_looks: bool) -> OpenFile:
    # A writer who comes while it is held is kept waiting for less than a millisecond.
    writer = lease.take(descriptor)
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise RejectFile("not a regular file", hint="drop the file itself, not a link, pipe or device")
    if writer is not WriterState.DONE:
        _check_unwritten(writer)
        if seen not in (None, (status.st_size, status.st_mtime_ns)):
            raise RetryLater(
                "it changed since it was found complete",
                hint="it is read when it is at rest",
                after_seconds=_STILL_WRITTEN_SECONDS,
            )
    if status.st_size > max_bytes:
        raise RejectFile(
            f"{status.st_size} bytes are more than MAX_FILE_BYTES allows ({max_bytes})",
            hint="split the file or raise MAX_FILE_BYTES",
        )
    identity = Identity.of(status)
    if identity.bytes > READ_BYTES:
        if writer is WriterState.DONE:
            lease.give_back(descriptor)
        return OpenFile(name, descriptor, identity, only_looks or _times_tell(status))
    times_tell = _times_tell(status)
    try:
        data = os.pread(descriptor, identity.bytes, 0)
    except OSError as error:
        raise unreadable(error) from error
    if writer is WriterState.UNKNOWN:
        _check_same(descriptor, identity)
    return OpenFile(name, descriptor, identity, times_tell, data)


def _times_tell(status: os.stat_result) -> bool:
    """Whether a change from now on, and nothing else, shows in the file's times.

    A long file is waited for until it does.
    """
    if status.st_nlink > 1:
        return False  # making or removing another link to it does too
    while (seconds := _TICK_SECONDS - abs(time.time() - status.st_ctime)) > 0:
        if status.st_size <= READ_BYTES:
            return False
        time.sleep(seconds)
    return True


def _explained(error: OSError) -> FileGone | RejectFile | RetryLater:
    match error.errno:
        case errno.ELOOP | errno.EMLINK:
            return RejectFile("a symbolic link", hint="links are not followed: drop the file itself")
        case errno.ENXIO:
            return RejectFile("not a regular file", hint="drop the file itself, not a socket or device")
        case _:
            return _left(error)


def _left(error: OSError) -> FileGone | RetryLater:
    if isinstance(error, LeadsOut):
        return RetryLater(
            "a folder on its way is a link, or leads out of the input folder",
            hint="it is left alone: put the file itself into a folder below the input folder",
        )
    match error.errno:
        case errno.ENOENT | errno.ENOTDIR | errno.ESTALE:
            return FileGone("the file is no longer there")
        case errno.EACCES | errno.EPERM:
            return RetryLater("no permission to read the file", hint="chmod it so that Tidegate's user can read it")
        case _:
            return unreadable(error)


def content(source: OpenFile, *, max_bytes: int, max_unpacked: int | None = None) -> Content:
    """The file's bytes from their start, decompressed where the name ends in `.gz`.

    max_unpacked: bytes that may come out of a file of this size; as many as of any where it is not given.
    Reading raises RejectFile when the compression is broken or more than `max_bytes` or `max_unpacked` come out.
    """
    if is_compressed(source.name):
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
