"""A daemon that does not wait: what failed is tried again at once, and what is due is seen at once.

It is laid over the program from outside, as the faults are, see fork_server.py.
"""

from typing import TYPE_CHECKING
from unittest import mock

from services.destinations import delivery
from services.runtime import supervisor
from services.transport.backoff import Backoff

if TYPE_CHECKING:
    from tests.support.sites import Site


def let_time_pass(site: "Site") -> None:
    """As if a partner had had the time that it is given to finish what a killed daemon asked of it."""
    site.execute("update tidegate.outbound_file set next_attempt_at = now() where next_attempt_at is not null")


def hurry() -> None:
    mock.patch.object(delivery, "POLL_SECONDS", 0.05).start()
    mock.patch.object(delivery, "UNCERTAIN_SECONDS", 0.2).start()
    for module in (delivery, supervisor):
        mock.patch.object(module, "CONNECTOR", Backoff(first_seconds=0.05, longest_seconds=0.5)).start()


POINTS = {"at once": hurry}
