"""`run`: the daemon."""

import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path

from loguru import logger

from commands import api, connectors
from commands.console import from_here, out, this_program
from commands.site import Site, configured, make_folders, node
from file_processing.daemon import Daemon
from models.errors import RetryLater
from services.db import engine as databases
from services.db.engine import Database
from services.observer.inbox import Inbox
from services.runtime import descriptors, status_file, systemd
from services.runtime.supervisor import Supervisor
from services.transport.backoff import INBOUND
from settings import Settings

SAMPLES = Path(__file__).parent.parent / "sample_files"


def run() -> None:
    """Watch the input folder and load what is dropped into it (the default).

    It runs until it is told to stop (Ctrl-C, SIGTERM); .env.example lists what can be set.

    Example:

      INPUT_DIR=/srv/drop DATABASE_URL=postgresql://… python main.py run
    """
    descriptors.raise_limit()
    settings, flows = configured(console_log=True)
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    make_folders(settings, flows)
    with (
        status_file.publish(settings.data_dir, node=node(), input_dir=settings.input_dir.resolve()) as publisher,
        opened(settings, stopping) as database,
    ):
        site = Site(settings, flows, database)
        site.long_files.start()
        systemd.notify("READY=1", "STATUS=starting")
        prepare_patiently(site, publisher, stopping)
        if stopping.is_set():
            return
        welcome(site)
        pipeline = site.pipeline(settings.input_dir.resolve(), stopping=stopping)
        pipeline.build()  # what is wrong with a flow is told now, not with its first file
        Daemon(
            inbox=Inbox(
                settings.input_dir.resolve(),
                folders=list(flows),
                observer_kind=settings.observer,
                rescan_seconds=settings.rescan_seconds,
                settle_seconds=settings.settle_seconds,
            ),
            pipeline=pipeline,
            writer=site.writer(stopping),
            connectors=Supervisor(connectors.jobs(site, lambda: publisher.state)),
            publisher=publisher,
            heartbeat=site.heartbeat(),
            recover=database.recover,
            workers=settings.workers,
            stopping=stopping,
        ).run()
    logger.info("stopped")


@contextmanager
def opened(settings: Settings, stopping: threading.Event) -> Iterator[Database]:
    """The database; systemd waits while the embedded server starts, be it for minutes."""
    with ExitStack() as stack:
        with systemd.extended_start(stopping):
            database = stack.enter_context(databases.open_database(settings))
        yield database


def prepare_patiently(site: Site, publisher: status_file.Publisher, stopping: threading.Event) -> None:
    """Bring the schema up to date, waiting for the database as long as it takes."""
    failures = 0
    fault: status_file.Fault | None = None
    while not stopping.is_set():
        try:
            with systemd.kept_alive():
                site.prepare()
        except RetryLater as error:
            if fault is None or fault.text != error.reason:
                logger.warning("the database does not answer, trying again: {}", error)
                fault = status_file.Fault(error.reason, error.hint, fault.since if fault else datetime.now(UTC))
            publisher.update(state=status_file.Phase.WAITING_FOR_DATABASE, fault=fault)
            systemd.notify("WATCHDOG=1", f"STATUS=waiting for the database: {error.reason}")
            stopping.wait(INBOUND.pause_seconds(failures))
            failures += 1
        else:
            publisher.update(fault=None)
            return


def welcome(site: Site) -> None:
    """Say where everything is and what to try."""
    folder = site.settings.input_dir
    out.print(f"Watching  {folder.resolve()}/ and its folders: {', '.join(site.flows)}")
    out.print(f"Database  {site.database.uri}" + ("  (embedded)" if site.database.embedded else ""))
    if site.settings.api_port:
        out.print(f"API       http://{site.settings.api_host}:{site.settings.api_port}/docs")
        token = api.token_file(site.settings)
        out.print(f"Token     {f'stands in {token}' if token else 'is API_TOKEN'}")
    sample = next((path for flow in site.flows for path in sorted((SAMPLES / flow).glob("*.*"))), None)
    if sample is not None:
        out.print(f"Try       cp {from_here(sample)} {folder}/{sample.parent.name}/")
    out.print(f"Then      {this_program()} files     (from another terminal; --help shows more)")
    logger.info("watching {} for {}", folder.resolve(), ", ".join(site.flows))
