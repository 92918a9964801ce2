"""The Inventory: package requests.

It does not notice a request sent twice: each POST is one more package. With `--idempotent` it honours the
Idempotency-Key header (draft-ietf-httpapi-idempotency-key-header): a quoted structured-field string; missing or
malformed → 400, the same key with another payload → 422, still being worked on → 409, sent again → the stored answer.
"""

import asyncio
import hashlib
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal
from uuid import UUID, uuid4

from fastapi import FastAPI, Header, HTTPException, Request
from pydantic import BaseModel, Field

from partners.faults import Faults
from partners.serving import HOST, arguments, run
from partners.stand_in import StandIn
from partners.state import Document

# An sf-string of RFC 8941, section 3.3.3.
SF_STRING = re.compile(r'"(?:[\x20-\x21\x23-\x5b\x5d-\x7e]|\\["\\])+"')


class NewPackageRequest(BaseModel):
    customer_id: UUID
    package_type: Annotated[str, Field(min_length=1)]


class PackageRequest(NewPackageRequest):
    request_id: UUID
    status: Literal["pending", "shipped", "delivered"]
    created_at: datetime


class Inventory(StandIn):
    """Package requests in the order of their coming; `of_customer` is what a test asks."""

    title = "Inventory"

    def __init__(
        self,
        *,
        host: str = HOST,
        port: int = 0,
        state: Path | None = None,
        idempotent: bool = False,
        work_seconds: float = 0,
    ) -> None:
        super().__init__(host=host, port=port, state=state)
        self.idempotent = idempotent
        self.work_seconds = work_seconds
        self.package_requests = self.state.collection("package_requests")
        self._answers = self.state.collection("answers")
        self._in_flight: set[str] = set()

    def of_customer(self, customer_id: str | UUID) -> list[Document]:
        return [made for made in self.package_requests.values() if made["customer_id"] == str(customer_id)]

    def routes(self, app: FastAPI) -> None:
        @app.get("/package-requests")
        async def list_package_requests() -> list[PackageRequest]:
            return [PackageRequest.model_validate(made) for made in self.package_requests.values()]

        @app.post("/package-requests", status_code=201)
        async def create_package_request(
            new: NewPackageRequest, request: Request, idempotency_key: Annotated[str | None, Header()] = None
        ) -> PackageRequest:
            if not self.idempotent:
                return PackageRequest.model_validate(await self._create(new))
            payload = hashlib.sha256(await request.body()).hexdigest()
            return PackageRequest.model_validate(await self._once(idempotency_key, payload, new))

    async def _create(self, new: NewPackageRequest) -> Document:
        await asyncio.sleep(self.work_seconds)
        made = {
            "request_id": str(uuid4()),
            **new.model_dump(mode="json"),
            "status": "pending",
            "created_at": datetime.now(UTC).isoformat(),
        }
        self.package_requests[made["request_id"]] = made
        return made

    async def _once(self, key: str | None, payload: str, new: NewPackageRequest) -> Document:
        if key is None or not SF_STRING.fullmatch(key):
            raise HTTPException(400, "Idempotency-Key is missing or is no quoted string")
        if key in self._in_flight:
            raise HTTPException(409, "a request with this Idempotency-Key is being worked on")
        if (known := self._answers.get(key)) is not None:
            if known["payload"] != payload:
                raise HTTPException(422, "this Idempotency-Key came with another payload before")
            return self.package_requests[known["request_id"]]
        self._in_flight.add(key)
        try:
            made = await self._create(new)
            self._answers[key] = {"payload": payload, "request_id": made["request_id"]}
        finally:
            self._in_flight.discard(key)
        return made


def main() -> None:
    parser = arguments(__doc__, 8001, Faults)
    parser.add_argument("--idempotent", action="store_true", help="honour Idempotency-Key (the real one does not)")
    parser.add_argument("--work-seconds", type=float, default=0, help="how long a request is being worked on")
    options = parser.parse_args()
    inventory = Inventory(
        host=options.host,
        port=options.port,
        state=options.state,
        idempotent=options.idempotent,
        work_seconds=options.work_seconds,
    )
    run(inventory, inventory.faults, options)


if __name__ == "__main__":
    main()
