"""Orders of third parties, for the ERP."""

from collections.abc import Iterable, Mapping
from datetime import date, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Any

from pydantic import BaseModel, Field, model_validator
from pydantic.dataclasses import dataclass
from sqlalchemy import ForeignKeyConstraint, Numeric, String
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from flows.orders.answers import to_855, to_ordrsp
from flows.orders.edi import from_850, from_orders
from models.connector import (
    Change,
    Json,
    Kind,
    LookUp,
    RestDestination,
    RestSource,
    Setting,
    SftpDestination,
    SftpServer,
    SftpSource,
    SourcePage,
)
from models.edi.message import Origin
from models.edi.text import Reply, render
from models.field_types import DecimalNumber, DecimalText, ExactNumber, Instant, IsoDate, Text, UtcText, WholeNumber
from models.flow import Flow
from models.outbound import Form, Outbound, Row
from models.tables import ChildRow, ParentRow

Quantity = Annotated[Decimal, DecimalNumber(ge=0, max_digits=18, decimal_places=6)]
Price = Annotated[Decimal, DecimalNumber(ge=0, max_digits=18, decimal_places=6)]
Amount = Annotated[Decimal, DecimalNumber(ge=0, max_digits=18, decimal_places=6)]
CENT = Decimal("0.01")


class Purpose(StrEnum):
    """What a message does to the order (EDIFACT BGM 1225, X12 BEG01)."""

    ORIGINAL = "original"
    REPLACE = "replace"
    CANCEL = "cancel"


class Party(BaseModel):
    """Who buys, or where it goes: a name, and a GLN or the partner's own number of it."""

    id: Text | None = None
    gln: Annotated[Text, Field(pattern=r"^\d{13}$")] | None = None
    name: Text | None = None
    address: Text | None = None

    @model_validator(mode="after")
    def named(self) -> "Party":
        if self.id is None and self.gln is None and self.name is None:
            raise ValueError("a party needs an id, a gln or a name")
        return self


@dataclass(kw_only=True)
class Line:
    """What is ordered; a price may be left to the contract."""

    line_number: Annotated[int, WholeNumber(ge=1)]
    sku: Text | None = None
    gtin: Annotated[Text, Field(pattern=r"^\d{8,14}$")] | None = None
    description: Text | None = None
    quantity: Quantity
    unit: Annotated[Text, Field(max_length=10)] = "EA"
    unit_price: Price | None = None

    @model_validator(mode="after")
    def names_an_article(self) -> "Line":
        if self.sku is None and self.gtin is None:
            raise ValueError("a line needs a sku or a gtin")
        return self


class EdiLine(BaseModel):
    """A line as it was sent: its quantity, and its article numbers, each with its kind."""

    quantity: ExactNumber
    ids: list[tuple[str, str]]


class EdiOrigin(Origin):
    """The message that an order came in; it is answered in its own terms. Lines by their number."""

    lines: dict[str, EdiLine]


class PartnerOrder(BaseModel):
    """An order in our own form; `total`, where it is stated, must be what its lines come to."""

    partner: Annotated[Text, Field(max_length=50)]
    order_number: Annotated[Text, Field(max_length=50)]
    purpose: Purpose = Purpose.ORIGINAL
    ordered_at: Instant
    revised_at: Instant | None = None
    currency: Annotated[Text, Field(pattern=r"^[A-Z]{3}$")]
    buyer: Party
    ship_to: Party | None = None
    requested_delivery: IsoDate | None = None
    total: Amount | None = None
    lines: list[Line] = []
    edi: EdiOrigin | None = None

    @model_validator(mode="after")
    def adds_up(self) -> "PartnerOrder":
        if not self.lines and self.purpose is not Purpose.CANCEL:
            raise ValueError("an order without lines")
        if len({line.line_number for line in self.lines}) < len(self.lines):
            raise ValueError("two lines have the same line_number")
        if self.total is not None and self.lines and all(line.unit_price is not None for line in self.lines):
            sum_of_lines = line_total((line.quantity, line.unit_price) for line in self.lines)
            if sum_of_lines != self.total.quantize(CENT):
                raise ValueError(f"the stated total {self.total} is not the {sum_of_lines} of its lines")
        return self


def line_total(lines: Iterable[tuple[Decimal, Decimal | None]]) -> Decimal:
    """The sum of quantity times price, each line rounded to cents."""
    return sum(((quantity * (price or 0)).quantize(CENT) for quantity, price in lines), Decimal("0.00"))


