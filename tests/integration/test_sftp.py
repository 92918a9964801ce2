"""Partner 2's SFTP: every file fetched whole and once, answers delivered; from the stand-in and from OpenSSH."""

import asyncio
import errno
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import asyncssh
import pytest
from asyncssh.sftp import LocalFile

from partners.sftp import PASSWORD, USER, Sftp
from partners.sftp_session import Session
from services.runtime import supervisor
from services.runtime.status_file import JobPhase
from services.sources import sftp as fetching_module
from services.sources.sftp import SftpFetcher
from tests.support import connector_faults
from tests.support.connectors import QUICK, in_phase, without_pauses
from tests.support.openssh import OpenSsh, sshd, sshd_program
from tests.support.sites import Site, running
from tests.support.waiting import eventually

NAME = "orders/partner2"


class Server(Protocol):
    """What both servers of these tests offer."""

    def upload(self, name: str, content: bytes) -> object: ...
    def names(self, folder: str) -> list[str]: ...


def an_order(number: int) -> bytes:
    line = {"line_number": 1, "sku": "A", "quantity": 1, "unit_price": 1}
    order = {"partner": "p2", "order_number": str(number), "ordered_at": "2026-01-31T08:00:00Z", "currency": "EUR"}
    return json.dumps(order | {"buyer": {"name": "B"}, "lines": [line]}).encode()


def connected(site: Site, sftp: Sftp, **values: object) -> Site:
    known_hosts = site.input.parent / "known_hosts"
    if not known_hosts.exists():
        known_hosts.write_text(sftp.known_hosts)
    site.connect(
        PARTNER2_SFTP_HOST="127.0.0.1",
        PARTNER2_SFTP_PORT=sftp.sftp_port,
        PARTNER2_SFTP_USER=USER,
        PARTNER2_SFTP_PASS=PASSWORD,
        PARTNER2_SFTP_KNOWN_HOSTS=known_hosts,
        POLLING_INTERVAL_SECONDS=QUICK,
        **values,
    )
    return site


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    without_pauses(monkeypatch)


@pytest.fixture
def fetching(site: Site, sftp_server: Sftp) -> Site:
    return connected(site, sftp_server)


@pytest.fixture
def openssh(open_folder: Path) -> Iterator[OpenSsh]:
    if sshd_program() is None:
        pytest.skip("there is no sshd here; make system-deps installs openssh-server")
    with sshd(open_folder) as server:
        yield server


@pytest.fixture(params=["stand-in", "OpenSSH"])
def server(request: pytest.FixtureRequest, site: Site) -> Server:
    """Either server, configured."""
    if request.param == "OpenSSH":
        openssh: OpenSsh = request.getfixturevalue("openssh")
        site.connect(**openssh.settings, POLLING_INTERVAL_SECONDS=QUICK)
        return openssh
    sftp: Sftp = request.getfixturevalue("sftp_server")
    connected(site, sftp, PARTNER2_SFTP_ANSWERS="answers")
    return sftp


def numbers(site: Site) -> list[str]:
    return sorted((row["order_number"] for row in site.rows("orders")), key=int)


def test_orders_are_fetched_once_and_archived_over_there(site: Site, server: Server) -> None:
    for number in range(100):
        server.upload(f"order-{number}.json", an_order(number))
    with running(site):
        eventually(lambda: len(server.names("archive")) == 100, timeout=30, what="the archive")
        site.settled(100)
    assert numbers(site) == [str(number) for number in range(100)]
    assert {line["status"] for line in site.ledger()} == {"loaded"}
    assert server.names("orders") == []


def test_a_large_file_arrives_whole(site: Site, server: Server) -> None:
    order = json.loads(an_order(1)) | {"buyer": {"name": "B" * 3_000_000}}
    server.upload("large.json", json.dumps(order).encode())
    with running(site):
        eventually(lambda: server.names("archive") == ["large.json"], timeout=30, what="the archive")
        site.settled(1)
    assert len(site.rows("orders")[0]["buyer"]["name"]) == 3_000_000


def test_the_archive_over_there_never_loses_a_file_of_the_same_name(site: Site, server: Server) -> None:
    with running(site):
        for number in range(3):
            server.upload("order.json", an_order(number))
            eventually(lambda number=number: len(server.names("archive")) == number + 1, what="it")  # type: ignore[misc]  # mypy: default
        site.settled(3)
    assert numbers(site) == ["0", "1", "2"]


