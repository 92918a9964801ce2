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
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict
from psycopg.types.json import set_json_dumps
from pydantic import SecretStr
from sqlalchemy import Engine, event

from models.errors import StopDaemon
from services import text
from services.db import connection as connections, embedded, pooler, sqlstate
from services.db.connection import DatabaseConnection
from settings import Settings

Connect = Callable[[], psycopg.Connection]
"""Makes a connection of one's own, in autocommit mode."""

_SCHEME = re.compile(r"^postgres(ql)?(\+psycopg)?://")
_SPARE_CONNECTIONS = 4  # beside the workers: one more for small files, the ledger, `LISTEN`, a look by `status`
_CONNECT: dict[str, Any] = {
    "connect_timeout": 5,
    # A server that is gone without a word is noticed within ten seconds or so. This also ends a connection to one that
    # takes nothing for so long of what we send: it may have more time in DATABASE_URL.
    "keepalives": 1,
    "keepalives_idle": 3,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,  # milliseconds
}
_CONNECT_OF_SEVERAL = {"connect_timeout": 3}  # for each of them, in their order

_ALWAYS = {"client_encoding": "UTF8"}  # rows are encoded without asking the server; it turns them into its own


@dataclass(slots=True)
class _Target:
    """A server to connect to; setting: the one that names it."""

    place: embedded.Server | str
    setting: str = "DATABASE_URL"
    keeps_sessions: bool = False  # known once a connection was made

    def connect(self, **options: Any) -> DatabaseConnection:
        """A connection in autocommit mode whose session is its own. Raises StopDaemon where a pooler takes it away."""
        connection = self._connect(**options)
        try:
            server_pid = connections.begin_session(connection)
            if not self.keeps_sessions:
                if server_pid != connection.info.backend_pid:  # somebody stands between
                    with self._connect() as another:
                        pooler.refuse_shared_sessions(connection, another, self.setting)
                self.keeps_sessions = True
        except BaseException:
            connection.close()
            raise
        return connection

    def connect_by_pooler(self, **options: Any) -> DatabaseConnection:
        """One that has its session only for the length of a transaction."""
        return self._connect(**options, prepare_threshold=None)

    def _connect(self, **options: Any) -> DatabaseConnection:
        # libpq reads the URI itself; the embedded server's may have changed since the last time.
        uri = self.place if isinstance(self.place, str) else self.place.uri
        parameters = _connect_parameters(uri, self.setting)
        connection = DatabaseConnection.connect(**parameters, **options, autocommit=True)
        set_json_dumps(text.exact_json, connection)  # no digit of a partner's number gets lost
        return connection


@dataclass(frozen=True, slots=True)
class Database:
    """The database of this process.

    engine: for transactions; each of them may come to another session where a pooler stands between.
    direct: for what needs a session of its own, such as changes of the schema.
    uri: for display, without password.
    """

    engine: Engine
    direct: Engine
    uri: str
    _sessions: _Target = field(repr=False)

    @property
    def embedded(self) -> bool:
        return isinstance(self._sessions.place, embedded.Server)

    def connect(self) -> psycopg.Connection:
        """A connection of one's own, outside the pool and in autocommit mode, as LISTEN wants it.

        It waits at most so long for what another application has locked.
        """
        with sqlstate.translated():
            connection = self._sessions.connect()
            connection.execute(sql.SQL(connections.settings(connection.info.server_version, local=False)))
            return connection

    def recover(self) -> None:
        """Call it when the connection is lost: starts the embedded server again if it died."""
        if isinstance(self._sessions.place, embedded.Server):
            self._sessions.place.ensure_running()


