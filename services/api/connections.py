"""Connections to the API: so many in all and from one peer, and none for long without a request.

uvicorn accepts whatever comes and answers 503 once it is too much. Here a connection that asks for nothing
makes room for one that may, and while all of them are at work the next ones wait in the system's queue.
"""

import asyncio
import ipaddress
import socket
from collections import Counter
from collections.abc import Callable
from functools import partial

import uvicorn
from loguru import logger
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from services.runtime import descriptors

HEAD_SECONDS = 10.0
"""A whole request head has to come within so long, the next one on the same connection too."""

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

    def __init__(self, server: uvicorn.Server) -> None:
        self._server = server
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
            make = partial(_Connection, self, peer, self._server)
            await asyncio.get_running_loop().connect_accepted_socket(make, accepted)
        except BaseException:
            accepted.close()
            raise

    def _make_room_for(self, peer: str) -> bool:
        """Show an idle one out where there is no room: of the peer's own share, or of the peer that has the most."""
        if self._peers[peer] >= self._most // 2:
            return self._show_out(lambda one: one.peer == peer)
        if self._peers.total() >= self._most:
            most = max(self._peers[one.peer] for one in self._idle)
            return self._show_out(lambda one: self._peers[one.peer] == most)
        return True

    def _show_out(self, chosen: Callable[["_Connection"], bool]) -> bool:
        """Close the one of these that has been idle for longest; false when none is."""
        longest = next((one for one in self._idle if chosen(one)), None)
        if longest is not None:
            self.left(longest)
            longest.transport.abort()
        return longest is not None

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
    """One connection; idle is one that waits for the rest of a request's head."""

    def __init__(self, door: Door, peer: str, server: uvicorn.Server) -> None:
        super().__init__(server.config, server.server_state, {})
        self.peer = peer
        self.has_left = False
        self._door = door
        self._end: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._door.entered(self)
        self._wait()

    def handle_events(self) -> None:
        super().handle_events()
        cycle: RequestResponseCycle | None = self.cycle  # uvicorn's is None before the first request
        if cycle is not None and not cycle.response_complete:
            self._stop_waiting()
            self._door.busy(self)

    def on_response_complete(self) -> None:
        self._wait()
        super().on_response_complete()

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
