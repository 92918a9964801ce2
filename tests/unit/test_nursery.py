"""Processes that are forked for a piece of work: they do it, and are gone with whoever wanted it."""

import os
import signal
import time
from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from models.errors import StopDaemon
from services.runtime.nursery import Nursery, Work
from tests.support.waiting import eventually


def greet(name: str, connection: Connection, _: Sequence[int]) -> None:
    connection.send((name, os.getpid(), os.getppid()))
    connection.poll(None)


def busy(connection: Connection, _: Sequence[int]) -> None:
    connection.send(os.getpid())
    while True:
        time.monotonic()


def look_around(connection: Connection, descriptors: Sequence[int]) -> None:
    own = {str(number) for number in (connection.fileno(), *descriptors)}
    others = [link for link in Path("/proc/self/fd").iterdir() if link.name not in own and link.exists()]
    open_ones = [str(link.readlink()) for link in others]
    connection.send((open_ones, os.read(descriptors[0], 100), Path("/proc/self/oom_score_adj").read_text()))


def fails(_: Connection, __: Sequence[int]) -> None:
    raise ValueError


WORKS: dict[str, Work] = {"busy": busy, "look around": look_around, "fails": fails}


def prepared(name: str) -> Work:
    return WORKS.get(name) or partial(greet, f"{name}, prepared by {os.getpid()}")


@pytest.fixture
def nursery() -> Nursery:
    return Nursery(prepared)


def is_gone(pid: int) -> Callable[[], bool]:
    return lambda: not Path(f"/proc/{pid}").exists()


def test_each_gets_a_process_of_its_own_forked_from_one_that_prepares_it(nursery: Nursery) -> None:
    first, second = nursery.fork("a"), nursery.fork("b")
    (said, one, parent), (_, other, same_parent) = first.recv(), second.recv()
    assert said == f"a, prepared by {parent}"
    assert parent == same_parent
    assert len({one, other, parent, os.getpid()}) == 4
    first.close()
    eventually(is_gone(one), what="the end of the process whose connection is closed")
    assert not is_gone(other)()
    second.close()


@pytest.mark.parametrize("name", ["a", "busy"])
def test_who_is_at_work_ends_when_its_connection_is_closed(nursery: Nursery, name: str) -> None:
    connection = nursery.fork(name)
    said = connection.recv()
    connection.close()
    eventually(is_gone(said if name == "busy" else said[1]), what="its end")


def test_it_has_what_it_is_given_and_nothing_else_of_ours(nursery: Nursery, tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"content")
    with path.open("rb") as file, (tmp_path / "ours").open("w"):
        connection = nursery.fork("look around", [file.fileno()])
    open_ones, content, score = connection.recv()
    connection.close()
    assert content == b"content"
    assert not any(str(tmp_path) in name for name in open_ones)
    assert not any(name.startswith("socket:") for name in open_ones)
    assert int(score) == 500


def test_one_that_fails_closes_its_connection(nursery: Nursery) -> None:
    connection = nursery.fork("fails")
    with pytest.raises(EOFError):
        connection.recv()
    connection.close()
    assert nursery.fork("a").recv()[0].startswith("a")


def test_what_a_terminal_or_systemd_tells_all_processes_ends_none_of_them(nursery: Nursery) -> None:
    connection = nursery.fork("a")
    _, pid, parent = connection.recv()
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(pid, number)
        os.kill(parent, number)
    assert nursery.fork("b").recv()[2] == parent
    assert not is_gone(pid)()
    connection.close()


def test_without_the_nursery_there_is_nothing_to_go_on_with(nursery: Nursery) -> None:
    connection = nursery.fork("a")
    os.kill(connection.recv()[2], signal.SIGKILL)
    connection.close()

    def ended() -> bool:
        try:
            nursery.fork("b").close()
        except StopDaemon as error:
            return "has ended" in error.reason
        return False

    eventually(ended, what="a fork that is refused")


def test_all_are_gone_with_who_wanted_them(nursery: Nursery) -> None:
    ours, theirs = os.pipe()
    if (pid := os.fork()) == 0:
        started = [nursery.fork(name) for name in ("a", "busy")]
        pids = [started[0].recv()[1], started[1].recv()]
        parent = int(Path(f"/proc/{pids[0]}/stat").read_text().rpartition(")")[2].split()[1])
        os.write(theirs, " ".join(map(str, [*pids, parent])).encode())
        os.kill(os.getpid(), signal.SIGKILL)
    os.close(theirs)
    os.waitpid(pid, 0)
    with open(ours) as pipe:
        pids = [int(number) for number in pipe.read().split()]
    assert len(pids) == 3
    for each in pids:
        eventually(is_gone(each), what=f"the end of process {each}")


def test_a_nursery_ends_with_its_last_user() -> None:
    nursery = Nursery(prepared)
    connection = nursery.fork("a")
    parent = connection.recv()[2]
    connection.close()
    del nursery
    assert is_gone(parent)()
