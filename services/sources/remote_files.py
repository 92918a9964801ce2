"""Files in a folder of a partner's SFTP server: listed, read, and moved to the archive over there."""

import hashlib
import os
import stat
import urllib.parse
from dataclasses import dataclass
from datetime import UTC, datetime

import asyncssh

from services.files.names import is_finished
from services.transport import ssh

PIECE_BYTES = 2**20
"""So much of a large file is compared at a time."""


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file as the server lists it. mtime: in seconds, as SFTP has it."""

    name: bytes
    size: int
    mtime: int

    @classmethod
    def of(cls, name: bytes, attributes: asyncssh.SFTPAttrs) -> "RemoteFile":
        return cls(name, attributes.size or 0, attributes.mtime or 0)

    @property
    def key(self) -> str:
        """The name as the cursor has it: JSON cannot hold every byte."""
        return urllib.parse.quote_from_bytes(self.name)

    @property
    def text(self) -> str:
        return os.fsdecode(self.name)

    @property
    def shape(self) -> list[int]:
        return [self.size, self.mtime]

    def remembered(self, sha256: bytes | None) -> list[int | str]:
        """As the cursor has a file that was fetched."""
        return [*self.shape, *([sha256.hex()] if sha256 else [])]


async def listed(session: ssh.Session, folder: bytes) -> list[RemoteFile]:
    """The regular, finished files of a folder. Raises asyncssh.SFTPError."""
    found = []
    async for entry in session.sftp.scandir(folder):
        session.heard()
        name, attributes = os.fsencode(entry.filename), entry.attrs
        if stat.S_ISREG(attributes.permissions or 0) and b"/" not in name:
            file = RemoteFile.of(name, attributes)
            if is_finished(file.text):
                found.append(file)
    return found


async def content(sftp: asyncssh.SFTPClient, path: bytes, size: int) -> bytes:
    """A file of `size` bytes, or one more when it has grown."""
    async with sftp.open(path, "rb", encoding=None, block_size=0) as remote:
        read = bytearray()
        while len(read) <= size and (piece := await _block(remote, len(read), size + 1)):
            read += piece
            if len(read) == size:
                break  # asking for the end would take another round trip
    return bytes(read)


async def _block(remote: asyncssh.SFTPClientFile, start: int, end: int) -> bytes:
    block: bytes = await remote.read(end - start, start)
    return block


async def digest(session: ssh.Session, path: bytes) -> bytes:
    """The SHA-256 of a file over there, read in pieces. Raises asyncssh.SFTPError."""
    read, position = hashlib.sha256(), 0
    async with session.sftp.open(path, "rb", encoding=None, block_size=0) as remote:
        while piece := await _block(remote, position, position + PIECE_BYTES):
            read.update(piece)
            position += len(piece)
            session.heard()
    return read.digest()


async def archive(
    session: ssh.Session, folder: bytes, target_folder: bytes, file: RemoteFile, sha256: bytes | None
) -> bool:
    """Move a file over there, never over another one, and only if it is still as it was fetched.

    sha256: of what was fetched; size and mtime, in seconds, may well be those of another upload. So what was moved is
    read once more, and moved back where it is another content.
    False when it has changed. Raises asyncssh.SFTPError.
    """
    sftp, source = session.sftp, folder + b"/" + file.name
    try:
        now = RemoteFile.of(file.name, await sftp.lstat(source))
    except asyncssh.SFTPNoSuchFile:
        return True  # someone else took it away
    if now != file:
        return False
    target = await _moved(sftp, source, target_folder, file.name)
    if sha256 is None or await digest(session, target) == sha256:
        return True
    await _moved(sftp, target, folder, file.name)
    return False


async def _moved(sftp: asyncssh.SFTPClient, source: bytes, target_folder: bytes, name: bytes) -> bytes:
    """The place in the folder that the file has now: under its name, or a longer one where that is taken."""
    target = target_folder + b"/" + name
    try:
        await sftp.rename(source, target)
    except asyncssh.SFTPNoSuchFile:
        await sftp.makedirs(target_folder, exist_ok=True)
        await sftp.rename(source, target)
    except (asyncssh.SFTPFailure, asyncssh.SFTPFileAlreadyExists):
        if not await sftp.exists(target):
            raise
        target += f".{datetime.now(UTC):%Y%m%dT%H%M%S%f}".encode()
        await sftp.rename(source, target)
    return target
