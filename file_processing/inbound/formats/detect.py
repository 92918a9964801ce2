"""Which format a file is in: the one list of all that are known."""

from file_processing.inbound.formats.base import GZIP_SUFFIX, Format
from file_processing.inbound.formats.edi.format import EDIFACT, X12
from file_processing.inbound.formats.json import JsonFormat
from file_processing.inbound.formats.json_lines import JsonLinesFormat
from models.flow import Flow

FORMATS: tuple[Format, ...] = (EDIFACT, X12, JsonLinesFormat(), JsonFormat())
"""The first that recognises a file has it; the last recognises any."""


def plain_name(name: str) -> str:
    """A file's name as formats see it: in lower case, and without what says that it is compressed."""
    return name.lower().removesuffix(GZIP_SUFFIX)


def format_of(name: str, head: bytes, flow: Flow) -> Format:
    """The format of a file of this flow. head: its first (decompressed) bytes."""
    plain = plain_name(name)
    for known in FORMATS:
        if known.serves(flow) and known.recognises(plain, head):
            return known
    raise AssertionError


def signs(head: bytes) -> tuple[Format, frozenset[str]]:
    """What the first bytes of a file say of its flow, and by which format."""
    for known in FORMATS:
        if found := known.signs(head):
            return known, found
    return FORMATS[-1], frozenset()


def media_types(flow: Flow) -> dict[str, str]:
    """What HTTP calls the formats that a flow takes, each with the suffix of such a body's file."""
    served = [known for known in FORMATS if known.serves(flow)]
    return {kind: suffix for known in reversed(served) for kind, suffix in known.media_types.items()}
