"""The CRM: customers, whose list is always told whole.

`GET /customers` is a bare array of all, with no paging and no "since"; an e-mail address is taken once. With
`--webhook URL` each new customer is also posted there, once, whatever comes of it.
"""

import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated
from uuid import uuid4

import httpx
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel, Field

from partners.faults import Faults
from partners.serving import HOST, arguments, run
from partners.stand_in import StandIn
from partners.state import Document


class NewCustomer(BaseModel):
    name: Annotated[str, Field(min_length=1)]
    email: Annotated[str, Field(pattern=r"^[^@\s]+@[^@\s]+$")]


class Customer(NewCustomer):
    id: str
    created_at: datetime


class Crm(StandIn):
    """Customers by id; `create` and `rename` are what people do in it.

    `webhook` (an address) and `webhook_token` may be set at any time; `told` lists the ids of the customers that
    were posted there, each with the status answered, None for no answer.
    """

    title = "CRM"

    def __init__(self, *, host: str = HOST, port: int = 0, state: Path | None = None) -> None:
        super().__init__(host=host, port=port, state=state)
        self.customers = self.state.collection("customers")
        self.webhook = ""
        self.webhook_token = ""
        self.told: list[tuple[str, int | None]] = []

    def create(self, name: str, email: str) -> Document:
        """A new customer, as the API shows it; raises ValueError for a known e-mail address."""
        if any(customer["email"] == email for customer in self.customers.values()):
            raise ValueError(f"a customer with the email {email} exists")
        customer = {"id": str(uuid4()), "name": name, "email": email, "created_at": datetime.now(UTC).isoformat()}
        self.customers[customer["id"]] = customer
        if self.webhook:
            threading.Thread(target=self._tell, args=(customer,), name="webhook", daemon=True).start()
        return customer

    def rename(self, customer_id: str, name: str) -> None:
        self.customers[customer_id] = {**self.customers[customer_id], "name": name}

    def _tell(self, customer: Document) -> None:
        headers = {"Authorization": f"Bearer {self.webhook_token}", "Idempotency-Key": f'"{customer["id"]}"'}
        try:
            status = httpx.post(self.webhook, json=customer, headers=headers, trust_env=False).status_code
        except httpx.HTTPError:
            status = None
        self.told.append((customer["id"], status))

    def routes(self, app: FastAPI) -> None:
        @app.get("/customers")
        async def list_customers() -> list[Customer]:
            return [Customer.model_validate(customer) for customer in self.customers.values()]

        @app.post("/customers", status_code=201, responses={409: {"description": "the email is known"}})
        async def create_customer(new: NewCustomer) -> Customer:
            try:
                return Customer.model_validate(self.create(new.name, new.email))
            except ValueError as error:
                raise HTTPException(409, str(error)) from None


def main() -> None:
    parser = arguments(__doc__, 8000, Faults)
    parser.add_argument("--webhook", default="", metavar="URL", help="where each new customer is posted to")
    parser.add_argument("--webhook-token", default="", help="Bearer token that is sent with it")
    options = parser.parse_args()
    crm = Crm(host=options.host, port=options.port, state=options.state)
    crm.webhook, crm.webhook_token = options.webhook, options.webhook_token
    run(crm, crm.faults, options)


if __name__ == "__main__":
    main()
