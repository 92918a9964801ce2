"""What the stand-ins that speak HTTP share: the switches of their faults, and what they received."""

import secrets
from pathlib import Path
from typing import Annotated

from fastapi import FastAPI, Header, HTTPException
from fastapi.middleware import Middleware

from partners.faults import Faults, FaultyTransport, Received
from partners.serving import HOST, Served


class StandIn(Served):
    """A partner system that plays its part: `faults` are its switches, `received` lists the requests so far."""

    def __init__(self, *, host: str = HOST, port: int = 0, state: Path | None = None) -> None:
        self.faults = Faults()
        self.received: list[Received] = []
        faulty = Middleware(FaultyTransport, faults=self.faults, received=self.received, hang_up=self.hang_up)
        super().__init__(host, port, state, [faulty])
        self._own_pages()
        self.routes(self.app)

    def routes(self, app: FastAPI) -> None:
        """Add what the partner system offers."""

    def _own_pages(self) -> None:
        @self.app.get("/_faults", tags=["stand-in"])
        async def show_faults() -> Faults:
            return self.faults

        @self.app.put("/_faults", tags=["stand-in"])
        async def set_faults(wanted: Faults) -> Faults:
            """Switch faults; what is left out is switched off."""
            self.faults.become(wanted)
            return self.faults

        @self.app.get("/_received", tags=["stand-in"])
        async def show_received() -> list[Received]:
            return self.received

        @self.app.delete("/_received", tags=["stand-in"], status_code=204)
        async def forget_received() -> None:
            self.received.clear()


class Bearer:
    """A dependency that lets in whoever knows the token (RFC 6750)."""

    def __init__(self, token: str) -> None:
        self._expected = f"Bearer {token}"

    async def __call__(self, authorization: Annotated[str, Header()] = "") -> None:
        if not secrets.compare_digest(authorization.encode(), self._expected.encode()):
            raise HTTPException(401, "the token is missing or wrong", {"WWW-Authenticate": "Bearer"})
