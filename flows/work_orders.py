"""Work orders of the client's maintenance system, as TracOS keeps them."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from enum import StrEnum
from typing import Annotated

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic.alias_generators import to_camel
from sqlalchemy import String, Text as SqlText, text
from sqlalchemy.orm import Mapped, mapped_column
from typing_extensions import TypedDict

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


_STATUS_FLAGS = ("isCanceled", "isDone", "isOnHold", "isPending")
_STATUSES = {
    (False, False, False, False): Status.IN_PROGRESS,
    (True, False, False, False): Status.CANCELLED,
    (False, True, False, False): Status.COMPLETED,
    (False, False, True, False): Status.ON_HOLD,
    (False, False, False, True): Status.PENDING,
}
"""By these flags. None true means in progress: the client's own generator never writes `isActive`."""


class ClientWorkOrder(BaseModel):
    """A work order as the client writes it: the status is spread over flags."""

    model_config = ConfigDict(alias_generator=to_camel)

    order_no: Annotated[int, WholeNumber(from_text=True, ge=0)]
    is_active: Flag = False
    is_canceled: Flag = False
    is_deleted: Flag = False
    is_done: Flag = False
    is_on_hold: Flag = False
    is_pending: Flag = False
    is_synced: Flag = False
    summary: Text
    creation_date: UtcInstant
    last_update_date: UtcInstant
    deleted_date: UtcInstant | None = None

    @model_validator(mode="after")
    def flags_agree(self) -> "ClientWorkOrder":
        self.status()
        return self

    def status(self) -> Status:
        """The status that the flags mean; `isActive` says nothing beside another flag.

        Raises ValueError on two flags that contradict each other.
        """
        flags = (self.is_canceled, self.is_done, self.is_on_hold, self.is_pending)
        status = _STATUSES.get(flags)
        if status is None:
            true = [name for name, is_set in zip(_STATUS_FLAGS, flags, strict=True) if is_set]
            raise ValueError(f"flags contradict each other: {' and '.join(true)} are both true")
        return status


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
    row = {
        "number": order.order_no,
        "status": order.status().value,
        "title": order.summary,
        "created_at": order.creation_date,
        "updated_at": order.last_update_date,
        "deleted": order.is_deleted,
        "deleted_at": order.deleted_date if order.is_deleted else None,
    }
    return [row]


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
