"""What a client of the SFTP server may do, the faults that strike it, and what it did."""

import asyncio
import os
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import asyncssh
from pydantic import BaseModel, Field

from partners.faults import KEPT, Seconds, Switches

Operation: TypeAlias = Literal["login", "read", "write", "rename", "remove"]


class SftpFaults(Switches):
    """Faults of the SFTP server; `times` counts connections cut and logins refused."""

    latency_seconds: Seconds = Field(0, description="pause before each block that is read or written")
    cut_after_bytes: Annotated[int, Field(ge=0)] | None = Field(
        None, description="cut the connection once it moved so many bytes of a file"
    )
    refuse_logins: bool = Field(False, description="let nobody in")


class Done(BaseModel):
    """What a client did; a read or a write is told when the file is closed, `bytes` of it moved."""

    time: datetime
    user: str
    operation: Operation
    path: str = ""
    to: str = ""
    bytes: int = 0


@dataclass
class Access:
    """What all connections share; `clients` are those that are open."""

    folder: Path
    users: dict[str, str]
    keys: dict[str, asyncssh.SSHKey]
    faults: SftpFaults
    received: list[Done]
    clients: set[asyncssh.SSHServerConnection] = field(default_factory=set)

    def tell(self, user: str, operation: Operation, path: str = "", to: str = "", moved: int = 0) -> None:
        self.received.append(
            Done(time=datetime.now(UTC), user=user, operation=operation, path=path, to=to, bytes=moved)
        )
        del self.received[:-KEPT]


class Login(asyncssh.SSHServer):
    def __init__(self, access: Access) -> None:
        self._access = access
        self._connection: asyncssh.SSHServerConnection | None = None

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._connection = conn
        self._access.clients.add(conn)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._connection is not None:
            self._access.clients.discard(self._connection)

    def begin_auth(self, username: str) -> bool:
        return True

    def password_auth_supported(self) -> bool:
        return True

    def validate_password(self, username: str, password: str) -> bool:
        return self._let_in() and self._access.users.get(username) == password

    def public_key_auth_supported(self) -> bool:
        return True

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        return self._let_in() and self._access.keys.get(username) == key

    def auth_completed(self) -> None:
        assert self._connection is not None
        self._access.tell(self._connection.get_extra_info("username"), "login")

    def _let_in(self) -> bool:
        faults = self._access.faults
        return not (faults.refuse_logins and faults.strikes(1))


class Session(asyncssh.SFTPServer):
    """The folder as the root, and the faults that are due."""

    def __init__(self, channel: "asyncssh.SSHServerChannel[bytes]", access: Access) -> None:
        super().__init__(channel, chroot=os.fsencode(access.folder))
        self._access = access
        self._user = channel.get_extra_info("username")
        self._moved = 0
        self._open: dict[object, tuple[Operation, str, int]] = {}

    def open(self, path: bytes, pflags: int, attrs: asyncssh.SFTPAttrs) -> object:
        file = super().open(path, pflags, attrs)
        self._open[file] = ("write" if pflags & asyncssh.FXF_WRITE else "read", os.fsdecode(path), 0)
        return file

    async def read(self, file_obj: object, offset: int, size: int) -> bytes:
        await self._disturb(0)
        data = super().read(file_obj, offset, size)
        assert isinstance(data, bytes)
        await self._disturb(len(data))
        self._count(file_obj, len(data))
        return data

    async def write(self, file_obj: object, offset: int, data: bytes) -> int:
        await self._disturb(0)
        await self._disturb(len(data))
        written = super().write(file_obj, offset, data)
        assert isinstance(written, int)
        self._count(file_obj, written)
        return written

    def close(self, file_obj: object) -> None:
        super().close(file_obj)
        operation, path, moved = self._open.pop(file_obj)
        self._access.tell(self._user, operation, path, moved=moved)

    def rename(self, oldpath: bytes, newpath: bytes) -> None:
        super().rename(oldpath, newpath)
        self._access.tell(self._user, "rename", os.fsdecode(oldpath), os.fsdecode(newpath))

    def posix_rename(self, oldpath: bytes, newpath: bytes) -> None:
        super().posix_rename(oldpath, newpath)
        self._access.tell(self._user, "rename", os.fsdecode(oldpath), os.fsdecode(newpath))

    def remove(self, path: bytes) -> None:
        super().remove(path)
        self._access.tell(self._user, "remove", os.fsdecode(path))

    def _count(self, file_obj: object, moved: int) -> None:
        operation, path, before = self._open[file_obj]
        self._open[file_obj] = operation, path, before + moved

    async def _disturb(self, moved: int) -> None:
        faults = self._access.faults
        if moved == 0:
            await asyncio.sleep(faults.latency_seconds)
        self._moved += moved
        if faults.cut_after_bytes is not None and self._moved > faults.cut_after_bytes and faults.strikes(1):
            self.connection.abort()
            raise asyncssh.SFTPConnectionLost("cut")
