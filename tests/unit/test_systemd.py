"""systemd's notification protocol, spoken to a real datagram socket."""

import contextlib
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.runtime import systemd
from services.runtime.systemd import extended_start, kept_alive, notify, watchdog_interval_seconds


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.settimeout(2)
        yield server


def test_lines_arrive_at_a_socket_in_the_file_system(
    server: socket.socket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    server.bind("notify")
    (tmp_path / "n").symlink_to("notify")
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "n"))
    assert notify("READY=1", "STATUS=watching\ninput/\udcff")
    assert server.recv(4096) == b"READY=1\nSTATUS=watching input/\\udcff"


def test_lines_arrive_at_an_abstract_socket(server: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"tidegate-test-{os.getpid()}"
    server.bind(f"\0{name}")
    monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
    assert notify("WATCHDOG=1")
    assert server.recv(4096) == b"WATCHDOG=1"


def test_nothing_is_sent_without_systemd(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert not notify("READY=1")
    monkeypatch.setenv("NOTIFY_SOCKET", "vsock:2:1234")
    assert not notify("READY=1")
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    assert not notify("READY=1")


@pytest.mark.parametrize(
    ("usec", "pid", "interval"),
    [
        ("30000000", None, 15.0),
        ("30000000", str(os.getpid()), 15.0),
        ("30000000", "1", None),
        ("0", None, None),
        ("soon", None, None),
        (None, None, None),
    ],
    ids=["no pid", "our pid", "another's pid", "off", "no number", "no systemd"],  # a pid differs in xdist's workers
)
def test_watchdog_is_pinged_at_half_its_time(
    monkeypatch: pytest.MonkeyPatch, usec: str | None, pid: str | None, interval: float | None
) -> None:
    for name, value in (("WATCHDOG_USEC", usec), ("WATCHDOG_PID", pid)):
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    assert watchdog_interval_seconds() == interval


def test_pings_go_on_as_long_as_one_call_takes(
    server: socket.socket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    server.bind("notify")
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    monkeypatch.setenv("WATCHDOG_USEC", "20000")
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    with kept_alive():
        assert [server.recv(4096) for _ in range(3)] == [b"WATCHDOG=1"] * 3
    server.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:  # what was sent before the end
            server.recv(4096)
    notify("STATUS=watching")
    assert server.recv(4096) == b"STATUS=watching"


def test_a_start_is_extended_until_it_is_to_stop(
    server: socket.socket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    server.bind("notify")
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    monkeypatch.setattr(systemd, "_EXTEND_EVERY_SECONDS", 0.01)
    stopping = threading.Event()
    with extended_start(stopping):
        assert [server.recv(4096) for _ in range(3)] == [b"EXTEND_TIMEOUT_USEC=30000000"] * 3
        stopping.set()  # else the time to stop would be extended
        for thread in threading.enumerate():
            if thread.name == "systemd":
                thread.join(5)
        server.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                server.recv(4096)
        assert not any(thread.name == "systemd" for thread in threading.enumerate())
