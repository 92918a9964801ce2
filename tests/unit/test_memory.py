"""How much memory there is: a container or a unit may allow less than the machine has."""

import os
from pathlib import Path

from services.db import memory

MACHINE = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_without_limits_it_is_the_machines(tmp_path: Path) -> None:
    assert memory.limit_bytes(tmp_path) == MACHINE
    write(tmp_path / "sys/fs/cgroup/memory.max", "max\n")
    assert memory.limit_bytes(tmp_path) == MACHINE


def test_a_container_of_either_kind_limits_it(tmp_path: Path) -> None:
    write(tmp_path / "sys/fs/cgroup/memory/memory.limit_in_bytes", f"{64 << 20}\n")
    assert memory.limit_bytes(tmp_path) == 64 << 20
    write(tmp_path / "sys/fs/cgroup/memory.max", f"{32 << 20}\n")
    assert memory.limit_bytes(tmp_path) == 32 << 20


def test_the_narrowest_group_around_a_unit_limits_it(tmp_path: Path) -> None:
    write(tmp_path / "proc/self/cgroup", "0::/system.slice/tidegate.service\n")
    write(tmp_path / "sys/fs/cgroup/system.slice/memory.max", f"{48 << 20}\n")
    write(tmp_path / "sys/fs/cgroup/system.slice/tidegate.service/memory.max", f"{96 << 20}\n")
    assert memory.limit_bytes(tmp_path) == 48 << 20
