"""Rows that somebody changes by hand: they go out, and what their source sends again does not undo it."""

from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from services.db import engine as databases, schema
from tests.support.flow_files import flow_files
from tests.support.sites import Site
from tests.support.waiting import eventually

T1, T2 = "2022-05-05T22:02:34Z", "2022-05-05T23:02:34Z"

ORDER: dict[str, Any] = {
    "partner": "partner1",
    "order_number": "PO-1",
    "ordered_at": T1,
    "currency": "EUR",
    "buyer": {"id": "B-12"},
    "lines": [{"line_number": 1, "sku": "BRG-6204", "quantity": 10, "unit": "PCE", "unit_price": 9.99}],
}

METERS = """
from datetime import datetime

from sqlalchemy.orm import Mapped, mapped_column

from models.flow import Flow
from models.tables import LoadedRow


class MeterRow(LoadedRow):
    __tablename__ = "meters"

    meter: Mapped[str] = mapped_column(primary_key=True)
    read_at: Mapped[datetime]
    value: Mapped[int]
    {}


def to_rows(record: dict[str, object]) -> list[dict[str, object]]:
    return [record | {{"read_at": datetime.fromisoformat(str(record["read_at"]))}}]


FLOW = Flow(record=dict, table=MeterRow, newest_by="read_at", to_rows=to_rows)
"""
CUSTOMER = {"id": "0b8a4f6e-3c1d-11ee-be56-0242ac120002", "name": "C", "email": "c@example.com", "created_at": T1}


def report(status: str, time: str = T1, vehicle: str = "V1") -> dict[str, str]:
    return {"vehicle_id": vehicle, "report_time": time, "status": status}


def load(site: Site, name: str, *reports: dict[str, str]) -> dict[str, Any]:
    site.drop(name, list(reports), flow="vehicle_status")
    (result,) = site.load()
    assert result.entry is not None
    return {word: getattr(result.entry, word) for word in ("inserted", "updated", "unchanged", "stale")}


def status_of(site: Site) -> str:
    return str(site.rows("vehicles_status")[0]["status"])


def by_hand(site: Site, statement: str) -> None:
    site.execute(statement)
    assert site.rows("vehicles_status")[0]["status"] == "parked"


def test_record_that_is_sent_again_does_not_undo_a_change_by_hand(site: Site) -> None:
    load(site, "first.json", report("driving"))
    by_hand(site, "update vehicles_status set status = 'parked'")
    # In another file, among other records: its source sends it again as it was.
    counts = load(site, "again.json", report("driving"), report("driving", vehicle="V2"))
    assert counts == {"inserted": 1, "updated": 0, "unchanged": 1, "stale": 0}
    assert status_of(site) == "parked"


def test_it_stays_so_after_a_second_change_by_hand(site: Site) -> None:
    load(site, "first.json", report("driving"))
    site.execute("update vehicles_status set status = 'idle'")
    by_hand(site, "update vehicles_status set status = 'parked'")
    load(site, "again.json", report("driving"), report("driving", vehicle="V2"))
    assert status_of(site) == "parked"


def test_what_its_source_says_anew_at_the_same_time_is_written(site: Site) -> None:
    load(site, "first.json", report("driving"))
    by_hand(site, "update vehicles_status set status = 'parked'")
    assert load(site, "other.json", report("stopped"))["updated"] == 1
    assert status_of(site) == "stopped"
    # From then on the row is as its source said.
    assert site.rows("vehicles_status")[0]["source_said"] is None


def test_a_newer_record_is_written_also_where_it_says_the_same(site: Site) -> None:
    load(site, "first.json", report("driving"))
    by_hand(site, "update vehicles_status set status = 'parked'")
    assert load(site, "newer.json", report("driving", T2))["updated"] == 1
    assert status_of(site) == "driving"


@pytest.mark.parametrize("changed", ["quantity", "currency"], ids=["of a line", "of the order"])
def test_line_that_is_sent_again_with_its_order_does_not_undo_a_change_by_hand(site: Site, changed: str) -> None:
    def load(name: str, *orders: dict[str, Any]) -> None:
        site.drop(name, {"orders": list(orders)}, flow="orders")
        assert [result.status for result in site.load()] == ["loaded"]

    def found() -> tuple[str, int]:
        return site.rows("orders")[0]["currency"], int(site.rows("order_lines")[0]["quantity"])

    load("first.json", ORDER)
    site.execute(
        "update order_lines set quantity = 12" if changed == "quantity" else "update orders set currency = 'DKK'"
    )
    by_hand = found()
    assert by_hand in {("EUR", 12), ("DKK", 10)}
    load("again.json", ORDER, ORDER | {"order_number": "PO-2"})
    assert found() == by_hand
    load("other.json", ORDER | {"lines": [ORDER["lines"][0] | {"quantity": 13}]})
    assert found() == ("EUR", 13)


WHOSE = {
    "of another flow": ("customers", "true"),
    "in another row": ("vehicles_status", "new.vehicle_id = 'V2' and v.vehicle_id = 'V1'"),
    "in the very row": ("vehicles_status", "new.vehicle_id = v.vehicle_id and v.vehicle_id = 'V1'"),
}


