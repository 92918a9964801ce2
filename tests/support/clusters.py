"""PostgreSQL servers on loopback ports, made and killed by a test: one alone, or a primary with its standby."""

import os
import shutil
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psycopg

from models.errors import StopDaemon
from services.db import embedded, server_user
from tests.support.waiting import eventually

HOST = "127.0.0.1"
_PROGRAMS = ("initdb", "pg_ctl", "pg_basebackup")
_STANDBY = "standby"

# Killed processes lose nothing that the system has taken, so nothing has to wait for a disk.
_CONFIG = f"""
listen_addresses = '{HOST}'
unix_socket_directories = ''
fsync = off
max_connections = 60
max_wal_senders = 4
shared_buffers = 32MB
wal_retrieve_retry_interval = 100ms
"""
_HBA = f"host all all {HOST}/32 trust\nhost replication all {HOST}/32 trust\n"


def missing_program() -> str | None:
    """A program of the server's that tests of replication need and that is not here."""
    for name in _PROGRAMS:
        try:
            embedded.binary(name)
        except StopDaemon as error:
            return error.reason
    return None


@dataclass(frozen=True, slots=True)
class Cluster:
    """A server whose data is in `data`."""

    data: Path
    port: int

    def uri(self, database: str = "postgres") -> str:
        return f"postgresql://postgres@{HOST}:{self.port}/{database}"

    def execute(self, statement: str) -> list[tuple[object, ...]]:
        with psycopg.connect(self.uri(), autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def create(self) -> None:
        self._run("initdb", "-D", ".", "-U", "postgres", "-A", "trust", "--no-sync", "--locale=C", "--encoding=UTF8")
        with (self.data / "postgresql.conf").open("a") as config:
            config.write(_CONFIG)
        (self.data / "pg_hba.conf").write_text(_HBA)

    def copy_from(self, primary: "Cluster") -> None:
        """Become its standby."""
        source = f"host={HOST} port={primary.port} user=postgres application_name={_STANDBY}"
        self._run("pg_basebackup", "-D", ".", "-d", source, "-R", "-X", "stream", "-c", "fast", "--no-sync")

    def start(self) -> None:
        """Start it, for the first time or after it was killed."""
        (self.data / "postmaster.pid").unlink(missing_ok=True)  # of which the number may be another's by now
        self._run("pg_ctl", "start", "-D", ".", "-w", "-s", "-l", "server.log", "-o", f"-p {self.port}")

    def stop_following(self) -> None:
        """Get nothing of what the primary commits from now on."""
        self.execute("alter system set primary_conninfo = ''")
        self.execute("select pg_reload_conf()")
        eventually(lambda: not self.execute("select 1 from pg_stat_wal_receiver"), what="a standby that stays behind")

    def promote(self) -> None:
        self._run("pg_ctl", "promote", "-D", ".", "-w", "-s")

    def kill(self) -> None:
        """As if the machine lost its power: no process of the server does anything more."""
        try:
            postmaster = int((self.data / "postmaster.pid").read_text().split()[0])
        except FileNotFoundError:
            return
        family = [postmaster, *_children(postmaster)]
        for pid in family:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _run(self, program: str, *arguments: str) -> None:
        user = server_user.owner_of(self.data)
        done = user.run(embedded.binary(program), *arguments, cwd=self.data)
        assert done.returncode == 0, f"{program}: {done.stderr}"


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


@contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    """A server that runs; `folder` is open to every user."""
    with _made(folder / "primary") as primary:
        primary.create()
        primary.start()
        yield primary


@contextmanager
def with_standby(folder: Path, *, synchronous: bool) -> Iterator[tuple[Cluster, Cluster]]:
    """A primary and its standby, which follows by streaming replication.

    synchronous: the primary waits for it with each commit.
    """
    with cluster(folder) as primary, _made(folder / "standby") as standby:
        standby.copy_from(primary)
        standby.start()
        wanted = "async"
        if synchronous:
            wanted = "sync"
            primary.execute(f"alter system set synchronous_standby_names = '{_STANDBY}'")
            primary.execute("select pg_reload_conf()")
        state = f"select 1 from pg_stat_replication where state = 'streaming' and sync_state = '{wanted}'"
        eventually(lambda: primary.execute(state), what="a standby that follows")
        yield primary, standby


@contextmanager
def _made(data: Path) -> Iterator[Cluster]:
    data.mkdir(mode=0o700)
    user = server_user.owner_of(data)
    user.let_reach(data)
    user.own(data)
    with socket.create_server((HOST, 0)) as free:
        made = Cluster(data, free.getsockname()[1])
    try:
        yield made
    finally:
        made.kill()
        shutil.rmtree(data, ignore_errors=True)
