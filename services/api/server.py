"""uvicorn within our own loop: one socket, no signals, our log."""

import asyncio
import logging
import socket
from collections.abc import Callable

import uvicorn
from loguru import logger
from starlette.types import ASGIApp

from models.errors import RetryLater
from services.api.access import Access
from services.api.connections import Door

STOP_SECONDS = 3
"""So long, at most, open requests may take to end once we are to stop."""


class _ToLoguru(logging.Handler):
    """What uvicorn logs; its own start and stop are our details."""

    def emit(self, record: logging.LogRecord) -> None:
        level = record.levelname if record.levelno >= logging.WARNING else "DEBUG"
        logger.opt(exception=record.exc_info).log(level, "API: {}", record.getMessage())


async def serve(app: ASGIApp, access: Access, *, host: str, port: int, tell: Callable[[str], None]) -> float:
    """Serve until cancelled; then open requests get STOP_SECONDS to end.

    access: who keeps a connection. tell: is told the address. Raises RetryLater when it cannot be had.
    """
    log = logging.getLogger("uvicorn.error")
    log.handlers, log.propagate = [_ToLoguru()], False
    with _listen(host, port) as listening:
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            server_header=False,
            timeout_graceful_shutdown=STOP_SECONDS,
        )
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve(sockets=[]))  # the door hands it connections
        accepting = asyncio.create_task(Door(server, access).accept(listening))
        logger.info("the API listens at http://{}/docs", _shown(host, port))
        tell(f"http://{_shown(host, port)}/docs")
        try:
            ended, _ = await asyncio.wait([serving, accepting], return_when=asyncio.FIRST_COMPLETED)
            for task in ended:
                task.result()
            return 0  # start again: nobody told it to stop
        finally:
            accepting.cancel()
            server.should_exit = True
            await asyncio.wait([serving, accepting], timeout=STOP_SECONDS + 1)


def _shown(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise RetryLater(
            f"the API cannot listen at {_shown(host, port)}: {error.strerror or error}",
            hint="set API_HOST or API_PORT, or stop what listens there",
        ) from error
    listening.setblocking(False)
    return listening
