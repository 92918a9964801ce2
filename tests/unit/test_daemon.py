"""What the daemon's loop may see of a queue while that one's loader changes it."""

import threading
from collections import deque
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from file_processing.daemon import Daemon
from file_processing.inbound.routing import RoutedFile
from file_processing.queues import Queue
from services.observer.completeness import FileKind
from services.observer.inbox import Inbox
from services.observer.paths import FoundFile
from services.runtime.status_file import Fault

FAULT = Fault("no database", "start it", datetime.now(UTC))


def found(path: Path) -> FoundFile:
    return FoundFile(str(path), path.name, 1, 1, 1, datetime.now(UTC), FileKind.FILE)


class _Mended(Queue):
    """A queue whose loader finds the fault mended after the loop's first look at it."""

    _looked = False

    @property
    def fault(self) -> Fault | None:
        looked, self._looked = self._looked, True
        return None if looked else FAULT

    @fault.setter
    def fault(self, _fault: Fault | None) -> None:
        pass


@pytest.fixture
def daemon(tmp_path: Path) -> Daemon:
    """Its loop is not run; nothing is loaded."""

    class NoFlows:
        flows = ()

    others: Any = dict.fromkeys(("writer", "connectors", "publisher", "heartbeat", "recover"))
    pipeline: Any = NoFlows()
    return Daemon(inbox=Inbox(tmp_path), pipeline=pipeline, workers=1, stopping=threading.Event(), **others)


def test_a_fault_mended_while_the_loop_looks_does_not_end_the_daemon(daemon: Daemon, tmp_path: Path) -> None:
    files = deque([RoutedFile(found(tmp_path / "a.json"), "things")])
    daemon._queues._queues["things"] = _Mended("things", files)
    assert list(daemon._waiting()) == [("a.json", "no database")]
    daemon._queues._queues["things"] = _Mended("things", files)
    assert daemon._faults() == [FAULT]
