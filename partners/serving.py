"""How a stand-in is served: a FastAPI application on a port, in this thread or in one of its own.

On the command line one runs until Ctrl-C. In a test it runs in a thread; `stop()` and `start()` play an outage:
the port stays the same, and nobody else gets it meanwhile.
"""

import argparse
import asyncio
import socket
import sys
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext, suppress
from pathlib import Path
from typing import ClassVar, Self

import uvicorn
from fastapi import FastAPI
from fastapi.middleware import Middleware
from fastapi_offline import FastAPIOffline
from pydantic import ValidationError
from uvicorn.protocols.http.h11_impl import H11Protocol

from partners.faults import Switches
from partners.state import State

HOST = "127.0.0.1"


class Served:
    """An application on `url`; `state` remembers over an outage, and with a file over a restart."""

    title: ClassVar[str]

    def __init__(self, host: str, port: int, state: Path | None, middleware: Sequence[Middleware] = ()) -> None:
        """Take the port (0: any free one); nothing listens before `start` or `serve`."""
        self.state = State(state)
        # A bound socket that does not listen keeps the port during an outage.
        self._holder = bound(host, port)
        self.host: str = host
        self.port: int = self._holder.getsockname()[1]
        self._server: uvicorn.Server | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._started = threading.Event()
        doc = (sys.modules[type(self).__module__].__doc__ or "").strip()
        self.app = FastAPIOffline(
            title=f"{self.title} (stand-in)", description=doc, lifespan=self._lifespan, middleware=list(middleware)
        )

    @property
    def address(self) -> str:
        """Where this machine finds it."""
        return HOST if self.host == "0.0.0.0" else self.host

    @property
    def url(self) -> str:
        return f"http://{self.address}:{self.port}"

    @property
    def greeting(self) -> str:
        """What the command line says once it listens."""
        return f"{self.title} on {self.url}  (page /docs, faults /_faults, requests /_received)"

    def beside(self) -> AbstractAsyncContextManager[None]:
        """What runs in the same loop as long as it serves."""
        return nullcontext()

    def serve(self) -> None:
        """Serve in this thread until a signal comes."""
        listener = self._listen()
        print(self.greeting, flush=True)  # noqa: T201
        asyncio.run(self._serve(listener))

    def start(self) -> Self:
        """Serve in a thread of its own; it is ready when this returns."""
        self._started.clear()
        listener = self._listen()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(listener)), name=self.title, daemon=True)
        self._thread.start()
        if not self._started.wait(20):
            raise RuntimeError(f"the stand-in {self.title} did not start")
        return self

    def stop(self) -> None:
        """Be gone at once: open connections are cut, later ones are refused; what is remembered stays."""
        if self._thread is None:
            return
        assert self._server is not None
        assert self._loop is not None
        self._server.should_exit = True
        with suppress(RuntimeError):  # the loop has ended already
            self._loop.call_soon_threadsafe(self._abort_all)
        self._thread.join(20)
        self._thread = None

    def close(self) -> None:
        """Stop for good, and give the port back."""
        self.stop()
        self._holder.close()
        self.state.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    def hang_up(self, client: tuple[str, int]) -> None:
        """Close the connection of this client, after what was already written to it."""
        for address, transport in self._connections():
            if address == client:
                transport.close()

    def _abort_all(self) -> None:
        for _, transport in self._connections():
            transport.abort()

    def _connections(self) -> list[tuple[tuple[str, int] | None, asyncio.Transport]]:
        assert self._server is not None
        connections = list(self._server.server_state.connections)
        return [(c.client, c.transport) for c in connections if isinstance(c, H11Protocol)]

    def _listen(self) -> socket.socket:
        listener = bound(self.host, self.port)
        listener.listen(2048)
        return listener

    async def _serve(self, listener: socket.socket) -> None:
        config = uvicorn.Config(
            self.app, log_config=None, access_log=False, http="h11", ws="none", timeout_graceful_shutdown=1
        )
        self._server, self._loop = uvicorn.Server(config), asyncio.get_running_loop()
        with listener:
            await self._server.serve(sockets=[listener])

    @asynccontextmanager
    async def _lifespan(self, _: FastAPI) -> AsyncIterator[None]:
        async with self.beside():
            self._started.set()
            yield


def bound(host: str, port: int) -> socket.socket:
    """A socket on this port; the sentence of SystemExit says that it is taken."""
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind((host, port))
    except OSError as error:
        made.close()
        raise SystemExit(f"{host}:{port} cannot be taken: {error.strerror} (another --port?)") from None
    return made


def arguments(doc: str | None, port: int, faults: type[Switches]) -> argparse.ArgumentParser:
    """The options that all stand-ins have, and one for each fault."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", default=HOST, help=f"where to listen (default {HOST}; 0.0.0.0 in a container)")
    parser.add_argument("--port", type=int, default=port, help=f"0: any free one (default {port})")
    parser.add_argument("--state", type=Path, metavar="FILE", help="SQLite file to remember in (default: memory)")
    switches = parser.add_argument_group("faults", "also at run time: PUT /_faults with the same names, as JSON")
    for name, field in faults.model_fields.items():
        many = "+" if isinstance(field.default, list) else None
        shown = name.rpartition("_")[2].upper()
        switches.add_argument(f"--{name.replace('_', '-')}", nargs=many, metavar=shown, help=field.description)
    return parser


def run(served: Served, faults: Switches, options: argparse.Namespace) -> None:
    """Set the faults that the command line asks for, and serve until Ctrl-C."""
    for name in type(faults).model_fields:
        if (value := getattr(options, name)) is not None:
            try:
                setattr(faults, name, value)
            except ValidationError as error:
                raise SystemExit(f"--{name.replace('_', '-')} {value}: {error.errors()[0]['msg']}") from None
    with suppress(KeyboardInterrupt):
        served.serve()