def test_an_answer_is_stored_by_rename_and_told_apart_from_a_newer_one(site: Site, server: Server) -> None:
    folder = site.settings.output_dir / "orders" / "ordrsp"
    folder.mkdir(parents=True)
    for number, text in enumerate(("first", "second"), start=1):
        with running(site):
            (folder / "1.edi").write_text(text)
            site.query(
                "insert into tidegate.outbound_file (flow, document, name, sha256, bytes, records, status, node) "
                "values ('orders', 'ordrsp', 'ordrsp/1.edi', sha256(%s), 6, 1, 'written', 'test') returning id",
                text.encode(),
            )
            eventually(lambda number=number: len(server.names("answers")) == number, timeout=20, what="the answer")  # type: ignore[misc]  # mypy: default
            eventually(lambda: not (folder / "1.edi").exists(), what="the move")
    ids = [file["id"] for file in site.query("select id from tidegate.outbound_file order by id")]
    assert server.names("answers") == sorted(f"ordrsp-1.{number}.edi" for number in ids)


def test_what_is_no_finished_file_is_left_alone(fetching: Site, sftp_server: Sftp) -> None:
    orders = sftp_server.folder / "orders"
    for name in (".hidden.json", "order.json.part", "order.json.filepart", "order.tmp"):
        (orders / name).write_bytes(an_order(1))
    (orders / "folder").mkdir()
    (orders / "link.json").symlink_to("/etc/hostname")
    sftp_server.upload("order.json", an_order(2))
    with running(fetching):
        fetching.settled(1)
        eventually(lambda: sftp_server.names("archive") == ["order.json"], what="the archive")
    assert len(sftp_server.names("orders")) == 6
    assert numbers(fetching) == ["2"]


def test_a_file_that_is_still_being_uploaded_is_left_alone(fetching: Site, sftp_server: Sftp) -> None:
    content = an_order(1)
    upload = sftp_server.begin_upload("order.json")
    sftp_server.upload("other.json", an_order(2))
    with running(fetching):

        def other_came_while_it_grows() -> bool:
            if upload.path.stat().st_size < len(content) - 1:
                upload.write(content[upload.path.stat().st_size :][:1])
            return numbers(fetching) == ["2"]

        eventually(other_came_while_it_grows, timeout=20, what="the other file")
        upload.write(content[upload.path.stat().st_size :])
        eventually(lambda: numbers(fetching) == ["1", "2"], what="the whole file")
    assert {line["status"] for line in fetching.ledger()} == {"loaded"}


def test_an_unknown_host_key_is_refused_with_the_command_that_accepts_it(site: Site, sftp_server: Sftp) -> None:
    known_hosts = site.input.parent / "known_hosts"
    known_hosts.touch()
    sftp_server.upload("order.json", an_order(1))
    with running(connected(site, sftp_server)):
        hint = in_phase(site, NAME, JobPhase.STOPPED).hint
    command = f"ssh-keyscan -p {sftp_server.sftp_port} 127.0.0.1 >> {known_hosts}"
    assert command in hint
    assert "login" not in {done.operation for done in sftp_server.received}
    assert os.waitstatus_to_exitcode(os.system(command)) == 0
    with running(site):
        eventually(lambda: numbers(site) == ["1"], what="the order")


def test_a_changed_host_key_is_refused(fetching: Site, sftp_server: Sftp) -> None:
    known_hosts = fetching.input.parent / "known_hosts"
    sftp_server.change_host_key()
    with running(fetching):
        job = in_phase(fetching, NAME, JobPhase.STOPPED)
    assert "someone else's server" in job.detail
    forget = f"ssh-keygen -f {known_hosts} -R '[127.0.0.1]:{sftp_server.sftp_port}' && ssh-keyscan -p"
    assert forget in job.hint


def test_a_key_that_cannot_be_read_stops_the_connector(fetching: Site) -> None:
    fetching.connect(PARTNER2_SFTP_PASS="", PARTNER2_SFTP_KEY_FILE="/nowhere")
    with running(fetching):
        stopped = in_phase(fetching, NAME, JobPhase.STOPPED)
    assert "PARTNER2_SFTP_KEY_FILE /nowhere" in stopped.detail


