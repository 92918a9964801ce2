"""The local replica of a resource that has its master elsewhere: what the table has of it, and files that change it.

It reads the flow's table and never writes to it: what changes there comes as a file, as everything does.
"""

import hashlib
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from loguru import logger
from psycopg import Connection, sql

from models.connector import JsonObject, RestMaster
from models.flow import Flow
from models.ledger import FileStatus
from services import text
from services.files.directory import Folder
from services.ledger import queries
from services.sources.arrival import arrive


@dataclass(frozen=True, slots=True)
class PlacedFile:
    """A file in the input folder."""

    name: str
    sha256: bytes


_ALIVE = "select id from {table} where deleted_at is null"

_HERE = "select id, {newest_by} from {table} where deleted_at is null and id = any(%s)"

_DOCUMENTS = "select document::text from {table} where deleted_at is null and id = any(%s) order by id"


class LocalReplica:
    """The replica of one resource: the table of `flow` and its folder below `input_dir`."""

    def __init__(self, flow: Flow, master: RestMaster, input_dir: Path) -> None:
        self._flow = flow
        self._master = master
        self._folder = Folder(input_dir) / flow.name
        assert flow.newest_by is not None
        names = {"table": sql.Identifier(flow.sql_table.name), "newest_by": sql.Identifier(flow.newest_by)}
        self._alive, self._here, self._documents = (
            sql.SQL(query).format(**names) for query in (_ALIVE, _HERE, _DOCUMENTS)
        )

    def id_of(self, one: JsonObject) -> int:
        return int(one[self._master.id_field])

    def alive(self, connection: Connection) -> set[int]:
        """The ids of all objects that are here and not deleted."""
        return {row[0] for row in connection.execute(self._alive)}

    def missing(self, connection: Connection, objects: Iterable[JsonObject]) -> list[JsonObject]:
        """Those that are not here, deleted here, or here in an older state."""
        by_id = {self.id_of(one): one for one in objects}
        here: dict[int, int] = dict(connection.execute(self._here, [list(by_id)]).fetchall())
        stamp = self._master.timestamp_field
        return [one for number, one in by_id.items() if here.get(number, -1) < int(one.get(stamp) or 0)]

    def tombstones(self, connection: Connection, numbers: Sequence[int]) -> list[JsonObject]:
        """Records that delete these objects here, those that are not deleted yet.

        They keep the timestamp of the last known state. If the master should show an object
        again, as after a change of our rights there, the same timestamp brings it back.
        """
        now = datetime.now(UTC).isoformat()
        return [
            {**text.read_exact_json(document), "deleted_at": now}
            for (document,) in connection.execute(self._documents, [list(numbers)]).fetchall()
        ]

    def envelope(self, objects: Sequence[JsonObject]) -> bytes:
        """The content of a file with these objects."""
        # Escaped, or half a surrogate pair could not be written: the loader rejects it with its place.
        return text.exact_json({self._flow.envelope: list(objects)}).encode()

    def had_rejections(self, connection: Connection, content: bytes) -> bool:
        """Whether a file with just this content was rejected before, wholly or in part."""
        return queries.had_rejections(connection, self._flow.name, hashlib.sha256(content).digest())

    def place(self, connection: Connection, what: str, content: bytes) -> PlacedFile:
        """Put a file into the input folder; `what` begins its name. Raises RetryLater."""
        name = f"{what}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{uuid.uuid4().hex[:12]}.json"
        path = arrive(connection, self._folder, name, content, 0)
        logger.bind(flow=self._flow.name, file=path.name).info("{}: {} bytes to load", path.name, len(content))
        return PlacedFile(path.name, hashlib.sha256(content).digest())

    def became(self, connection: Connection, placed: PlacedFile) -> FileStatus | None:
        """What became of a file: the status of its line in the ledger, `None` before there is one."""
        return queries.status_of(connection, self._flow.name, placed.name, placed.sha256)
