"""Points at which a daemon kills itself while it takes a webhook or reads from a master."""

from unittest import mock

from flows.cases import INTEMPUS
from services.api.uploads import Upload
from services.ledger import cursors, receipts
from services.sources.local_replica import LocalReplica
from tests.support.fault_points import Patch, after, before


def _is_tombstone(_replica: object, _connection: object, what: str, *_: object) -> bool:
    return what == "case-deleted"


def _short_pages() -> None:
    """An object a page."""
    mock.patch.dict(INTEMPUS.list_query, limit="1").start()


WEBHOOK: dict[str, Patch] = {
    "before a body is placed": before(Upload, "place"),
    "a body is placed": after(Upload, "place"),
    "a receipt is committed": after(receipts, "issue"),
}
SYNC: dict[str, Patch] = {
    "before a page is placed": before(LocalReplica, "place"),
    "one page is placed": after(LocalReplica, "place"),
    "all pages are placed": after(LocalReplica, "place", 2),
    "before a tombstone is placed": before(LocalReplica, "place", 1, _is_tombstone),
    "a tombstone is placed": after(LocalReplica, "place", 1, _is_tombstone),
    "the cursor is moved": after(cursors, "move", 2),
}

POINTS = {point: (_short_pages, patch) for point, patch in (WEBHOOK | SYNC).items()}
