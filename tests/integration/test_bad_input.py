"""Bad input, dropped into a running site: the daemon rejects it or lets it wait, and lives on."""

import errno
import gzip
import json
import multiprocessing
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from file_processing.inbound import error_report
from file_processing.inbound.formats.base import Batch
from file_processing.inbound.formats.json import JsonFormat
from services.files import durable
from services.files.folders import UNROUTED
from tests.support.bad_input import STATUS, good, lives_on, rejected, said, text_of, vehicles
from tests.support.disks import small_disk
from tests.support.sites import Site, running
from tests.support.waiting import eventually


def content(name: str, data: bytes | str) -> Callable[[Site], object]:
    folder, _, name = name.rpartition("/")
    return lambda site: site.drop(name, data, flow=folder)


def pipe(site: Site) -> None:
    os.mkfifo(site.input / STATUS / "pipe.json")


def link(site: Site) -> None:
    secret = site.input.parent / "secret.json"
    secret.write_text(text_of(good("secret")))
    (site.input / STATUS / "link.json").symlink_to(secret)


@pytest.mark.parametrize(
    ("drop", "folder", "reason"),
    [
        pytest.param(content("vehicle_status/x.json", ""), STATUS, "the file is empty", id="empty"),
        pytest.param(content("vehicle_status/x.json", text_of(good())[:-9]), STATUS, "the JSON is cut off", id="cut"),
        pytest.param(content("vehicle_status/x.json", bytes(4096)), STATUS, "filled with zero bytes", id="zeros"),
        pytest.param(content("vehicle_status/x.json", "[" * 10_000), STATUS, "deeper than 200 levels", id="deep"),
        pytest.param(
            content("vehicle_status.json.gz", gzip.compress(text_of(good()).encode())[:-8]),
            UNROUTED,
            "broken gzip",
            id="broken-gzip",
        ),
        pytest.param(
            content("vehicle_status/x.json", text_of(good(status=7))), STATUS, "should be text", id="all-records-bad"
        ),
        pytest.param(
            content("nobodys/x.json", text_of(good())), UNROUTED, "belongs to no flow", id="folder-of-no-flow"
        ),
        pytest.param(content(f"{STATUS}/" + os.fsdecode(b"\xff\xfe.json"), "{"), STATUS, "cut off", id="odd-name"),
        pytest.param(pipe, STATUS, "not a regular file", id="pipe"),
        pytest.param(link, STATUS, "a symbolic link", id="link"),
    ],
)
def test_the_daemon_rejects_it_and_lives_on(
    live: Site, drop: Callable[[Site], object], folder: str, reason: str
) -> None:
    drop(live)
    (line,) = live.settled(1)
    assert reason in rejected(live, line, folder)["errors"][0]["reason"]
    lives_on(live)
    assert len(vehicles(live)) == 1


def test_a_name_may_come_twice_within_a_second(live: Site) -> None:
    for number in range(6):
        path = live.drop("same.json", [good(str(number))] if number % 2 else "{", flow=STATUS)
        eventually(lambda path=path: not path.exists(), what="the file taken")  # type: ignore[misc]
    lines = live.settled(6)
    assert [line["status"] for line in lines] == ["rejected", "loaded"] * 3
    assert len({line["filed_as"] for line in lines}) == 6
    assert all(Path(line["filed_as"]).exists() for line in lines)
    assert vehicles(live) == ["1", "3", "5"]


# Files that wait.


def words_of(logged: list[str]) -> list[str]:
    return [line for line in logged if not line.startswith(("DEBUG", "INFO"))]


@pytest.mark.usefixtures("permissions_bind", "impatient")
def test_an_unreadable_file_waits_until_it_may_be_read(live: Site, logged: list[str]) -> None:
    hidden = live.drop(".secret", [good("secret")], flow=STATUS)
    hidden.chmod(0)
    path = hidden.rename(hidden.with_name("x.json"))
    eventually(lambda: said(logged, "no permission to read the file"))
    lives_on(live)
    path.chmod(0o640)
    assert [line["name"] for line in live.settled(2)][-1] == "x.json"
    assert sum("no permission" in line for line in words_of(logged)) == 1


@pytest.mark.usefixtures("permissions_bind")
def test_an_unreadable_folder_is_told_and_holds_up_nothing(live: Site, logged: list[str]) -> None:
    folder = live.input / STATUS / "closed"
    folder.mkdir(mode=0)
    eventually(lambda: said(logged, "cannot read"))
    lives_on(live)


