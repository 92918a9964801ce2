"""Our side of a resource that has its master elsewhere: what the table has of it, and files that bring it up to date.

It reads the flow's table and never writes to it: what changes there comes as a file, as everything does.
"""

import hashlib
import json
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from loguru import logger
from psycopg import Connection, sql

from models.flow import Flow
from services import filing
from services.db import claims

Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Placed:
    """A file in the input folder."""

    name: str
    sha256: bytes


_ALIVE = "select id from {table} where deleted_at is null"

_HERE = "select id, {newest_by} from {table} where deleted_at is null and id = any(%s)"

_DOCUMENTS = "select document from {table} where deleted_at is null and id = any(%s) order by id"

_STATUS = """
select status from tidegate.inbound_file where sha256 = %s and flow = %s and name = %s order by id desc limit 1
"""


_REFUSED = """
select exists (select from tidegate.inbound_file where sha256 = %s and flow = %s and status in ('rejected', 'partial'))
"""


class Mirror:
    """The mirror of one resource: the table of `flow` and its folder below `input_dir`."""

    def __init__(self, flow: Flow, input_dir: Path) -> None:
        self._flow = flow
        self._folder = input_dir / flow.name
        assert flow.newest_by is not None
        self._newest_by = flow.newest_by
        names = {"table": sql.Identifier(flow.sql_table.name), "newest_by": sql.Identifier(flow.newest_by)}
        self._alive, self._here, self._documents = (
            sql.SQL(text).format(**names) for text in (_ALIVE, _HERE, _DOCUMENTS)
        )

    def alive(self, connection: Connection) -> set[int]:
        """The ids of all objects that are here and not deleted."""
        return {row[0] for row in connection.execute(self._alive)}

    def missing(self, connection: Connection, objects: Iterable[Object]) -> list[Object]:
        """Those that are not here, deleted here, or here in an older state."""
        by_id = {int(one["id"]): one for one in objects}
        here: dict[int, int] = dict(connection.execute(self._here, [list(by_id)]).fetchall())
        return [one for number, one in by_id.items() if here.get(number, -1) < int(one.get(self._newest_by) or 0)]

    def tombstones(self, connection: Connection, numbers: Sequence[int]) -> list[Object]:
        """Records that delete these objects here, those that are not deleted yet.

        They keep the timestamp of the last known state. If the master should show an object
        again, as after a change of our rights there, the same timestamp brings it back.
        """
        now = datetime.now(UTC).isoformat()
        return [
            {**row[0], "deleted_at": now} for row in connection.execute(self._documents, [list(numbers)]).fetchall()
        ]

    def envelope(self, objects: Sequence[Object]) -> bytes:
        """The content of a file with these objects."""
        # Escaped, or half a surrogate pair could not be written: the loader refuses it with its place.
        return json.dumps({self._flow.envelope: objects}).encode()

    def was_refused(self, connection: Connection, content: bytes) -> bool:
        """Whether a file with just this content was refused before, wholly or in part."""
        (refused,) = connection.execute(_REFUSED, [hashlib.sha256(content).digest(), self._flow.name]).fetchone() or (
            False,
        )
        return bool(refused)

    def place(self, connection: Connection, what: str, content: bytes) -> Placed:
        """Put a file into the input folder; `what` begins its name. Raises RetryLater."""
        name = f"{what}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{uuid.uuid4().hex[:12]}.json"
        digest = hashlib.sha256(content).digest()
        claims.let_load_again(connection, self._flow.name, digest)
        path = filing.arrive(self._folder, name, content, 0)
        logger.bind(flow=self._flow.name, file=path.name).info("{}: {} bytes to load", path.name, len(content))
        return Placed(path.name, digest)

    def became(self, connection: Connection, placed: Placed) -> str | None:
        """What became of a file: the status of its line in the ledger, `None` before there is one."""
        found = connection.execute(_STATUS, [placed.sha256, self._flow.name, placed.name]).fetchone()
        return str(found[0]) if found else None
