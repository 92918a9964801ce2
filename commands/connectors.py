"""The connectors that are configured, and the API, as jobs for the supervisor."""

from collections.abc import Callable

from commands import api
from commands.site import Site, is_on, room
from models.connector import RestMaster
from services.destinations import dispatch as destinations
from services.destinations.delivery import Delivery
from services.files.room import Room
from services.runtime.status_file import DaemonState
from services.runtime.supervisor import Job, Tell
from services.sources import dispatch as sources
from services.sources.dispatch import Source


def jobs(site: Site, state: Callable[[], DaemonState]) -> list[Job]:
    """The jobs of each connector whose address is configured, and the API with its masters.

    state: how the daemon is now. Raises StopDaemon when a connector's configuration is not safe.
    """
    made = {
        (flow.name, source.name): sources.make(flow, source, site.settings, site.database.connect)
        for flow in site.flows.values()
        for source in flow.sources
        if is_on(source, site.settings)
    }
    deliveries = [delivery for flow in site.flows.values() for delivery in _deliveries(site, flow.name)]
    fetching = [_with_room(job, room(site.settings)) for source in made.values() for job in source.jobs]
    found = fetching + [job for delivery in deliveries for job in delivery.jobs]
    return found + api.jobs(site, _resources(site, made), state)


def _with_room(job: Job, room: Room) -> Job:
    """The job, which fetches nothing while there is too little room."""

    async def run(tell: Tell) -> float:
        room.check()
        return await job.run(tell)

    return Job(job.name, run)


def _deliveries(site: Site, name: str) -> list[Delivery]:
    flow, output_dir = site.flows[name], site.settings.output_dir.resolve()
    return [
        Delivery(flow, one, output_dir, site.database.connect, destinations.make(one, site.settings))
        for one in flow.destinations
        if is_on(one, site.settings)
    ]


def _resources(site: Site, made: dict[tuple[str, str], Source]) -> list[api.MasterOf]:
    """What is a resource of the API, with its master where that is configured."""
    return [
        api.MasterOf(flow, source, made.get((flow.name, source.name)))
        for flow in site.flows.values()
        for source in flow.sources
        if isinstance(source, RestMaster)
    ]
