"""Points at which a daemon kills itself while it fetches or delivers."""

from typing import Any
from unittest import mock

import asyncssh

from flows.orders import PARTNER1
from services.destinations import sftp
from services.destinations.delivery import Delivery
from services.destinations.rest import RestSender
from services.destinations.sftp import SftpSender
from services.files import durable, move
from services.ledger import cursors
from services.sources import remote_files
from services.sources.rest import RestPoller
from services.sources.sftp import SftpFetcher
from tests.support.fault_points import Patch, after, before, die


def answered(owner: Any, name: str, nth: int = 1) -> Patch:
    """Die when the nth call of a coroutine has its result."""

    def patch() -> None:
        original = getattr(owner, name)
        calls = 0

        async def instead(*arguments: Any, **options: Any) -> Any:
            nonlocal calls
            result = await original(*arguments, **options)
            calls += 1
            if calls == nth:
                die()
            return result

        mock.patch.object(owner, name, instead).start()

    return patch


def _short_pages() -> None:
    """Two orders a page."""
    mock.patch.dict(PARTNER1.query, per_page="2").start()


DELIVERY: dict[str, tuple[Patch, ...]] = {
    "before it is looked at": (before(Delivery, "_opened", 2),),
    "before it is sent": (before(RestSender, "_post", 2),),
    "sent, not marked": (answered(RestSender, "send", 2),),
    "marked, not moved": (before(Delivery, "_move_away", 2),),
    "moved, not noted": (after(move, "move", 2, lambda entry, *_: "output" in entry.path.parts),),
    "noted": (after(Delivery, "_move_away", 2),),
}

ANSWERS: dict[str, tuple[Patch, ...]] = {
    "stored, not marked": (answered(SftpSender, "send", 2),),
    "marked, not moved": (before(Delivery, "_move_away", 2),),
}

STORING: dict[str, tuple[Patch, ...]] = {
    "before it is written": (before(sftp, "_write", 2),),
    "written, without its name": (before(asyncssh.SFTPClient, "rename", 2),),
}

POLLING: dict[str, tuple[Patch, ...]] = {
    "before a page is placed": (_short_pages, before(RestPoller, "_place", 2)),
    "a page has no name yet": (
        _short_pages,
        before(durable, "rename", 2, lambda entry, *_: entry.name.endswith(".part")),
    ),
    "a page is placed": (_short_pages, after(RestPoller, "_place", 2)),
    "a page is remembered": (_short_pages, after(cursors, "move", 2)),
    "the poll is remembered": (_short_pages, after(cursors, "move", 3)),
}

FETCHING: dict[str, tuple[Patch, ...]] = {
    "before files are placed": (before(SftpFetcher, "_place"),),
    "one of the files has its name": (before(durable, "rename", 3, lambda entry, *_: entry.name.endswith(".part")),),
    "files are placed": (after(SftpFetcher, "_place"),),
    "files are remembered": (after(cursors, "move"),),
    "one of the files is archived": (before(remote_files, "archive", 3),),
}

POINTS = {
    f"{group}: {point}": patches
    for group, points in (
        ("delivery", DELIVERY),
        ("answers", ANSWERS),
        ("storing", STORING),
        ("polling", POLLING),
        ("fetching", FETCHING),
    )
    for point, patches in points.items()
}
