"""The newest report of every vehicle."""

from datetime import datetime
from typing import Annotated

from pydantic import Field
from sqlalchemy import String, Text as SqlText
from sqlalchemy.orm import Mapped, mapped_column
from typing_extensions import TypedDict

from models.field_types import Instant, Text
from models.flow import Flow
from models.outbound import Form, Outbound
from models.tables import LoadedRow


class VehicleReport(TypedDict):
    """What a vehicle said of itself; `status` is free text in the field."""

    vehicle_id: Text
    report_time: Instant
    status: Annotated[Text, Field(max_length=50)]


class VehicleStatus(LoadedRow):
    """One row per vehicle: its newest report."""

    __tablename__ = "vehicles_status"

    vehicle_id: Mapped[str] = mapped_column(SqlText, primary_key=True)
    report_time: Mapped[datetime]
    status: Mapped[str] = mapped_column(String(50))


FLOW = Flow(
    record=VehicleReport,
    table=VehicleStatus,
    envelope="vehicle_status",
    file_prefixes=("vehicle_status", "vehicles_status"),
    newest_by="report_time",
    outbound=(
        Outbound(
            form=Form.ENVELOPE,
            envelope="vehicle_status",
            file_name="vehicle_status-{file_id}.json",
        ),
    ),
)
