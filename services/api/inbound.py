"""Webhooks: a body becomes a file of its flow, and the answer says where to ask what became of it."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path as PathParameter, Request, Response
from fastapi.concurrency import run_in_threadpool
from loguru import logger
from psycopg import Connection
from pydantic import BaseModel

from flows import Flows
from models.flow import Flow
from models.ledger import FileStatus
from services.api import bodies, idempotency
from services.api.problems import Problem, described
from services.api.uploads import TooLarge, Upload
from services.files.directory import Folder
from services.ledger import receipts, replay

Lend = Callable[[], AbstractContextManager[Connection]]
"""Lends a connection to the database; raises RetryLater while it is down."""

MediaTypes = Mapping[str, Mapping[str, str]]
"""What HTTP calls the formats that each flow takes, each with the suffix of such a body's file."""

_ENCODINGS = {"": "", "identity": "", "gzip": ".gz", "x-gzip": ".gz"}


class Accepted(BaseModel):
    """Stored, on disk; the loader has it next."""

    id: str
    flow: str
    name: str
    location: str


class RejectedRecord(BaseModel):
    """Why one record was rejected."""

    record: int
    pointer: str
    line: int
    column: int
    value: str | None
    reason: str


class Counts(BaseModel):
    """Records sent, and rows upserted."""

    records: int
    inserted: int
    updated: int
    unchanged: int
    stale: int
    rejected: int


class Became(BaseModel):
    """What became of a body: `ledger_id` is the number that `files` and the log show."""

    id: str
    flow: str
    name: str
    bytes: int
    received_at: datetime
    status: FileStatus | Literal["waiting"]
    ledger_id: int | None = None
    loaded_at: datetime | None = None
    counts: Counts | None = None
    duplicate_of: int | None = None
    error: str | None = None
    errors: list[RejectedRecord] = []


_JSON_BODY = {"schema": {}, "example": [{"field": "as the flow's partner sends it"}]}


def _body(media_types: MediaTypes) -> dict[str, Any]:
    """The bodies that any flow takes, for the OpenAPI page."""
    kinds = dict.fromkeys(kind for known in media_types.values() for kind in known)
    content = {kind: _JSON_BODY if kind == "application/json" else {"schema": {"type": "string"}} for kind in kinds}
    return {"required": True, "content": content}


_HEADERS = [
    {
        "name": "Idempotency-Key",
        "in": "header",
        "schema": {"type": "string"},
        "example": '"8e03978e-40d5-43dd-bc93-6894a57f9324"',
        "description": "A quoted string. The same key with the same body gets the same answer, and loads once.",
    },
    {"name": "Content-Encoding", "in": "header", "schema": {"type": "string", "enum": ["gzip"]}},
]


class _Intake:
    """Bodies on their way to the input folder."""

    def __init__(self, flows: Flows, lend: Lend, input_dir: Path, max_bytes: int, room: Callable[[], None]) -> None:
        self._flows = flows
        self._lend = lend
        self._input_dir = input_dir
        self._max_bytes = max_bytes
        self._room = room
        self._in_flight: set[tuple[str, str]] = set()

    async def receive(self, request: Request, flow: str, suffix: str) -> receipts.Receipt:
        """Store the body as a file of the flow. Raises Problem."""
        key = idempotency.key_of(request.headers.getlist("idempotency-key"))
        if key is None:
            return await self._store(request, flow, suffix, None)
        if (flow, key) in self._in_flight:
            raise Problem(409, "a request with this Idempotency-Key is being handled", hint="wait for its answer")
        self._in_flight.add((flow, key))
        try:
            return await self._store(request, flow, suffix, key)
        finally:
            self._in_flight.discard((flow, key))

    async def _store(self, request: Request, flow: str, suffix: str, key: str | None) -> receipts.Receipt:
        bodies.refuse_announced(request, self._max_bytes, "MAX_FILE_BYTES allows")
        self._room()
        with Upload(Folder(self._input_dir) / flow, suffix, self._max_bytes) as upload:
            await _fill(upload, request)
            receipt = await run_in_threadpool(self._keep, upload, flow, key)
        logger.bind(flow=flow, file=receipt.name, receipt=receipt.id).info(
            "{} came by HTTP as receipt {}, {} bytes", receipt.name, receipt.id, receipt.bytes
        )
        return receipt

    def _keep(self, upload: Upload, flow: str, key: str | None) -> receipts.Receipt:
        if key is not None:
            upload.name_after(key)
        upload.sync()
        name, sha256 = upload.name, upload.sha256
        try:
            with self._lend() as connection:
                if key is not None and self._flows[flow].last_to_arrive_wins:
                    identity = upload.identity.key
                    replay.place_repeated(connection, flow=flow, name=name, sha256=sha256, identity=identity)
                return receipts.issue(
                    connection, flow=flow, name=name, sha256=sha256, bytes=upload.bytes, key=key, place=upload.place
                )
        except receipts.InFlight as error:
            raise Problem(409, error.reason, hint=error.hint) from None
        except receipts.OtherBody as error:
            raise Problem(422, error.reason, hint=error.hint) from None


