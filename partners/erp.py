"""The ERP: sales orders, by the number that the customer gave them.

`external_order_no` is unique per customer: a known one → 409. Lines that it cannot sell → 422, which names them.
`PUT /api/orders/{id}` replaces an order, `POST /api/orders/{id}/cancel` cancels it as it is; both may be repeated, and
one that is shipped stays as it is → 409.
After a time-out ask `GET /api/orders?customer=&external_order_no=` before sending again: with `--lose-rate 1` the
order is there although nothing was answered.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from partners.faults import Faults
from partners.serving import HOST, arguments, run
from partners.stand_in import Bearer, StandIn
from partners.state import Document

TOKEN = "erp-token"


class Line(BaseModel):
    model_config = ConfigDict(extra="allow")

    line_number: int
    sku: str | None = None
    gtin: str | None = None
    quantity: Annotated[Decimal, Field(gt=0)]
    unit_price: Annotated[Decimal, Field(ge=0)] | None = None


class NewOrder(BaseModel):
    model_config = ConfigDict(extra="allow")

    external_order_no: Annotated[str, Field(min_length=1)]
    customer: Annotated[str, Field(min_length=1)]
    lines: Annotated[list[Line], Field(min_length=1)]


class Booked(BaseModel):
    id: int
    number: str


class Order(NewOrder, Booked):
    """An order as the ERP keeps it."""


class Erp(StandIn):
    """Sales orders in the order of booking; articles in `not_sold` (sku or gtin) are refused.

    shipped: the numbers (`id`) of orders that nobody may change any more.
    """

    title = "ERP"

    def __init__(self, *, host: str = HOST, port: int = 0, state: Path | None = None, token: str = TOKEN) -> None:
        self.token = token
        self.not_sold = {"DISCONTINUED"}
        self.shipped: set[int] = set()
        super().__init__(host=host, port=port, state=state)
        self.orders = self.state.collection("orders")

    def find(self, customer: str, external_order_no: str) -> Document | None:
        return self.orders.get(f"{customer}\n{external_order_no}")

    def routes(self, app: FastAPI) -> None:
        known_only = [Depends(Bearer(self.token))]

        @app.get("/api/orders", dependencies=known_only)
        async def list_orders(customer: str | None = None, external_order_no: str | None = None) -> list[Order]:
            wanted = {"customer": customer, "external_order_no": external_order_no}
            return [
                Order.model_validate(order)
                for order in self.orders.values()
                if all(value is None or order[name] == value for name, value in wanted.items())
            ]

        @app.post("/api/orders", status_code=201, dependencies=known_only)
        async def create_order(new: NewOrder) -> Booked:
            if self.find(new.customer, new.external_order_no) is not None:
                raise HTTPException(409, f"{new.customer} has an order {new.external_order_no} already")
            self._check_lines(new)
            return Booked.model_validate(self._book(new))

        @app.put("/api/orders/{number}", dependencies=known_only)
        async def replace_order(number: int, new: NewOrder) -> Booked:
            key, order = self._changeable(number)
            if key != f"{new.customer}\n{new.external_order_no}":
                raise HTTPException(409, "an order keeps its customer and its external number")
            self._check_lines(new)
            self.orders[key] = {**new.model_dump(mode="json"), "id": number, "number": order["number"]}
            return Booked.model_validate(self.orders[key])

        @app.post("/api/orders/{number}/cancel", dependencies=known_only)
        async def cancel_order(number: int) -> Booked:
            key, order = self._changeable(number)
            self.orders[key] = {**order, "status": "cancelled"}
            return Booked.model_validate(self.orders[key])

        app.exception_handler(LinesRefused)(refuse_lines)
        app.exception_handler(RequestValidationError)(refuse_shape)

    def _changeable(self, number: int) -> tuple[str, Document]:
        found = next(((key, order) for key, order in self.orders.items() if order["id"] == number), None)
        if found is None:
            raise HTTPException(404, f"there is no order {number}")
        if number in self.shipped:
            raise HTTPException(409, f"order {number} is shipped")
        return found

    def _check_lines(self, new: NewOrder) -> None:
        wrong = [line for line in new.lines if {line.sku, line.gtin} & self.not_sold]
        if wrong:
            raise LinesRefused([(line.line_number, "the article is not sold") for line in wrong])

    def _book(self, new: NewOrder) -> Document:
        number = len(self.orders) + 1
        order: Document = {
            "id": number,
            "number": f"SO-{datetime.now(UTC):%Y}-{number:06}",
            **new.model_dump(mode="json"),
        }
        self.orders[f"{new.customer}\n{new.external_order_no}"] = order
        return order


class LinesRefused(Exception):
    """Lines that cannot be sold: their numbers and why."""

    def __init__(self, lines: Sequence[tuple[int | None, str]], other: Sequence[str] = ()) -> None:
        self.lines = lines
        self.other = other


def refusal(lines: Sequence[tuple[int | None, str]], other: Sequence[str] = ()) -> JSONResponse:
    named = [{"line_number": number, "error": why} for number, why in lines]
    sentence = "; ".join([*other, *(f"line {number}: {why}" for number, why in lines)])
    return JSONResponse({"detail": sentence, "lines": named}, status_code=422)


async def refuse_lines(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, LinesRefused)
    return refusal(error.lines, error.other)


async def refuse_shape(_: Request, error: Exception) -> JSONResponse:
    """A body that is no order, in the same form."""
    assert isinstance(error, RequestValidationError)
    lines: list[tuple[int | None, str]] = []
    other: list[str] = []
    for wrong in error.errors():
        match wrong["loc"]:
            case ("body", "lines", int(index), *field):
                lines.append((_line_number(error.body, index), f"{'.'.join(map(str, field))}: {wrong['msg']}"))
            case location:
                other.append(f"{'.'.join(map(str, location))}: {wrong['msg']}")
    return refusal(lines, other)


def _line_number(body: Any, index: int) -> int | None:
    try:
        number = body["lines"][index]["line_number"]
    except (KeyError, TypeError, IndexError):
        return None
    return number if isinstance(number, int) else None


def main() -> None:
    parser = arguments(__doc__, 8002, Faults)
    parser.add_argument("--token", default=TOKEN, help=f"Bearer token that is let in (default {TOKEN})")
    options = parser.parse_args()
    erp = Erp(host=options.host, port=options.port, state=options.state, token=options.token)
    run(erp, erp.faults, options)


if __name__ == "__main__":
    main()
