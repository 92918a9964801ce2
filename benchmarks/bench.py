"""Where it is measured: a site of its own on a real server, and the program as processes."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import psycopg
from loguru import logger
from psycopg import sql
from pydantic import SecretStr

import flows as flow_folder
from benchmarks import data
from commands.site import Site, make_folders
from models.flow import Flow
from services.db import embedded, engine as databases
from settings import Settings

ROOT = Path(__file__).parent.parent
LOOK_SECONDS = 0.02
P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, eq=False, slots=True)
class Bench:
    """A site in a temporary folder, on a database that nothing else uses.

    scale: makes everything smaller, to try a benchmark out.
    """

    site: Site
    folder: Path
    url: str
    scale: float
    _made: dict[object, Any] = field(default_factory=dict)

    def once(self, make: "Callable[Concatenate[Bench, P], T]", *arguments: P.args, **_named: P.kwargs) -> T:
        """What `make` makes for this bench, made at its first use."""
        key = (make, arguments)
        if key not in self._made:
            self._made[key] = make(self, *arguments, **_named)
        made: T = self._made[key]
        return made

    def size(self, count: int) -> int:
        return max(1, round(count * self.scale))

    def flow(self, name: str) -> Flow:
        return self.site.flows[name]

    def inbox(self, flow: str) -> Path:
        return self.site.settings.input_dir / flow

    def new_folder(self) -> Path:
        """An empty one: a rename over another file costs more than one to a new name."""
        return Path(tempfile.mkdtemp(dir=self.folder))

    def execute(self, statement: str) -> list[Any]:
        with psycopg.connect(self.url, autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def forget(self, flow: str) -> None:
        """Empty the flow's tables and folders and the ledger, and let the server write what it still has to.

        Files are moved aside until the bench ends: ext4 keeps from reusing inodes that were just freed and searches
        past them for each new file, and a disk may be told of each freed block, all in the time of who comes next.
        """
        for folder in (self.site.settings.output_dir, self.site.settings.archive_dir):
            with suppress(FileNotFoundError):
                (folder / flow).rename(self.new_folder() / flow)
        tables = ", ".join(table.name for table in self.flow(flow).sql_tables)
        ledger = ("inbound_file", "rejected_record", "outbound_file", "interchange")
        self.execute(f"truncate {tables}, {', '.join(f'tidegate.{table}' for table in ledger)}")
        self.execute("checkpoint")

    def settle(self, table: str) -> None:
        """Have the table as it is after a while: vacuumed, analysed and on disk."""
        self.execute(f"vacuum analyze {table}")
        self.execute("checkpoint")

    @property
    def environment(self) -> dict[str, str]:
        settings = self.site.settings
        folders = {name: str(folder) for name, folder in settings.folders.items()}
        own = {"DATABASE_URL": self.url, "DATA_DIR": str(settings.data_dir), "LOG_FILE": str(settings.log_file)}
        # As it is installed, its code is compiled; a shell may forbid to keep what was.
        given = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        return given | folders | own

    def main(self, *arguments: str | Path) -> "subprocess.Popen[bytes]":
        """`python main.py` with these arguments."""
        return self.process(sys.executable, ROOT / "main.py", *arguments)

    def process(self, *command: str | Path) -> "subprocess.Popen[bytes]":
        silent = subprocess.DEVNULL
        return subprocess.Popen(command, cwd=self.folder, env=self.environment, stdout=silent, stderr=silent)

    @contextmanager
    def daemon(self, *, warm: bool = True) -> Iterator[None]:
        """The daemon as a process, from when it watches; a warm one has loaded a first file."""
        log = self.site.settings.log_file
        log.unlink(missing_ok=True)
        process = self.main("run")
        try:
            while not (log.exists() and "watching" in log.read_text()):
                if process.poll() is not None:
                    raise RuntimeError(f"the daemon ends with {process.returncode}; see {log}")
                time.sleep(LOOK_SECONDS)
            if warm:
                inbox = self.inbox(data.VEHICLES)
                data.write_file(self.folder / "first.json", data.as_text(data.vehicles(1, first=data.FIRST)))
                (self.folder / "first.json").rename(inbox / "first.json")
                wait_until_empty(inbox)
            yield
        finally:
            process.terminate()
            process.wait()


def seconds(action: Callable[..., object], *arguments: object) -> float:
    """How long the action takes."""
    start = time.perf_counter()
    action(*arguments)
    return time.perf_counter() - start


def succeed(process: "subprocess.Popen[bytes]") -> None:
    """Wait for the process, which is to end well."""
    code = process.wait()
    assert code == 0, f"{process.args!r} ends with {code}"


def cpu_seconds(process: "subprocess.Popen[bytes]") -> float:
    """The processor time that the process takes to its end, which is to be good."""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    succeed(process)
    return usage.ru_utime + usage.ru_stime


def wait_until_empty(folder: Path) -> None:
    """Files leave the input folder when they are committed."""
    while True:
        with os.scandir(folder) as entries:
            if next(entries, None) is None:
                return
        time.sleep(LOOK_SECONDS)


@contextmanager
def server() -> Iterator[str]:
    """The URI of DATABASE_URL's server, or of an embedded one of its own."""
    logger.remove()
    given = os.environ.get("DATABASE_URL")
    if given:
        yield given.replace("postgresql+psycopg:", "postgresql:")
        return
    with _folder() as folder, embedded.serve(folder) as running:
        yield running.superuser_uri


@contextmanager
def bench(server_uri: str, scale: float = 1.0) -> Iterator[Bench]:
    """A site on a fresh database of the server."""
    with _folder() as folder, _database(server_uri) as url:
        settings = Settings.model_validate(
            {
                **{f"{name}_dir": folder / name for name in ("input", "output", "archive", "rejected")},
                "data_dir": folder / "data",
                "log_file": folder / "app.log",
                "database_url": SecretStr(url),
            }
        )
        flows = flow_folder.discover()
        make_folders(settings, flows)
        with databases.open_database(settings) as database:
            site = Site(settings, flows, database)
            site.prepare()
            yield Bench(site, folder, url, scale)


@contextmanager
def _folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="tidegate-bench-"))
    folder.chmod(0o755)  # root's embedded server runs as another user and has to reach it
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _database(server_uri: str) -> Iterator[str]:
    name = sql.Identifier(made := f"tidegate_bench_{uuid.uuid4().hex[:8]}")
    with psycopg.connect(server_uri, autocommit=True) as connection:
        connection.execute(sql.SQL("create database {}").format(name))
        start, _, query = server_uri.partition("?")
        try:
            yield f"{start.rpartition('/')[0]}/{made}" + (f"?{query}" if query else "")
        finally:
            connection.execute(sql.SQL("drop database {} with (force)").format(name))
