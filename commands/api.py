"""The HTTP API, put together as a job of the daemon."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from psycopg import Connection
from pydantic import SecretStr

from commands.site import Site, room
from file_processing.inbound.formats import detect
from models.connector import RestMaster
from models.flow import Flow
from services.files.secret_file import made_once
from services.runtime.status_file import DaemonState
from services.runtime.supervisor import Job, Tell
from services.sources.dispatch import Source
from services.text import hide
from settings import Settings, listed

CONNECTIONS = 4
"""Of the pool's connections the API uses so many at a time: the loaders share the pool."""


class MasterOf(NamedTuple):
    """A flow's resource of the API; made: what talks to its master, None while that is not configured."""

    flow: Flow
    source: RestMaster
    made: Source | None


def token_file(settings: Settings) -> Path | None:
    """Where the API's token stands; None where API_TOKEN is set."""
    return None if settings.api_token else settings.data_dir / "api-token"


def jobs(site: Site, masters: Sequence[MasterOf], state: Callable[[], DaemonState]) -> list[Job]:
    """The API, unless API_PORT is 0.

    state: how the daemon is now. Raises StopDaemon when its token cannot be had.
    """
    if not site.settings.api_port:
        return []
    from services.api import server
    from services.api.access import Access
    from services.api.app import create_app
    from services.api.resources import Resource
    from services.sources.master import Master

    settings = site.settings
    path = token_file(settings)
    token = settings.api_token if path is None else SecretStr(made_once(path))
    assert token is not None
    hide(token.get_secret_value())
    access = Access(token, [settings.api_host, *listed(settings.api_allowed_hosts)])
    free = threading.BoundedSemaphore(CONNECTIONS)
    resources = []
    for flow, source, made in masters:
        needs = tuple(setting.name for setting in source.credentials)
        master = made if isinstance(made, Master) else None
        resources.append(Resource(source.resource, flow, master, needs, source.example))

    @contextmanager
    def lend() -> Iterator[Connection]:
        with free, site.connection() as connection:
            yield connection

    async def run(tell: Tell) -> float:
        app = create_app(
            site.flows,
            lend,
            {name: detect.media_types(flow) for name, flow in site.flows.items()},
            input_dir=settings.input_dir.resolve(),
            max_bytes=settings.max_file_bytes,
            room=room(settings).check,
            access=access,
            state=state,
            resources=resources,
        )
        return await server.serve(app, access, host=settings.api_host, port=settings.api_port, tell=tell)

    return [Job("api", run)]
