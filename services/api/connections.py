"""Connections to the API: so many in all and from one peer, and none for long without the token.

uvicorn accepts whatever comes and answers 503 once it is too much. Here a connection is at work while its request
carries the token. Any other makes room for a newcomer, who may have it; while all of them are at work the next ones
wait in the system's queue.
"""

import asyncio
import ipaddress
import socket
from collections import Counter
from collections.abc import Iterable
from functools import partial

import uvicorn
from loguru import logger
from starlette.requests import Request
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from services.api.access import Access
from services.runtime import descriptors

HEAD_SECONDS = 10.0
"""A whole request head has to come within so long, the next one on the same connection too.

Without the token that holds for the request and its answer together.
"""

UNREAD_SECONDS = 30
"""A client that takes nothing of its answer for so long has gone."""

MOST, FEWEST = 256, 8
SHARE = 4
"""At most a quarter of the process's descriptors: a request may need two more, and the loader needs its own."""

NO_DESCRIPTOR_SECONDS = 1.0
"""So late it is tried again when the system has no descriptor left."""


def allowed() -> int:
    """How many connections the process's limit of descriptors allows."""
    return max(FEWEST, min(MOST, descriptors.limit() // SHARE))


class Door:
    """Accepts connections for uvicorn, and shows those out that keep others waiting."""

    def __init__(self, server: uvicorn.Server, access: Access) -> None:
        self._server = server
        self._access = access
        self._most = allowed()
        self._peers: Counter[str] = Counter()
        self._idle: dict[_Connection, None] = {}  # the longest idle first
        self._changed = asyncio.Event()

    async def accept(self, listening: socket.socket) -> None:
        """Accept until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                accepted, (host, *_) = await loop.sock_accept(listening)
                await self._let_in(accepted, peer_of(host))
            except OSError as error:
                logger.warning("the API accepts no connection for a moment: {}", error.strerror or error)
                await asyncio.sleep(NO_DESCRIPTOR_SECONDS)

    async def _let_in(self, accepted: socket.socket, peer: str) -> None:
        """Once there is room; a peer that has its share at work is turned away."""
        try:
            while self._peers.total() >= self._most and not self._idle:
                self._changed.clear()
                await self._changed.wait()
            if not self._make_room_for(peer):
                accepted.close()
                return
            # Also of what is to be sent before an orderly end: nobody waits for a client that does not read.
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNREAD_SECONDS * 1000)
            make = partial(_Connection, self, peer, self._server, self._access)
            await asyncio.get_running_loop().connect_accepted_socket(make, accepted)
        except BaseException:
            accepted.close()
            raise

    def _make_room_for(self, peer: str) -> bool:
        """Show an idle one out where there is no room; false when none of the peer's own share is idle."""
        if self._peers[peer] >= self._most // 2:
            return self._show_out(one for one in self._idle if one.peer == peer)
        return self._peers.total() < self._most or self._show_out(self._idle)

    def _show_out(self, idle: Iterable["_Connection"]) -> bool:
        """Close one of these: without the token, of the peer that has the most, the longest idle; false without any."""
        chosen = max(idle, key=lambda one: (not one.is_known, self._peers[one.peer]), default=None)
        if chosen is not None:
            self.left(chosen)
            chosen.transport.abort()
        return chosen is not None

    def entered(self, one: "_Connection") -> None:
        self._peers[one.peer] += 1

    def idle(self, one: "_Connection") -> None:
        self._idle[one] = None
        self._changed.set()

    def busy(self, one: "_Connection") -> None:
        self._idle.pop(one, None)

    def left(self, one: "_Connection") -> None:
        """Once or twice for each: who is shown out counts no longer, and ends a moment later."""
        self._idle.pop(one, None)
        if not one.has_left:
            one.has_left = True
            self._peers -= Counter([one.peer])
            self._changed.set()


class _Connection(H11Protocol):
    """One connection; it is idle unless it has a request with the token.

    is_known: whether its last request had it.
    """

    def __init__(self, door: Door, peer: str, server: uvicorn.Server, access: Access) -> None:
        super().__init__(server.config, server.server_state, {})
        self.peer = peer
        self.is_known = False
        self.has_left = False
        self._door = door
        self._access = access
        self._end: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=0)  # an answer is complete once the system has all of it
        self._door.entered(self)
        self._wait()

    def handle_events(self) -> None:
        before = self.cycle
        super().handle_events()
        if self.cycle is before:
            return
        self.is_known = self._access.knows(Request(dict(self.scope)))
        if self.is_known:
            self._stop_waiting()
            self._door.busy(self)
        elif self._end is None:
            self._wait()

    def on_response_complete(self) -> None:
        if not self.flow.write_paused:
            self._wait()
        super().on_response_complete()

    def resume_writing(self) -> None:
        super().resume_writing()
        cycle: RequestResponseCycle | None = self.cycle  # uvicorn's is None before the first request
        if cycle is not None and cycle.response_complete:
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        self._door.left(self)
        super().connection_lost(exc)

    def _wait(self) -> None:
        self._door.idle(self)
        self._stop_waiting()
        self._end = self.loop.call_later(HEAD_SECONDS, self.transport.abort)

    def _stop_waiting(self) -> None:
        if self._end is not None:
            self._end.cancel()
            self._end = None


def peer_of(host: str) -> str:
    """Who is one peer: an address, and of IPv6 the network that one customer is given."""
    address = ipaddress.ip_address(host.partition("%")[0])
    return host if address.version == 4 else str(ipaddress.ip_network((address, 64), strict=False))
