"""Processes of the product, forked from one that has imported everything, and killed from outside."""

import atexit
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from tests.support.fork_server import BUFFER_BYTES

ROOT = Path(__file__).parents[2]


class _Server:
    """The process that forks; one for each process of pytest."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._requests = ours
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.fork_server", str(theirs.fileno())],
            cwd=ROOT,
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
        )
        theirs.close()
        atexit.register(self._stop)

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        with self._lock:
            self._requests.send(json.dumps(request).encode())
            answer = self._requests.recv(BUFFER_BYTES)
        assert answer, "the fork server has died"
        found: dict[str, Any] = json.loads(answer)
        return found

    def _stop(self) -> None:
        self._requests.close()
        self._process.wait(10)


@cache
def _server() -> _Server:
    return _Server()


@dataclass
class Process:
    """A running `main.py`; log: what it says on standard output and error."""

    pid: int
    log: Path
    returncode: int | None = None
    _descriptor: int = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._descriptor = os.pidfd_open(self.pid)

    def poll(self) -> int | None:
        return self._reaped(0)

    def wait(self, timeout: float = 30) -> int:
        """The exit code, negative for a signal."""
        code = self._reaped(timeout)
        assert code is not None, f"process {self.pid} has not ended within {timeout} s: {self.log.read_text()}"
        return code

    def _reaped(self, timeout: float) -> int | None:
        if self.returncode is None and select.select([self._descriptor], [], [], timeout)[0]:
            self.returncode = _server().ask({"reap": self.pid})["code"]
            os.close(self._descriptor)
        return self.returncode

    def send_signal(self, number: signal.Signals) -> None:
        if self.poll() is None:
            signal.pidfd_send_signal(self._descriptor, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)


def start(
    *arguments: str, environment: dict[str, str], folder: Path, log: Path, faults: str = "", point: str = ""
) -> Process:
    """Start `main.py` in `folder`.

    faults: a module of ours with POINTS; point: the one at which the process kills itself.
    """
    request = {
        "arguments": arguments,
        "env": environment,
        "cwd": str(folder),
        "log": str(log),
        "faults": faults,
        "point": point,
    }
    log.touch()  # whoever looks at it at once finds it
    return Process(_server().ask(request)["pid"], log)


def run_to_kill(
    *arguments: str, environment: dict[str, str], folder: Path, faults: str, point: str, timeout: float = 30
) -> None:
    """Run `main.py` until it kills itself at a point."""
    process = start(
        *arguments, environment=environment, folder=folder, log=folder / "killed.log", faults=faults, point=point
    )
    assert process.wait(timeout) == -signal.SIGKILL, process.log.read_text()
