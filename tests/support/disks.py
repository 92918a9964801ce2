"""Disks without room, for the tests of what happens then."""

import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import pytest

from services.files import durable


@contextmanager
def small_disk(folder: Path, otherwise: Callable[[pytest.MonkeyPatch], None]) -> Iterator[Callable[[], object]]:
    """A disk of 16 KB at `folder`; gives what makes room there.

    otherwise: who may not mount one gets the error that it would raise, patched in.
    """
    if _mount("-t", "tmpfs", "-o", "size=16k", "tmpfs", str(folder)):
        try:
            yield lambda: _mount("-o", "remount,size=4m", str(folder))
        finally:
            subprocess.run(["umount", "-l", str(folder)], check=True)
        return
    with pytest.MonkeyPatch.context() as patch:
        otherwise(patch)
        yield patch.undo


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """The folder on a disk that takes no writes."""
    if _mount("--bind", str(folder), str(folder)):
        try:
            _mount("-o", "remount,ro,bind", str(folder))
            yield
        finally:
            subprocess.run(["umount", "-l", str(folder)], check=True)
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(durable, "create", mock.Mock(side_effect=OSError(errno.EROFS, os.strerror(errno.EROFS))))
        yield


@contextmanager
def mounted_twice(folder: Path, second: Path) -> Iterator[bool]:
    """The folder under a second path as well; whether that was possible."""
    done = _mount("--bind", str(folder), str(second))
    try:
        yield done
    finally:
        if done:
            subprocess.run(["umount", "-l", str(second)], check=True)


def _mount(*arguments: str) -> bool:
    return subprocess.run(["mount", *arguments], capture_output=True, check=False).returncode == 0
