"""Resources that have their master elsewhere: read from our table, written there first and then here."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Protocol
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Header, Path, Query, Response
from psycopg import Connection, sql
from psycopg.rows import dict_row
from pydantic import BaseModel

from models.connector import JsonObject
from models.flow import Flow
from models.master import FullSync, MasterWrite
from services import text
from services.api import bodies, idempotency
from services.api.inbound import Lend
from services.api.problems import Problem, described

BodyFields = Annotated[JsonObject, Depends(bodies.json_object)]
Number = Annotated[int, Path(ge=0, le=2**63 - 1)]
DEFAULT_LIMIT, MAX_LIMIT = 100, 10_000

LOCAL = "Tidegate-Local"
"""The header of an answer to a write: what became of it here. `waiting` when that took too long; it follows."""


class ResourceMaster(Protocol):
    """Who has the say over the objects. Everything raises RefusedByPartner, RetryLater or StopConnector."""

    async def create(self, fields: JsonObject, key: str | None) -> MasterWrite: ...
    async def update(self, number: Number, fields: JsonObject) -> MasterWrite: ...
    async def delete(self, number: int) -> None: ...
    async def sync(self) -> FullSync: ...


@dataclass(frozen=True, slots=True)
class Resource:
    """A resource of the API.

    name: its path, `case`. flow: whose table has the columns id, deleted_at and document.
    example: of an object, for the page of all operations.
    master: None while nobody has configured it. needs: the settings that would.
    """

    name: str
    flow: Flow
    master: ResourceMaster | None
    needs: tuple[str, ...] = ()
    example: Mapping[str, Any] = field(default_factory=dict)


class Meta(BaseModel):
    """Where a page stands in its list; `next` is the path of the next one."""

    limit: int
    offset: int
    total_count: int
    next: str | None
    previous: str | None


class ListPage(BaseModel):
    """Objects by their id."""

    meta: Meta
    objects: list[JsonObject]


class Synced(BaseModel):
    """What a full sync found: objects there, those we had missed, those deleted there."""

    seen: int
    missed: int
    deleted: int


_WRITES = described(400, 401, 403, 404, 409, 422, 429, 502, 503)
_TAKES = _WRITES | described(408, 413)

_LIST = """
select id, document from {} where deleted_at is null and id > %(after)s order by id limit %(limit)s offset %(offset)s
"""
_COUNT = "select count(*) from {} where deleted_at is null"
_ONE = "select document, deleted_at from {} where id = %s"


def router(resource: Resource, lend: Lend) -> APIRouter:
    """The operations of one resource."""
    made = _Operations(resource, lend)
    routes = APIRouter(prefix=made.path, tags=[resource.name])
    takes_object = {
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": {"type": "object"}, "example": dict(resource.example)}},
        }
    }
    routes.get("", responses=described(401, 422, 503))(made.listed)
    routes.get("/{number}", responses=described(401, 404, 422, 503))(made.shown)
    routes.post("", status_code=201, responses=_TAKES, openapi_extra=takes_object)(made.create)
    routes.post("/sync", responses=_WRITES)(made.sync)
    routes.put("/{number}", responses=_TAKES, openapi_extra=takes_object)(made.update)
    routes.delete("/{number}", status_code=204, responses=_WRITES)(made.delete)
    return routes


class _Operations:
    """The operations of one resource; their docstrings stand on the API's page."""

    def __init__(self, resource: Resource, lend: Lend) -> None:
        self._resource = resource
        self._lend = lend
        self._table = _Table(resource.flow)
        self.path = f"/{resource.name}"

    @property
    def _master(self) -> ResourceMaster:
        """Raises Problem."""
        if self._resource.master is None:
            needs = " and ".join(self._resource.needs)
            raise Problem(503, f"the master of {self._resource.name} is not configured", hint=f"set {needs}")
        return self._resource.master

    def listed(
        self,
        limit: Annotated[int, Query(ge=1, le=MAX_LIMIT)] = DEFAULT_LIMIT,
        offset: Annotated[int, Query(ge=0, le=2**63 - 1)] = 0,
        after: Annotated[int, Query(ge=0, le=2**63 - 1, description="the id behind which the page begins")] = 0,
    ) -> ListPage:
        """A page of what is here, by id. `meta.next` leads on and skips nothing, whatever is deleted meanwhile."""
        with self._lend() as connection:
            found, more, total = self._table.page(connection, after=after, limit=limit, offset=offset)
        following = f"{self.path}?{urlencode({'limit': limit, 'after': found[-1][0]})}" if more else None
        before = f"{self.path}?{urlencode({'limit': limit, 'offset': max(0, offset - limit)})}" if offset else None
        meta = Meta(limit=limit, offset=offset, total_count=total, next=following, previous=before)
        return ListPage(meta=meta, objects=[document for _, document in found])

    def shown(self, number: Number) -> JsonObject:
        """One object, as it is here."""
        with self._lend() as connection:
            return self._table.one(connection, number)

    async def create(
        self,
        fields: BodyFields,
        response: Response,
        idempotency_key: Annotated[
            list[str] | None, Header(description="A quoted string, the same for the same creation.")
        ] = None,
    ) -> JsonObject:
        """Create an object at the master, and then here. Send it again with the same key after a time-out."""
        written = await self._master.create(fields, idempotency.key_of(idempotency_key or ()))
        response.headers["Location"] = f"{self.path}/{written.number}"
        response.headers[LOCAL] = written.local
        return _shown(written.document)

    async def sync(self) -> Synced:
        """Compare everything with the master now, and load what differs. It takes a while."""
        found = await self._master.sync()
        return Synced(seen=found.seen, missed=found.missed, deleted=found.deleted)

    async def update(self, number: Number, fields: BodyFields, response: Response) -> JsonObject:
        """Change an object at the master, and then here; fields that are left out stay."""
        written = await self._master.update(number, fields)
        response.headers[LOCAL] = written.local
        return _shown(written.document)

    async def delete(self, number: Number) -> None:
        """Delete an object at the master, and then here. One that is gone already is deleted as well."""
        await self._master.delete(number)


def _shown(document: JsonObject) -> JsonObject:
    """As it stands in an answer, where a number with a fraction is a float."""
    shown: JsonObject = json.loads(text.exact_json(document))
    return shown


class _Table:
    """The flow's table, to look at."""

    def __init__(self, flow: Flow) -> None:
        table = sql.Identifier(flow.sql_table.name)
        self._list, self._count, self._one = (sql.SQL(text).format(table) for text in (_LIST, _COUNT, _ONE))

    def page(
        self, connection: Connection, *, after: int, limit: int, offset: int
    ) -> tuple[list[tuple[int, JsonObject]], bool, int]:
        """Objects with their ids, whether there are more, and how many there are in all."""
        values = {"after": after, "limit": limit + 1, "offset": offset}
        found = connection.execute(self._list, values).fetchall()
        (total,) = connection.execute(self._count).fetchone() or (0,)
        return found[:limit], len(found) > limit, total

    def one(self, connection: Connection, number: int) -> JsonObject:
        """Raises Problem."""
        found: Mapping[str, Any] | None
        with connection.cursor(row_factory=dict_row) as cursor:
            found = cursor.execute(self._one, [number]).fetchone()
        if found is None:
            raise Problem(404, f"there is no object {number} here", hint="POST to …/sync fetches what is missing")
        if found["deleted_at"] is not None:
            raise Problem(404, f"object {number} was deleted, which we saw at {found['deleted_at'].isoformat()}")
        document: JsonObject = found["document"]
        return document
