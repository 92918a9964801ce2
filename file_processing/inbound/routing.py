"""Which flow a file belongs to: by its folder, else by what its first bytes or its name say."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import NamedTuple, Protocol

from file_processing.inbound import open_file
from file_processing.inbound.formats import detect
from file_processing.inbound.formats.base import Rejection
from flows import Flows
from models.errors import RejectFile, RetryLater
from models.flow import Flow
from services.files.directory import OpenFolders
from services.text import printable

FLOW_PEEK_BYTES = 64 * 1024
"""What tells the flow has to stand within this much of the content's start."""


class DroppedFile(Protocol):
    """A path that was found complete.

    place: the path as text, which costs far less than the object. relative: below the input folder.
    size, mtime_ns: in bytes and nanoseconds, when it was found. arrival: when it came there, in nanoseconds.
    """

    @property
    def path(self) -> Path: ...
    @property
    def place(self) -> str: ...
    @property
    def relative(self) -> str: ...
    @property
    def seen_at(self) -> datetime: ...
    @property
    def size(self) -> int: ...
    @property
    def mtime_ns(self) -> int: ...
    @property
    def arrival(self) -> int: ...


class RoutedFile(NamedTuple):
    """A dropped file and its flow's name; without one it is rejected, and `rejection` says why."""

    dropped: DroppedFile
    flow: str | None
    rejection: Rejection | None = None


@dataclass(frozen=True, slots=True)
class Router:
    """Routes the files of one input folder.

    root: the resolved input folder; `None` for files anywhere, which no folder routes.
    """

    flows: Flows
    root: Path | None
    max_bytes: int

    def route(self, dropped: DroppedFile) -> RoutedFile:
        """By folder, else by content. Raises FileGone or RetryLater."""
        if dropped.relative in self.flows and dropped.path.is_symlink():
            raise RetryLater(
                "a flow's folder is a link, and links are not followed",
                hint="it is left alone: put a folder in its place, or mount the other one there",
            )
        try:
            flow = by_folder(dropped.relative, self.flows)
        except RejectFile as error:
            return RoutedFile(dropped, None, Rejection.of(error))
        return RoutedFile(dropped, flow.name) if flow else self.route_by_content(dropped)

    def route_by_content(self, dropped: DroppedFile) -> RoutedFile:
        """By name and content alone. Raises FileGone or RetryLater."""
        try:
            with (
                OpenFolders() as folders,
                open_file.opened(
                    open_file.entry_of(folders, dropped.place, None if self.root is None else str(self.root)),
                    max_bytes=self.max_bytes,
                    only_looks=True,
                ) as source,
            ):
                head = open_file.content(source, max_bytes=self.max_bytes).read(FLOW_PEEK_BYTES)
            return RoutedFile(dropped, by_content(dropped.path.name, head, self.flows).name)
        except RejectFile as error:
            return RoutedFile(dropped, None, Rejection.of(error))
        except OSError as error:
            raise open_file.unreadable(error) from error


def by_folder(relative: str, flows: Flows) -> Flow | None:
    """The flow whose folder a path below the input root lies in; `None` right in the root.

    Raises RejectFile when the folder is no flow's.
    """
    folder, below, _ = relative.partition("/")
    if not below:
        return None
    flow = flows.get(folder)
    if flow is None:
        raise RejectFile(f"the folder {printable(folder)!r} belongs to no flow", hint=_folders(flows))
    return flow


def by_content(name: str, head: bytes, flows: Flows) -> Flow:
    """The one flow that knows the file by its first bytes or by its name.

    head: the first FLOW_PEEK_BYTES of the (decompressed) content.
    Raises RejectFile when there is none, or more than one.
    """
    lower = name.lower()
    known, signs = detect.signs(head)
    could_be = [
        flow
        for flow in flows.values()
        if not signs.isdisjoint(known.signs_of(flow)) or any(lower.startswith(prefix) for prefix in flow.file_prefixes)
    ]
    match could_be:
        case [flow]:
            return flow
        case []:
            raise RejectFile(f"neither its name nor its {known.describe(signs)} tells the flow", hint=_folders(flows))
        case _:
            names = " or ".join(flow.name for flow in could_be)
            raise RejectFile(f"it could belong to {names}", hint="drop it into the folder of its flow")


def _folders(flows: Flows) -> str:
    return "drop it into the folder of its flow: " + ", ".join(f"{name}/" for name in flows)
