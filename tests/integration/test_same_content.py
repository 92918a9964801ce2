"""The same content once more: a duplicate, a way back to an earlier state, or what a crash left."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import psycopg
import pytest

from models.errors import RetryLater
from services.files import move
from services.files.directory import Folder
from services.sources.arrival import arrive
from tests.support.sites import Site

T1 = "2022-05-05T22:02:34Z"


def customer(name: str) -> bytes:
    number = "3f2c1d5e-0000-4000-8000-000000000001"
    return f'[{{"id": "{number}", "name": "{name}", "email": "a@example.com", "created_at": "{T1}"}}]'.encode()


def report(status: str) -> bytes:
    return f'[{{"vehicle_id": "V1", "report_time": "{T1}", "status": "{status}"}}]'.encode()


def statuses(site: Site) -> list[str]:
    return [line["status"] for line in site.ledger()]


def name_of(site: Site) -> str:
    (row,) = site.rows("customers")
    return str(row["name"])


@contextmanager
def moving_fails() -> Iterator[None]:
    """As where the archive is full, or the daemon is killed before it moves what it has committed."""
    with mock.patch.object(move, "move", side_effect=RetryLater("no room")):
        yield


@pytest.mark.parametrize("at_once", [True, False], ids=["in one group", "one by one"])
def test_where_the_last_to_arrive_wins_an_earlier_state_comes_back(site: Site, *, at_once: bool) -> None:
    for number, name in enumerate(("Ann", "Bea", "Ann", "Ann")):
        site.drop(f"{number}.json", customer(name), flow="customers")
        if not at_once:
            site.load()
    if at_once:
        site.load()
    assert statuses(site) == ["loaded", "loaded", "loaded", "duplicate"]
    assert name_of(site) == "Ann"
    first, _, third, fourth = site.ledger()
    assert (first["superseded_by"], fourth["duplicate_of"]) == (third["id"], third["id"])


def test_where_time_decides_known_content_is_a_duplicate(site: Site) -> None:
    for number, status in enumerate(("driving", "parked", "driving")):
        site.drop(f"{number}.json", report(status), flow="vehicle_status")
    site.load()
    assert statuses(site) == ["loaded", "loaded", "duplicate"]


@pytest.mark.parametrize(
    ("flow", "contents", "table", "column"),
    [
        ("customers", [customer("Ann"), customer("Bea"), customer("Ann")], "customers", "name"),
        ("vehicle_status", [report("driving"), report("parked"), report("driving")], "vehicles_status", "status"),
    ],
)
@pytest.mark.parametrize("loaded_between", [True, False], ids=["loaded between", "not loaded yet"])
def test_source_that_goes_back_is_followed_also_before_anything_is_loaded(
    site: Site, flow: str, contents: list[bytes], table: str, column: str, *, loaded_between: bool
) -> None:
    with psycopg.connect(site.url, autocommit=True) as connection:
        for number, content in enumerate(contents):
            arrive(connection, Folder(site.input) / flow, f"{number}.json", content, number)
            if loaded_between:
                site.load()
    if not loaded_between:
        site.load()
    assert statuses(site) == ["loaded"] * 3
    (row,) = site.rows(table)
    assert row[column] == ("Ann" if flow == "customers" else "driving")
    assert site.query("select from tidegate.placed_file") == []


def test_what_a_crash_left_is_filed_and_not_loaded_again(site: Site) -> None:
    left = site.drop("z.json", customer("Ann"), flow="customers")
    with moving_fails():
        site.load()
    os.chmod(left, 0o600)  # noqa: PTH101  # as who mends the permissions that kept it there
    site.drop("b.json", customer("Bea"), flow="customers")
    site.load()
    assert statuses(site) == ["loaded", "loaded"]
    assert name_of(site) == "Bea"
    assert site.waiting() == []


def test_new_drop_of_the_same_name_and_content_is_none_that_a_crash_left(site: Site) -> None:
    site.drop("z.json", customer("Ann"), flow="customers")
    with moving_fails():
        site.load()
    site.drop("b.json", customer("Bea"), flow="customers")
    site.drop("z.json", customer("Ann"), flow="customers")
    site.load()
    assert statuses(site) == ["loaded", "loaded", "loaded"]
    assert name_of(site) == "Ann"
    assert site.waiting() == []


def test_rejected_file_that_was_not_filed_is_resumed(site: Site) -> None:
    site.drop("z.json", b"[{", flow="customers")
    with moving_fails():
        site.load()
    site.load()
    assert statuses(site) == ["rejected"]
    assert site.waiting() == []


@pytest.mark.parametrize("kind", ["content", "pipe"])
def test_new_drop_under_the_name_of_a_rejected_file_that_was_not_filed_is_judged_anew(site: Site, kind: str) -> None:
    def drop(place: Path) -> None:
        new = site.input / f".{kind}"
        os.mkfifo(new) if kind == "pipe" else new.write_bytes(b"[{")
        new.rename(place)

    place = site.drop("z.json", b"[]", flow="customers")
    drop(place)
    with moving_fails():
        site.load()
    drop(place)
    site.load()
    assert statuses(site) == ["rejected", "rejected"]
    assert site.waiting() == []
    assert site.ledger()[1]["filed_as"] is not None