def interfere(monkeypatch: pytest.MonkeyPatch, what: Callable[[], object]) -> None:
    """Do something to a file while it is read for the first time, in whatever process."""
    read, first = JsonFormat.read, multiprocessing.Semaphore()

    def interfered(*arguments: Any) -> Iterator[Batch]:
        if first.acquire(block=False):
            what()
        yield from read(*arguments)

    monkeypatch.setattr(JsonFormat, "read", interfered)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    ("size", "reason"),
    [(0, "it changed after it was read"), (3 << 20, "the file changed while it was read")],
    ids=["small", "streamed"],
)
def test_a_file_that_grows_while_it_is_read_waits_and_loads_whole(
    live: Site, logged: list[str], monkeypatch: pytest.MonkeyPatch, size: int, reason: str
) -> None:
    path = live.input / STATUS / "x.json"
    text = json.dumps([good("a", status="x" * 50)] * (1 + size // 100) + [good("b")])
    half = len(text) - 20

    def append() -> None:
        with path.open("a") as file:
            file.write(text[half:])

    interfere(monkeypatch, append)
    live.drop("x.json", text[:half], flow=STATUS)
    (line,) = live.settled(1)
    assert (line["status"], line["bytes"], line["inserted"]) == ("loaded", len(text), 2)
    assert said(logged, reason)
    assert not list(live.rejected.rglob("*.json"))


def test_a_file_that_grows_while_it_is_ingested_waits(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    path = site.input.parent / "x.json"
    path.write_text("[")
    interfere(monkeypatch, lambda: path.write_text(json.dumps([good("a")])) and None)
    assert "it changed after it was read" in site.call("ingest", "--flow", STATUS, str(path), expect=None).stdout
    assert site.ledger() == []
    site.call("ingest", "--flow", STATUS, str(path))
    assert [line["status"] for line in site.ledger()] == ["loaded"]


def test_a_file_withdrawn_while_it_is_read_is_forgotten(live: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    interfere(monkeypatch, (live.input / STATUS / "x.json").unlink)
    live.drop("x.json", [good("withdrawn")], flow=STATUS)
    eventually(lambda: live.waiting() == [], what="the file gone")
    lives_on(live)
    (line,) = live.settled(1)
    assert line["name"] != "x.json"
    assert len(vehicles(live)) == 1


def test_a_file_that_vanished_before_it_was_read_is_forgotten(live: Site) -> None:
    for number in range(20):
        live.drop(f"{number}.json", [good(str(number))], flow=STATUS).unlink(missing_ok=True)
    lives_on(live)
    eventually(lambda: live.waiting() == [], what="an empty input folder")
    assert all(line["status"] == "loaded" for line in live.ledger())


# Disks.


def no_room(patch: pytest.MonkeyPatch) -> None:
    """A move or a report of a larger file finds a full disk."""
    rename = durable.rename

    def full(*arguments: Any) -> Any:
        if any(isinstance(path, Path) and path.is_file() and path.stat().st_size < 16 << 10 for path in arguments):
            return rename(*arguments)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    patch.setattr(durable, "rename", full)
    patch.setattr(error_report, "_new", full)


@pytest.mark.usefixtures("impatient")
def test_a_full_archive_delays_the_archiving_and_loads_once(site: Site, logged: list[str]) -> None:
    with small_disk(site.archive, no_room) as make_room, running(site):
        path = site.drop("x.json", [good(str(number), status="x" * 50) for number in range(500)], flow=STATUS)
        eventually(lambda: said(words_of(logged), "No space left on device"))
        (line,) = site.ledger()
        assert (line["status"], line["inserted"], line["filed_at"]) == ("loaded", 500, None)
        assert path.exists()
        lives_on(site)
        make_room()
        lines = site.settled(2)
        assert [line["status"] for line in lines] == ["loaded", "loaded"]
        assert Path(lines[0]["filed_as"]).stat().st_size > 16 << 10
        assert site.waiting() == []
    assert not [path for path in site.archive.rglob(".*") if path.is_file()]


@pytest.mark.usefixtures("impatient")
def test_a_full_folder_for_reports_delays_the_rejection(site: Site, logged: list[str]) -> None:
    with small_disk(site.rejected, no_room) as make_room, running(site):
        site.drop("x.json", [good(str(number), status=7) for number in range(500)], flow=STATUS)
        eventually(lambda: said(words_of(logged), "No space left on device"))
        assert site.ledger() == []
        make_room()
        (line,) = site.settled(1)
        rejected(site, line)
        lives_on(site)
