"""Permissions that bind whoever runs the tests."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from services.files import directory


@contextmanager
def without_roots_override() -> Iterator[None]:
    """Permissions bind this thread, even root's: it lays down the capabilities to ignore them."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, this thread
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; twice
    assert libc.capget(header, sets) == 0
    before = sets[0]
    sets[0] &= ~0b110  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    assert libc.capset(header, sets) == 0
    try:
        yield
    finally:
        sets[0] = before
        assert libc.capset(header, sets) == 0


@pytest.fixture
def permissions_bind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening a file and reading a folder ask for permission, whoever runs the tests."""
    if os.geteuid() == 0:
        for name in ("open", "scandir"):
            monkeypatch.setattr(os, name, without_roots_override()(getattr(os, name)))
        monkeypatch.setattr(directory, "_syscall", without_roots_override()(directory._syscall))
