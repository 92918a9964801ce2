"""The connectors that are configured, as jobs for the supervisor."""

from commands import api
from commands.site import Site, is_on
from models.connector import Connector, Destination, IntempusSource, RestDestination, RestSource, SftpSource
from models.flow import Flow
from services.destinations.delivery import Delivery
from services.destinations.rest import RestSender
from services.destinations.sftp import SftpSender
from services.sources.rest import RestPoller
from services.sources.sftp import SftpFetcher
from services.supervisor import Job


def jobs(site: Site) -> list[Job]:
    """A job for each connector whose address is configured, and the API with its masters."""
    found = api.jobs(site)
    for flow in site.flows.values():
        fetched = [source for source in flow.sources if not isinstance(source, IntempusSource)]
        found += [source_job(site, flow, source) for source in fetched if is_on(source, site.settings)]
        found += [delivery_job(site, flow, one) for one in flow.destinations if is_on(one, site.settings)]
    return found


def source_job(site: Site, flow: Flow, source: Connector) -> Job:
    match source:
        case RestSource():
            poller = RestPoller(flow.name, source, site.settings, site.database.connect)
            return Job(poller.name, poller.poll)
        case SftpSource():
            fetcher = SftpFetcher(flow.name, source, site.settings, site.database.connect)
            return Job(fetcher.name, fetcher.poll)
        case _:
            raise TypeError(f"flow {flow.name}: nothing fetches for a {type(source).__name__}")


def delivery_job(site: Site, flow: Flow, destination: Destination) -> Job:
    sender = (
        RestSender(destination, site.settings)
        if isinstance(destination, RestDestination)
        else SftpSender(destination, site.settings)
    )
    delivery = Delivery(flow, destination, site.settings.output_dir.resolve(), site.database.connect, sender)
    return Job(delivery.name, delivery.run)
