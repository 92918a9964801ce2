"""Cases of Intempus, which is their master."""

import re
from collections.abc import Iterable, Mapping
from datetime import date, datetime
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from sqlalchemy import BigInteger, Numeric
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from models.connector import Json, Kind, MasterPage, RestMaster, Setting
from models.field_types import DecimalText, Flag, Int64OrText, IsoDate, UtcInstant, UtcText
from models.flow import Flow
from models.outbound import Form, Outbound, Row
from models.tables import LoadedRow

_RESOURCE = re.compile(r"/web/v1/\w+/(\d+)/")


def _unset(value: object) -> object:
    """Intempus writes an unset field as null or as an empty text."""
    return None if value == "" else value


def _related(value: object) -> object:
    """The id out of a resource URI, or out of the object that sometimes stands in its place."""
    if isinstance(value, dict):
        value = value.get("resource_uri")
    if value is None or value == "":
        return None
    match = _RESOURCE.fullmatch(str(value))
    if match is None:
        raise ValueError("should be a resource URI like /web/v1/customer/77/")
    return int(match[1])


Optional = BeforeValidator(_unset)
RelatedId = Annotated[int | None, BeforeValidator(_related)]
Hours = Annotated[Decimal, Field(max_digits=14, decimal_places=2)]


class IntempusCase(BaseModel):
    """A case as Intempus sends it; fields not named here stay in `document`.

    `deleted_at` is ours: Intempus never reports a deletion, the full sync finds it.
    """

    model_config = ConfigDict(extra="allow")

    id: Int64OrText
    number: Annotated[str | None, Optional] = None
    name: str
    active: Flag
    customer: RelatedId = None
    customer_name: Annotated[str | None, Optional] = None
    case_state: RelatedId = None
    case_state_name: Annotated[str | None, Optional] = None
    case_group: RelatedId = None
    department: RelatedId = None
    creation_date: Annotated[IsoDate | None, Optional] = None
    start_date: Annotated[IsoDate | None, Optional] = None
    hour_budget: Annotated[Hours | None, Optional] = None
    notes: Annotated[str | None, Optional] = None
    logical_timestamp: Int64OrText
    deleted_at: UtcInstant | None = None
    document: dict[str, Any] = {}

    @model_validator(mode="before")
    @classmethod
    def keep_document(cls, case: object) -> object:
        if not isinstance(case, dict):
            return case
        return case | {"document": {name: value for name, value in case.items() if name != "deleted_at"}}


class Case(LoadedRow):
    """A case; `document` is the whole of what the master sent."""

    __tablename__ = "cases"

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    number: Mapped[str | None]
    name: Mapped[str]
    active: Mapped[bool]
    customer_id: Mapped[int | None] = mapped_column(BigInteger)
    customer_name: Mapped[str | None]
    case_state_id: Mapped[int | None] = mapped_column(BigInteger)
    case_state_name: Mapped[str | None]
    case_group_id: Mapped[int | None] = mapped_column(BigInteger)
    department_id: Mapped[int | None] = mapped_column(BigInteger)
    creation_date: Mapped[date | None]
    start_date: Mapped[date | None]
    hour_budget: Mapped[Decimal | None] = mapped_column(Numeric(14, 2))
    notes: Mapped[str | None]
    logical_timestamp: Mapped[int] = mapped_column(BigInteger)
    deleted_at: Mapped[datetime | None]
    document: Mapped[dict[str, Any]] = mapped_column(JSONB)


def to_rows(case: IntempusCase) -> Iterable[Mapping[str, object]]:
    yield {
        "id": case.id,
        "number": case.number,
        "name": case.name,
        "active": case.active,
        "customer_id": case.customer,
        "customer_name": case.customer_name,
        "case_state_id": case.case_state,
        "case_state_name": case.case_state_name,
        "case_group_id": case.case_group,
        "department_id": case.department,
        "creation_date": case.creation_date,
        "start_date": case.start_date,
        "hour_budget": case.hour_budget,
        "notes": case.notes,
        "logical_timestamp": case.logical_timestamp,
        "deleted_at": case.deleted_at,
        "document": case.document,
    }


class CaseChange(BaseModel):
    """What became of a case since it last went out."""

    change: Literal["created", "updated", "deleted"]
    id: int
    number: str | None
    name: str
    active: bool
    customer_id: int | None
    customer_name: str | None
    case_state_id: int | None
    case_state_name: str | None
    case_group_id: int | None
    department_id: int | None
    creation_date: date | None
    start_date: date | None
    hour_budget: DecimalText | None
    notes: str | None
    logical_timestamp: int
    deleted_at: UtcText | None


def to_change(case: Row) -> Mapping[str, object]:
    if case["deleted_at"] is not None:
        change = "deleted"
    else:
        change = "created" if case["outbound_file_id"] is None else "updated"
    return {"change": change, **{name: case[name] for name in CaseChange.model_fields if name != "change"}}


EXAMPLE = {
    "name": "Replace bearing on pump P-101",
    "number": "3a",
    "customer": "/web/v1/customer/6666940/",
    "case_state": "/web/v1/case_state/4131/",
    "start_date": "2026-01-31",
    "hour_budget": "155.50",
    "notes": "",
}


def authorization(user: str, key: str) -> str:
    return f"ApiKey {user}:{key}"


def read_page(answer: Json) -> MasterPage:
    """`{"meta": {"next": PATH, "total_count": N}, "objects": [...]}`."""
    meta = answer["meta"]
    return MasterPage(answer["objects"], meta.get("next"), meta.get("total_count"))


def refusal(body: Json) -> tuple[str, Mapping[str, Json]]:
    """`error` or `error_message`, a sentence or a list of them, or fields keyed by resource; or nothing at all."""
    if not isinstance(body, dict):
        return "", {}
    error = body.get("error", body.get("error_message"))
    if error is not None:
        return _sentence(error), {}
    # {"case": {"name": [...]}}: the fields of the one resource that was written.
    inner = next(iter(body.values()), None) if len(body) == 1 else None
    fields = inner if isinstance(inner, dict) else body
    return "; ".join(f"{name}: {_sentence(what)}" for name, what in fields.items()), fields


def _sentence(said: Json) -> str:
    return ", ".join(map(str, said)) if isinstance(said, list) else str(said)


INTEMPUS = RestMaster(
    name="intempus",
    resource="case",
    uri=Setting("INTEMPUS_API_URI", Kind.URL, "https://intempus.dk/web/v1", "Where Intempus is, the master of cases."),
    credentials=(
        Setting(
            "INTEMPUS_API_USER",
            description="Our user there, case-sensitive; cases are synchronised once it is set.",
        ),
        Setting("INTEMPUS_API_KEY", Kind.SECRET, description="Its API key."),
    ),
    authorization=authorization,
    read=read_page,
    refusal=refusal,
    id_field="id",
    timestamp_field="logical_timestamp",
    creation_field="creation_id",
    reached_header="Logical-Timestamp",
    changed_since=lambda timestamp: {"logical_timestamp__gt": str(timestamp)},
    # By cursor: an offset would skip objects while others are deleted.
    list_query={"limit": "1000", "pagination_type": "cursor"},
    example=EXAMPLE,
)

FLOW = Flow(
    record=IntempusCase,
    table=Case,
    envelope="objects",
    file_prefixes=("case",),
    newest_by="logical_timestamp",
    exact_numbers=True,
    to_rows=to_rows,
    outbound=(
        Outbound(
            document=CaseChange,
            to_document=to_change,
            form=Form.ENVELOPE,
            envelope="cases",
            file_name="cases-{file_id}.json",
        ),
    ),
    sources=(INTEMPUS,),
)