def router(
    flows: Flows,
    lend: Lend,
    media_types: MediaTypes,
    *,
    input_dir: Path,
    max_bytes: int,
    room: Callable[[], None],
) -> APIRouter:
    """The operations below `/inbound`."""
    routes = APIRouter(prefix="/inbound", tags=["inbound"])
    intake = _Intake(flows, lend, input_dir, max_bytes, room)

    @routes.post(
        "/{flow}",
        status_code=202,
        responses=described(400, 401, 404, 408, 409, 413, 415, 422, 503),
        openapi_extra={"requestBody": _body(media_types), "parameters": _HEADERS},
    )
    async def send(flow: str, request: Request, response: Response) -> Accepted:
        """Store the body as a file of the flow.

        When this answers, the file is on disk and will be loaded, whatever happens next.
        """
        target = flows.get(flow)
        if target is None:
            raise Problem(404, f"there is no flow {flow!r}", hint=f"there are {', '.join(flows)}")
        receipt = await intake.receive(request, flow, _suffix(request, target, media_types[flow]))
        location = f"/inbound/{receipt.id}"
        response.headers["Location"] = location
        return Accepted(id=receipt.id, flow=flow, name=receipt.name, location=location)

    @routes.get("/{receipt}", responses=described(401, 404, 422, 503))
    def became(receipt: Annotated[str, PathParameter(pattern=r"^[0-9a-f-]{1,36}$")]) -> Became:
        """What became of a body: the counts of its records, and the first errors."""
        with lend() as connection:
            found = receipts.look(connection, receipt)
        if found is None:
            raise Problem(404, f"there is no receipt {receipt}", hint="the answer to the POST names its location")
        counts = Counts.model_validate(found) if found["ledger_id"] is not None else None
        return Became.model_validate({**found, "counts": counts})

    return routes


async def _fill(upload: Upload, request: Request) -> None:
    """The body into the file. Raises Problem."""
    try:
        async for piece in bodies.pieces(request):
            upload.write(piece)  # into the page cache: the disk is waited for in a thread, by sync()
    except TooLarge as error:
        raise Problem(413, error.reason, hint=error.hint) from None
    if not upload.bytes:
        raise Problem(400, "the body is empty", hint="send the file's content as the body")


def _suffix(request: Request, flow: Flow, known: Mapping[str, str]) -> str:
    """How the file's name ends, by which the loader reads it. Raises Problem."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    suffix = ".json" if kind.endswith("+json") else known.get(kind)
    if suffix is None:
        raise Problem(
            415,
            f"flow {flow.name} takes no {kind or 'body without Content-Type'}",
            hint=f"send Content-Type: {', '.join(known)}",
            headers={"Accept-Post": ", ".join(known)},
        )
    encoding = request.headers.get("content-encoding", "").strip().lower()
    if encoding not in _ENCODINGS:
        raise Problem(
            415, f"Content-Encoding {encoding} is not known", hint="send gzip", headers={"Accept-Encoding": "gzip"}
        )
    return suffix + _ENCODINGS[encoding]
