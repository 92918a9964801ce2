"""Hosts: which of them are this machine, and to which of the others credentials may go unencrypted."""

import ipaddress
from collections.abc import Iterable, Sequence
from urllib.parse import urlsplit

from models.errors import StopDaemon


def is_loopback(host: str) -> bool:
    """Whether it is this machine itself, by its address or as `localhost`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def refuse_plain(name: str, address: str, credentials: Sequence[str], plain_hosts: Iterable[str]) -> None:
    """Raise StopDaemon when credentials would go to this address unencrypted.

    name, credentials: the names of their settings. plain_hosts: to which they may, besides this machine.
    """
    parts = urlsplit(address)
    host = (parts.hostname or "").lower()
    known = {plain.lower() for plain in plain_hosts}
    if not credentials or parts.scheme == "https" or is_loopback(host) or host in known:
        return
    raise StopDaemon(
        f"{name} {address} would send {' and '.join(credentials)} unencrypted",
        hint=f"set it to https://…; only where the network between is your own, add {host} to PLAIN_HTTP_HOSTS",
    )
