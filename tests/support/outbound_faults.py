"""Points at which an `emit` kills itself on a row's way out."""

from file_processing.outbound.numbers import Numbers
from file_processing.outbound.outbox import Outbox
from file_processing.outbound.write import OutputFolder
from services.files.directory import Directory, Entry
from services.files.durable import Temporary
from services.ledger.outbound import OutboundRows
from tests.support.fault_points import Patch, after, before


def _is_outbound(entry: Entry, *_: object) -> bool:
    return "output" in entry.path.parts


# The first that is written and renamed is what notes the numbers.
POINTS: dict[str, tuple[Patch, ...]] = {
    "before rows are taken": (before(Outbox, "seal"),),
    "files are sealed, not committed": (after(Outbox, "_seal"),),
    "files are sealed": (before(OutputFolder, "write"),),
    "their numbers are noted": (after(Numbers, "note"),),
    "before the second file": (before(Temporary, "__enter__", 3),),
    "files have no name and are not synced": (before(Temporary, "start_sync", 2),),
    "the second file is not synced": (before(Temporary, "sync", 3),),
    "a file has no name yet": (before(Entry, "rename", 3, _is_outbound),),
    "a file has its name": (after(Entry, "rename", 3, _is_outbound),),
    "before the folder is synced": (before(OutputFolder, "sync"),),
    "the folder is synced": (after(Directory, "sync", 2),),
    "before rows are marked": (before(OutboundRows, "mark_written"),),
    "rows are marked": (after(OutboundRows, "mark_written"),),
}
