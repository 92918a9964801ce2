"""Intempus: cases, of which it is the master.

Base `/web/v1`, header `Authorization: ApiKey <user>:<key>`. Lists are pages of `{"meta", "objects"}`, by offset
(deprecated: it skips rows when others are deleted meanwhile) or by `pagination_type=cursor&after=…`, where
`meta.next` is followed. Each list answers its `Logical-Timestamp`. Deletions are never reported. A POST answers with
the placeholder timestamp 42, and with the known case where its `creation_id` was used before.
"""

import re
import time
from collections import deque
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import Body, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response

from partners.faults import Faults
from partners.serving import HOST, arguments, run
from partners.stand_in import StandIn
from partners.state import Document

USER, KEY = "demo@example.com", "intempus-key"
BASE = "/web/v1"
DEFAULT_LIMIT, MAX_LIMIT = 1000, 10_000
PLACEHOLDER = 42
FIRST_ID, FIRST_TIMESTAMP = 9_611_850, 9_113_344_546
RELATION = re.compile(r"/web/v1/(\w+)/(\d+)/")

# What a case has besides its id, timestamp and resource_uri, where nothing else was said.
BLANK: Document = {
    "number": "",
    "name": "",
    "active": True,
    "customer": None,
    "customer_id": None,
    "customer_name": "",
    "case_group": None,
    "case_state": None,
    "case_state_name": None,
    "department": None,
    "creation_date": None,
    "start_date": None,
    "hour_budget": None,
    "latitude": None,
    "responsibles": [],
    "notes": "",
    "creation_id": None,
}


class Refusal(Exception):
    """An answer that is no success: one of the three forms of error bodies, or none at all."""

    def __init__(self, status: int, body: Mapping[str, Any] | None = None, headers: Mapping[str, str] = {}) -> None:
        self.status = status
        self.body = body
        self.headers = headers


