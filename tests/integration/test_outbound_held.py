"""A single outbound file that cannot be written is held, and told; all others go on, and no state comes late."""

import hashlib
import json
import os
from pathlib import Path

import pytest

from file_processing.outbound import worker
from services.transport.backoff import Backoff
from tests.support.sites import Site, running
from tests.support.waiting import eventually


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "OUTBOUND", Backoff(first_seconds=0.2, longest_seconds=0.4))
    monkeypatch.setattr(worker, "POLL_SECONDS", 0.1)


def order(number: int, day: int = 1, **changes: object) -> dict[str, object]:
    moment = f"2024-05-{day:02}T08:00:00Z"
    return {"orderNo": number, "summary": "Pump", "creationDate": moment, "lastUpdateDate": moment} | changes


def load(site: Site, *orders: dict[str, object]) -> None:
    site.call("ingest", "--flow", "work_orders", str(site.drop("o.json", list(orders), flow="work_orders")))


def out(site: Site, name: str) -> Path:
    return site.settings.output_dir / "work_orders" / name


def in_the_way(path: Path) -> None:
    """A folder of that name, which no file replaces."""
    (path / "inside").mkdir(parents=True)


def unsynced(site: Site) -> list[int]:
    return [row["number"] for row in site.query("select number from work_orders where not is_synced order by 1")]


def files(site: Site, name: str) -> list[tuple[str, bytes | None]]:
    found = site.query("select status, content from tidegate.outbound_file where name = %s order by id", name)
    return [(file["status"], file["content"]) for file in found]


def test_one_name_that_cannot_be_written_holds_up_no_other_and_is_told(site: Site) -> None:
    in_the_way(out(site, "1.json"))
    load(site, order(1), order(2))
    with running(site):
        eventually(lambda: "2.json" in site.out("work_orders"), what="the other file")
        site.drop("late.json", order(3), flow="work_orders")
        eventually(lambda: "3.json" in site.out("work_orders"), what="one that comes later")
        eventually(lambda: unsynced(site) == [1], what="the marks of the others")
        shown = " ".join(site.call("status").stdout.split())
        assert "outbound waits: 1 file cannot be written: 1.json cannot be written" in shown
        assert "directory" in shown
        (out(site, "1.json") / "inside").rmdir()
        out(site, "1.json").rmdir()
        eventually(lambda: not unsynced(site), what="the file that was held")
    assert json.loads(site.out("work_orders")["1.json"])["orderNo"] == 1
    assert len(site.query("select 1 from tidegate.outbound_file")) == 3


def test_emit_writes_all_others_and_says_which_it_cannot(site: Site) -> None:
    in_the_way(out(site, "1.json"))
    load(site, order(1), order(2))
    done = site.call("emit", "--flow", "work_orders", expect=2)
    assert "1 file of work_orders cannot be written: 1.json" in done.stderr
    assert "2.json" in site.out("work_orders")


def test_a_held_row_that_changes_goes_out_as_it_is_then_and_only_so(site: Site) -> None:
    in_the_way(out(site, "1.json"))
    load(site, order(1))
    site.call("emit", expect=2)
    site.execute("update work_orders set title = 'New' where number = 1")
    with running(site):
        eventually(lambda: len(files(site, "1.json")) == 2, what="the newer state, which waits as well")
        (out(site, "1.json") / "inside").rmdir()
        out(site, "1.json").rmdir()
        eventually(lambda: not unsynced(site), what="the newer state")
    assert json.loads(out(site, "1.json").read_text())["summary"] == "New"
    assert files(site, "1.json") == [("superseded", None), ("written", None)]


def test_what_is_none_of_ours_is_never_written_over(site: Site) -> None:
    load(site, order(1), order(2))
    site.call("emit")
    stranger = '{"from": "the future"}'
    out(site, "1.json").write_text(stranger)
    load(site, order(1, 2), order(2, 2))
    done = site.call("emit", expect=2)
    assert "1.json in" in done.stderr
    assert "none of ours" in done.stderr
    assert out(site, "1.json").read_text() == stranger
    assert json.loads(out(site, "2.json").read_text())["lastUpdateDate"].startswith("2024-05-02")
    out(site, "1.json").rename(out(site, "taken.json"))
    with running(site):
        eventually(lambda: not unsynced(site), what="the held file")
    assert json.loads(out(site, "1.json").read_text())["lastUpdateDate"].startswith("2024-05-02")


@pytest.mark.parametrize("kind", ["pipe", "link", "link to nowhere"])
def test_neither_is_what_is_no_file_at_all(site: Site, tmp_path: Path, kind: str) -> None:
    load(site, order(1))
    there, elsewhere = out(site, "1.json"), tmp_path / "elsewhere"
    there.parent.mkdir(parents=True, exist_ok=True)
    if kind == "pipe":
        os.mkfifo(there)
    else:
        there.symlink_to(elsewhere)
    if kind == "link":
        elsewhere.write_text("theirs")
    before = there.lstat()
    assert "none of ours" in site.call("emit", expect=2).stderr
    assert there.lstat() == before


def test_a_held_file_rests_no_longer_where_the_clock_is_set_back(site: Site) -> None:
    in_the_way(out(site, "1.json"))
    load(site, order(1))
    site.call("emit", expect=2)
    (out(site, "1.json") / "inside").rmdir()
    out(site, "1.json").rmdir()
    # To be tried again soon, as the clock was then.
    site.execute("update tidegate.outbound_file set next_attempt_at = next_attempt_at + interval '1 day'")
    site.call("emit")
    assert "1.json" in site.out("work_orders")


def test_a_state_of_the_past_that_is_ours_is_replaced(site: Site) -> None:
    load(site, order(1))
    site.call("emit")
    first = out(site, "1.json").read_bytes()
    load(site, order(1, 2))
    site.call("emit")
    out(site, "1.json").write_bytes(first)
    load(site, order(1, 3))
    site.call("emit")
    assert json.loads(out(site, "1.json").read_text())["lastUpdateDate"].startswith("2024-05-03")
    known = site.query("select 1 from tidegate.outbound_file where sha256 = %s", hashlib.sha256(first).digest())
    assert len(known) == 1
