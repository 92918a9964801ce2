"""Which flow a file belongs to: by its folder, else by its envelope key, EDI message type or name."""

from pathlib import PurePath

import jiter

from file_processing.edi import reading as edi
from flows import Flows
from models.errors import RejectFile
from models.flow import Flow

PEEK_BYTES = 64 * 1024
"""The envelope key has to stand within this much of the document's start."""


def by_folder(relative: PurePath, flows: Flows) -> Flow | None:
    """The flow whose folder a path below the input root lies in; `None` right in the root.

    Raises RejectFile when the folder is no flow's.
    """
    if len(relative.parts) == 1:
        return None
    folder = relative.parts[0]
    flow = flows.get(folder)
    if flow is None:
        raise RejectFile(f"the folder {printable(folder)!r} belongs to no flow", hint=_folders(flows))
    return flow


def by_content(name: str, head: bytes, flows: Flows) -> Flow:
    """The one flow that declares the file's name, envelope key or EDI message type.

    head: the first PEEK_BYTES of the (decompressed) content.
    Raises RejectFile when there is none, or more than one.
    """
    lower, keys, types = name.lower(), envelope_keys(head), edi.message_types(head)
    could_be = {
        flow.name: flow
        for flow in flows.values()
        if flow.envelope in keys
        or not types.isdisjoint(flow.messages)
        or (flow.messages and edi.is_acknowledgement(types))
        or any(lower.startswith(prefix) for prefix in flow.file_prefixes)
    }
    match list(could_be.values()):
        case [flow]:
            return flow
        case []:
            told = f"message type {', '.join(sorted(types))}" if types else "envelope key"
            raise RejectFile(f"neither its name nor its {told} tells the flow", hint=_folders(flows))
        case _:
            names = " or ".join(could_be)
            raise RejectFile(f"it could belong to {names}", hint="drop it into the folder of its flow")


def _folders(flows: Flows) -> str:
    return "drop it into the folder of its flow: " + ", ".join(f"{name}/" for name in flows)


def envelope_keys(head: bytes) -> frozenset[str]:
    """The keys of the outermost object, as far as `head` shows them; none when it is no object."""
    try:
        start = jiter.from_json(head.removeprefix(b"\xef\xbb\xbf"), partial_mode=True)
    except ValueError:
        return frozenset()
    return frozenset(start) if isinstance(start, dict) else frozenset()


def printable(name: str) -> str:
    """A file name as it can stand in a log, a report and the ledger: any bytes are legal on disk."""
    if name.isascii() and name.isprintable():
        return name
    text = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)
