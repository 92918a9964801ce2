"""When a file counts as complete."""

import fcntl
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from services.files.lease import WriterState
from services.observer.completeness import FileKind, Look, reason_to_wait
from tests.support.by_path import look


def writer_state(path: Path) -> WriterState:
    found = look(path)
    assert found is not None
    return found.writer


# A line on stdin makes it go on, a line on stdout says that it did.
_HOLDER = """
import sys
with open(sys.argv[1], sys.argv[2]) as file:
    print("open", flush=True)
    sys.stdin.readline()
print("closed", flush=True)
sys.stdin.readline()
"""


@pytest.mark.parametrize(
    ("mode", "while_open"), [("a", WriterState.WRITING), ("r+", WriterState.WRITING), ("r", WriterState.DONE)]
)
def test_lease_tells_whether_another_process_writes(tmp_path: Path, mode: str, while_open: WriterState) -> None:
    path = tmp_path / "a.json"
    path.write_text("{}")
    with subprocess.Popen(
        [sys.executable, "-c", _HOLDER, str(path), mode], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        assert holder.stdout.readline() == "open\n"
        assert writer_state(path) is while_open
        holder.stdin.write("\n")
        holder.stdin.flush()
        assert holder.stdout.readline() == "closed\n"
        assert writer_state(path) is WriterState.DONE
        holder.stdin.write("\n")


def test_a_lease_broken_by_a_writer_does_not_end_the_process(tmp_path: Path) -> None:
    """The kernel's default signal for it would."""
    path = tmp_path / "a.json"
    path.write_text("{}")
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            with path.open("a"):
                pass

    assert signal.getsignal(signal.SIGIO) is signal.SIG_DFL
    writer = threading.Thread(target=write)
    writer.start()
    seen = {writer_state(path) for _ in range(20_000)}
    stop.set()
    writer.join()
    assert seen <= {WriterState.DONE, WriterState.WRITING}


def test_a_lease_held_on_is_broken_without_harm(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("{}")
    file = os.open(path, os.O_RDONLY)
    fcntl.fcntl(file, fcntl.F_SETSIG, signal.SIGURG)
    fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    with pytest.raises(BlockingIOError):
        os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    os.close(file)
    assert writer_state(path) is WriterState.DONE


def test_unknown_where_the_file_cannot_be_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    path.symlink_to("/etc/hostname")
    assert writer_state(path) is WriterState.UNKNOWN
    path.unlink()
    path.write_text("{}")
    monkeypatch.delattr(fcntl, "F_SETLEASE")
    assert writer_state(path) is WriterState.UNKNOWN


@pytest.mark.parametrize("error", [13, 22, 37])  # EACCES, EINVAL, ENOLCK
def test_unknown_where_leases_are_not_to_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int) -> None:
    path = tmp_path / "a.json"
    path.write_text("{}")

    def fail(*_: object) -> int:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(fcntl, "fcntl", fail)
    assert writer_state(path) is WriterState.UNKNOWN


def test_every_kind_is_told_without_opening_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's path is at most 108 bytes
    Path("file").write_text("{}")
    Path("link").symlink_to("file")
    Path("dangling").symlink_to("nowhere")
    Path("loop").symlink_to("loop")
    os.mkfifo("fifo")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
    Path("folder").mkdir()
    kinds = {name: seen and seen.kind for name in sorted(os.listdir()) for seen in [look(Path(name))]}  # noqa: PTH208
    assert kinds == {
        "dangling": FileKind.SYMLINK,
        "fifo": FileKind.FIFO,
        "file": FileKind.FILE,
        "folder": None,
        "link": FileKind.SYMLINK,
        "loop": FileKind.SYMLINK,
        "socket": FileKind.SOCKET,
    }
    device = look(Path("/dev/null"))
    assert device is not None
    assert device.kind is FileKind.DEVICE
    assert look(Path("gone")) is None


def test_a_share_is_not_asked_for_leases(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("{}")
    assert look(path, lease=False) == Look(
        FileKind.FILE, 2, path.stat().st_mtime_ns, path.stat().st_ctime_ns, WriterState.UNKNOWN
    )


_LOOKS = st.builds(Look, st.sampled_from(FileKind), st.integers(0, 3), st.integers(0, 9), st.sampled_from(WriterState))


@given(_LOOKS, st.floats(0, 4))
def test_nothing_is_complete_while_it_is_written_and_everything_once_it_rested(seen: Look, rested: float) -> None:
    reason = reason_to_wait(seen, rested_seconds=rested, settle_seconds=2)
    if seen.writer is WriterState.WRITING:
        assert reason == "still being written"
    elif rested >= 2:
        assert reason is None
    elif seen.kind is not FileKind.FILE:
        assert reason == "settling"
    elif seen.size == 0:
        assert reason == "empty"
    elif seen.writer is WriterState.DONE:
        assert reason is None
    else:
        assert reason == "settling"
