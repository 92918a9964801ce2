"""Whoever writes into the input folder: senders in their own time, and senders who mean harm."""

import json
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest import mock

import psycopg
import pytest

from file_processing.inbound import intake
from file_processing.inbound.load import Loader
from file_processing.inbound.routing import DroppedFile, RoutedFile, Router
from services.files import lease
from services.files.lease import WriterState
from tests.support.sites import Site, running
from tests.support.waiting import eventually

T1, T2 = "2022-05-05T22:02:34Z", "2022-05-05T23:02:34Z"


def reports(*vehicles: str, time: str = T1) -> bytes:
    return json.dumps([{"vehicle_id": v, "report_time": time, "status": "driving"} for v in vehicles]).encode()


def times(site: Site) -> dict[str, str]:
    return {row["vehicle_id"]: f"{row['report_time']:%H}" for row in site.rows("vehicles_status")}


def kept(site: Site) -> set[bytes]:
    return {path.read_bytes() for path in site.archive.rglob("*.json")}


@pytest.fixture
def folder(site: Site) -> Path:
    path = site.input / "vehicle_status"
    path.mkdir(parents=True)
    return path


# Senders in their own time


def test_senders_who_write_again_what_they_sent_lose_nothing(site: Site, folder: Path) -> None:
    """400 of them send a file, open it once more soon after, and write 3 ms later."""
    pause = threading.Event()  # never set: the sender's own pace

    def send(number: int) -> None:
        path = folder / f"{number}.json"
        path.write_bytes(reports(f"{number}"))
        pause.wait(number % 40 / 1000)
        with path.open("wb", buffering=0) as file:
            pause.wait(0.003)
            file.write(reports(f"{number}", time=T2))

    with running(site), ThreadPoolExecutor(32) as senders:
        list(senders.map(send, range(400)))
        eventually(lambda: site.waiting() == [], timeout=30, what="an empty input folder")
        eventually(lambda: set(times(site).values()) == {"23"}, timeout=30, what="what was sent last")
        lines = site.settled(400)
    assert {line["status"] for line in lines} == {"loaded"}
    assert len(times(site)) == 400
    assert kept(site) >= {reports(f"{number}", time=T2) for number in range(400)}


@pytest.fixture(params=[True, False], ids=["leases", "no leases"])
def leases(request: pytest.FixtureRequest) -> Iterator[bool]:
    """Whether the kernel tells who writes."""
    with pytest.MonkeyPatch.context() as patch:
        if not request.param:
            patch.setattr(lease, "take", lambda _descriptor: WriterState.UNKNOWN)
        yield request.param


@pytest.mark.usefixtures("leases", "impatient")
def test_a_file_that_is_rewritten_behind_a_locked_table_ends_as_it_was_sent_last(site: Site, folder: Path) -> None:
    loading = threading.Event()
    load = Loader.load

    def told(*arguments: object, **options: object) -> object:
        loading.set()
        return load(*arguments, **options)  # type: ignore[arg-type]

    with mock.patch.object(Loader, "load", told), psycopg.connect(site.url) as other, running(site):
        other.execute("lock table vehicles_status in access exclusive mode")
        (folder / "a.json").write_bytes(reports("a", "b"))
        assert loading.wait(10)
        (folder / "a.json").write_bytes(reports("a", "c", time=T2))
        other.commit()
        eventually(lambda: times(site).get("c") == "23", what="what was sent last")
        eventually(lambda: site.waiting() == [], what="an empty input folder")
    assert times(site)["a"] == "23"
    assert reports("a", "c", time=T2) in kept(site)


