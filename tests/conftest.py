"""The world of the tests: a real PostgreSQL, a fresh database and folders for each test."""

import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import hypothesis
import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict
from pydantic import SecretStr
from sqlalchemy import Engine

import flows
import settings as settings_module
from services.db import embedded, engine as db_engine, schema
from settings import Settings
from tests.support.pgbouncer import pgbouncer

# How long an example takes says how busy the machine is, and nothing of the code.
hypothesis.settings.register_profile("tidegate", deadline=None)
hypothesis.settings.load_profile("tidegate")

POSTGRES_IMAGE = "postgres:18.6"
_SERVER = "TEST_DATABASE_URL"
_running = ExitStack()
_which = pytest.StashKey[str]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--through-pgbouncer",
        action="store_true",
        help="Put a PgBouncer in transaction mode before the database of every site.",
    )


def pytest_configure(config: pytest.Config) -> None:
    """One server for the run: the controller starts it, xdist's workers inherit the environment."""
    if _SERVER in os.environ:
        config.stash[_which] = f"{_SERVER} of the environment"
        return
    container, why_not = _container()
    if container is not None:
        config.stash[_which] = f"a container of {POSTGRES_IMAGE}: a Docker engine answers"
        os.environ[_SERVER] = container
    else:
        config.stash[_which] = f"the embedded PostgreSQL: {why_not}, and {_SERVER} is not set"
        os.environ[_SERVER] = _running.enter_context(_embedded())
    _running.callback(os.environ.pop, _SERVER)


def pytest_unconfigure() -> None:
    _running.close()


def pytest_report_header(config: pytest.Config) -> str:
    return f"database: {config.stash[_which]}"


def _container() -> tuple[str | None, str]:
    """The URI of a server in a container, or why there is none."""
    if "DOCKER_HOST" not in os.environ and not Path("/var/run/docker.sock").exists():
        return None, "there is no Docker engine here"
    import docker
    from testcontainers.community.postgres import PostgresContainer

    try:
        docker.from_env(timeout=2).ping()
        container = _running.enter_context(PostgresContainer(POSTGRES_IMAGE, driver=None))
    except Exception as error:  # noqa: BLE001  # whatever is wrong with it, there is the embedded server
        return None, f"the Docker engine does not serve ({type(error).__name__})"
    return str(container.get_connection_url()), ""


@contextmanager
def _embedded() -> Iterator[str]:
    with _open_folder() as folder, embedded.serve(folder, durable=False) as server:
        yield server.superuser_uri  # tests make databases and roles


def _memory() -> Path | None:
    """A folder in memory, if there is room: a database is created there in 12 ms, on a disk in 240."""
    memory = Path("/dev/shm")
    return memory if memory.is_dir() and shutil.disk_usage(memory).free > 2 * 2**30 else None


@contextmanager
def _open_folder() -> Iterator[Path]:
    """A folder that every user may pass through, unlike `tmp_path`, with a short path."""
    folder = Path(tempfile.mkdtemp(prefix="tidegate-test-", dir=_memory()))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    with _open_folder() as folder:
        yield folder


@pytest.fixture(scope="session")
def shared_open_folder() -> Iterator[Path]:
    """One for the whole run, for what is made once and copied."""
    with _open_folder() as folder:
        yield folder


@pytest.fixture(scope="session")
def server_url() -> str:
    """The URI of a server on which databases may be created."""
    return os.environ[_SERVER]


@pytest.fixture(scope="session")
def _template(server_url: str) -> Iterator[str]:
    """A database with the schema of the built-in flows, made once."""
    with _database(server_url) as name:
        uri = _uri(server_url, name)
        with db_engine.open_database(Settings(_env_file=None, database_url=SecretStr(uri))) as database:
            schema.prepare(database.engine, flows.discover())
        yield name


@pytest.fixture
def database_url(server_url: str, _template: str) -> Iterator[str]:
    """A fresh database with the schema of the built-in flows."""
    with _database(server_url, _template) as name:
        yield _uri(server_url, name)


@pytest.fixture
def empty_database_url(server_url: str) -> Iterator[str]:
    """A fresh database with nothing in it."""
    with _database(server_url) as name:
        yield _uri(server_url, name)


@pytest.fixture(scope="session")
def _pooler_url(request: pytest.FixtureRequest, server_url: str) -> Iterator[str | None]:
    """The URI of the same server by way of a pooler, where the tests run through one."""
    if not request.config.getoption("--through-pgbouncer"):
        yield None
        return
    with _open_folder() as folder, pgbouncer(folder, server_url, pool_mode="transaction") as uri:
        yield uri


@pytest.fixture
def settings(tmp_path: Path, database_url: str, _pooler_url: str | None, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings of a site in `tmp_path` on a fresh database; nothing of the environment is in them."""
    made = site_settings(tmp_path, database_url, monkeypatch)
    if _pooler_url is None:
        return made
    pooled = _uri(_pooler_url, str(conninfo_to_dict(database_url)["dbname"]))
    return made.model_copy(update={"database_url": SecretStr(pooled), "database_direct_url": SecretStr(database_url)})


def site_settings(site: Path, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Settings:
    for name in settings_module.names():
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    folders = {f"{name}_dir": site / name for name in ("input", "output", "archive", "rejected")}
    for folder in folders.values():
        folder.mkdir()
    return Settings.model_validate(
        {
            **folders,
            "data_dir": site / ".data",
            "log_file": site / "app.log",
            "database_url": database_url,
            "min_free_bytes": 0,
            "api_port": 0,  # many sites at a time: a test of the API takes a port of its own
        }
    )


@pytest.fixture
def engine(settings: Settings) -> Iterator[Engine]:
    with db_engine.open_database(settings) as database:
        yield database.engine


@contextmanager
def _database(server_url: str, template: str = "template1") -> Iterator[str]:
    name = f"tidegate_test_{uuid.uuid4().hex[:12]}"
    _administer(server_url, "create database {} template {}", name, template)
    try:
        yield name
    finally:
        _administer(server_url, "drop database {} with (force)", name)


def _administer(server_url: str, statement: str, *names: str) -> None:
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))


def _uri(server_url: str, database: str) -> str:
    """The URI of another database of the same server."""
    start, _, query = server_url.partition("?")
    return f"{start.rpartition('/')[0]}/{database}" + (f"?{query}" if query else "")
