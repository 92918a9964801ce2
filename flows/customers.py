"""Customers of the CRM; each new one gets one welcome package from the Inventory."""

from collections.abc import Mapping
from datetime import datetime
from typing import Literal
from uuid import NAMESPACE_URL, UUID, uuid5

from pydantic import BaseModel
from sqlalchemy.orm import Mapped, mapped_column

from models.connector import Json, Kind, LookUp, RestDestination, RestSource, Setting, SourcePage
from models.field_types import Text, UtcInstant
from models.flow import Flow
from models.outbound import Form, Outbound, Row
from models.tables import LoadedRow


class CrmCustomer(BaseModel):
    """A customer as the CRM lists it."""

    id: UUID
    name: Text
    email: Text
    created_at: UtcInstant


class Customer(LoadedRow):
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


def the_only_page(customers: Json) -> SourcePage:
    """The CRM answers with a bare list of all customers."""
    if not isinstance(customers, list):
        raise TypeError("a list of customers was expected")
    return SourcePage(customers)


def idempotency_key(request: Json) -> str:
    return str(uuid5(NAMESPACE_URL, f"tidegate:customers:{request['customer_id']}"))


def existing_request(request: Json, known: Json) -> Json | None:
    same = ("customer_id", "package_type")
    return next((made for made in known if all(made[name] == request[name] for name in same)), None)


CRM = RestSource(
    name="crm",
    address=Setting("CRM_API_URL", Kind.URL, description="The CRM, of which customers are polled."),
    path="/customers",
    read=the_only_page,
    tries=3,
    pause_seconds=5,
)
INVENTORY = RestDestination(
    name="inventory",
    address=Setting(
        "INVENTORY_API_URL",
        Kind.URL,
        description="The Inventory, which gets a package request for each new customer.",
    ),
    path="/package-requests",
    idempotency_key=idempotency_key,
    look_up=LookUp("/package-requests", lambda _request: {}, existing_request),
    retry_on=frozenset({409}),  # the same key is being worked on
)

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
    sources=(CRM,),
    destinations=(INVENTORY,),
)
