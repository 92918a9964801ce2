"""The daemons of this database: each says every few seconds that it runs, and reads who else does."""

import os
import threading
import time
import uuid
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from loguru import logger
from psycopg import Connection, sql
from psycopg.rows import class_row
from sqlalchemy import Engine

from models.errors import TidegateError
from services.db import migrate, sqlstate
from services.ledger.statements import statement

BEAT_SECONDS = 5.0
SILENT_SECONDS = 3 * BEAT_SECONDS
"""A daemon that was not seen for so long has ended, or does not reach the database."""

NAMESAKE_HINT = "give each machine or container a host name of its own, or one takes the other's files for its own"

_FORGOTTEN_DAYS = 1
_MINUTE = 60.0
_STOP_SECONDS = 2.0
"""So long a daemon that ends waits for a beat in hand; its line may well stay."""


@dataclass(frozen=True, slots=True)
class KnownDaemon:
    """One line of `tidegate.daemon`, with what follows of it.

    silent_seconds: since it was last seen. is_silent: whether that is too long.
    shares_node: whether another one at work has the same node, as two machines of one host name may.
    """

    node: str
    pid: int
    version: str
    schema_revision: str
    flows: list[str]
    started_at: datetime
    last_seen_at: datetime
    files: int
    records: int
    files_of_minute: int
    records_of_minute: int
    silent_seconds: float
    is_silent: bool
    shares_node: bool


# An earlier life of the same process is silent since before this one began.
_BESIDE = sql.SQL(
    "o.node = d.node and o.id <> d.id and o.last_seen_at > d.started_at and d.last_seen_at > o.started_at"
)

_KNOWN = statement(
    """
select node, pid, version, schema_revision, flows, started_at, last_seen_at, files, records,
    files_of_minute, records_of_minute, extract(epoch from silence)::float8 as silent_seconds,
    silence > make_interval(secs => %(silent)s) as is_silent,
    exists (select from tidegate.daemon o where {beside}) as shares_node
from (select *, greatest(now() - last_seen_at, interval '0') as silence from tidegate.daemon) d
order by started_at, node
""",
    beside=_BESIDE,
)

# Who started anew on a machine takes the place of who ended there without a word; the others stay a while to be seen.
_FORGET = """
delete from tidegate.daemon
where id <> %(id)s and (last_seen_at < now() - make_interval(days => %(forgotten)s)
    or starts_with(node, %(machine)s) and last_seen_at < now() - make_interval(secs => %(silent)s))
"""

_BEAT = """
insert into tidegate.daemon (id, node, pid, version, schema_revision, flows, started_at,
    last_seen_at, files, records, files_of_minute, records_of_minute)
values (
    %(id)s, %(node)s, %(pid)s, %(version)s, %(schema_revision)s, %(flows)s, now() - make_interval(secs => %(up)s),
    now(), %(files)s, %(records)s, %(files_of_minute)s, %(records_of_minute)s)
on conflict (id) do update set last_seen_at = now(), files = excluded.files, records = excluded.records,
    files_of_minute = excluded.files_of_minute, records_of_minute = excluded.records_of_minute
"""

_NAMESAKE = statement(
    "select exists (select from tidegate.daemon d join tidegate.daemon o on {beside} where d.id = %(id)s)",
    beside=_BESIDE,
)


def known(connection: Connection) -> list[KnownDaemon]:
    """The daemons that run, and those that ended without a word within a day; the longest running first."""
    with connection.cursor(row_factory=class_row(KnownDaemon)) as cursor:
        return cursor.execute(_KNOWN, {"silent": SILENT_SECONDS}).fetchall()


class Heartbeat:
    """One daemon's line, written by a thread of its own: neither loading nor the daemon's loop wait for it."""

    def __init__(self, engine: Engine, *, node: str, version: str, flows: Iterable[str]) -> None:
        self._engine = engine
        self._line = {
            "id": uuid.uuid4(),
            "node": node,
            "machine": f"{node.rpartition(':')[0]}:",
            "pid": os.getpid(),
            "version": version,
            "schema_revision": migrate.own()[-1].id,
            "flows": sorted(flows),
            "silent": SILENT_SECONDS,
            "forgotten": _FORGOTTEN_DAYS,
        }
        self._started = time.monotonic()
        self._counting = threading.Lock()
        self._loaded = (0, 0)
        self._minute = deque([(self._started, 0, 0)])
        self._stopping = threading.Event()
        self._newer: migrate.NewerSchema | None = None
        self._fault = ""
        self._has_namesake = False
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def is_alive(self) -> bool:
        """Whether it is at work. Raises NewerSchema where it ended because the database was upgraded."""
        if self._newer is not None:
            raise self._newer
        return self._thread.is_alive()

    def count(self, files: int, records: int) -> None:
        """So many more are loaded."""
        with self._counting:
            self._loaded = (self._loaded[0] + files, self._loaded[1] + records)

    def stop(self) -> None:
        """End, and take the line away."""
        self._stopping.set()
        self._thread.join(_STOP_SECONDS)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._beat()
                self._fault = ""
            except migrate.NewerSchema as error:
                self._newer = error
                return
            except TidegateError as error:
                self._complain(str(error))
            except Exception as error:  # noqa: BLE001  # a mistake of ours must not end the daemon
                self._complain(f"{type(error).__name__}: {error}")
            self._stopping.wait(BEAT_SECONDS)
        if not self._fault:
            self._leave()

    def _beat(self) -> None:
        with sqlstate.translated(), self._engine.connect() as pooled:
            connection = pooled.connection.driver_connection
            assert isinstance(connection, Connection)
            with connection.transaction():
                migrate.stop_if_newer(migrate.newest(connection))
                # A line that a crash loses is written again; so no beat waits for a disk, or for a standby.
                connection.execute("set local synchronous_commit = off")
                line = self._line | self._counts()
                connection.execute(_FORGET, line)
                connection.execute(_BEAT, line)
                (has_namesake,) = connection.execute(_NAMESAKE, line).fetchone() or (False,)
        if has_namesake and not self._has_namesake:
            logger.warning(
                "another daemon of this database is called {} as well: {}", self._line["node"], NAMESAKE_HINT
            )
        self._has_namesake = has_namesake

    def _counts(self) -> dict[str, float]:
        now, (files, records) = time.monotonic(), self._loaded
        self._minute.append((now, files, records))
        while self._minute[0][0] < now - _MINUTE:
            self._minute.popleft()
        _, files_before, records_before = self._minute[0]
        return {
            "up": now - self._started,
            "files": files,
            "records": records,
            "files_of_minute": files - files_before,
            "records_of_minute": records - records_before,
        }

    def _leave(self) -> None:
        try:
            with sqlstate.translated(), self._engine.connect() as pooled:
                connection = pooled.connection.driver_connection
                assert isinstance(connection, Connection)
                with connection.transaction():
                    connection.execute("delete from tidegate.daemon where id = %(id)s", self._line)
        except TidegateError as error:
            logger.debug("the daemon's line stays until it is forgotten: {}", error)

    def _complain(self, fault: str) -> None:
        if fault != self._fault:
            logger.debug("other daemons are not told that this one runs: {}", fault)
        self._fault = fault
