"""The HTTP API and the masters of its resources, put together as jobs of the daemon."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from psycopg import Connection

from commands.site import Site, is_on
from models.connector import IntempusSource
from services.supervisor import Job, Tell

if TYPE_CHECKING:
    from services.api.resources import Resource


CONNECTIONS = 4
"""Of the pool's connections the API uses so many at a time: the loaders share the pool."""


def jobs(site: Site) -> list[Job]:
    """The API, unless API_PORT is 0, and what keeps the resources of configured masters up to date.

    Raises StopDaemon when a master's address would send its key in the clear.
    """
    from services.api.resources import Resource
    from services.sources.master import Master

    made: list[Job] = []
    resources: list[Resource] = []
    for flow in site.flows.values():
        for source in flow.sources:
            if not isinstance(source, IntempusSource):
                continue
            master = None
            if is_on(source, site.settings):
                master = Master(flow, source, site.settings, site.database.connect)
                made += [Job(master.name, master.changes), Job(master.walk_name, master.walks)]
            needs = (source.user.name, source.key.name)
            resources.append(Resource(source.resource, flow, master, needs, source.example))
    if site.settings.api_port:
        made.append(_server(site, resources))
    return made


def _server(site: Site, resources: "list[Resource]") -> Job:
    from services.api import server
    from services.api.app import create_app

    settings = site.settings
    free = threading.BoundedSemaphore(CONNECTIONS)

    @contextmanager
    def connect() -> Iterator[Connection]:
        with free, site.connection() as connection:
            yield connection

    async def run(tell: Tell) -> float:
        app = create_app(
            site.flows,
            connect,
            input_dir=settings.input_dir.resolve(),
            max_bytes=settings.max_file_bytes,
            token=settings.api_token,
            resources=resources,
        )
        return await server.serve(app, host=settings.api_host, port=settings.api_port, tell=tell)

    return Job("api", run)