class Order(ParentRow):
    """The newest state of an order."""

    __tablename__ = "orders"

    partner: Mapped[str] = mapped_column(String(50), primary_key=True)
    order_number: Mapped[str] = mapped_column(String(50), primary_key=True)
    status: Mapped[str] = mapped_column(String(10))
    ordered_at: Mapped[datetime]
    revised_at: Mapped[datetime]
    currency: Mapped[str] = mapped_column(String(3))
    buyer: Mapped[dict[str, Any]] = mapped_column(JSONB)
    ship_to: Mapped[dict[str, Any] | None] = mapped_column(JSONB)
    requested_delivery: Mapped[date | None]
    total: Mapped[Decimal | None] = mapped_column(Numeric)
    edi: Mapped[dict[str, Any] | None] = mapped_column(JSONB)


class OrderLine(ChildRow):
    """A line of the newest state of an order."""

    __tablename__ = "order_lines"
    __table_args__ = (
        ForeignKeyConstraint(
            ["partner", "order_number"], ["orders.partner", "orders.order_number"], ondelete="CASCADE"
        ),
    )

    partner: Mapped[str] = mapped_column(String(50), primary_key=True)
    order_number: Mapped[str] = mapped_column(String(50), primary_key=True)
    line_number: Mapped[int] = mapped_column(primary_key=True)
    sku: Mapped[str | None]
    gtin: Mapped[str | None] = mapped_column(String(14))
    description: Mapped[str | None]
    quantity: Mapped[Decimal] = mapped_column(Numeric)
    unit: Mapped[str] = mapped_column(String(10))
    unit_price: Mapped[Decimal | None] = mapped_column(Numeric)


def to_rows(order: PartnerOrder) -> Iterable[Mapping[str, object]]:
    row: dict[str, object] = {
        "partner": order.partner,
        "order_number": order.order_number,
        "status": "cancelled" if order.purpose is Purpose.CANCEL else "open",
        "ordered_at": order.ordered_at,
        "revised_at": order.revised_at or order.ordered_at,
        "currency": order.currency,
        "buyer": order.buyer.model_dump(exclude_none=True),
        "ship_to": order.ship_to.model_dump(exclude_none=True) if order.ship_to else None,
        "requested_delivery": order.requested_delivery,
        "total": order.total,
        "edi": order.edi.model_dump(mode="json") if order.edi else None,
    }
    if order.lines:  # a cancellation need not repeat them: then they stay
        row["order_lines"] = [vars(line) for line in order.lines]
    return [row]


class ErpLine(BaseModel):
    line_number: int
    sku: str | None
    gtin: str | None
    description: str | None
    quantity: DecimalText
    unit: str
    unit_price: DecimalText | None


class ErpOrder(BaseModel):
    """What the ERP takes at `POST /api/orders`."""

    external_order_no: str
    customer: str
    status: str
    ordered_at: UtcText
    currency: str
    buyer: dict[str, Any]
    ship_to: dict[str, Any] | None
    requested_delivery: date | None
    lines: Annotated[list[ErpLine], Field(min_length=1)]
    total: DecimalText | None


def to_sales_order(order: Row) -> Mapping[str, object] | None:
    lines = order["order_lines"]
    if not lines and order["status"] == "cancelled":
        return None  # it was cancelled before we knew of it: there is nothing to tell the ERP
    # Where a price is left to the contract, only the partner can know the total.
    priced = all(line["unit_price"] is not None for line in lines)
    same = ("status", "ordered_at", "currency", "buyer", "ship_to", "requested_delivery")
    return {
        "external_order_no": order["order_number"],
        "customer": order["partner"],
        **{name: order[name] for name in same},
        "lines": [{name: line[name] for name in ErpLine.model_fields} for line in lines],
        "total": line_total((line["quantity"], line["unit_price"]) for line in lines) if priced else order["total"],
    }


def partner1_page(answer: Json) -> SourcePage:
    """`{"orders": [...], "page": 1, "pages": 100, "as_of": TIME}`; the poll after this one begins at its `as_of`."""
    number, last = int(answer["page"]), int(answer["pages"])
    return SourcePage(answer["orders"], {"page": str(number + 1)} if number < last else None, answer["as_of"])


def in_the_erp(order: Json, known: Json) -> Json | None:
    same = ("customer", "external_order_no")
    return next((found for found in known if all(found[name] == order[name] for name in same)), None)


