"""The processes of the demo: started one by one, watched, and ended in the opposite order."""

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

import flows as flow_folder
import settings as settings_module
from models.errors import StopDaemon

START_SECONDS, STOP_SECONDS = 30, 15


@dataclass
class Processes:
    """Each process by its name; what it says stands in `<name>.log` in `home`."""

    home: Path
    running: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in reversed(self.running.values()):
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def start(self, name: str, arguments: Iterable[str], folder: Path, *, shown: bool = False) -> None:
        """Start Python with these arguments; it knows of none of the settings in our environment.

        shown: what it says stands on the screen.
        """
        own = {*settings_module.names(), *(setting.name for setting in flow_folder.settings(None))}
        environment = {name: value for name, value in os.environ.items() if name.upper() not in own}
        with (self.home / f"{name}.log").open("wb") as log:
            self.running[name] = subprocess.Popen(
                [sys.executable, *arguments],
                cwd=folder,
                env=environment,
                stdout=None if shown else log,
                stderr=log,
                start_new_session=True,  # Ctrl-C reaches us alone, and we end them in order
            )

    def wait_for(self, name: str, url: str, stopping: threading.Event) -> None:
        """Wait until it answers there. Raises StopDaemon when it does not."""
        deadline = time.monotonic() + START_SECONDS
        while not stopping.is_set():
            self.check()
            try:
                httpx.get(url, timeout=1, trust_env=False).raise_for_status()
            except httpx.HTTPError:
                if time.monotonic() > deadline:
                    raise StopDaemon(f"{name} does not answer at {url}", hint=self._see(name)) from None
                stopping.wait(0.05)
            else:
                return

    def check(self) -> None:
        """Raise StopDaemon when one of them has ended by itself."""
        for name, process in self.running.items():
            if process.poll() is not None:
                log = (self.home / f"{name}.log").read_text("utf-8", "replace")
                last = log.strip().rpartition("\n")[2] or f"exit code {process.returncode}"
                raise StopDaemon(f"{name} ended by itself: {last}", hint=self._see(name))

    def _see(self, name: str) -> str:
        return f"{self.home / name}.log says more"


def free_port(port: int, host: str) -> int:
    """This port, or any other where it is taken."""
    with socket.socket() as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind((host, port))
        except OSError:
            tried.bind((host, 0))
        return int(tried.getsockname()[1])