@pytest.mark.parametrize("setting", ["PARTNER2_SFTP_KEY_FILE", "PARTNER2_SFTP_KNOWN_HOSTS"])
def test_a_file_that_others_may_change_says_nothing_of_keys(fetching: Site, sftp_server: Sftp, setting: str) -> None:
    file = fetching.input.parent / "keys"
    file.write_text(sftp_server.known_hosts)
    file.chmod(0o666)
    fetching.connect(**{setting: file})
    with running(fetching):
        stopped = in_phase(fetching, NAME, JobPhase.STOPPED)
    assert f"{setting} {file} is not trusted: it (mode 0666) can be changed by others" in stopped.detail
    assert f"chmod go-w '{file}'" in stopped.hint


def test_an_archive_that_takes_nothing_has_nothing_fetched_twice(fetching: Site, sftp_server: Sftp) -> None:
    fetching.connect(PARTNER2_SFTP_ARCHIVE="orders/order.json/no-folder")
    sftp_server.upload("order.json", an_order(1))
    with running(fetching):
        in_phase(fetching, NAME, JobPhase.FAILING, failures=2)
        fetching.settled(1)
    fetching.connect(PARTNER2_SFTP_ARCHIVE="archive")
    with running(fetching):
        eventually(lambda: sftp_server.names("archive") == ["order.json"], what="the archive")
    assert [line["status"] for line in fetching.ledger()] == ["loaded"]
    read = [done.path for done in sftp_server.received if done.operation == "read"]
    assert read.count("orders/order.json") == 1


def test_a_name_that_is_no_utf_8_is_fetched_once(fetching: Site, sftp_server: Sftp) -> None:
    name = os.fsdecode(b"order-\xf6.json")
    sftp_server.upload(name, an_order(1))
    with running(fetching):
        eventually(lambda: sftp_server.names("archive") == [name], what="the archive")
        fetching.settled(1)
    assert [line["status"] for line in fetching.ledger()] == ["loaded"]


@pytest.mark.parametrize("content", ["", None], ids=["empty", "missing"])
def test_no_other_known_hosts_than_the_configured_are_looked_at(
    fetching: Site, sftp_server: Sftp, monkeypatch: pytest.MonkeyPatch, content: str | None
) -> None:
    home = fetching.input.parent / "home"
    (home / ".ssh").mkdir(parents=True)
    (home / ".ssh" / "known_hosts").write_text(sftp_server.known_hosts)
    monkeypatch.setenv("HOME", str(home))
    configured = fetching.input.parent / "configured"
    if content is not None:
        configured.write_text(content)
    fetching.connect(PARTNER2_SFTP_KNOWN_HOSTS=configured)
    sftp_server.upload("order.json", an_order(1))
    with running(fetching):
        assert f"is not in {configured}" in in_phase(fetching, NAME, JobPhase.STOPPED).detail


