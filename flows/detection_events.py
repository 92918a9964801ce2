"""What vehicles saw: one row per object type of an event, never changed afterwards."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, Field, model_validator
from sqlalchemy import String, Text as SqlText
from sqlalchemy.orm import Mapped, mapped_column
from typing_extensions import TypedDict

from models.field_types import Instant, Text, UtcText, WholeNumber
from models.flow import Flow
from models.outbound import Form, Outbound, Row, RowOrder
from models.tables import LoadedRow

ObjectType = Annotated[Text, Field(max_length=50)]
ObjectValue = Annotated[int, WholeNumber(ge=0)]


class Detection(TypedDict):
    object_type: ObjectType
    object_value: ObjectValue


class DetectionEvent(BaseModel):
    """One event; some senders put a single detection flat on the event itself."""

    vehicle_id: Text
    detection_time: Instant
    detections: list[Detection] | None = None
    object_type: ObjectType | None = None
    object_value: ObjectValue | None = None

    @model_validator(mode="after")
    def one_form(self) -> "DetectionEvent":
        flat = (self.object_type is not None, self.object_value is not None)
        if self.detections is not None and any(flat):
            raise ValueError("an event holds either detections or a flat object_type and object_value, not both")
        if self.detections is None and not all(flat):
            raise ValueError("an event needs detections, or both object_type and object_value")
        return self


class ObjectDetection(LoadedRow):
    """One kind of object seen by one vehicle at one moment."""

    __tablename__ = "objects_detection"

    vehicle_id: Mapped[str] = mapped_column(SqlText, primary_key=True)
    detection_time: Mapped[datetime] = mapped_column(primary_key=True)
    object_type: Mapped[str] = mapped_column(String(50), primary_key=True)
    object_value: Mapped[int]


def to_rows(event: DetectionEvent) -> Iterable[Mapping[str, object]]:
    seen = {"vehicle_id": event.vehicle_id, "detection_time": event.detection_time}
    if event.detections is None:
        return [{**seen, "object_type": event.object_type, "object_value": event.object_value}]
    return [{**seen, **detection} for detection in event.detections]


class SeenObject(BaseModel):
    object_type: str
    object_value: int


class SeenEvent(BaseModel):
    """An event as it goes out: one for each object type, in the form that comes in."""

    vehicle_id: str
    detection_time: UtcText
    detections: list[SeenObject]


def to_event(row: Row) -> Mapping[str, object]:
    seen = {"object_type": row["object_type"], "object_value": row["object_value"]}
    return {"vehicle_id": row["vehicle_id"], "detection_time": row["detection_time"], "detections": [seen]}


FLOW = Flow(
    record=DetectionEvent,
    table=ObjectDetection,
    envelope="objects_detection_events",
    file_prefixes=("objects_detection", "detection_events"),
    append_only=True,
    to_rows=to_rows,
    outbound=(
        Outbound(
            document=SeenEvent,
            to_document=to_event,
            form=Form.ENVELOPE,
            envelope="objects_detection_events",
            file_name="objects_detection-{file_id}.json",
            order=RowOrder.KEY,
        ),
    ),
)
