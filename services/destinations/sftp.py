"""Delivery to a partner's SFTP server: under a temporary name, then by a rename that replaces nothing."""

import os
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self

import asyncssh

from models.connector import Json, SftpDestination
from models.errors import RetryLater
from services.destinations.sender import Doubtful, OutgoingFile
from services.files.names import numbered
from services.transport import ssh
from settings import Settings

PIECE_BYTES = 2**20
"""So much is handed over at a time, each within the time for an answer."""


class SftpSender:
    """One session with one server, for as long as it is open."""

    def __init__(self, destination: SftpDestination, settings: Settings) -> None:
        self._login = ssh.Login.of(destination.server, settings)
        self._folder = os.fsencode(settings.text(destination.folder))
        self._session = AsyncExitStack()
        self._setting = destination.folder.name
        self._remote: ssh.Session | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._remote = None
        await self._session.aclose()

    async def send(self, file: OutgoingFile) -> Json:
        """The remote path. The ledger's number in the name tells a repetition from a newer state."""
        if self._remote is None:
            self._remote = await self._session.enter_async_context(ssh.connected(self._login))
        remote = self._remote
        name = os.fsencode(numbered(file.name.replace("/", "-"), file.id))
        target, part = self._folder + b"/" + name, self._folder + b"/." + name + b".part"
        try:
            if not (file.doubtful and await remote.ask(_has(remote, target, file.content))):
                await remote.ask(_write(remote, part, file.content))
                await remote.ask(remote.sftp.rename(part, target))
        except (asyncssh.Error, OSError) as error:
            if isinstance(error, asyncssh.SFTPError) and not isinstance(error, asyncssh.SFTPConnectionLost):
                raise RetryLater(
                    f"{self._login.place} does not take {os.fsdecode(target)}: {error.reason}",
                    hint=f"check {self._setting}",
                ) from error
            self._remote = None
            await self._session.aclose()
            reason = "does not answer" if remote.is_silent else f"broke off: {str(error) or type(error).__name__}"
            raise Doubtful(f"{self._login.place} {reason}") from error
        return {"path": os.fsdecode(target)}


async def _write(remote: ssh.Session, path: bytes, content: bytes) -> None:
    async with remote.sftp.open(path, "wb", encoding=None) as file:
        for start in range(0, len(content), PIECE_BYTES):
            await file.write(content[start : start + PIECE_BYTES])
            remote.heard()


async def _has(remote: ssh.Session, target: bytes, content: bytes) -> bool:
    """Whether `target` is there, with just this content."""
    if not await remote.sftp.exists(target) or await remote.sftp.getsize(target) != len(content):
        return False
    async with remote.sftp.open(target, "rb", encoding=None) as file:
        for start in range(0, len(content), PIECE_BYTES):
            piece: str | bytes = await file.read(PIECE_BYTES, start)
            if piece != content[start : start + PIECE_BYTES]:
                return False
            remote.heard()
    return True
