"""Work orders of the client's maintenance system, as TracOS keeps them."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from enum import StrEnum
from typing import Annotated, NotRequired

from sqlalchemy import String, Text as SqlText, text
from sqlalchemy.orm import Mapped, mapped_column
from typing_extensions import TypedDict

from models.errors import RejectRecord
from models.field_types import Flag, OffsetText, Text, UtcInstant, WholeNumber
from models.flow import Flow
from models.outbound import Form, Outbound, Row
from models.tables import LoadedRow


class Status(StrEnum):
    PENDING = "pending"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    ON_HOLD = "on_hold"
    CANCELLED = "cancelled"


class ClientWorkOrder(TypedDict):
    """A work order as the client writes it: the status is spread over flags."""

    orderNo: Annotated[int, WholeNumber(from_text=True, ge=0)]
    isActive: NotRequired[Flag]
    isCanceled: NotRequired[Flag]
    isDeleted: NotRequired[Flag]
    isDone: NotRequired[Flag]
    isOnHold: NotRequired[Flag]
    isPending: NotRequired[Flag]
    isSynced: NotRequired[Flag]
    summary: Text
    creationDate: UtcInstant
    lastUpdateDate: UtcInstant
    deletedDate: NotRequired[UtcInstant | None]


_STATUSES = {
    "isCanceled": Status.CANCELLED.value,
    "isDone": Status.COMPLETED.value,
    "isOnHold": Status.ON_HOLD.value,
    "isPending": Status.PENDING.value,
}


class WorkOrder(LoadedRow):
    """A work order. `description` is TracOS's own: nothing from outside writes it."""

    __tablename__ = "work_orders"

    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    status: Mapped[str] = mapped_column(String(20))
    title: Mapped[str] = mapped_column(SqlText)
    description: Mapped[str | None] = mapped_column(SqlText)
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    deleted: Mapped[bool] = mapped_column(server_default=text("false"))
    deleted_at: Mapped[datetime | None]


def to_rows(order: ClientWorkOrder) -> Iterable[Mapping[str, object]]:
    deleted = order.get("isDeleted", False)
    row = {
        "number": order["orderNo"],
        "status": status(order),
        "title": order["summary"],
        "created_at": order["creationDate"],
        "updated_at": order["lastUpdateDate"],
        "deleted": deleted,
        "deleted_at": order.get("deletedDate") if deleted else None,
    }
    return [row]


def status(order: ClientWorkOrder) -> str:
    """The status that the flags mean; `isActive` says nothing beside another flag.

    None true means in progress: the client's own generator never writes `isActive`.
    Raises RejectRecord on two flags that contradict each other.
    """
    true = [flag for flag in _STATUSES if order.get(flag)]
    if len(true) > 1:
        raise RejectRecord(f"flags contradict each other: {' and '.join(true)} are both true")
    return _STATUSES[true[0]] if true else Status.IN_PROGRESS.value


class WorkOrderForClient(TypedDict):
    """A work order in the client's own form: exactly one of the five flags is true."""

    orderNo: int
    isActive: bool
    isCanceled: bool
    isDeleted: bool
    isDone: bool
    isOnHold: bool
    isPending: bool
    isSynced: bool
    summary: str
    creationDate: OffsetText
    lastUpdateDate: OffsetText
    deletedDate: OffsetText | None


_FLAGS = {
    Status.IN_PROGRESS: "isActive",
    Status.CANCELLED: "isCanceled",
    Status.COMPLETED: "isDone",
    Status.ON_HOLD: "isOnHold",
    Status.PENDING: "isPending",
}
_NO_FLAGS = dict.fromkeys(_FLAGS.values(), False)


def to_client(order: Row) -> Mapping[str, object]:
    flag = _FLAGS.get(order["status"])
    if flag is None:
        raise ValueError(f"{order['status']!r} is no status of a work order")
    return {
        "orderNo": order["number"],
        **_NO_FLAGS,
        flag: True,
        "isDeleted": order["deleted"],
        "isSynced": True,
        "summary": order["title"],
        "creationDate": order["created_at"],
        "lastUpdateDate": order["updated_at"],
        "deletedDate": order["deleted_at"],
    }


FLOW = Flow(
    record=ClientWorkOrder,
    table=WorkOrder,
    file_prefixes=("work_order",),
    newest_by="updated_at",
    to_rows=to_rows,
    local=("description",),
    outbound=(Outbound(document=WorkOrderForClient, to_document=to_client, form=Form.ONE, file_name="{number}.json"),),
)