def test_a_file_that_cannot_be_archived_holds_up_no_other(
    fetching: Site, sftp_server: Sftp, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Session.rename

    def locked(session: Session, oldpath: bytes, newpath: bytes) -> None:
        if b"bad" in oldpath:
            raise asyncssh.SFTPPermissionDenied("it is locked")
        rename(session, oldpath, newpath)

    monkeypatch.setattr(Session, "rename", locked)
    sftp_server.upload("bad.json", an_order(1))
    with running(fetching):
        in_phase(fetching, NAME, JobPhase.FAILING)
        sftp_server.upload("good.json", an_order(2))
        eventually(lambda: sftp_server.names("archive") == ["good.json"], timeout=20, what="the archive")
        fetching.settled(2)
        failing = in_phase(fetching, NAME, JobPhase.FAILING)
        assert "bad.json" in failing.detail
        assert "PARTNER2_SFTP_ARCHIVE" in failing.hint
    assert numbers(fetching) == ["1", "2"]
    assert [done.path for done in sftp_server.received if done.operation == "read"].count("orders/bad.json") == 1


def test_a_file_that_grows_after_it_was_fetched_is_fetched_again(
    fetching: Site, sftp_server: Sftp, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, later = SftpFetcher._place, [an_order(22)]

    def place_and_grow(fetcher: SftpFetcher, *arguments: object) -> None:
        place(fetcher, *arguments)  # type: ignore[arg-type]  # what it was called with
        if later:
            (sftp_server.folder / "orders" / "order.json").write_bytes(later.pop())

    monkeypatch.setattr(SftpFetcher, "_place", place_and_grow)
    sftp_server.upload("order.json", an_order(1))
    with running(fetching):
        eventually(lambda: sftp_server.names("archive") == ["order.json"], timeout=20, what="the archive")
        fetching.settled(2)
    assert numbers(fetching) == ["1", "22"]


def test_another_upload_of_the_same_size_and_time_is_fetched_as_well(
    fetching: Site, sftp_server: Sftp, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, later = SftpFetcher._place, [an_order(2)]

    def place_and_upload(fetcher: SftpFetcher, *arguments: object) -> None:
        place(fetcher, *arguments)  # type: ignore[arg-type]  # what it was called with
        if later:
            path = sftp_server.folder / "orders" / "order.json"
            before = path.stat()
            path.write_bytes(later.pop())
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
            assert path.stat().st_size == before.st_size

    monkeypatch.setattr(SftpFetcher, "_place", place_and_upload)
    sftp_server.upload("order.json", an_order(1))
    with running(fetching):
        eventually(lambda: sftp_server.names("archive") == ["order.json"], timeout=20, what="the archive")
        fetching.settled(2)
        eventually(lambda: sftp_server.names("orders") == [], what="an empty folder")
    assert numbers(fetching) == ["1", "2"]


def test_what_a_killed_daemon_had_half_fetched_is_removed(fetching: Site, sftp_server: Sftp) -> None:
    sftp_server.upload("order.json", an_order(1))
    fetching.run_to_kill(connector_faults.__name__, "fetching: before files are placed")
    (half,) = fetching.waiting()
    assert half.suffix == ".part"
    with running(fetching):
        fetching.settled(1)
        eventually(lambda: not fetching.waiting(), what="an empty input folder")
        half.write_bytes(b"of another daemon, which was killed while this one runs")
        eventually(lambda: not fetching.waiting(), what="an empty input folder again")
    assert numbers(fetching) == ["1"]


@pytest.mark.parametrize(("polls", "statuses"), [(10_000, ["loaded"]), (1, ["loaded", "rejected"])])
def test_an_empty_file_is_left_alone_for_some_polls(
    fetching: Site, sftp_server: Sftp, monkeypatch: pytest.MonkeyPatch, polls: int, statuses: list[str]
) -> None:
    monkeypatch.setattr(fetching_module, "EMPTY_POLLS", polls)
    sftp_server.upload("empty.json", b"")
    sftp_server.upload("other.json", an_order(1))
    with running(fetching):
        eventually(lambda: "other.json" in sftp_server.names("archive"), what="the archive")
        fetching.settled(len(statuses))
    assert sorted(line["status"] for line in fetching.ledger()) == statuses
    assert ("empty.json" in sftp_server.names("orders")) == (statuses == ["loaded"])


@dataclass
class Stuck:
    """A server that lives and neither reads nor writes for so long, or until it is freed."""

    seconds: float = 60.0
    asked: int = 0
    is_free: bool = False

    async def waits(self, _moved: int) -> None:
        self.asked += 1
        end = time.monotonic() + self.seconds
        while not self.is_free and time.monotonic() < end:  # noqa: ASYNC110  # an event would belong to one loop
            await asyncio.sleep(0.02)


@pytest.fixture
def stuck(sftp_server: Sftp, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stuck]:
    server = Stuck()
    monkeypatch.setattr(Session, "_disturb", server.waits)
    yield server
    server.is_free = True


def test_a_server_that_answers_nothing_does_not_keep_the_daemon_from_stopping(
    fetching: Site, sftp_server: Sftp, stuck: Stuck
) -> None:
    sftp_server.upload("order.json", an_order(1))
    with running(fetching):
        eventually(lambda: stuck.asked, what="a request")
        start = time.monotonic()
    assert time.monotonic() - start < supervisor.STOP_SECONDS


def test_a_folder_that_is_not_there_is_named_with_its_setting(fetching: Site) -> None:
    fetching.connect(PARTNER2_SFTP_PATH="no-such-folder")
    with running(fetching):
        job = in_phase(fetching, NAME, JobPhase.FAILING)
    assert "does not list the folder 'no-such-folder': No such file" in job.detail
    assert "PARTNER2_SFTP_PATH" in job.hint


def test_a_disk_that_is_full_here_is_no_fault_of_the_partner(
    fetching: Site, sftp_server: Sftp, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(_file: LocalFile, _data: bytes, _offset: int) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(LocalFile, "write", full)
    sftp_server.upload("large.json", b" " * 1_000_000)
    with running(fetching):
        job = in_phase(fetching, NAME, JobPhase.FAILING)
    assert job.detail == f"files cannot be written to {fetching.input / 'orders'}: No space left on device"
    assert fetching.waiting() == []
