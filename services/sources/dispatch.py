"""From a source's declaration to what fetches for it: the one list of the types that there are."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from models.connector import Connector, RestMaster, RestSource, SftpSource
from models.flow import Flow
from services.db.engine import Connect
from services.runtime.supervisor import Job
from settings import Settings


class Source(Protocol):
    """What fetches. Each job is supervised by itself; what it fetches becomes files in the flow's input folder."""

    @property
    def jobs(self) -> Sequence[Job]: ...


SourceMaker = Callable[[Flow, Any, Settings, Connect], Source]
"""Raises StopDaemon when the configuration is not safe."""


def _rest(flow: Flow, source: RestSource, settings: Settings, connect: Connect) -> Source:
    from services.sources.rest import RestPoller  # httpx and asyncssh are imported by those who need them

    return RestPoller(flow.name, source, settings, connect)


def _sftp(flow: Flow, source: SftpSource, settings: Settings, connect: Connect) -> Source:
    from services.sources.sftp import SftpFetcher

    return SftpFetcher(flow.name, source, settings, connect)


def _master(flow: Flow, source: RestMaster, settings: Settings, connect: Connect) -> Source:
    from services.sources.master import Master

    return Master(flow, source, settings, connect)


MAKERS: dict[type, SourceMaker] = {RestSource: _rest, SftpSource: _sftp, RestMaster: _master}


def make(flow: Flow, source: Connector, settings: Settings, connect: Connect) -> Source:
    """What fetches for a source. Raises TypeError for a type that is not in the list."""
    maker = MAKERS.get(type(source))
    if maker is None:
        raise TypeError(f"flow {flow.name}: nothing fetches for a {type(source).__name__}")
    return maker(flow, source, settings, connect)
