"""A partner's SFTP server: connected to only when it proves to be the one we know, by our password or key."""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any, TypeVar

import asyncssh
from pydantic import SecretStr

from models.connector import SftpServer
from models.errors import RetryLater, StopConnector, StopDaemon
from services import trust
from settings import Settings

T = TypeVar("T")

CONNECT_SECONDS = 10
ALIVE_SECONDS = 15
"""A server that is gone without a word is noticed after three times as long."""

ANSWER_SECONDS = 60.0
"""A server that lives and answers nothing for so long is given up."""

LEAVE_SECONDS = 2.0
"""Taking leave may take so long; then the connection is cut."""

CIPHERS = [
    "aes128-gcm@openssh.com",
    "aes256-gcm@openssh.com",
    "chacha20-poly1305@openssh.com",
    "aes256-ctr",
    "aes128-ctr",
]
"""The quickest first: the processor knows AES, and a packet takes one call."""


class ConnectionCut(RetryLater):
    """The connection broke off."""


@dataclass(frozen=True, slots=True)
class Login:
    """Where to connect, as whom, and how the server is known.

    named: the settings' names, for messages.
    """

    host: str
    port: int
    user: str
    password: SecretStr
    key_file: str
    known_hosts: Path
    named: SftpServer

    @classmethod
    def of(cls, server: SftpServer, settings: Settings) -> "Login":
        return cls(
            host=settings.text(server.host),
            port=int(settings.text(server.port)),
            user=settings.text(server.user),
            password=settings.secret(server.password),
            key_file=settings.text(server.key_file),
            known_hosts=Path(settings.text(server.known_hosts)).expanduser(),
            named=server,
        )

    @property
    def place(self) -> str:
        return f"sftp://{self.host}:{self.port}"


class Session:
    """SFTP over a connection that is cut when nothing comes of what was asked for.

    A server that is stuck may well go on answering what keeps a connection alive.
    """

    def __init__(self, connection: asyncssh.SSHClientConnection, sftp: asyncssh.SFTPClient) -> None:
        self.sftp = sftp
        self.is_silent = False
        self._connection = connection
        self._asking = 0
        self._limit: asyncio.TimerHandle | None = None

    @property
    def is_cut(self) -> bool:
        return self._connection.is_closed()

    async def ask(self, work: Coroutine[Any, Any, T]) -> T:
        """Do what asks for something."""
        with self._asked():
            task = asyncio.create_task(work)
            try:
                return await asyncio.shield(task)
            except asyncio.CancelledError:
                self.leave_soon()  # closing a file over there waits for the server, too
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                raise

    @contextmanager
    def _asked(self) -> Iterator[None]:
        """While something is asked for. What comes for one who asks is patience for all: they share a line."""
        self._asking += 1
        if self._limit is None:
            self.heard()
        try:
            yield
        finally:
            self._asking -= 1
            self.heard()

    def heard(self, *_progress: object) -> None:
        """Call it with each piece that comes."""
        if self._limit is not None:
            self._limit.cancel()
        self._limit = asyncio.get_running_loop().call_later(ANSWER_SECONDS, self._cut) if self._asking else None

    def _cut(self) -> None:
        self.is_silent = True
        self._connection.abort()

    def leave_soon(self) -> None:
        """Leave the server some time for its part in taking leave."""
        asyncio.get_running_loop().call_later(LEAVE_SECONDS, self._connection.abort)


