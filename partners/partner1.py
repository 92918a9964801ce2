"""Partner 1: orders in our own form, to be fetched page by page.

`GET /orders?updated_since=&page=&per_page=` answers
`{"orders": [...], "page": 1, "pages": 100, "total": 10000, "as_of": "2026-01-31T12:00:00+00:00"}`.
`updated_since` is inclusive and compares `revised_at`. Orders stand in the order in which they were placed, so one
that is placed or revised while pages are read may show twice and is never missed; the `as_of` of the first page is the
next `updated_since`. `POST /orders` places or revises one, as the partner's own people do.
"""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Query
from pydantic import AwareDatetime, BaseModel, Field

from partners.faults import Faults
from partners.serving import HOST, arguments, run
from partners.stand_in import Bearer, StandIn
from partners.state import Document

TOKEN = "partner1-token"
PARTNER = "partner1"
FIRST = datetime(2026, 1, 1, 8, tzinfo=UTC)


class Page(BaseModel):
    orders: list[dict[str, Any]]
    page: int
    pages: int
    total: int
    as_of: datetime = Field(description="the next updated_since")


class Partner1(StandIn):
    """Orders by number; `place` and `seed` are what the partner's people do."""

    title = "Partner 1"

    def __init__(
        self, *, host: str = HOST, port: int = 0, state: Path | None = None, token: str = TOKEN, orders: int = 0
    ) -> None:
        self.token = token
        super().__init__(host=host, port=port, state=state)
        self.orders = self.state.collection("orders")
        self.seed(orders)

    def place(self, order: Document) -> Document:
        """Place an order, or revise the one of this number; `revised_at` is now unless given."""
        placed = {"partner": PARTNER, "revised_at": datetime.now(UTC).isoformat(), **order}
        self.orders[placed["order_number"]] = placed
        return placed

    def seed(self, count: int) -> None:
        """Have `count` orders P1-000001, P1-000002, … of the past."""
        for number in range(len(self.orders) + 1, count + 1):
            self.place(sample_order(number, FIRST + timedelta(seconds=number)))

    def routes(self, app: FastAPI) -> None:
        known_only = [Depends(Bearer(self.token))]

        @app.get("/orders", dependencies=known_only)
        async def list_orders(
            updated_since: AwareDatetime | None = None,
            page: Annotated[int, Query(ge=1)] = 1,
            per_page: Annotated[int, Query(ge=1, le=500)] = 100,
        ) -> Page:
            as_of = datetime.now(UTC)
            wanted = [
                order
                for order in self.orders.values()
                if updated_since is None or datetime.fromisoformat(order["revised_at"]) >= updated_since
            ]
            start = (page - 1) * per_page
            return Page(
                orders=wanted[start : start + per_page],
                page=page,
                pages=-(-len(wanted) // per_page),
                total=len(wanted),
                as_of=as_of,
            )

        @app.post("/orders", status_code=201, dependencies=known_only)
        async def place_order(order: dict[str, Any]) -> dict[str, Any]:
            return self.place(order)


def sample_order(number: int, at: datetime) -> Document:
    """An order in our own form, always the same for the same number."""
    price = f"{1 + number % 90}.{number % 100:02}"
    return {
        "partner": PARTNER,
        "order_number": f"P1-{number:06}",
        "ordered_at": at.isoformat(),
        "revised_at": at.isoformat(),
        "currency": "EUR",
        "buyer": {"gln": "4012345000009", "name": "Example Stores"},
        "ship_to": {"id": f"DC-{number % 9 + 1}"},
        "requested_delivery": (at + timedelta(days=5)).date().isoformat(),
        "lines": [
            {"line_number": 1, "sku": f"BRG-{number % 500:04}", "quantity": str(1 + number % 20), "unit_price": price},
            {"line_number": 2, "gtin": "4006381333931", "quantity": "0.5", "unit": "KGM", "unit_price": "6.90"},
        ],
    }


def main() -> None:
    parser = arguments(__doc__, 8003, Faults)
    parser.add_argument("--orders", type=int, default=0, help="orders that stand there from the start")
    parser.add_argument("--token", default=TOKEN, help=f"Bearer token that is let in (default {TOKEN})")
    options = parser.parse_args()
    partner = Partner1(
        host=options.host, port=options.port, state=options.state, token=options.token, orders=options.orders
    )
    run(partner, partner.faults, options)


if __name__ == "__main__":
    main()
