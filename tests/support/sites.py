"""A site as its users see it: folders to drop into, a daemon, rows, reports and the command line."""

import contextlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import psycopg
import pytest
from loguru import logger
from psycopg import sql
from psycopg.rows import dict_row
from pydantic import SecretStr

import flows as flow_folder
import main
import settings as settings_module
from commands import connectors
from commands.site import Site as Assembly, hide_secrets, make_folders
from file_processing import daemon as daemon_module
from file_processing.daemon import Daemon
from file_processing.inbound.adhoc import GivenFile
from file_processing.inbound.archive import FileResult
from file_processing.inbound.routing import RoutedFile
from flows import Flows
from services.db import engine as databases
from services.observer.inbox import Inbox
from services.observer.scan import scan
from services.runtime import log, status_file
from services.runtime.supervisor import Supervisor
from services.transport.backoff import Backoff
from settings import Settings
from tests.support import processes
from tests.support.processes import ROOT, Process
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from loguru import Message

SETTLE_SECONDS = 0.2
NO_FILE = Path("/dev/null/.env")
"""A developer's own `.env` is nothing to the tests."""


@dataclass
class Site:
    """One site: `settings` say where everything is; `flows_dir` may hold further flows."""

    settings: Settings
    processes: list[Process] = field(default_factory=list)

    @property
    def url(self) -> str:
        """Of the database itself, also where the site goes through a pooler."""
        url = self.settings.database_direct_url or self.settings.database_url
        assert url is not None
        return url.get_secret_value()

    @property
    def input(self) -> Path:
        return self.settings.input_dir

    @property
    def rejected(self) -> Path:
        return self.settings.rejected_dir

    @property
    def archive(self) -> Path:
        return self.settings.archive_dir

    # what people do

    def connect(self, **values: object) -> None:
        """Configure connectors: `CRM_API_URL=crm.url`; a running daemon does not notice."""
        self.settings = self.settings.with_values(**{name: str(value) for name, value in values.items()})

    def drop(self, name: str, content: object, *, flow: str = "") -> Path:
        """Put a file into the input folder, whole at once: bytes and text as they are, else as JSON."""
        folder = self.input / flow
        folder.mkdir(parents=True, exist_ok=True)
        data = content if isinstance(content, bytes | str) else json.dumps(content)
        temporary = folder / f".{os.getpid()}.tmp"
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)
        return temporary.rename(folder / name)

    # what people see

    def query(self, statement: str, *values: object) -> list[dict[str, Any]]:
        with psycopg.connect(self.url, row_factory=dict_row, autocommit=True) as connection:
            return connection.execute(statement.encode(), values or None).fetchall()

    def execute(self, statement: str) -> None:
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(statement.encode())

    def rows(self, table: str) -> list[dict[str, Any]]:
        with psycopg.connect(self.url, row_factory=dict_row) as connection:
            query = sql.SQL("select * from {} order by 1, 2").format(sql.Identifier(table))
            return connection.execute(query).fetchall()

    def ledger(self) -> list[dict[str, Any]]:
        """The ledger, oldest first."""
        return self.query("select * from tidegate.inbound_file order by id")

    def waiting(self) -> list[Path]:
        """The files still in the input folder, hidden ones too."""
        return [path for path in self.input.rglob("*") if path.is_symlink() or not path.is_dir()]

    def out(self, flow: str) -> dict[str, str]:
        """The outbound files of a flow by name; temporary ones too, so that one left behind is seen."""
        folder = self.settings.output_dir / flow
        found: dict[str, str] = {}
        for path in sorted(folder.rglob("*")):
            with contextlib.suppress(FileNotFoundError, IsADirectoryError):  # renamed meanwhile
                found[str(path.relative_to(folder))] = path.read_text()
        return found

    def settled(self, files: int) -> list[dict[str, Any]]:
        """The ledger, once it has so many lines and every file is filed."""
        eventually(
            lambda: len(self.ledger()) >= files and all(line["filed_at"] for line in self.ledger()),
            timeout=20,
            what=f"{files} files in the ledger and filed; there are {self.ledger()}",
        )
        return self.ledger()

    def report(self, name: str, flow: str) -> Any:
        """The `.errors.json` of a rejected file."""
        return json.loads((self.rejected / flow / f"{name}.errors.json").read_text())

    # the command line, as a process of its own

    @property
    def environment(self) -> dict[str, str]:
        values: Mapping[str, object] = {
            **{name.upper(): getattr(self.settings, name) for name in Settings.model_fields},
            **{name: value.get_secret_value() for name, value in self.settings.declared.items()},
        }
        return {
            **{name: value for name, value in os.environ.items() if name not in values},
            **{name: _plain(value) for name, value in values.items() if value is not None},
        }

    def cli(self, *arguments: str, expect: int | None = 0) -> "subprocess.CompletedProcess[str]":
        (empty := self.input.parent / "no-settings.env").touch()
        done = subprocess.run(
            [sys.executable, str(ROOT / "main.py"), "--env-file", str(empty), *arguments],
            env=self.environment,
            cwd=self.input.parent,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert expect is None or done.returncode == expect, f"{done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def call(self, *arguments: str, expect: int | None = 0, **environment: str) -> "subprocess.CompletedProcess[str]":
        """The command line within this process, which takes a tenth of the time."""
        stdout, stderr, code = io.StringIO(), io.StringIO(), None
        with (
            mock.patch.dict(os.environ, self.environment | {"COLUMNS": "80"} | environment, clear=True),
            mock.patch.object(sys, "argv", ["main.py", *arguments]),
            mock.patch.object(settings_module, "ENV_FILE", NO_FILE),
            contextlib.chdir(self.input.parent),
            contextlib.redirect_stdout(stdout),
            contextlib.redirect_stderr(stderr),
        ):
            try:
                main.main()
            except SystemExit as error:
                code = error.code
            finally:
                logger.remove()
        assert isinstance(code, int)
        done = subprocess.CompletedProcess(list(arguments), code, stdout.getvalue(), stderr.getvalue())
        assert expect is None or code == expect, f"{code}\n{done.stdout}\n{done.stderr}"
        return done

    def start(self, *, impatient: bool = False, **environment: str) -> Process:
        """Start a daemon as a process of its own.

        impatient: it tries again at once what went wrong with a partner.
        """
        folder = self.input.parent
        process = processes.start(
            "run",
            environment=self.environment | environment,
            folder=folder,
            log=folder / f"daemon-{len(self.processes)}.log",
            **({"faults": "tests.support.impatience", "point": "at once"} if impatient else {}),
        )
        self.processes.append(process)
        return process

    def fork(self, *arguments: str, expect: int | None = 0) -> str:
        """The command line in a process of its own, like `cli` in a tenth of the time; what it says on both outputs."""
        folder = self.input.parent
        process = processes.start(*arguments, environment=self.environment, folder=folder, log=folder / "forked.log")
        code, said = process.wait(60), process.log.read_text()
        assert expect is None or code == expect, f"{code}\n{said}"
        return said

    def run_to_kill(self, faults: str, point: str, *arguments: str, **environment: str) -> None:
        """Run the daemon, or another command, until it kills itself at a point of the module `faults`."""
        processes.run_to_kill(
            *(arguments or ("run",)),
            environment=self.environment | environment,
            folder=self.input.parent,
            faults=faults,
            point=point,
        )

    def load(self) -> list[FileResult]:
        """Take what lies in the input folder through the pipeline, once, without a daemon."""
        flows = self.flows()
        with databases.open_database(self.settings) as database:
            root = self.input.resolve()
            pipeline = Assembly(self.settings, flows, database).pipeline(root)
            queues: dict[str | None, list[RoutedFile]] = {}
            for path in sorted(Path(entry.path) for entry in scan(str(root), failed=_never)):
                status = path.lstat()
                found = GivenFile(
                    path,
                    str(path.relative_to(root)),
                    datetime.now(UTC),
                    size=status.st_size,
                    mtime_ns=status.st_mtime_ns,
                    arrival=status.st_ctime_ns,
                )
                routed = pipeline.router.route(found)
                queues.setdefault(routed.flow, []).append(routed)
            return [result for flow, files in queues.items() for result in pipeline.handle(flow, files)]

    def flows(self) -> Flows:
        return flow_folder.discover(*([self.settings.flows_dir] if self.settings.flows_dir else []))

    def log(self) -> str:
        return self.settings.log_file.read_text() if self.settings.log_file.exists() else ""

    def stop(self, process: Process, how: signal.Signals = signal.SIGTERM) -> int:
        process.send_signal(how)
        return process.wait(20)


def _plain(value: object) -> str:
    return value.get_secret_value() if isinstance(value, SecretStr) else str(value)


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def _never(folder: str, error: OSError) -> None:
    raise AssertionError(f"{folder}: {error}")


@pytest.fixture
def site(settings: Settings) -> Iterator[Site]:
    """A site with nothing running; daemons that a test starts end with it."""
    quick = settings.model_copy(update={"settle_seconds": SETTLE_SECONDS, "rescan_seconds": 1.0})
    made = Site(quick)
    yield made
    for process in made.processes:
        process.kill()
        process.wait()


@contextmanager
def running(site: Site) -> Iterator[Site]:
    """The daemon at work in a thread of this process."""
    flows = site.flows()
    make_folders(site.settings, flows)
    hide_secrets(flows, site.settings)
    stopping = threading.Event()
    with (
        mock.patch.object(daemon_module, "TAKE_SECONDS", 0.05),
        databases.open_database(site.settings) as database,
        status_file.publish(site.settings.data_dir, node="test", input_dir=site.input) as publisher,
    ):
        assembly = Assembly(site.settings, flows, database)
        assembly.prepare()
        daemon = Daemon(
            inbox=Inbox(
                site.input,
                folders=list(flows),
                observer_kind=site.settings.observer,
                rescan_seconds=site.settings.rescan_seconds,
                settle_seconds=site.settings.settle_seconds,
            ),
            pipeline=assembly.pipeline(site.input.resolve(), stopping=stopping),
            writer=assembly.writer(stopping),
            connectors=Supervisor(connectors.jobs(assembly, lambda: publisher.state)),
            publisher=publisher,
            heartbeat=assembly.heartbeat(),
            recover=database.recover,
            workers=site.settings.workers,
            stopping=stopping,
        )
        failure: list[BaseException] = []

        def work() -> None:
            try:
                daemon.run()
            except BaseException as error:  # noqa: BLE001  # raised again in the test's thread
                failure.append(error)

        thread = threading.Thread(target=work, name="daemon")
        thread.start()
        try:
            yield site
        finally:
            stopping.set()
            thread.join(20)
        assert not thread.is_alive(), "the daemon did not stop"
        if failure:
            raise failure[0]


@pytest.fixture
def live(site: Site) -> Iterator[Site]:
    """A site with a daemon at work in this process."""
    with running(site):
        yield site


@pytest.fixture
def logged() -> Iterator[list[str]]:
    """The lines of the log of this process, from DEBUG on."""
    lines: list[str] = []

    def write(message: "Message") -> None:
        several = log.lines_of(message.record)
        lines.extend(
            [str(message).rstrip()] if len(several) == 1 else (f"{one.level} {one.message}" for one in several)
        )

    number = logger.add(write, format="{level} {message}", level="DEBUG")
    yield lines
    logger.remove(number)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits is tried again at once."""
    monkeypatch.setattr(daemon_module, "INBOUND", Backoff(first_seconds=0.05, longest_seconds=0.1))