class Intempus(StandIn):
    """Cases by id; `create`, `update` and `delete` are what people do in its own pages.

    A case in `related` has time sheets and cannot be deleted. `next_origin` makes `meta.next` an absolute URL there:
    whoever follows it gives its key away.
    """

    title = "Intempus"

    def __init__(
        self,
        *,
        host: str = HOST,
        port: int = 0,
        state: Path | None = None,
        user: str = USER,
        key: str = KEY,
        requests_per_minute: int = 500,
        requests_per_day: int = 50_000,
    ) -> None:
        self.user, self.key = user, key
        self.limits = {60: requests_per_minute, 86_400: requests_per_day}  # seconds: requests
        self.related: set[int] = set()
        self.next_origin = ""
        self._asked: deque[float] = deque()
        super().__init__(host=host, port=port, state=state)
        self.cases = self.state.collection("cases")
        self._clock = self.state.collection("clock")

    @property
    def uri(self) -> str:
        """What INTEMPUS_API_URI is set to."""
        return f"{self.url}{BASE}"

    # what people do

    def create(self, **fields: Any) -> Document:
        """A new case, as it is kept; raises Refusal."""
        creation_id = fields.get("creation_id")
        if creation_id is not None:
            for known in self.cases.values():
                if known["creation_id"] == creation_id:
                    return known
        if not fields.get("name"):
            raise Refusal(400, {"case": {"name": ["This field is required."]}})
        clock = dict(self._clock.get("clock", {"id": FIRST_ID, "timestamp": FIRST_TIMESTAMP}))
        case_id = clock["id"] = clock["id"] + 1
        self._clock["clock"] = clock
        blank = {**BLANK, "creation_date": datetime.now(UTC).date().isoformat()}
        return self._keep(case_id, {**blank, **fields})

    def update(self, case_id: int, **fields: Any) -> Document:
        """Change the fields given; raises KeyError for an unknown case, and Refusal."""
        return self._keep(case_id, {**self.cases[str(case_id)], **fields})

    def delete(self, case_id: int) -> None:
        del self.cases[str(case_id)]

    def case(self, case_id: int) -> Document | None:
        return self.cases.get(str(case_id))

    @property
    def timestamp(self) -> int:
        return int(self._clock.get("clock", {}).get("timestamp", FIRST_TIMESTAMP))

    def _keep(self, case_id: int, fields: Document) -> Document:
        case = {name: value for name, value in fields.items() if name not in ("id", "resource_uri")}
        for name in ("customer", "case_group", "case_state", "department"):
            case[name] = _uri_of(name, case.get(name))
        customer = case["customer"]
        number = RELATION.fullmatch(customer)[2] if customer else None  # type: ignore[index]
        case["customer_id"] = number
        case["customer_name"] = case["customer_name"] or (f"Customer {number}" if number else "")
        clock = {"id": case_id, **self._clock.get("clock", {})}
        clock["timestamp"] = self.timestamp + 1
        self.cases[str(case_id)] = {
            "id": case_id,
            **case,
            "logical_timestamp": clock["timestamp"],
            "resource_uri": f"{BASE}/case/{case_id}/",
        }
        self._clock["clock"] = clock
        return self.cases[str(case_id)]

    # what it answers

    def routes(self, app: FastAPI) -> None:
        @app.get(f"{BASE}/case/")
        async def list_cases(
            request: Request,
            limit: Annotated[int, Query(ge=0)] = DEFAULT_LIMIT,
            offset: Annotated[int, Query(ge=0)] = 0,
            pagination_type: str = "offset",
            after: int = 0,
            logical_timestamp__gt: int | None = None,
        ) -> Response:
            self._admit(request)
            reached = self.timestamp
            limit = min(limit or MAX_LIMIT, MAX_LIMIT)
            wanted = sorted(
                (case for case in self.cases.values() if case["logical_timestamp"] > (logical_timestamp__gt or 0)),
                key=lambda case: int(case["id"]),
            )
            cursor = pagination_type == "cursor"
            rest = [case for case in wanted if case["id"] > after] if cursor else wanted[offset:]
            shown = rest[:limit]
            filters = {} if logical_timestamp__gt is None else {"logical_timestamp__gt": logical_timestamp__gt}
            following: str | None = None
            if len(rest) > limit:
                place: dict[str, Any] = (
                    {"pagination_type": "cursor", "after": shown[-1]["id"]} if cursor else {"offset": offset + limit}
                )
                following = f"{self.next_origin}{BASE}/case/?{urlencode({'limit': limit, **place, **filters})}"
            meta = {
                "limit": limit,
                "offset": offset,
                "total_count": len(wanted),
                "next": following,
                "previous": None,
            }
            body = {"meta": meta, "objects": [_shown(case) for case in shown]}
            return JSONResponse(body, headers={"Logical-Timestamp": str(reached)})

        @app.get(f"{BASE}/case/{{case_id}}/")
        async def show_case(case_id: int, request: Request) -> Response:
            self._admit(request)
            return JSONResponse(_shown(self._known(case_id)), headers={"Logical-Timestamp": str(self.timestamp)})

        @app.post(f"{BASE}/case/")
        async def create_case(request: Request, fields: Annotated[dict[str, Any], Body()]) -> Response:
            self._admit(request)
            return JSONResponse({**self.create(**fields), "logical_timestamp": PLACEHOLDER}, status_code=201)

        @app.put(f"{BASE}/case/{{case_id}}/")
        async def update_case(case_id: int, request: Request, fields: Annotated[dict[str, Any], Body()]) -> Response:
            self._admit(request)
            self._known(case_id)
            if "name" in fields and not fields["name"]:
                raise Refusal(400, {"case": {"name": ["This field may not be blank."]}})
            return JSONResponse(self.update(case_id, **fields))

        @app.delete(f"{BASE}/case/{{case_id}}/")
        async def delete_case(case_id: int, request: Request) -> Response:
            self._admit(request)
            self._known(case_id)
            if case_id in self.related:
                raise Refusal(409, {"error_message": "the case has related records: work reports"})
            self.delete(case_id)
            return Response(status_code=204)

        @app.post("/_related/{case_id}", tags=["stand-in"], status_code=204)
        async def relate(case_id: int) -> None:
            """Book time on a case, so that it cannot be deleted."""
            self.related.add(case_id)

        app.exception_handler(Refusal)(refuse)
        app.exception_handler(RequestValidationError)(refuse_shape)

    def _known(self, case_id: int) -> Document:
        case = self.case(case_id)
        if case is None:
            raise Refusal(404)
        return case

    def _admit(self, request: Request) -> None:
        sent = request.headers.get("authorization", "")
        if not sent:
            raise Refusal(401)
        if sent != f"ApiKey {self.user}:{self.key}":
            raise Refusal(401, {"error_message": "the API key is not valid"})
        now = time.monotonic()
        while self._asked and self._asked[0] <= now - max(self.limits):
            self._asked.popleft()
        for seconds, allowed in self.limits.items():
            if len(self._asked) >= allowed and (wait := self._asked[-allowed] + seconds - now) > 0:
                raise Refusal(429, {"error": "too many requests"}, {"Retry-After": str(int(wait) + 1)})
        self._asked.append(now)


def _shown(case: Document) -> Document:
    """The case as it is told: in every third the customer stands as an object instead of its URI."""
    if case["id"] % 3 or not case["customer"]:
        return case
    return {**case, "customer": {"resource_uri": case["customer"], "name": case["customer_name"]}}


def _uri_of(resource: str, value: Any) -> str | None:
    """The resource URI of a relation that was given as one, or as the object."""
    uri = value.get("resource_uri") if isinstance(value, dict) else value
    if uri in (None, ""):
        return None
    match = RELATION.fullmatch(str(uri))
    if match is None or match[1] != resource:
        raise Refusal(400, {"error": [f"Could not find the provided {resource} object via resource uri '{uri}'."]})
    return str(uri)


async def refuse(_: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    if error.body is None:
        return Response(status_code=error.status, headers=dict(error.headers))
    return JSONResponse(dict(error.body), error.status, dict(error.headers))


async def refuse_shape(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return JSONResponse({"error": "; ".join(f"{wrong['loc'][-1]}: {wrong['msg']}" for wrong in error.errors())}, 400)


def main() -> None:
    parser = arguments(__doc__, 8005, Faults)
    parser.add_argument("--user", default=USER, help=f"case-sensitive (default {USER})")
    parser.add_argument("--key", default=KEY, help=f"default {KEY}")
    parser.add_argument("--requests-per-minute", type=int, default=500, help="then 429 (default 500)")
    options = parser.parse_args()
    intempus = Intempus(
        host=options.host,
        port=options.port,
        state=options.state,
        user=options.user,
        key=options.key,
        requests_per_minute=options.requests_per_minute,
    )
    run(intempus, intempus.faults, options)


if __name__ == "__main__":
    main()
