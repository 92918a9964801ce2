"""What the benchmarks share: a site of its own on a real server, a table, a bar."""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
from loguru import logger
from psycopg import sql
from pydantic import SecretStr

import flows as flow_folder
from commands.site import Site, make_folders
from services.db import embedded, engine as databases, schema
from settings import Settings

ROOT = Path(__file__).parent.parent
TABLE = "vehicles_status"
FLOW = "vehicle_status"


@dataclass(slots=True)
class Bench:
    """A site in a temporary folder, on a database that nothing else uses."""

    site: Site
    folder: Path
    url: str

    def execute(self, statement: str) -> list[Any]:
        with psycopg.connect(self.url, autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def forget(self) -> None:
        """Empty the flow's table and the ledger, and let the server write what it still has to."""
        self.execute(f"truncate {TABLE}, tidegate.inbound_file, tidegate.rejected_record")
        self.execute("checkpoint")

    @property
    def environment(self) -> dict[str, str]:
        settings = self.site.settings
        folders = {name: str(folder) for name, folder in settings.folders.items()}
        own = {"DATABASE_URL": self.url, "DATA_DIR": str(settings.data_dir), "LOG_FILE": str(settings.log_file)}
        return os.environ | folders | own

    def ingest(self, *paths: Path) -> subprocess.Popen[bytes]:
        """`python main.py ingest` as a process."""
        return self.process("ingest", "--flow", FLOW, *map(str, paths))

    def process(self, *arguments: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, str(ROOT / "main.py"), *arguments],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    @contextmanager
    def daemon(self) -> Iterator[None]:
        """The daemon as a process, from when it watches."""
        log = self.site.settings.log_file
        log.unlink(missing_ok=True)
        process = self.process("run")
        try:
            while not (log.exists() and "watching" in log.read_text()):
                if process.poll() is not None:
                    raise SystemExit(f"the daemon ends with {process.returncode}; see {log}")
                time.sleep(0.05)
            yield
        finally:
            process.terminate()
            process.wait()


@contextmanager
def bench() -> Iterator[Bench]:
    """A site on a fresh database: of DATABASE_URL's server, or of an embedded one of its own."""
    folder = Path(tempfile.mkdtemp(prefix="tidegate-bench-"))
    folder.chmod(0o755)  # root's embedded server runs as another user and has to reach it
    logger.remove()
    try:
        with _server(folder) as server, _database(server) as url:
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
                schema.prepare(database.engine, flows)
                yield Bench(Site(settings, flows, database), folder, url)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _server(folder: Path) -> Iterator[str]:
    given = os.environ.get("DATABASE_URL")
    if given:
        print(f"on the server of DATABASE_URL, {datetime.now(UTC):%Y-%m-%d %H:%M}Z")
        yield given.replace("postgresql+psycopg:", "postgresql:")
        return
    with embedded.serve(folder / "server") as server:
        print(f"on an embedded server, {os.cpu_count()} processors, {datetime.now(UTC):%Y-%m-%d %H:%M}Z")
        yield server.superuser_uri


@contextmanager
def _database(server: str) -> Iterator[str]:
    name = sql.Identifier(made := f"tidegate_bench_{uuid.uuid4().hex[:8]}")
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(sql.SQL("create database {}").format(name))
        start, _, query = server.partition("?")
        try:
            yield f"{start.rpartition('/')[0]}/{made}" + (f"?{query}" if query else "")
        finally:
            connection.execute(sql.SQL("drop database {} with (force)").format(name))


# what is loaded

START = datetime(2026, 1, 31, 12, tzinfo=UTC)
Vehicle = tuple[str, datetime, str]


def vehicles(count: int, *, first: int = 0, days: int = 0) -> Iterator[Vehicle]:
    """Reports of different vehicles, as the field sends them; `days` makes them newer."""
    statuses = ("driving", "parking", "charging", "accident")
    for number in range(first, first + count):
        time_of = START + timedelta(days=days, milliseconds=number)
        yield f"{number * 0x9E3779B97F4A7C15 % 2**128:032x}", time_of, statuses[number % 4]


def as_text(rows: Iterable[Vehicle]) -> Iterator[str]:
    """Each as a record of the flow."""
    for vehicle, moment, status in rows:
        yield json.dumps({"vehicle_id": vehicle, "report_time": moment.isoformat(), "status": status})


def write_file(path: Path, records: Iterable[str]) -> Path:
    """One file of the flow, written as it comes."""
    with path.open("w") as file:
        file.write(f'{{"{FLOW}": [')
        separator = "\n"
        for record in records:
            file.write(f"{separator}{record}")
            separator = ",\n"
        file.write("\n]}\n")
    return path


# what comes out


def seconds(action: Callable[..., object], *arguments: object) -> float:
    start = time.perf_counter()
    action(*arguments)
    return time.perf_counter() - start


@dataclass(slots=True)
class Report:
    """A table of measurements, and whether they keep their bars."""

    lines: list[tuple[str, str]] = field(default_factory=list)
    failed: bool = False

    def say(self, what: str, value: str) -> None:
        self.lines.append((what, value))

    def times(self, what: str, measured: Sequence[float], unit: str = "s") -> None:
        span = f"({min(measured):.3f} to {max(measured):.3f} in {len(measured)})"
        self.say(what, f"{statistics.median(measured):8.3f} {unit}  {span}")

    def bar(self, what: str, value: float, *, at_most: float | None = None, at_least: float | None = None) -> None:
        kept = (at_most is None or value <= at_most) and (at_least is None or value >= at_least)
        self.failed |= not kept
        limit = f"at most {at_most:g}" if at_most is not None else f"at least {at_least:g}"
        self.say(what, f"{value:8.2f}    bar: {limit}: {'pass' if kept else 'FAIL'}")

    def finish(self) -> None:
        """Print the table and end the program."""
        width = max(len(what) for what, _ in self.lines)
        for what, value in self.lines:
            print(f"{what:<{width}}  {value}")
        raise SystemExit(1 if self.failed else 0)