@contextmanager
def open_database(settings: Settings) -> Iterator[Database]:
    """The database of the settings; with DATABASE_URL nothing connects yet, so the server may be down.

    Raises StopDaemon when DATABASE_URL or DATABASE_DIRECT_URL is no URI, or the embedded server does not start.
    """
    url, direct_url = settings.database_url, settings.database_direct_url
    if url is None:
        if direct_url is not None:
            raise StopDaemon(
                "DATABASE_DIRECT_URL is set, and DATABASE_URL is not",
                hint="without a pooler between, the server's address belongs into DATABASE_URL",
            )
        with embedded.serve(settings.data_dir) as server:
            sessions = _Target(server)
            with _engine(settings, sessions.connect) as engine:
                yield Database(engine, engine, server.uri, sessions)
        return
    target = _named("DATABASE_URL", url)
    shown = _without_password(str(target.place))
    if direct_url is None:
        with _engine(settings, target.connect) as engine:
            yield Database(engine, engine, shown, target)
        return
    sessions = _named("DATABASE_DIRECT_URL", direct_url)
    with _engine(settings, target.connect_by_pooler) as engine, _engine(settings, sessions.connect) as direct:
        yield Database(engine, direct, shown, sessions)


def ping(engine: Engine) -> str:
    """The server's version. Raises what `sqlstate` makes of the error when it does not answer."""
    with sqlstate.translated(), engine.connect() as connection:
        return str(connection.exec_driver_sql("show server_version").scalar_one())


_RISKS = """
select name || ' is off: a crash there may lose what was loaded'
from pg_settings where name in ('fsync', 'full_page_writes') and setting = 'off'
union all
select 'commits wait for a standby (synchronous_standby_names), and no file is done before one answers'
where exists (select from pg_stat_activity
              where wait_event = 'SyncRep' and datname = current_database() and state_change < now() - interval '2 s')
order by 1
"""


def risks(engine: Engine) -> list[str]:
    """What this server does by which a crash of its machine loses what was loaded, and what its commits wait for."""
    with sqlstate.translated(), engine.connect() as connection:
        return list(connection.exec_driver_sql(_RISKS).scalars())


def _named(setting: str, url: SecretStr) -> _Target:
    uri = _SCHEME.sub("postgresql://", url.get_secret_value())
    _connect_parameters(uri, setting)  # raises at once when it is no URI
    return _Target(uri, setting)


@contextmanager
def _engine(settings: Settings, connect: Callable[..., DatabaseConnection]) -> Iterator[Engine]:
    engine = sqlalchemy.create_engine(
        "postgresql+psycopg://",
        pool_size=settings.workers + _SPARE_CONNECTIONS,
        pool_timeout=30,
        hide_parameters=True,  # values of records belong in no message
    )

    @event.listens_for(engine, "do_connect")
    def do_connect(
        _dialect: object, _record: object, _arguments: object, options: dict[str, Any]
    ) -> DatabaseConnection:
        connection = connect(context=options["context"])
        connection.autocommit = False
        return connection

    @event.listens_for(engine, "checkout")
    def checkout(connection: DatabaseConnection, _record: object, _proxy: object) -> None:
        # To ask the server each time would cost a round trip.
        if connection.is_lost():
            raise sqlalchemy.exc.InvalidatePoolError("the server has hung up")

    try:
        yield engine
    finally:
        engine.dispose()


def _connect_parameters(uri: str, setting: str) -> dict[str, Any]:
    try:
        given = conninfo_to_dict(uri) if _SCHEME.match(uri) else None
    except psycopg.ProgrammingError:
        given = None  # not its message, which may quote the password
    if given is None:
        raise StopDaemon(
            f"{setting} is not a PostgreSQL URI", hint="postgresql://USER:PASSWORD@HOST:PORT/DATABASE"
        ) from None
    own: dict[str, Any] = {"application_name": f"tidegate:{socket.gethostname()}:{os.getpid()}"}
    if any("," in str(given.get(name, "")) for name in ("host", "hostaddr")):
        own["target_session_attrs"] = "read-write"  # of several hosts, the one that is not a standby
        own |= _CONNECT_OF_SEVERAL
    return _CONNECT | own | given | _ALWAYS


def _without_password(uri: str) -> str:
    parts = urlsplit(uri)
    login, at, place = parts.netloc.rpartition("@")
    query = urlencode([(k, v) for k, v in parse_qsl(parts.query) if "password" not in k], safe="/")
    return parts._replace(netloc=login.partition(":")[0] + at + place, query=query).geturl()
