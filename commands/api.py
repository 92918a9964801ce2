"""The HTTP API, put together as a job of the daemon."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from psycopg import Connection

from commands.site import Site, room
from file_processing.inbound.formats import detect
from models.connector import RestMaster
from models.flow import Flow
from services.runtime.supervisor import Job, Tell
from services.sources.dispatch import Source

CONNECTIONS = 4
"""Of the pool's connections the API uses so many at a time: the loaders share the pool."""


class MasterOf(NamedTuple):
    """A flow's resource of the API; made: what talks to its master, None while that is not configured."""

    flow: Flow
    source: RestMaster
    made: Source | None


def jobs(site: Site, masters: Sequence[MasterOf]) -> list[Job]:
    """The API, unless API_PORT is 0."""
    if not site.settings.api_port:
        return []
    from services.api import server
    from services.api.app import create_app
    from services.api.resources import Resource
    from services.sources.master import Master

    settings = site.settings
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
            token=settings.api_token,
            resources=resources,
        )
        return await server.serve(app, host=settings.api_host, port=settings.api_port, tell=tell)

    return [Job("api", run)]
