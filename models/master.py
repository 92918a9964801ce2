"""What comes of a resource whose master is a partner: of a write through our API, of a full sync."""

from dataclasses import dataclass

from models.connector import JsonObject
from models.ledger import LocalStatus


@dataclass(frozen=True, slots=True)
class MasterWrite:
    """What a master made of a write.

    document: the object as it has it now. local: what became here of the file that brings it.
    """

    number: int
    document: JsonObject
    local: LocalStatus


@dataclass(frozen=True, slots=True)
class FullSync:
    """What a full sync found: objects there, those we had missed, those deleted there."""

    seen: int
    missed: int
    deleted: int
