"""Points at which a daemon kills itself on an interchange's way."""

from file_processing.inbound.load import Loader
from file_processing.outbound.write import OutputFolder
from services.ledger import inbound as ledger, interchanges, outbound
from tests.support.fault_points import Patch, after, before

POINTS: dict[str, Patch] = {
    "the reference is claimed": after(interchanges, "claim"),
    "before the answer is sealed": before(outbound, "seal_answer"),
    "the answer is sealed": after(outbound, "seal_answer"),
    "after the commit": after(Loader, "load"),
    "before the file is marked as filed": before(ledger, "mark_filed"),
    "before an answer is written": before(OutputFolder, "write"),
    "an answer is written": after(OutputFolder, "write"),
    "two answers are written": after(OutputFolder, "write", 2),
}
