"""A daemon that kills itself, as `kill -9` would, while it takes a webhook or reads from Intempus.

`python -m tests.api_fault_points POINT`, as tests/fault_points.py does for the loader.
"""

import sys

import main
from services.api import receipts
from services.api.uploads import Upload
from services.db import claims
from services.sources import intempus
from services.sources.mirror import Mirror
from tests.fault_points import after, before


def _is_tombstone(_mirror: object, _connection: object, what: str, *_: object) -> bool:
    return what == "case-deleted"


WEBHOOK_POINTS = {
    "before a body is placed": before(Upload, "place"),
    "a body is placed": after(Upload, "place"),
    "a receipt is committed": after(receipts, "issue"),
}
SYNC_POINTS = {
    "before a page is placed": before(Mirror, "place"),
    "one page is placed": after(Mirror, "place"),
    "all pages are placed": after(Mirror, "place", 2),
    "before a tombstone is placed": before(Mirror, "place", 1, _is_tombstone),
    "a tombstone is placed": after(Mirror, "place", 1, _is_tombstone),
    "the bookmark is moved": after(claims, "move_bookmark", 2),
}

if __name__ == "__main__":
    intempus.PAGE_OBJECTS = 1
    (WEBHOOK_POINTS | SYNC_POINTS)[sys.argv.pop()]()
    main.main()
