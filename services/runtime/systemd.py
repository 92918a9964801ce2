"""The little of systemd's notification protocol that a daemon needs: readiness, status, watchdog."""

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from loguru import logger


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
def kept_alive() -> Iterator[None]:
    """Ping while this block takes its time in one call: a migration of a large table is no hanging daemon."""
    seconds = watchdog_interval_seconds()
    if seconds is None:
        yield
        return
    done = threading.Event()

    def ping() -> None:
        while not done.wait(seconds):
            notify("WATCHDOG=1")

    thread = threading.Thread(target=ping, name="watchdog", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
