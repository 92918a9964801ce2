"""From a destination's declaration to what hands files over: the one list of the types that there are."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

from models.connector import Destination, RestDestination, SftpDestination
from services.destinations.sender import Sender
from settings import Settings

OpenSender = AbstractAsyncContextManager[Sender]

SenderMaker = Callable[[Any, Settings], OpenSender]


def _rest(destination: RestDestination, settings: Settings) -> OpenSender:
    from services.destinations.rest import RestSender  # httpx and asyncssh are imported by those who need them

    return RestSender(destination, settings)


def _sftp(destination: SftpDestination, settings: Settings) -> OpenSender:
    from services.destinations.sftp import SftpSender

    return SftpSender(destination, settings)


MAKERS: dict[type, SenderMaker] = {RestDestination: _rest, SftpDestination: _sftp}


def make(destination: Destination, settings: Settings) -> OpenSender:
    """What hands files over to a destination. Raises TypeError for a type that is not in the list."""
    maker = MAKERS.get(type(destination))
    if maker is None:
        raise TypeError(f"nothing delivers to a {type(destination).__name__}")
    return maker(destination, settings)