@asynccontextmanager
async def connected(login: Login) -> AsyncIterator[Session]:
    """An SFTP session; its paths are bytes, as the server may name files in any way.

    Raises StopConnector when the server is not the one we know, or does not let us in, and
    RetryLater when it cannot be reached or the connection is cut.
    """
    options: dict[str, Any] = {
        "username": login.user,
        "password": login.password.get_secret_value() or None,
        "client_keys": _client_keys(login),
        "known_hosts": _known_hosts(login),
        "config": None,  # nothing of the user's own ~/.ssh but what is configured
        "agent_path": None,
        "connect_timeout": CONNECT_SECONDS,
        "login_timeout": CONNECT_SECONDS,
        "encryption_algs": CIPHERS,
        "keepalive_interval": ALIVE_SECONDS,
        "keepalive_count_max": 3,
    }
    session = None
    try:
        async with asyncssh.connect(login.host, login.port, **options) as connection:
            async with asyncio.timeout(CONNECT_SECONDS):
                sftp = await connection.start_sftp_client(path_encoding=None)
            session = Session(connection, sftp)
            async with sftp:
                try:
                    yield session
                finally:
                    session.leave_soon()
    except asyncssh.HostKeyNotVerifiable as error:
        raise _not_the_one_we_know(login) from error
    except asyncssh.PermissionDenied as error:
        named = " or ".join(s.name for s in (login.named.user, login.named.password, login.named.key_file))
        raise StopConnector(
            f"bad credentials: {login.place} does not let {login.user} in",
            hint=f"correct {named} and start the daemon anew",
        ) from error
    except (asyncssh.SFTPConnectionLost, asyncssh.SFTPNoConnection, asyncssh.Error, OSError, TimeoutError) as error:
        if isinstance(error, asyncssh.SFTPError) and not isinstance(error, asyncssh.SFTPConnectionLost):
            raise RetryLater(f"{login.place} refuses: {error.reason}") from error
        reason = "does not answer" if session is not None and session.is_silent else str(error) or type(error).__name__
        raise ConnectionCut(f"{login.place}: {reason}") from error


def _client_keys(login: Login) -> list[asyncssh.SSHKey] | None:
    if not login.key_file:
        return None
    path = _trusted(Path(login.key_file).expanduser(), login.named.key_file.name)
    try:
        return [asyncssh.read_private_key(path)]
    except (OSError, asyncssh.KeyImportError) as error:
        raise StopConnector(
            f"{login.named.key_file.name} {path} is no private key that can be read: {error}",
            hint="an OpenSSH key without passphrase, readable by the daemon's user",
        ) from error


def _known_hosts(login: Login) -> asyncssh.SSHKnownHosts:
    """The hosts of the configured file, and no others: without content asyncssh would look into ~/.ssh."""
    path = _trusted(login.known_hosts, login.named.known_hosts.name)
    try:
        return asyncssh.import_known_hosts(path.read_text())
    except FileNotFoundError:
        return asyncssh.import_known_hosts("")
    except (OSError, ValueError) as error:
        raise StopConnector(f"{login.named.known_hosts.name} {login.known_hosts} cannot be read: {error}") from error


def _trusted(path: Path, named: str) -> Path:
    try:
        return trust.checked(path, named)
    except StopDaemon as error:
        raise StopConnector(error.reason, hint=f"{error.hint}, and start the daemon anew") from None


def _not_the_one_we_know(login: Login) -> StopConnector:
    """What to say of an unknown or a changed host key, with the command that accepts it."""
    known = asyncssh.match_known_hosts(_known_hosts(login), login.host, login.host, login.port)[0]
    scan = f"ssh-keyscan -p {login.port} {quote(login.host)} >> {quote(str(login.known_hosts))}"
    if not known:
        return StopConnector(
            f"the host key of {login.place} is not in {login.known_hosts}",
            hint=f"compare it with the partner's, accept it by `{scan}`, and start the daemon anew",
        )
    name = login.host if login.port == 22 else f"[{login.host}]:{login.port}"
    forget = f"ssh-keygen -f {quote(str(login.known_hosts))} -R {quote(name)}"
    return StopConnector(
        f"the host key of {login.place} is not the one in {login.known_hosts}: it may be someone else's server",
        hint=f"ask the partner; if it was changed there, accept it by `{forget} && {scan}`, and start the daemon anew",
    )
