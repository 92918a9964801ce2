"""A daemon that kills itself at a named point of an interchange's way: `python -m tests.edi_faults POINT`."""

import sys

import main
from file_processing import interchanges, ledger, publishing
from file_processing.loader import Loader
from tests.fault_points import Patch, after, before

POINTS: dict[str, Patch] = {
    "the reference is claimed": after(interchanges, "claim"),
    "before the answer is fixed": before(interchanges, "answer"),
    "the answer is fixed": after(interchanges, "answer"),
    "after the commit": after(Loader, "load"),
    "before the file is marked as filed": before(ledger, "mark_filed"),
    "before an answer is written": before(publishing, "publish"),
    "an answer is written": after(publishing, "publish"),
    "two answers are written": after(publishing, "publish", 2),
}

if __name__ == "__main__":
    POINTS[sys.argv.pop()]()
    sys.argv.append("run")
    main.main()
