"""The little of systemd's notification protocol that a daemon needs: readiness, status, watchdog."""

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from loguru import logger

_EXTEND_SECONDS = 30
_EXTEND_EVERY_SECONDS = 10.0


def notify(*lines: str) -> bool:
    """Tell systemd, as in `notify("READY=1", "STATUS=watching")`; false when nobody asked to be told."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address[:1] not in ("/", "@"):
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]
    message = "\n".join(line.replace("\n", " ") for line in lines)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        # A full or vanished socket must not hold up or end the daemon: the next ping tells again.
        sender.setblocking(False)
        try:
            sender.sendto(message.encode(errors="backslashreplace"), address)
        except OSError as error:
            logger.warning("systemd could not be told {!r}: {}", message, error)
            return False
    return True


def watchdog_interval_seconds() -> float | None:
    """How often to send `WATCHDOG=1`: at half of what systemd waits; None when it does not watch us."""
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    try:
        microseconds = int(os.environ.get("WATCHDOG_USEC", "0"))
    except ValueError:
        return None
    return microseconds / 2e6 if microseconds > 0 else None


@contextmanager
def extended_start(stopping: threading.Event) -> Iterator[None]:
    """Ask for more time, before READY=1, while this block takes its: a recovery after a crash is no hanging start.

    stopping: once it is set no more is asked for, as it would be time to stop.
    """
    seconds = min(_EXTEND_EVERY_SECONDS, watchdog_interval_seconds() or _EXTEND_EVERY_SECONDS)
    with _repeated(f"EXTEND_TIMEOUT_USEC={_EXTEND_SECONDS * 1_000_000}", seconds, stopping):
        yield


@contextmanager
def kept_alive() -> Iterator[None]:
    """Ping while this block takes its time in one call: a migration of a large table is no hanging daemon."""
    seconds = watchdog_interval_seconds()
    if seconds is None:
        yield
        return
    with _repeated("WATCHDOG=1", seconds):
        yield


@contextmanager
def _repeated(line: str, seconds: float, stopping: threading.Event | None = None) -> Iterator[None]:
    """Tell systemd this at once and again every so many seconds."""
    done = threading.Event()

    def tell() -> None:
        while not (stopping and stopping.is_set()):
            notify(line)
            if done.wait(seconds):
                return

    thread = threading.Thread(target=tell, name="systemd", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
