"""Where files end up: a folder for each flow, below the archive and below what is rejected."""

import socket
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from services.files.directory import Folder

UNROUTED = "_unrouted"
"""Stands for the flow's name in the folders of files that belong to no flow."""


def on_this_machine(folder: Path) -> str:
    """A folder as the ledger names it: daemons on several machines share one database."""
    return f"{socket.gethostname()}:{folder}"


@dataclass(frozen=True, slots=True)
class Folders:
    """The roots; below them each flow, and in the archive each day, has a folder."""

    archive: Path
    rejected: Path

    def archive_of(self, flow: str | None) -> Folder:
        return Folder(self.archive / (flow or UNROUTED))

    def archive_on(self, flow: str | None, day: datetime) -> Folder:
        return self.archive_of(flow) / day.astimezone(UTC).date().isoformat()

    def rejected_of(self, flow: str | None) -> Folder:
        return Folder(self.rejected / (flow or UNROUTED))
