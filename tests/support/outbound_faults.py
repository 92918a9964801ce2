"""Points at which an `emit` kills itself on a row's way out."""

from pathlib import Path

from file_processing.outbound import worker
from file_processing.outbound.outbox import Outbox
from services.files import durable
from services.files.durable import Temporary
from services.ledger.outbound import OutboundRows
from tests.support.fault_points import Patch, after, before


def _is_outbound(path: Path, *_: object) -> bool:
    return "output" in path.parts


POINTS: dict[str, tuple[Patch, ...]] = {
    "before rows are taken": (before(Outbox, "seal"),),
    "files are sealed, not committed": (after(Outbox, "_seal"),),
    "files are sealed": (before(worker, "write"),),
    "before the second file": (before(worker, "write", 2),),
    "a file is half written": (before(Temporary, "sync", 2),),
    "a file has no name yet": (before(Path, "rename", 2, _is_outbound),),
    "a file has its name": (after(Path, "rename", 2, _is_outbound),),
    "before the folder is synced": (before(worker, "sync"),),
    "the folder is synced": (after(durable, "sync_folder"),),
    "before rows are marked": (before(OutboundRows, "mark_written"),),
    "rows are marked": (after(OutboundRows, "mark_written"),),
}
