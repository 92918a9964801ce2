"""How many descriptors, files and sockets, this process may have open."""

import contextlib
import resource
import sys


def limit() -> int:
    """The limit that holds now."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft


def raise_limit() -> None:
    """Take all that the system lets us have: the usual 1024 are meant for programs that know only select()."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # a sandbox may forbid it; then there are fewer
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
