"""How much memory there is for this process and its children: the machine's, or what its container or unit allows."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_ROOT = Path("/")


def limit_bytes(root: Path = _ROOT) -> int:
    """Bytes of memory. root: where the kernel's folders `sys` and `proc` lie."""
    found = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for path in _limits(root):
        with suppress(OSError, ValueError):  # there is none, or it says `max`
            found.append(int(path.read_text()))
    return min(found)


def _limits(root: Path) -> Iterator[Path]:
    """The control groups' files: of the older kind, and of this process's group and those around it."""
    groups = root / "sys/fs/cgroup"
    yield groups / "memory/memory.limit_in_bytes"
    yield groups / "memory.max"
    with suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            own = groups / line.rpartition(":")[2].lstrip("/")
            yield from (group / "memory.max" for group in (own, *own.parents) if group.is_relative_to(groups))
