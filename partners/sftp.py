"""Partner 2: an SFTP server with orders to fetch, and a folder for answers.

Each user sees `--folder` as the root; `orders/`, `archive/` and `answers/` are made in it. Its control page speaks
HTTP beside it: faults, what was done, files put there or taken away, another host key.
"""

import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncssh
from fastapi import FastAPI, HTTPException, Request

from partners.serving import HOST, Served, arguments, bound, run
from partners.sftp_session import Access, Done, Login, Session, SftpFaults

USER, PASSWORD = "partner2", "partner2-password"
FOLDERS = ("orders", "archive", "answers")


@dataclass
class Upload:
    """A file that a client is still uploading: it grows with `write`, and `finish` ends it."""

    path: Path
    final: Path

    def write(self, data: bytes) -> None:
        with self.path.open("ab") as file:
            file.write(data)

    def finish(self) -> Path:
        return self.path if self.path == self.final else self.path.rename(self.final)


class Sftp(Served):
    """Files below `folder`; `sftp_port` is the port, `url` the control page.

    `users` maps names to passwords, `keys` names to public keys in OpenSSH's one-line form. Without `folder` and
    `host_key` (a private key's file) both are made for the occasion.
    """

    title = "Partner 2"

    def __init__(
        self,
        *,
        host: str = HOST,
        port: int = 0,
        sftp_port: int = 0,
        folder: Path | None = None,
        users: Mapping[str, str] | None = None,
        keys: Mapping[str, str] | None = None,
        host_key: Path | None = None,
    ) -> None:
        self.faults = SftpFaults()
        self.received: list[Done] = []
        self._made = None if folder else tempfile.TemporaryDirectory(prefix="partner2-")
        self.folder = folder or Path(self._made.name if self._made else "")
        for name in FOLDERS:
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        self.users = dict(users if users is not None else {USER: PASSWORD})
        self.keys = {name: asyncssh.import_public_key(key) for name, key in (keys or {}).items()}
        self._key = asyncssh.read_private_key(host_key) if host_key else asyncssh.generate_private_key("ssh-ed25519")
        self._sftp_holder = bound(host, sftp_port)
        self.sftp_port: int = self._sftp_holder.getsockname()[1]
        self._acceptor: asyncssh.SSHAcceptor | None = None
        super().__init__(host, port, None)
        self._control(self.app)

    # what the partner's people do

    def upload(self, name: str, content: bytes | str, folder: str = "orders") -> Path:
        """Put a file there whole at once."""
        begun = self.begin_upload(f".{name}.uploading", folder, final=name)
        begun.write(content.encode() if isinstance(content, str) else content)
        return begun.finish()

    def begin_upload(self, name: str, folder: str = "orders", *, final: str | None = None) -> Upload:
        """Begin a file under its own name, as most clients do; `final` is the name it gets in the end."""
        path = self.folder / folder / name
        path.touch()
        return Upload(path, self.folder / folder / (final or name))

    def names(self, folder: str) -> list[str]:
        return sorted(path.name for path in (self.folder / folder).iterdir())

    def change_host_key(self) -> None:
        """Have another host key, for connections from now on."""
        self._key = asyncssh.generate_private_key("ssh-ed25519")
        if self._acceptor is not None and self._loop is not None:
            self._loop.call_soon_threadsafe(
                lambda acceptor: acceptor.update(server_host_keys=[self._key]), self._acceptor
            )

    @property
    def known_hosts(self) -> str:
        """The line of a known_hosts file that accepts this server."""
        return f"[{self.address}]:{self.sftp_port} {self._key.export_public_key().decode().strip()}\n"

    # the server

    @property
    def greeting(self) -> str:
        where = f"sftp://{self.address}:{self.sftp_port} on {self.folder}"
        return f"{self.title}: {where}\n{super().greeting}"

    @asynccontextmanager
    async def beside(self) -> AsyncIterator[None]:
        access = Access(self.folder, self.users, self.keys, self.faults, self.received)
        listener = bound(self.host, self.sftp_port)
        self._acceptor = await asyncssh.listen(
            sock=listener,
            server_factory=lambda: Login(access),
            sftp_factory=lambda channel: Session(channel, access),
            server_host_keys=[self._key],
        )
        try:
            yield
        finally:
            self._acceptor.close()
            for client in list(access.clients):
                client.abort()
                await client.wait_closed()
            await self._acceptor.wait_closed()
            self._acceptor = None

    def close(self) -> None:
        super().close()
        self._sftp_holder.close()
        if self._made is not None:
            self._made.cleanup()

    def _control(self, app: FastAPI) -> None:
        @app.get("/_faults")
        async def show_faults() -> SftpFaults:
            return self.faults

        @app.put("/_faults")
        async def set_faults(wanted: SftpFaults) -> SftpFaults:
            """Switch faults; what is left out is switched off."""
            self.faults.become(wanted)
            return self.faults

        @app.get("/_received")
        async def show_received() -> list[Done]:
            return self.received

        @app.get("/_known_hosts")
        async def show_known_hosts() -> str:
            return self.known_hosts

        @app.post("/_host_key")
        async def new_host_key() -> str:
            """Change the host key; the answer is its known_hosts line."""
            self.change_host_key()
            return self.known_hosts

        @app.get("/files/{folder}")
        async def list_files(folder: str) -> list[str]:
            return self.names(_known(folder))

        @app.put("/files/{folder}/{name}", status_code=201)
        async def put_file(folder: str, name: str, request: Request) -> None:
            """Put a file there whole, as the partner's own system does."""
            self.upload(name, await request.body(), _known(folder))


def _known(folder: str) -> str:
    if folder not in FOLDERS:
        raise HTTPException(404, f"the folders are {', '.join(FOLDERS)}")
    return folder


def main() -> None:
    parser = arguments(__doc__, 8004, SftpFaults)
    parser.add_argument("--sftp-port", type=int, default=2222, help="where SFTP listens (default 2222; 0: any)")
    parser.add_argument("--folder", type=Path, help="what users see as the root (default: a temporary folder)")
    parser.add_argument("--user", default=USER, help=f"default {USER}")
    parser.add_argument("--password", default=PASSWORD, help=f"default {PASSWORD}")
    parser.add_argument("--public-key", type=Path, metavar="FILE", help="a key that the user may log in with")
    parser.add_argument("--host-key", type=Path, metavar="FILE", help="private key (default: a new one each start)")
    options = parser.parse_args()
    sftp = Sftp(
        host=options.host,
        port=options.port,
        sftp_port=options.sftp_port,
        folder=options.folder,
        users={options.user: options.password},
        keys={options.user: options.public_key.read_text()} if options.public_key else {},
        host_key=options.host_key,
    )
    run(sftp, sftp.faults, options)


if __name__ == "__main__":
    main()