def differs_in_the_erp(order: Json, found: Json) -> str | None:
    """Of what we sent; the ERP's own fields are its own."""
    ours, theirs = ErpOrder.model_validate(order), ErpOrder.model_validate(found)
    names = [name for name in ErpOrder.model_fields if getattr(ours, name) != getattr(theirs, name)]
    return ", ".join(f"{name} is {found.get(name)!r:.60} there, {order[name]!r:.60} here" for name in names) or None


def changed_in_the_erp(order: Json, found: Json) -> Change:
    """A cancellation cancels the sales order as it is; anything else replaces it."""
    path = f"/api/orders/{int(found['id'])}"
    if order["status"] == "cancelled":
        return Change("POST", f"{path}/cancel", sends_document=False)
    return Change("PUT", path)


PARTNER1 = RestSource(
    name="partner1",
    address=Setting("PARTNER1_API_URL", Kind.URL, description="Partner 1, of which orders are polled."),
    token=Setting("PARTNER1_API_TOKEN", Kind.SECRET, description="Its bearer token."),
    path="/orders",
    query={"page": "1", "per_page": "100"},
    since="updated_since",
    read=partner1_page,
)
PARTNER2_SERVER = SftpServer(
    host=Setting("PARTNER2_SFTP_HOST", description="Partner 2's SFTP server, of which orders are fetched."),
    port=Setting("PARTNER2_SFTP_PORT", Kind.PORT, "22", "Its port."),
    user=Setting("PARTNER2_SFTP_USER", description="Our user there."),
    password=Setting("PARTNER2_SFTP_PASS", Kind.PASSWORD, description="Its password, or a key file instead."),
    key_file=Setting("PARTNER2_SFTP_KEY_FILE", Kind.PATH, description="An OpenSSH private key without passphrase."),
    known_hosts=Setting(
        "PARTNER2_SFTP_KNOWN_HOSTS",
        Kind.PATH,
        "~/.ssh/known_hosts",
        "Where the server's host key stands; ssh-keyscan -p PORT HOST >> FILE puts it there.",
    ),
)
PARTNER2 = SftpSource(
    name="partner2",
    server=PARTNER2_SERVER,
    folder=Setting("PARTNER2_SFTP_PATH", default="orders", description="The remote folder with its orders."),
    archive=Setting(
        "PARTNER2_SFTP_ARCHIVE", default="archive", description="The remote folder for orders that are fetched."
    ),
)
PARTNER2_ANSWERS = SftpDestination(
    name="partner2-answers",
    server=PARTNER2_SERVER,
    folder=Setting(
        "PARTNER2_SFTP_ANSWERS",
        description="The remote folder for our answers to its orders; unset: they stay in OUTPUT_DIR.",
    ),
    documents=("ordrsp", "contrl", "855", "997"),
    in_order=True,
)
ERP = RestDestination(
    name="erp",
    address=Setting("ERP_API_URL", Kind.URL, description="The ERP, which gets every order."),
    token=Setting("ERP_API_TOKEN", Kind.SECRET, description="Its bearer token."),
    path="/api/orders",
    look_up=LookUp(
        "/api/orders",
        lambda order: {"customer": order["customer"], "external_order_no": order["external_order_no"]},
        in_the_erp,
        differs_in_the_erp,
    ),
    known_on=frozenset({409}),  # it has this external number already
    change=changed_in_the_erp,
    in_order=True,
)

FLOW = Flow(
    record=PartnerOrder,
    table=Order,
    children=(OrderLine,),
    envelope="orders",
    file_prefixes=("order",),
    newest_by="revised_at",
    exact_numbers=True,
    to_rows=to_rows,
    messages={"ORDERS": from_orders, "850": from_850},
    outbound=(
        Outbound(
            name="ordrsp",
            document=Reply,
            to_document=to_ordrsp,
            render=render,
            form=Form.ONE,
            file_name="{partner}/{order_number}-{file_id}.edi",
        ),
        Outbound(
            name="855",
            document=Reply,
            to_document=to_855,
            render=render,
            form=Form.ONE,
            file_name="{partner}/{order_number}-{file_id}.x12",
        ),
        Outbound(
            document=ErpOrder,
            to_document=to_sales_order,
            form=Form.ONE,
            file_name="{partner}/{order_number}.json",
        ),
    ),
    sources=(PARTNER1, PARTNER2),
    destinations=(ERP, PARTNER2_ANSWERS),
)
