"""Watching the input folder: events are hints, the scan is the truth."""

from services.observer.completeness import Kind
from services.observer.inbox import Inbox, InboxStatus
from services.observer.paths import Found

__all__ = ["Found", "Inbox", "InboxStatus", "Kind"]
