"""Points at which a process of the product kills itself, as `kill -9` would, on a file's way in.

The program knows nothing of this: the points are laid over it from outside, see fork_server.py.
"""

import errno
import os
import shutil
import signal
import threading
from collections.abc import Callable
from typing import Any, NoReturn
from unittest import mock

from file_processing.inbound import batches, error_report, insert, intake, load
from file_processing.inbound.error_report import PendingReport
from file_processing.inbound.formats.base import Reading
from file_processing.inbound.insert import Insert
from file_processing.inbound.load import Loader
from file_processing.inbound.stage import Stage
from file_processing.inbound.upsert import Upsert
from services.files import durable, move
from services.files.directory import Directory, Entry
from services.ledger import inbound as ledger

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
    original = durable._rename_exclusively

    def instead(source: Entry, target: Entry, number: int) -> None:
        if _is_input(source) != _is_input(target):
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        original(source, target, number)

    mock.patch.object(durable, "_rename_exclusively", instead).start()


def without_renameat2() -> None:
    """As on NFS."""
    mock.patch.object(durable, "_renameat2", None).start()


def without_links() -> None:
    """As on a file system that has neither."""
    without_renameat2()
    mock.patch.object(os, "link", mock.Mock(side_effect=OSError(errno.EPERM, os.strerror(errno.EPERM)))).start()


def many_batches() -> None:
    """A long file comes in many batches, and is upserted in many portions."""

    def small(*arguments: Any, **options: Any) -> Reading:
        return Reading(*arguments, **options)._replace(batch_bytes=100_000)

    mock.patch.object(batches, "Reading", small).start()
    mock.patch.object(load, "ROWS_AT_ONCE", 2_000).start()
    mock.patch.object(load, "ROWS_AS_READ", 2_000).start()


def one_by_one() -> None:
    """Each small file is a group of its own."""
    mock.patch.object(intake, "GROUP_FILES", 1).start()


def nothing_inserted() -> None:
    """As if a row of every portion were known: all are staged and upserted."""
    mock.patch.object(Insert, "insert", mock.Mock(return_value=False)).start()


def one_known() -> None:
    """As if a row of every portion were known: what was inserted is taken back."""
    mock.patch.object(Insert, "_insert_children", mock.Mock(return_value=False)).start()


def _is_input(entry: Entry, *_: object) -> bool:
    return "input" in entry.path.parts


def _is_part(entry: Entry, *_: object) -> bool:
    return entry.name.endswith(".part")


def _is_report(entry: Entry, *_: object) -> bool:
    return entry.name.endswith(".tmp")


def _ahead(*_: object) -> bool:
    return threading.current_thread().name.startswith("read ahead")


def _called(name: str) -> Callable[..., bool]:
    return lambda entry, *_: entry.name == name


def _many_rows(_: object, __: object, ___: object, blocks: list[Any]) -> bool:
    return sum(map(len, blocks)) >= 2_000


def _of_long_file(_: object, __: object, reads: list[Any]) -> bool:
    return "long" in reads[0].file.name


POINTS: dict[str, tuple[Patch, ...]] = {
    "before the transaction": (before(Loader, "load"),),
    "ids are taken": (after(ledger, "look"),),
    "the next group is read ahead": (one_by_one, after(intake, "_take_in", 1, _ahead)),
    "after the commit of one of many groups": (one_by_one, after(Loader, "load", 3)),
    "rows are upserted": (after(Upsert, "upsert"),),
    "in the middle of a long file": (many_batches, before(Upsert, "upsert", 3, _many_rows)),
    "in the middle of an insert": (many_batches, after(insert, "copy_rows", 4)),
    "new rows are inserted": (after(Insert, "insert"),),
    "what was inserted is taken back": (one_known, after(Insert, "insert")),
    "rows are upserted after that": (one_known, after(Upsert, "upsert")),
    "rows are staged": (nothing_inserted, after(Stage, "fill")),
    "staged rows are upserted": (nothing_inserted, before(Stage, "empty")),
    "in the middle of a long file that is staged": (
        many_batches,
        nothing_inserted,
        before(Upsert, "upsert", 3, _many_rows),
    ),
    "before a report is written": (before(error_report, "write"),),
    "one of the reports is written": (after(error_report, "_write_errors", 2),),
    "a report is written": (after(error_report, "write", 2),),
    "before the ledger": (before(ledger, "write"),),
    "after the ledger": (after(ledger, "write"),),
    "before the commit": (after(Loader, "_write_down"),),
    "after the commit": (after(Loader, "load"),),
    "after the commit of a long file": (after(Loader, "load", 1, _of_long_file),),
    "before the second file is moved": (before(move, "move", 2),),
    "a loaded file is moved": (after(durable, "_rename_exclusively", 1, _is_input),),
    "a partly bad file is moved": (after(durable, "_rename_exclusively", 1, _called("partly.json")),),
    "a rejected file is moved": (after(durable, "_rename_exclusively", 1, _called("cut.json")),),
    "a pipe is moved": (after(durable, "_rename_exclusively", 1, _called("pipe.json")),),
    "before a pipe is moved": (before(durable, "_rename_exclusively", 1, _called("pipe.json")),),
    "a file of no flow is moved": (after(durable, "_rename_exclusively", 1, _called("nobodys.json")),),
    "before reports are published": (before(PendingReport, "publish"),),
    "one of the reports is published": (after(durable, "_rename_exclusively", 1, _is_report),),
    "reports are published": (after(PendingReport, "publish", 2),),
    "before files are marked": (before(ledger, "mark_filed"),),
    "after files are marked": (after(ledger, "mark_filed"),),
    "across: before the copy": (two_file_systems, before(shutil, "copyfileobj")),
    "across: the copy is there": (two_file_systems, after(shutil, "copyfileobj", 2)),
    "across: the copy is synced": (two_file_systems, after(os, "fsync", 3)),
    "across: the copy has its name": (two_file_systems, after(durable, "_rename_exclusively", 1, _is_part)),
    "across: the folder is synced": (two_file_systems, after(Directory, "sync", 1)),
    "across: the original is gone": (two_file_systems, after(Entry, "unlink", 1, _called("good.json"))),
    "linked: the file has both names": (without_renameat2, after(durable, "_link", 1, _is_input)),
    "linked: the file has its new name": (without_renameat2, after(Entry, "unlink", 1, _is_input)),
    "reserved: the name is reserved": (without_links, before(Entry, "rename", 1, _is_input)),
    "reserved: the file is renamed": (without_links, after(Entry, "rename", 1, _is_input)),
}
