"""The connectors that are configured, and the API, as jobs for the supervisor."""

from commands import api
from commands.site import Site, is_on
from models.connector import RestMaster
from services.destinations import dispatch as destinations
from services.destinations.delivery import Delivery
from services.runtime.supervisor import Job
from services.sources import dispatch as sources
from services.sources.dispatch import Source


def jobs(site: Site) -> list[Job]:
    """The jobs of each connector whose address is configured, and the API with its masters.

    Raises StopDaemon when a connector's configuration is not safe.
    """
    made = {
        (flow.name, source.name): sources.make(flow, source, site.settings, site.database.connect)
        for flow in site.flows.values()
        for source in flow.sources
        if is_on(source, site.settings)
    }
    deliveries = [delivery for flow in site.flows.values() for delivery in _deliveries(site, flow.name)]
    found = [job for connector in (*made.values(), *deliveries) for job in connector.jobs]
    return found + api.jobs(site, _resources(site, made))


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
