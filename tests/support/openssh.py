"""OpenSSH's own SFTP server on a free loopback port, in folders of the test."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from getpass import getuser
from pathlib import Path

from tests.support.waiting import eventually

HOST = "127.0.0.1"
FOLDERS = ("orders", "archive", "answers")


@dataclass(frozen=True, slots=True)
class OpenSsh:
    """A running sshd; a user sees the whole machine, so its folders are given as whole paths."""

    port: int
    user: str
    key_file: Path
    known_hosts: Path
    folder: Path

    @property
    def settings(self) -> dict[str, object]:
        """The settings of Partner 2 for this server."""
        return {
            "PARTNER2_SFTP_HOST": HOST,
            "PARTNER2_SFTP_PORT": self.port,
            "PARTNER2_SFTP_USER": self.user,
            "PARTNER2_SFTP_KEY_FILE": self.key_file,
            "PARTNER2_SFTP_KNOWN_HOSTS": self.known_hosts,
            "PARTNER2_SFTP_PATH": self.folder / "orders",
            "PARTNER2_SFTP_ARCHIVE": self.folder / "archive",
            "PARTNER2_SFTP_ANSWERS": self.folder / "answers",
        }

    def upload(self, name: str, content: bytes) -> None:
        """Put a file there whole."""
        part = self.folder / f".{name}"
        part.write_bytes(content)
        part.rename(self.folder / "orders" / name)

    def names(self, folder: str) -> list[str]:
        return sorted(path.name for path in (self.folder / folder).iterdir())


def sshd_program() -> str | None:
    return shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


@contextmanager
def sshd(folder: Path) -> Iterator[OpenSsh]:
    """Start sshd with a configuration of its own; `folder` has to be one that only its owner may write to."""
    program = sshd_program()
    assert program, "there is no sshd: make system-deps installs openssh-server"
    for name in FOLDERS:
        (folder / name).mkdir()
    host_key, user_key = folder / "host_key", folder / "user_key"
    for key in (host_key, user_key):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    (folder / "authorized_keys").write_text(user_key.with_suffix(".pub").read_text())
    with socket.create_server((HOST, 0)) as free:
        port = free.getsockname()[1]
    (folder / "config").write_text(
        f"ListenAddress {HOST}\nPort {port}\nHostKey {host_key}\nPidFile none\nUsePAM no\nStrictModes no\n"
        f"AuthorizedKeysFile {folder / 'authorized_keys'}\nPasswordAuthentication no\nPermitRootLogin yes\n"
        "Subsystem sftp internal-sftp\nForceCommand internal-sftp\nMaxStartups 100\nLogLevel FATAL\n"
    )
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # sshd of root wants it for its unprivileged half
    known_hosts = folder / "known_hosts"
    public = host_key.with_suffix(".pub").read_text()
    known_hosts.write_text(f"[{HOST}]:{port} {public}")
    process = subprocess.Popen([program, "-D", "-e", "-f", str(folder / "config")], stderr=sys.stderr)
    try:
        eventually(lambda: _listens(port) or process.poll() is not None, what="sshd")
        assert process.poll() is None, "sshd ended"
        yield OpenSsh(port, getuser(), user_key, known_hosts, folder)
    finally:
        process.terminate()
        process.wait(10)


def _listens(port: int) -> bool:
    with socket.socket() as tried:
        return tried.connect_ex((HOST, port)) == 0
