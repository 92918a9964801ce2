"""Watching the input folder: events are hints, the scan is the truth."""

from services.observer.completeness import FileKind
from services.observer.inbox import Inbox, InboxStatus
from services.observer.paths import FoundFile

__all__ = ["FileKind", "FoundFile", "Inbox", "InboxStatus"]
