"""A database that fails in the middle of a load, and what the daemon says of it."""

from collections.abc import Iterator
from contextlib import contextmanager

from services.runtime import status_file
from services.runtime.status_file import DaemonState
from tests.support.sites import Site


def told(site: Site) -> DaemonState:
    """What the daemon says of itself, as `status` shows it."""
    (state,) = status_file.running(site.settings.data_dir)
    return state


@contextmanager
def failing(
    site: Site, code: str, message: str, *, table: str = "vehicles_status", when: str = "", condition: str = "true"
) -> Iterator[None]:
    """Each insert into a table raises an error, where the condition holds."""
    site.execute(
        f"create or replace function fail() returns trigger language plpgsql as "
        f"$$ begin if {condition} then raise exception '{message}' using errcode = '{code}'; end if; return new; end $$"
    )
    kind = "constraint trigger fails after insert" if when else "trigger fails before insert"
    site.execute(f"create {kind} on {table} {when} for each row execute function fail()")
    try:
        yield
    finally:
        site.execute(f"drop trigger fails on {table}")