@pytest.mark.parametrize(("table", "which"), WHOSE.values(), ids=WHOSE)
def test_what_a_trigger_of_another_application_changes_while_a_file_is_loaded_is_by_hand(
    site: Site, table: str, which: str
) -> None:
    load(site, "first.json", report("driving"))
    site.execute("update vehicles_status set is_synced = true")
    site.execute(
        "create function parks() returns trigger language plpgsql as $$ begin "
        f"update vehicles_status v set status = 'parked' where v.status <> 'parked' and {which}; return null; end $$; "
        f"create trigger parks after insert or update on {table} for each row execute function parks()"
    )
    if table == "customers":
        site.drop("c.json", CUSTOMER, flow="customers")
        assert [result.status for result in site.load()] == ["loaded"]
    else:
        load(site, "second.json", report("moving"), report("driving", vehicle="V2"))
    (row,) = site.query("select * from vehicles_status where vehicle_id = 'V1'")
    assert (row["status"], row["is_synced"], row["source_said"] is None) == ("parked", False, False)
    said = row["source_said"]["status"]
    assert load(site, "again.json", report(said), report("idle", vehicle="V3"))["updated"] == 0
    assert status_of(site) == "parked"


def test_what_a_trigger_changes_in_the_lines_of_another_order_is_by_hand(site: Site) -> None:
    def load(name: str, *orders: dict[str, Any]) -> None:
        site.drop(name, {"orders": list(orders)}, flow="orders")
        assert [result.status for result in site.load()] == ["loaded"]

    load("first.json", ORDER)
    site.execute("update orders set is_synced = true")
    site.execute(
        "create function doubles() returns trigger language plpgsql as $$ begin "
        "update order_lines set quantity = 20 where order_number = 'PO-1' and new.order_number = 'PO-2'; "
        "return null; end $$; "
        "create trigger doubles after insert on order_lines for each row execute function doubles()"
    )
    load("second.json", ORDER | {"order_number": "PO-2"})
    first, second = site.query("select * from orders order by order_number")
    assert (first["is_synced"], first["source_said"] is None) == (False, False)
    assert second["source_said"] is None


@pytest.mark.parametrize(
    ("added", "anew"),
    [({"unit": None, "rank": 7}, False), ({"unit": "kWh", "rank": 7}, True)],
    ids=["nothing of them", "something"],
)
def test_new_columns_do_not_undo_what_was_changed_by_hand_before(
    site: Site, tmp_path: Path, added: dict[str, Any], anew: bool
) -> None:
    def flow(name: str, columns: str) -> AbstractContextManager[Path]:
        return flow_files(tmp_path / name, meters=METERS.format(columns))

    def load(folder: Path, *records: dict[str, Any]) -> None:
        made = replace(site, settings=site.settings.model_copy(update={"flows_dir": folder}))
        with databases.open_database(made.settings) as database:
            schema.prepare(database.engine, made.flows())
        made.drop("meters.json", list(records), flow="meters")
        assert [result.status for result in made.load()] == ["loaded"]

    first = {"meter": "M1", "read_at": T1, "value": 1}
    with flow("before", "old: Mapped[str | None]") as folder:
        load(folder, first | {"old": "x"})
        site.execute("update meters set value = 2")
    site.execute("drop trigger tidegate_changed on meters")
    site.execute("alter table meters drop column old, add column unit text, add column rank int not null default 7")
    columns = "unit: Mapped[str | None]\n    rank: Mapped[int] = mapped_column(server_default='7')"
    with flow("after", columns) as folder:
        load(folder, first | {"meter": "M3"} | added)
        site.execute("update meters set rank = 9 where meter = 'M1'")
        load(folder, first | added, first | {"meter": "M4"} | added)
    (row,) = site.query("select * from meters where meter = 'M1'")
    assert (row["value"], row["rank"]) == ((1, 7) if anew else (2, 9))


@pytest.mark.parametrize("session", ["set timezone = 'Asia/Tokyo'", "set datestyle = 'German'"])
def test_how_the_changing_session_writes_values_does_not_matter(site: Site, session: str) -> None:
    load(site, "first.json", report("driving"))
    by_hand(site, f"{session}; update vehicles_status set status = 'parked'")
    assert load(site, "again.json", report("driving"), report("driving", vehicle="V2"))["updated"] == 0
    assert status_of(site) == "parked"


@pytest.mark.parametrize(
    "how",
    [
        "update vehicles_status set status = 'parked', changed_at = now()",
        "set session_replication_role = replica; update vehicles_status set status = 'parked'",
        "set search_path = pg_catalog; update public.vehicles_status set status = 'parked'",
    ],
    ids=["with changed_at", "as a replica", "on another path"],
)
def test_change_by_hand_goes_out_however_it_is_made(live: Site, how: str) -> None:
    live.drop("first.json", [report("driving")], flow="vehicle_status")
    live.settled(1)
    eventually(lambda: live.rows("vehicles_status")[0]["is_synced"], what="the first state out")
    (before,) = live.rows("vehicles_status")
    live.execute(how)
    eventually(lambda: live.rows("vehicles_status")[0]["outbound_file_id"] != before["outbound_file_id"], what="it out")
    (row,) = live.rows("vehicles_status")
    assert (row["status"], row["changed_at"] > before["changed_at"]) == ("parked", True)


def test_triggers_that_a_restore_left_quiet_are_put_right_at_the_start(site: Site) -> None:
    load(site, "first.json", report("driving"))
    # As pg_restore --disable-triggers leaves them.
    site.execute("alter table vehicles_status disable trigger all; alter table vehicles_status enable trigger all")
    site.call("db", "upgrade")
    triggers = site.query("select tgenabled as how from pg_trigger where tgname like 'tidegate%'")
    assert {row["how"] for row in triggers} == {"A"}
