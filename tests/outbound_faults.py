"""An `emit` that kills itself at a named point: `python -m tests.outbound_faults POINT`."""

import sys
from pathlib import Path

import main
from file_processing import publishing
from file_processing.outbox import Outbox
from tests.fault_points import Patch, after, before


def _is_outbound(path: Path, *_: object) -> bool:
    return "output" in path.parts


POINTS: dict[str, tuple[Patch, ...]] = {
    "before rows are taken": (before(Outbox, "take"),),
    "files are fixed, not committed": (after(Outbox, "_fix"),),
    "files are fixed": (before(publishing, "publish"),),
    "before the second file": (before(publishing, "publish", 2),),
    "a file is half written": (before(publishing, "_write", 2),),
    "a file has no name yet": (before(Path, "rename", 2, _is_outbound),),
    "a file has its name": (after(Path, "rename", 2, _is_outbound),),
    "before the folder is synced": (before(publishing, "settle"),),
    "before rows are marked": (before(Outbox, "mark_written"),),
    "rows are marked": (after(Outbox, "mark_written"),),
}

if __name__ == "__main__":
    for patch in POINTS[sys.argv.pop()]:
        patch()
    sys.argv.append("emit")
    main.main()