@pytest.mark.usefixtures("impatient")
def test_a_file_that_is_rewritten_behind_a_long_one_ends_as_it_was_sent_last(
    site: Site, folder: Path, leases: bool
) -> None:
    queued, reading, go_on, tried = (threading.Event() for _ in range(4))
    route, take_in = Router.route, intake._take_in

    def told(router: Router, dropped: DroppedFile) -> object:
        if dropped.relative.endswith("/1.json"):
            queued.set()
        return route(router, dropped)

    def held_up(routed: RoutedFile, *arguments: object, **options: object) -> object:
        if "long" in routed.dropped.path.name:
            reading.set()
            assert go_on.wait(10)
        try:
            return take_in(routed, *arguments, **options)  # type: ignore[arg-type]
        finally:
            if routed.dropped.relative.endswith("/1.json"):
                tried.set()

    with mock.patch.object(Router, "route", told), mock.patch.object(intake, "_take_in", held_up), running(site):
        (folder / "0 long.json").write_bytes(reports(*map(str, range(20_000))))
        assert reading.wait(10)
        (folder / "1.json").write_bytes(reports("a"))
        assert queued.wait(10)
        with (folder / "1.json").open("wb", buffering=0) as file:
            file.write(reports("b")[:10])
            go_on.set()
            assert tried.wait(10)
            # Where nothing tells of the sender, it must not pause for longer than a file has to rest.
            eventually(lambda: not leases or "1.json" in site.call("status").stdout, what="why it waits")
            file.write(reports("b")[10:])
        eventually(lambda: "b" in {row["vehicle_id"] for row in site.rows("vehicles_status")}, what="what was sent")
        eventually(lambda: site.waiting() == [], what="an empty input folder")
        site.settled(2)
    assert {line["status"] for line in site.ledger()} == {"loaded"}
    assert reports("b") in kept(site)


# Senders who mean harm


@pytest.fixture
def outside(site: Site) -> Path:
    """A folder that only the daemon may enter."""
    folder = site.input.parent / "outside"
    folder.mkdir(mode=0o700)
    (folder / "a.json").write_text("secret")
    (folder / "a.json").chmod(0o600)
    return folder


def at_intake(happens: Callable[[], object]) -> "mock._patch[object]":
    """When a file was seen, and is about to be opened; once."""
    original, left = intake._take_in, [happens]

    def take_in(*arguments: object, **options: object) -> object:
        if left:
            left.pop()()
        return original(*arguments, **options)  # type: ignore[arg-type]

    return mock.patch.object(intake, "_take_in", take_in)


def before_loading(happens: Callable[[], object]) -> "mock._patch[object]":
    """When a file is read, and is about to be loaded; once."""
    original, left = Loader.load, [happens]

    def load(*arguments: object, **options: object) -> object:
        if left:
            left.pop()()
        return original(*arguments, **options)  # type: ignore[arg-type]

    return mock.patch.object(Loader, "load", load)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("content", [reports("a"), b"rejected"], ids=["good", "bad"])
@pytest.mark.parametrize("when", [at_intake, before_loading])
def test_a_folder_that_becomes_a_link_leads_nowhere(
    site: Site,
    folder: Path,
    outside: Path,
    logged: list[str],
    when: Callable[[Callable[[], object]], "mock._patch[object]"],
    content: bytes,
) -> None:
    below = folder / "d"
    below.mkdir()
    (below / "a.json").write_bytes(content)

    def swap() -> None:
        below.rename(folder / ".away")
        below.symlink_to(outside)

    with when(swap), running(site):
        eventually(below.is_symlink, what="the link")
        site.drop("b.json", json.loads(reports("b")), flow="vehicle_status")
        eventually(lambda: "b" in times(site), what="another file")
    assert (outside / "a.json").read_text() == "secret"
    assert [path.name for path in outside.iterdir()] == ["a.json"]
    assert not any(b"secret" in path.read_bytes() for path in (*site.archive.rglob("*.*"), *site.rejected.rglob("*.*")))
    if when is at_intake:
        assert any("a folder on its way is a link" in line for line in logged)


def test_no_kept_link_leads_to_the_archive(site: Site, folder: Path) -> None:
    mine = folder / ".mine"
    mine.write_bytes(reports("a"))
    os.link(mine, folder / "a.json")
    with running(site):
        site.settled(1)
    assert not (folder / "a.json").exists()
    mine.write_bytes(b"changed afterwards")
    assert kept(site) == {reports("a")}


def test_a_second_link_is_a_duplicate_and_goes_too(site: Site, folder: Path) -> None:
    (folder / ".mine").write_bytes(reports("a"))
    for number in range(20):
        os.link(folder / ".mine", folder / f"{number}.json")
    (folder / ".mine").unlink()
    with running(site):
        lines = site.settled(20)
        eventually(lambda: site.waiting() == [], what="an empty input folder")
    assert sorted(line["status"] for line in lines) == ["duplicate"] * 19 + ["loaded"]
