"""What the commands work with: settings, flows, database, folders; the one place where they are put together."""

import gc
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy
from psycopg import Connection

import flows as flow_folder
import settings as settings_module
from commands.console import err
from file_processing.inbound.limits import Limits
from file_processing.inbound.long_file import LongFiles
from file_processing.inbound.pipeline import Pipeline
from file_processing.outbound.numbers import Numbers
from flows import Flows
from models.connector import Connector, Kind
from models.errors import StopDaemon, TidegateError
from services import text, trust
from services.db import engine as databases, schema, sqlstate
from services.db.engine import Database
from services.files.folders import Folders
from services.files.room import Room
from services.ledger import documents
from services.runtime import garbage, log
from services.transport.hosts import refuse_plain
from settings import Settings, listed

if TYPE_CHECKING:
    from file_processing.outbound.worker import Writer
    from services.ledger.daemons import Heartbeat

env_file: ContextVar[Path | None] = ContextVar("env_file", default=None)
"""What `--env-file` names; without it there is the `.env` beside `main.py`."""


@dataclass(frozen=True, slots=True)
class Site:
    """Everything a command works with.

    long_files: started, by whoever will have some, before there are threads.
    """

    settings: Settings
    flows: Flows
    database: Database
    long_files: LongFiles = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "long_files", LongFiles(self.flows))

    @property
    def engine(self) -> sqlalchemy.Engine:
        return self.database.engine

    @property
    def folders(self) -> Folders:
        return Folders(self.settings.archive_dir.resolve(), self.settings.rejected_dir.resolve())

    @property
    def migrations(self) -> list[Path]:
        """The folders of the migrations of flows' tables."""
        return flow_folder.migrations(*([self.settings.flows_dir] if self.settings.flows_dir else []))

    def pipeline(self, root: Path | None, **options: Any) -> Pipeline:
        """root: the resolved input folder; `None` for files anywhere, which stay where they are."""
        return Pipeline(
            self.engine,
            self.flows,
            self.folders,
            self.long_files,
            node=node(),
            root=root,
            limits=Limits(self.settings.max_file_bytes, self.settings.max_unpack_ratio, self.settings.max_rejects),
            room=room(self.settings).check,
            **options,
        )

    def writer(self, stopping: threading.Event) -> "Writer":
        from file_processing.outbound.worker import Writer

        return Writer(
            self.flows,
            self.settings.output_dir.resolve(),
            node=node(),
            connect=self.database.connect,
            recover=self.database.recover,
            stopping=stopping,
        )

    def heartbeat(self) -> "Heartbeat":
        from services.ledger.daemons import Heartbeat

        return Heartbeat(self.engine, node=node(), version=settings_module.VERSION, flows=self.flows)

    def prepare(self) -> list[str]:
        """Bring the database to the schema of this program, and outbound files behind the numbers they have had.

        Gives what still runs of an older version. Raises RetryLater or StopDaemon.
        """
        older = schema.prepare(self.database.direct, self.flows, self.migrations)
        with self.own_connection() as connection:
            for flow in self.flows.values():
                documents.tell(connection, flow)
            Numbers(self.settings.output_dir.resolve()).catch_up(connection)
        return older

    @contextmanager
    def own_connection(self) -> Iterator[Connection]:
        """A connection outside the pool, in autocommit mode; the database's errors come out as ours."""
        with sqlstate.translated(), self.database.connect() as connection:
            yield connection

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """A psycopg connection; the database's errors come out as ours."""
        with sqlstate.translated(), self.engine.connect() as pooled:
            connection = pooled.connection.driver_connection
            assert isinstance(connection, Connection)
            yield connection


def room(settings: Settings) -> Room:
    """What has to stay free, and where."""
    folders = settings.folders | {"DATA_DIR": settings.data_dir}
    return Room({name: folder.resolve() for name, folder in folders.items()}, settings.min_free_bytes)


def node() -> str:
    """This process, as the ledger names it."""
    return f"{socket.gethostname()}:{os.getpid()}"


def configured(*, console_log: bool = False) -> tuple[Settings, Flows]:
    """The settings and the flows, with logging set up by them."""
    settings = settings_module.load(_env_file(), declared=lambda folder: flow_folder.settings(_trusted(folder)))
    log.configure(settings, console=console_log)
    further = _trusted(settings.flows_dir)
    flows = flow_folder.discover(*([further] if further else []))
    hide_secrets(flows, settings)
    for flow in flows.values():
        for connector in flow.connectors:
            is_on(connector, settings)
    if not gc.isenabled():  # in a process of its own (`main.process`)
        garbage.collect_seldom()
    return settings, flows


