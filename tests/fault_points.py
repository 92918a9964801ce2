"""A daemon that kills itself, as `kill -9` would, at a named point: `python -m tests.fault_points POINT`.

The program knows nothing of this: the points are laid over it from outside.
"""

import errno
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn
from unittest import mock

import main
from file_processing import ledger, loader, records, report
from file_processing.landing import Lander
from file_processing.loader import Loader
from file_processing.report import Reports
from services import filing

Patch = Callable[[], None]


def die() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    threading.Event().wait()
    raise AssertionError


def _kill(owner: Any, name: str, nth: int, *, when: Callable[..., bool], behind: bool) -> None:
    original = getattr(owner, name)
    calls = 0

    def instead(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        counts = when(*arguments)
        if counts and not behind and (calls := calls + 1) == nth:
            die()
        result = original(*arguments, **options)
        if counts and behind and (calls := calls + 1) == nth:
            die()
        return result

    mock.patch.object(owner, name, instead).start()


def before(owner: Any, name: str, nth: int = 1, when: Callable[..., bool] = lambda *_: True) -> Patch:
    """Die instead of the nth call (of those that `when` counts)."""
    return lambda: _kill(owner, name, nth, when=when, behind=False)


def after(owner: Any, name: str, nth: int = 1, when: Callable[..., bool] = lambda *_: True) -> Patch:
    """Die right behind the nth call that went well."""
    return lambda: _kill(owner, name, nth, when=when, behind=True)


def two_file_systems() -> None:
    """As if the input folder were a file system of its own."""
    original = filing._rename_exclusively

    def instead(source: Path, target: Path, number: int) -> None:
        if _is_input(source) != _is_input(target):
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        original(source, target, number)

    mock.patch.object(filing, "_rename_exclusively", instead).start()


def without_renameat2() -> None:
    """As on NFS."""
    mock.patch.object(filing, "_renameat2", None).start()


def many_batches() -> None:
    """A long file comes in many batches, and is landed in many portions."""
    original = records.batches
    mock.patch.object(records, "batches", lambda *a, **o: original(*a, **o, batch_bytes=100_000)).start()
    mock.patch.object(loader, "ROWS_AT_ONCE", 2_000).start()


def _is_input(path: Path, *_: object) -> bool:
    return "input" in path.parts


def _is_part(path: Path, *_: object) -> bool:
    return path.name.endswith(".part")


def _is_report(path: Path, *_: object) -> bool:
    return path.name.endswith(".tmp")


def _called(name: str) -> Callable[..., bool]:
    return lambda path, *_: path.name == name


def _is_long(_: object, __: object, rows: list[Any]) -> bool:
    return len(rows) >= 2_000


POINTS: dict[str, tuple[Patch, ...]] = {
    "before the transaction": (before(Loader, "load"),),
    "ids are taken": (after(ledger, "next_ids"),),
    "rows are landed": (after(Lander, "land"),),
    "in the middle of a long file": (many_batches, before(Lander, "land", 3, _is_long)),
    "before a report is written": (before(Reports, "write"),),
    "one of the reports is written": (after(report, "_write_errors", 2),),
    "a report is written": (after(Reports, "write", 2),),
    "before the ledger": (before(ledger, "write"),),
    "after the ledger": (after(ledger, "write"),),
    "before the commit": (after(Loader, "_write_down"),),
    "after the commit": (after(Loader, "load"),),
    "after the commit of a long file": (after(Loader, "load", 1, lambda *a: "long" in a[2][0].name),),
    "before the second file is moved": (before(filing, "move", 2),),
    "a loaded file is moved": (after(filing, "_rename_exclusively", 1, _is_input),),
    "a partly bad file is moved": (after(filing, "_rename_exclusively", 1, _called("partly.json")),),
    "a refused file is moved": (after(filing, "_rename_exclusively", 1, _called("cut.json")),),
    "a pipe is moved": (after(filing, "_rename_exclusively", 1, _called("pipe.json")),),
    "before a pipe is moved": (before(filing, "_rename_exclusively", 1, _called("pipe.json")),),
    "a file of no flow is moved": (after(filing, "_rename_exclusively", 1, _called("nobodys.json")),),
    "before reports are published": (before(Reports, "publish"),),
    "one of the reports is published": (after(filing, "_rename_exclusively", 1, _is_report),),
    "reports are published": (after(Reports, "publish", 2),),
    "before files are marked": (before(ledger, "mark_filed"),),
    "after files are marked": (after(ledger, "mark_filed"),),
    "across: before the copy": (two_file_systems, before(shutil, "copy2")),
    "across: the copy is there": (two_file_systems, after(shutil, "copy2", 2)),
    "across: the copy is synced": (two_file_systems, after(os, "fsync", 3)),
    "across: the copy has its name": (two_file_systems, after(filing, "_rename_exclusively", 1, _is_part)),
    "across: the folder is synced": (two_file_systems, after(filing, "sync_folder", 2)),
    "across: the original is gone": (two_file_systems, after(Path, "unlink", 1, _called("good.json"))),
    "reserved: the name is reserved": (without_renameat2, before(Path, "rename", 1, _is_input)),
    "reserved: the file is renamed": (without_renameat2, after(Path, "rename", 1, _is_input)),
}

if __name__ == "__main__":
    for patch in POINTS[sys.argv.pop()]:
        patch()
    main.main()
