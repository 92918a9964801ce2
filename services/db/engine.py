"""Connections: the engine on the embedded server or on the one that DATABASE_URL names."""

import os
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import psycopg
import sqlalchemy
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import Engine, event

from models.errors import StopDaemon
from services.db import embedded, sqlstate
from settings import Settings

Connect = Callable[[], psycopg.Connection]
"""Makes a connection of one's own, in autocommit mode."""

_SCHEME = re.compile(r"^postgres(ql)?(\+psycopg)?://")
_LOCK_WAIT_SECONDS = 5.0
_SPARE_CONNECTIONS = 4  # beside the workers: one more for small files, the ledger, `LISTEN`, a look by `status`
_CONNECT: dict[str, Any] = {
    "connect_timeout": 5,
    # A server that is gone without a word is noticed within a minute.
    "keepalives": 1,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,  # milliseconds
}


@dataclass(frozen=True, slots=True)
class Database:
    """The database of this process.

    uri: for display, without password.
    """

    engine: Engine
    uri: str
    _target: embedded.Server | str = field(repr=False)

    @property
    def embedded(self) -> bool:
        return isinstance(self._target, embedded.Server)

    def connect(self) -> psycopg.Connection:
        """A connection of one's own, outside the pool and in autocommit mode, as LISTEN wants it.

        It waits at most so long for what another application has locked.
        """
        with sqlstate.translated():
            connection = _connect(self._target)
            connection.execute("select set_config('lock_timeout', %s, false)", [f"{_LOCK_WAIT_SECONDS}s"])
            return connection

    def recover(self) -> None:
        """Call it when the connection is lost: starts the embedded server again if it died."""
        if isinstance(self._target, embedded.Server):
            self._target.ensure_running()


@contextmanager
def open_database(settings: Settings) -> Iterator[Database]:
    """The database of the settings; with DATABASE_URL nothing connects yet, so the server may be down.

    Raises StopDaemon when DATABASE_URL is no URI, or the embedded server does not start.
    """
    if settings.database_url is None:
        with embedded.serve(settings.data_dir) as server:
            with _engine(settings, server) as engine:
                yield Database(engine, server.uri, server)
        return
    uri = _SCHEME.sub("postgresql://", settings.database_url.get_secret_value())
    with _engine(settings, uri) as engine:
        yield Database(engine, _without_password(uri), uri)


def ping(engine: Engine) -> str:
    """The server's version. Raises what `sqlstate` makes of the error when it does not answer."""
    with sqlstate.translated(), engine.connect() as connection:
        return str(connection.exec_driver_sql("show server_version").scalar_one())


@contextmanager
def _engine(settings: Settings, target: embedded.Server | str) -> Iterator[Engine]:
    if isinstance(target, str):
        _connect_parameters(target)  # raises at once when it is no URI
    engine = sqlalchemy.create_engine(
        "postgresql+psycopg://",
        pool_size=settings.workers + _SPARE_CONNECTIONS,
        pool_timeout=30,
        pool_pre_ping=True,
        hide_parameters=True,  # values of records belong in no message
    )

    @event.listens_for(engine, "do_connect")
    def connect(_dialect: object, _record: object, _arguments: object, options: dict[str, Any]) -> psycopg.Connection:
        connection = _connect(target, context=options["context"])
        connection.autocommit = False
        return connection

    try:
        yield engine
    finally:
        engine.dispose()


def _connect(target: embedded.Server | str, **options: Any) -> psycopg.Connection:
    """A connection in autocommit mode."""
    # libpq reads the URI itself; the embedded server's may have changed since the last time.
    uri = target if isinstance(target, str) else target.uri
    connection = psycopg.connect(**_connect_parameters(uri), **options, autocommit=True)
    connection.execute("set timezone to 'UTC'")  # whatever role, database and PGTZ say
    return connection


def _connect_parameters(uri: str) -> dict[str, Any]:
    try:
        given = conninfo_to_dict(uri) if _SCHEME.match(uri) else None
    except psycopg.ProgrammingError:
        given = None  # not its message, which may quote the password
    if given is None:
        raise StopDaemon(
            "DATABASE_URL is not a PostgreSQL URI", hint="postgresql://USER:PASSWORD@HOST:PORT/DATABASE"
        ) from None
    own = {"application_name": f"tidegate:{socket.gethostname()}:{os.getpid()}"}
    return _CONNECT | own | given


def _without_password(uri: str) -> str:
    parts = urlsplit(uri)
    login, at, place = parts.netloc.rpartition("@")
    query = urlencode([(k, v) for k, v in parse_qsl(parts.query) if "password" not in k], safe="/")
    return parts._replace(netloc=login.partition(":")[0] + at + place, query=query).geturl()