def _env_file() -> Path | None:
    """The file to read settings from, once it is known that nobody else wrote it."""
    given, beside = env_file.get(), settings_module.ENV_FILE
    if given is not None:
        if not given.is_file():
            raise StopDaemon(f"--env-file {given} is not a file that can be read")
        return trust.checked(given, "--env-file")
    with suppress(OSError):  # a working folder that is closed or gone
        if Path(".env").is_file() and not (beside.is_file() and beside.samefile(".env")):
            err.print("the .env in this folder is not read; --env-file .env has it read")
    return trust.checked(beside, ".env") if beside.is_file() else None


def _trusted(flows_dir: Path | None) -> Path | None:
    """FLOWS_DIR, whose Python files run as us."""
    return trust.checked_tree(flows_dir, "FLOWS_DIR") if flows_dir else None


def is_on(connector: Connector, settings: Settings) -> bool:
    """Whether a connector's address is configured.

    Raises StopDaemon when it is, and what else it needs is not, or its credentials would go out unencrypted.
    """
    if not settings.text(connector.address):
        return False
    for choice in connector.needs:
        if not any(settings.text(setting) for setting in choice):
            missing = " or ".join(setting.name for setting in choice)
            raise StopDaemon(
                f"{connector.address.name} is set, and {missing} is not",
                hint=f"set it, or remove {connector.address.name}",
            )
    # Beside an address it needs what tells the partner who we are.
    needed = [setting for choice in ((connector.address,), *connector.needs) for setting in choice]
    sent = [one.name for one in needed if one.kind is not Kind.URL and settings.text(one)]
    for setting in connector.settings:
        if setting.kind is Kind.URL:
            refuse_plain(setting.name, settings.text(setting), sent, listed(settings.plain_http_hosts))
    return True


def hide_secrets(flows: Flows, settings: Settings) -> None:
    """Have our secrets shown nowhere, whoever says them back to us."""
    for flow in flows.values():
        for setting in flow.settings:
            if setting.kind in (Kind.SECRET, Kind.PASSWORD):
                text.hide(settings.text(setting))
    if settings.api_token is not None:
        text.hide(settings.api_token.get_secret_value())


@contextmanager
def opened(*, prepare: bool = True) -> Iterator[Site]:
    """A site whose database answers and has its schema; for every command but `run`."""
    settings, flows = configured()
    with databases.open_database(settings) as database:
        site = Site(settings, flows, database)
        if prepare:
            site.prepare()
        yield site


def make_folders(settings: Settings, flows: Flows) -> None:
    """Create the folders that are missing, one below `input/` for each flow. Raises StopDaemon."""
    check_apart(settings)
    for name in settings.folders:
        make_folder(settings, name, flows)


def check_apart(settings: Settings) -> None:
    """No folder may lie within another one: what is put into one would be found in the other, or be out of reach.

    Raises StopDaemon.
    """
    folders = {name: folder.resolve() for name, folder in settings.folders.items()}
    data = {"DATA_DIR": settings.data_dir.resolve()}
    for name, folder in (data | folders | {"LOG_FILE": settings.log_file.resolve()}).items():
        around_it = folders | data if name in folders else folders  # the log may lie in DATA_DIR
        for outer, around in around_it.items():
            if name != outer and _lies_within(folder, around):
                raise StopDaemon(
                    f"{name} {folder} lies within {outer} {around}" if folder != around else f"{name} is {outer}",
                    hint=f"set {name} to a place of its own"
                    + (": nobody but Tidegate's user gets into DATA_DIR" if outer in data else ""),
                )


def _lies_within(folder: Path, around: Path) -> bool:
    """Also where one of them is mounted a second time."""
    if folder.is_relative_to(around):
        return True
    existing = (part for part in (folder, *folder.parents) if part.exists())
    return around.exists() and any(part.samefile(around) for part in existing)


def make_folder(settings: Settings, name: str, flows: Flows) -> None:
    """The same for the one that the setting `name` names."""
    folder = settings.folders[name]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for flow in flows if name == "INPUT_DIR" else ():
            below = folder / flow
            if below.is_symlink():
                raise StopDaemon(
                    f"{below} is a link, and in {name} links are not followed",
                    hint="put a folder in its place, or mount the other one there",
                )
            _make_alike(below)
    except OSError as error:
        raise StopDaemon(
            f"{name} {folder} cannot be made: {error.strerror}", hint=f"mend it, or set {name} to another folder"
        ) from error


def _make_alike(folder: Path) -> None:
    """Make a folder that is as open as the one it is in: who may drop there may drop here, and no more than that."""
    if not folder.exists():
        mode = folder.parent.stat().st_mode & 0o1777  # the set-group-id bit is handed down by the kernel
        umask = os.umask(0)  # of the whole process, and there is nothing else at work yet
        try:
            folder.mkdir(mode, exist_ok=True)
        finally:
            os.umask(umask)


def named(flows: Flows, name: str | None) -> Any:
    """The flow of this name, `None` for no name."""
    if name is None:
        return None
    if name not in flows:
        raise TidegateError(f"there is no flow {name!r}", hint=f"there are {', '.join(flows)}")
    return flows[name]
