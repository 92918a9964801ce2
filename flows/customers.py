"""Customers of the CRM; each new one gets one welcome package from the Inventory."""

from collections.abc import Mapping
from datetime import datetime
from typing import Literal
from uuid import UUID

from pydantic import BaseModel
from sqlalchemy.orm import Mapped, mapped_column

from models.flow import Flow
from models.outbound import Form, Outbound, Row
from models.source import Text, UtcInstant
from models.tables import LandedRow


class CrmCustomer(BaseModel):
    """A customer as the CRM lists it."""

    id: UUID
    name: Text
    email: Text
    created_at: UtcInstant


class Customer(LandedRow):
    """A customer, as the CRM last told."""

    __tablename__ = "customers"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    name: Mapped[str]
    email: Mapped[str]
    created_at: Mapped[datetime]


class PackageRequest(BaseModel):
    """What the Inventory takes at `POST /package-requests`."""

    customer_id: UUID
    package_type: Literal["welcome_package"] = "welcome_package"


def to_package_request(customer: Row) -> Mapping[str, object]:
    return {"customer_id": customer["id"]}


FLOW = Flow(
    record=CrmCustomer,
    table=Customer,
    file_prefixes=("customer",),
    outbound=(
        Outbound(
            document=PackageRequest,
            to_document=to_package_request,
            form=Form.ONE,
            file_name="package-request-{id}.json",
            once=True,
        ),
    ),
)
