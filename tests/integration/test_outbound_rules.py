"""What a flow may say of its outbound files, and what holds them up: forms, lingering, deletions, faults."""

import errno
import itertools
import json
import os
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, tzinfo
from pathlib import Path
from typing import Any

import psycopg
import pytest

import flows as flow_folder
from file_processing.outbound.outbox import FILES_OF_BATCH, Outbox
from file_processing.outbound.write import OutputFolder
from models.outbound import Form, Row
from services.db import connection as connections, engine as databases
from services.files.directory import Folder
from services.files.durable import Temporary
from services.ledger.locks import try_writer
from tests.support.disks import read_only, small_disk
from tests.support.flow_files import flow_files
from tests.support.sites import Site, running
from tests.support.waiting import eventually

FLOWS = flow_folder.discover()

READINGS = '''
"""Readings: a line for each to the analysts, an alarm for the hot ones to the watch."""

from collections.abc import Mapping

from sqlalchemy import Text
from sqlalchemy.orm import Mapped, mapped_column
from typing_extensions import TypedDict

from models.flow import Flow
from models.outbound import Form, Outbound, Row, RowOrder
from models.tables import LoadedRow


class Reading(TypedDict):
    sensor: str
    value: int


class ReadingRow(LoadedRow):
    __tablename__ = "readings"

    sensor: Mapped[str] = mapped_column(Text, primary_key=True)
    value: Mapped[int]


class Alarm(TypedDict):
    sensor: str


def to_line(row: Row) -> Mapping[str, object]:
    return {"sensor": row["sensor"], "value": row["value"]}


def to_alarm(row: Row) -> Mapping[str, object] | None:
    return {"sensor": row["sensor"]} if row["value"] > 90 else None


FLOW = Flow(
    record=Reading,
    table=ReadingRow,
    outbound=(
        Outbound(
            document=Reading,
            to_document=to_line,
            form=Form.LINES,
            file_name="readings-{file_id}.jsonl",
            max_records=3,
            linger_ms=LINGER,
            order=RowOrder.KEY,
        ),
        Outbound(
            document=Alarm,
            to_document=to_alarm,
            form=Form.ONE,
            file_name="{sensor}.json",
            name="alarms",
            order=RowOrder.KEY,
        ),
    ),
)
'''
LONG, SHORT = 60_000, 300
REPORT = [{"vehicle_id": "a", "report_time": "2026-01-01T00:00:00Z", "status": "x"}]


def with_readings(site: Site, tmp_path: Path, linger_ms: int) -> Iterator[Site]:
    with flow_files(tmp_path / "flows", readings=READINGS.replace("LINGER", str(linger_ms))) as folder:
        one = Site(site.settings.model_copy(update={"flows_dir": folder}))
        with running(one):
            yield one


@pytest.fixture
def patient(site: Site, tmp_path: Path) -> Iterator[Site]:
    """A daemon that waits a minute for a batch of readings to fill up."""
    yield from with_readings(site, tmp_path, LONG)


@pytest.fixture
def hurried(site: Site, tmp_path: Path) -> Iterator[Site]:
    yield from with_readings(site, tmp_path, SHORT)


def readings(*sensors: str, value: int = 1) -> list[dict[str, object]]:
    return [{"sensor": sensor, "value": value} for sensor in sensors]


def unsynced(site: Site, table: str) -> list[dict[str, Any]]:
    return site.query(f"select * from {table} where not is_synced")


def order(number: int, **changes: object) -> dict[str, object]:
    then = "2024-05-02T08:00:00Z"
    return {"orderNo": number, "summary": "Pump", "creationDate": then, "lastUpdateDate": then} | changes


def test_lines_by_key_go_out_as_soon_as_the_batch_is_full(patient: Site) -> None:
    patient.drop("1.json", readings("c", "a"), flow="readings")
    patient.settled(1)
    patient.drop("2.json", readings("b"), flow="readings")
    (text,) = eventually(lambda: list(patient.out("readings").values()), what="a full batch")
    assert [json.loads(line)["sensor"] for line in text.splitlines()] == ["a", "b", "c"]


def test_a_batch_that_is_not_full_lingers_and_then_goes(hurried: Site) -> None:
    hurried.drop("1.json", readings("a", "b"), flow="readings")
    (text,) = eventually(lambda: list(hurried.out("readings").values()), what="the batch")
    assert len(text.splitlines()) == 2
    (times,) = hurried.query(
        "select created_at - min(changed_at) as waited from tidegate.outbound_file, readings group by created_at"
    )
    assert times["waited"].total_seconds() > SHORT / 1000 * 0.9


@pytest.mark.parametrize("hours", [-1, 1], ids=["behind", "ahead"])
def test_a_batch_lingers_by_the_database_s_clock(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    class Wrong(datetime):
        """The clock of a machine that is not set right."""

        @classmethod
        def now(cls, tz: tzinfo | None = None) -> "Wrong":
            return cls.fromtimestamp(time.time() + hours * 3600, tz)

    monkeypatch.setattr("file_processing.outbound.outbox.datetime", Wrong, raising=False)
    for one in with_readings(site, tmp_path, SHORT * 4):
        one.drop("1.json", readings("a"), flow="readings")
        eventually(lambda: one.out("readings"), what="the batch")  # noqa: B023
        (times,) = one.query("select created_at - changed_at as waited from tidegate.outbound_file, readings")
        assert times["waited"].total_seconds() > SHORT * 4 / 1000 * 0.9


def test_a_row_of_before_the_clock_was_set_back_does_not_linger(patient: Site) -> None:
    patient.execute("insert into readings (sensor, value, changed_at) values ('a', 1, now() + interval '1 hour')")
    eventually(lambda: patient.out("readings"), what="the row")


def test_emit_waits_for_nothing(site: Site, tmp_path: Path) -> None:
    with flow_files(tmp_path / "flows", readings=READINGS.replace("LINGER", str(LONG))) as folder:
        path = site.drop("1.json", readings("a"), flow="readings")
        site.call("ingest", "--flow", "readings", str(path), FLOWS_DIR=str(folder))
        (line,) = site.call("emit", "--json", "--flow", "readings", FLOWS_DIR=str(folder)).stdout.splitlines()
    told = json.loads(line)
    assert (told["flow"], told["records"]) == ("readings", 1)
    assert Path(told["path"]).read_text() == '{"sensor":"a","value":1}\n'


def test_a_flow_may_send_a_second_document_of_some_rows(hurried: Site) -> None:
    hurried.drop("1.json", [*readings("cold"), *readings("hot", value=99)], flow="readings")
    eventually(lambda: hurried.query("select 1 from readings") and not unsynced(hurried, "readings"), what="all out")
    files = hurried.out("readings")
    assert json.loads(files.pop("alarms/hot.json")) == {"sensor": "hot"}
    (lines,) = files.values()
    assert len(lines.splitlines()) == 2
    sent = hurried.query("select sensor, name from readings r join tidegate.outbound_file f on f.id = outbound_file_id")
    assert {row["sensor"]: row["name"].partition("-")[0] for row in sent} == {
        "cold": "readings",
        "hot": "alarms/hot.json",
    }


def test_a_deleted_work_order_goes_out_as_deleted(live: Site) -> None:
    live.drop("1.json", order(42), flow="work_orders")
    eventually(lambda: "42.json" in live.out("work_orders"), what="the order")
    deleted = {"isDeleted": True, "deletedDate": "2024-05-03T08:00:00Z", "lastUpdateDate": "2024-05-03T08:00:00Z"}
    live.drop("2.json", order(42, **deleted), flow="work_orders")
    sent = eventually(
        lambda: [each for text in live.out("work_orders").values() if (each := json.loads(text))["isDeleted"]],
        what="the deletion",
    )
    assert sent[0]["deletedDate"] == "2024-05-03T08:00:00+00:00"


def test_a_case_goes_out_as_created_updated_and_deleted(live: Site) -> None:
    def case(**changes: object) -> list[dict[str, object]]:
        return [{"id": 7, "name": "Roof", "active": True, "logical_timestamp": 1} | changes]

    def changes() -> list[str]:
        files = live.query("select name from tidegate.outbound_file where flow = 'cases' order by id")
        return [
            each["change"]
            for file in files
            for each in json.loads(live.out("cases").get(file["name"], '{"cases": []}'))["cases"]
        ]

    live.drop("1.json", case(), flow="cases")
    eventually(lambda: changes() == ["created"])
    eventually(lambda: not unsynced(live, "cases"))
    live.drop("2.json", case(name="New roof", logical_timestamp=2), flow="cases")
    eventually(lambda: changes() == ["created", "updated"])
    eventually(lambda: not unsynced(live, "cases"))
    gone = case(name="New roof", logical_timestamp=2, deleted_at="2026-01-31T08:00:00Z")
    live.drop("3.json", gone, flow="cases")
    eventually(lambda: changes() == ["created", "updated", "deleted"])


def test_a_customer_gets_one_package_whichever_daemon_lives(site: Site) -> None:
    customers = [
        {
            "id": f"6f9619ff-8b86-4011-b42d-{n:012}",
            "name": "Ada",
            "email": "a@b.c",
            "created_at": "2026-01-31T08:00:00Z",
        }
        for n in range(200)
    ]
    first, _second = site.start(), site.start()
    for part in range(10):
        site.drop(f"{part}.json", customers[part * 20 : part * 20 + 20], flow="customers")
    eventually(lambda: site.out("customers"), timeout=40, what="a first request")
    site.stop(first, signal.SIGKILL)
    site.start()
    changed = [customer | {"name": "Ada Lovelace"} for customer in customers]
    site.drop("changed.json", changed, flow="customers")
    site.settled(11)
    eventually(lambda: not unsynced(site, "customers"), timeout=40, what="everything marked")
    names = {f"package-request-{customer['id']}.json" for customer in customers}
    assert {name for name in site.out("customers") if not name.startswith(".")} == names
    ledger = site.query("select name, status from tidegate.outbound_file where flow = 'customers'")
    assert sorted(line["name"] for line in ledger) == sorted(names)
    assert {line["status"] for line in ledger} == {"written"}


def no_room(patch: pytest.MonkeyPatch) -> None:
    def full(temporary: Temporary) -> None:
        if temporary.entry.folder.path.name == "work_orders":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(temporary)

    sync = Temporary.sync
    patch.setattr(Temporary, "sync", full)


def test_a_full_outbound_disk_holds_up_nothing_else_and_is_told(site: Site) -> None:
    folder = site.settings.output_dir / "work_orders"
    folder.mkdir(parents=True)
    orders = [order(number, summary="x" * 4000) for number in range(20)]
    with small_disk(folder, no_room) as make_room, running(site):
        site.drop("orders.json", orders, flow="work_orders")
        site.settled(1)
        eventually(lambda: "No space left" in site.call("status").stdout, what="the fault in status")
        assert len(unsynced(site, "work_orders")) > 0
        site.drop("v.json", REPORT, flow="vehicle_status")
        eventually(lambda: site.out("vehicle_status"), what="another flow's file")
        make_room()
        eventually(lambda: not unsynced(site, "work_orders"), timeout=30, what="everything out")
        assert len([name for name in site.out("work_orders") if not name.startswith(".")]) == 20


def test_the_writer_goes_on_when_its_connections_are_cut(live: Site) -> None:
    live.drop("1.json", order(1), flow="work_orders")
    eventually(lambda: "1.json" in live.out("work_orders"), what="the first")
    with psycopg.connect(live.url, autocommit=True) as other:
        other.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity "
            "where datname = current_database() and pid <> pg_backend_pid()"
        )
    live.drop("2.json", order(2), flow="work_orders")
    eventually(lambda: "2.json" in live.out("work_orders"), timeout=30, what="the second")


def test_a_connection_lost_while_rows_are_marked_doubles_nothing(site: Site) -> None:
    site.call("ingest", "--flow", "vehicle_status", str(site.drop("v.json", REPORT, flow="vehicle_status")))
    with psycopg.connect(site.url) as other, psycopg.connect(site.url, autocommit=True) as killer:
        other.execute("select * from vehicles_status for update")
        with running(site):
            stuck = "from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
            eventually(lambda: site.query(f"select 1 {stuck}"), what="a writer that waits for the row")
            killer.execute(f"select pg_terminate_backend(pid) {stuck}")
            other.rollback()
            eventually(lambda: not unsynced(site, "vehicles_status"), timeout=30, what="the mark")
    (file,) = site.query("select name, status from tidegate.outbound_file")
    assert file["status"] == "written"
    assert list(site.out("vehicle_status")) == [file["name"]]


def test_rows_that_were_quarantined_go_out_after_the_flow_is_mended(live: Site) -> None:
    live.drop("1.json", order(1), flow="work_orders")
    eventually(lambda: not unsynced(live, "work_orders") and "1.json" in live.out("work_orders"))
    live.query("update work_orders set status = 'lost' returning 1")
    eventually(lambda: live.query("select 1 from work_orders where outbound_error is not null"), what="the quarantine")
    assert "1 row cannot go out" in live.call("status").stdout
    live.query("update work_orders set status = 'completed' returning 1")
    eventually(lambda: json.loads(live.out("work_orders")["1.json"])["isDone"], what="the mended one")
    assert live.query("select outbound_error from work_orders") == [{"outbound_error": None}]


def test_what_a_file_carried_is_sent_again_on_demand(live: Site) -> None:
    live.drop("1.json", order(1), flow="work_orders")
    eventually(lambda: not unsynced(live, "work_orders") and "1.json" in live.out("work_orders"))
    (live.settings.output_dir / "work_orders" / "1.json").unlink()
    (file,) = live.query("select id from tidegate.outbound_file")
    assert "1 row will go out again" in live.call("retry", "--outbound", str(file["id"])).stdout
    eventually(lambda: "1.json" in live.out("work_orders"), what="the file again")
    assert "no outbound file #999" in live.call("retry", "--outbound", "999", expect=2).stderr


def test_each_of_several_files_of_a_row_finds_it_when_it_is_sent_again(hurried: Site) -> None:
    hurried.drop("1.json", [*readings("cold"), *readings("hot", value=99)], flow="readings")

    def files() -> dict[str, int]:
        found = hurried.query("select name, max(id) as id from tidegate.outbound_file group by 1 order by 2")
        return {row["name"].partition("-")[0]: row["id"] for row in found}

    eventually(lambda: hurried.query("select 1 from readings") and not unsynced(hurried, "readings"), what="all out")
    first = files()
    assert first.keys() == {"readings", "alarms/hot.json"}
    said = hurried.call("retry", "--outbound", str(first["readings"])).stdout
    assert "2 rows will go out again" in said
    eventually(lambda: files()["alarms/hot.json"] > first["alarms/hot.json"], what="both files of the hot one")
    eventually(lambda: not unsynced(hurried, "readings"), what="all out again")
    hurried.execute("update readings set value = 98 where sensor = 'hot'")
    eventually(lambda: not unsynced(hurried, "readings"), what="the change")
    said = hurried.call("retry", "--outbound", str(first["readings"])).stdout
    assert "0 rows will go out again: they have gone out in newer files since" in said


def test_what_goes_out_once_is_never_sent_again(live: Site) -> None:
    customer = {"id": "6f9619ff-8b86-4011-b42d-00c04fc964ff", "name": "Ada", "email": "a@example.com"}
    live.drop("1.json", customer | {"created_at": "2026-01-31T08:00:00Z"}, flow="customers")
    eventually(lambda: live.query("select 1 from customers where is_synced"), what="the mark")
    (file,) = live.query("select id from tidegate.outbound_file")
    assert "goes out once" in live.call("retry", "--outbound", str(file["id"]), expect=2).stderr


@pytest.mark.parametrize("odd", [0, 1, 2])
def test_a_row_that_python_cannot_read_is_quarantined_alone(live: Site, odd: int) -> None:
    live.drop("1.json", [order(number) for number in range(3)], flow="work_orders")
    eventually(lambda: live.query("select 1 from work_orders") and not unsynced(live, "work_orders"))
    live.execute(
        f"update work_orders set title = 'New', updated_at = case number when {odd} then 'infinity' else now() end"
    )
    left = "select number from work_orders where not is_synced"
    eventually(lambda: live.query(left) == [{"number": odd}], what="the others")
    (row,) = live.query("select number, outbound_error from work_orders where outbound_error is not null")
    assert row["number"] == odd
    assert "cannot be read" in row["outbound_error"]


def test_a_fault_of_one_flow_is_told_and_holds_up_no_other(live: Site) -> None:
    live.execute("drop table order_lines cascade")
    live.execute(
        "insert into orders (partner, order_number, status, ordered_at, revised_at, currency, buyer) "
        "values ('p', '1', 'open', now(), now(), 'EUR', '{}')"
    )
    live.drop("v.json", REPORT, flow="vehicle_status")
    eventually(lambda: live.out("vehicle_status"), what="another flow's file")
    eventually(lambda: "order_lines" in live.call("status").stdout, what="the fault in status")


def test_a_row_locked_by_hand_does_not_keep_the_daemon_from_leaving(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "LOCK_WAIT_SECONDS", 0.5)
    site.call("ingest", "--flow", "vehicle_status", str(site.drop("v.json", REPORT, flow="vehicle_status")))
    with psycopg.connect(site.url) as other:
        other.execute("select * from vehicles_status for update")
        with running(site):  # which ends only when the daemon has left
            stuck = "select 1 from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
            eventually(lambda: site.query(stuck), timeout=20, what="a writer that waits for the row")
        other.rollback()
    site.call("emit")
    assert unsynced(site, "vehicles_status") == []


def test_a_busy_flow_leaves_others_their_turn(live: Site) -> None:
    busy = threading.Event()

    def insert() -> None:
        with psycopg.connect(live.url, autocommit=True) as other:
            for number in itertools.count():
                if busy.is_set():
                    return
                other.execute(
                    "insert into vehicles_status (vehicle_id, report_time, status) values (%s, now(), 'x')",
                    [str(number)],
                )

    thread = threading.Thread(target=insert)
    thread.start()
    try:
        eventually(lambda: len(live.out("vehicle_status")) > 3, what="a busy flow")
        live.drop("1.json", order(1), flow="work_orders")
        eventually(lambda: "1.json" in live.out("work_orders"), timeout=15, what="the other flow's file")
    finally:
        busy.set()
        thread.join()


def test_many_files_are_sealed_batch_by_batch_and_each_row_goes_out_once(site: Site) -> None:
    """Enough files for three transactions: the next batch is sealed while one is written and the last one marked."""
    rows = 2 * FILES_OF_BATCH + 1
    columns = "number, status, title, created_at, updated_at"
    values = f"number, 'pending', 'Bearing', now(), now() from generate_series(1, {rows}) number"
    site.execute(f"insert into work_orders ({columns}) select {values}")
    site.call("emit")
    assert site.out("work_orders").keys() == {f"{number}.json" for number in range(1, rows + 1)}
    assert not unsynced(site, "work_orders")
    batches = Counter(row["created_at"] for row in site.query("select created_at from tidegate.outbound_file"))
    assert sorted(batches.values()) == [1, FILES_OF_BATCH, FILES_OF_BATCH]


def test_an_old_state_never_stays_over_a_newer_one(site: Site) -> None:
    """A writer whose connection was lost in the middle writes late, over what another wrote meanwhile."""
    site.call("ingest", "--flow", "work_orders", str(site.drop("1.json", order(1), flow="work_orders")))
    folder = site.settings.output_dir / "work_orders"
    with databases.open_database(site.settings) as database, database.connect() as one:
        outbox = Outbox(FLOWS["work_orders"], "slow")
        (sealed, *_) = outbox.seal(one, lingers=False)
        one.close()
        site.call("emit")
        site.execute("update work_orders set status = 'completed'")
        site.call("emit")
        assert json.loads((folder / "1.json").read_text())["isDone"]
        (late,) = sealed.files
        with OutputFolder(Folder(folder)) as output:
            list(output.write([late], fsync=False))
        with database.connect() as again:
            outbox.rows.mark_written(again, [late.id], "here")
    site.call("emit")
    assert json.loads((folder / "1.json").read_text())["isDone"]


def test_a_case_that_changes_while_it_is_created_is_created_once(site: Site) -> None:
    case = [{"id": 7, "name": "Roof", "active": True, "logical_timestamp": 1}]
    site.call("ingest", "--flow", "cases", str(site.drop("1.json", case, flow="cases")))
    with databases.open_database(site.settings) as database, database.connect() as one:
        outbox = Outbox(FLOWS["cases"], "slow")
        (sealed, *_) = outbox.seal(one, lingers=False)
        site.execute("update cases set name = 'New roof'")
        outbox.rows.mark_written(one, [file.id for file in sealed.files], "here")
    assert len(unsynced(site, "cases")) == 1
    site.call("emit")
    (text,) = site.out("cases").values()
    assert [each["change"] for each in json.loads(text)["cases"]] == ["updated"]


def test_a_row_mended_while_it_is_quarantined_goes_out(site: Site) -> None:
    site.call("ingest", "--flow", "work_orders", str(site.drop("1.json", order(1), flow="work_orders")))
    site.execute("update work_orders set status = 'lost'")

    def mended(row: Row) -> Mapping[str, object]:
        site.execute("update work_orders set status = 'completed'")
        return FLOWS["work_orders"].outbound[0].to_document(row) or {}

    one = FLOWS["work_orders"].outbound[0]
    flow = replace(FLOWS["work_orders"], outbound=(replace(one, to_document=mended),))
    with databases.open_database(site.settings) as database, database.connect() as connection:
        with suppress(psycopg.errors.SerializationFailure):
            list(Outbox(flow, "slow").seal(connection, lingers=False))
    site.call("emit")
    assert json.loads(site.out("work_orders")["1.json"])["isDone"]


def test_an_outbound_folder_that_is_removed_or_read_only_comes_back(live: Site) -> None:
    live.drop("1.json", order(1), flow="work_orders")
    eventually(lambda: not unsynced(live, "work_orders") and "1.json" in live.out("work_orders"))
    shutil.rmtree(live.settings.output_dir)
    live.drop("2.json", order(2), flow="work_orders")
    eventually(lambda: "2.json" in live.out("work_orders"), what="the folder made anew")
    with read_only(live.settings.output_dir / "work_orders"):
        live.drop("3.json", order(3), flow="work_orders")
        eventually(lambda: "Read-only file system" in live.call("status").stdout, what="the fault in status")
        assert len(unsynced(live, "work_orders")) == 1
    eventually(lambda: "3.json" in live.out("work_orders"), timeout=20, what="the file")


def a_line(**changes: object) -> dict[str, object]:
    return {"line_number": 1, "sku": "A", "quantity": 2, "unit_price": "4.10"} | changes


def an_order(number: str, *lines: dict[str, object], **changes: object) -> dict[str, object]:
    head = {"partner": "p", "order_number": number, "ordered_at": "2026-01-31T09:00:00Z", "currency": "EUR"}
    return head | {"buyer": {"id": "b"}, "lines": list(lines)} | changes


def test_lines_changed_by_hand_send_what_changed_and_yield_to_the_partner(live: Site) -> None:
    def times() -> dict[str, int]:
        counts = live.query("select name, count(*) from tidegate.outbound_file where flow = 'orders' group by 1")
        return {row["name"].removeprefix("p/").removesuffix(".json"): row["count"] for row in counts}

    def all_out() -> bool:
        return not unsynced(live, "orders")

    live.drop("1.json", [an_order("1", a_line(), a_line(line_number=2)), an_order("2", a_line())], flow="orders")
    eventually(lambda: times() == {"1": 1, "2": 1} and all_out(), what="both orders")
    live.execute("update order_lines set quantity = quantity")
    assert all_out()
    live.execute("update order_lines set order_number = '2' where order_number = '1' and line_number = 2")
    eventually(lambda: times() == {"1": 2, "2": 2} and all_out(), what="both orders again")
    again = [an_order("1", a_line(line_number=2), a_line()), an_order("2", a_line())]
    live.drop("2.json", again, flow="orders")
    assert live.settled(2)[1]["unchanged"] == 2  # the partner says nothing new
    newer = [order | {"revised_at": "2026-01-31T10:00:00Z"} for order in again]
    live.drop("3.json", newer, flow="orders")
    assert live.settled(3)[2]["updated"] == 2
    eventually(lambda: times() == {"1": 3, "2": 3} and all_out(), what="what the partner says")
    live.drop("4.json", [newer[0] | {"lines": [a_line(), a_line(line_number=2)]}], flow="orders")
    assert live.settled(4)[3]["unchanged"] == 1


def test_the_total_of_an_order_with_a_price_left_open_is_the_partners(site: Site) -> None:
    orders = [an_order("1", a_line(), a_line(line_number=2, unit_price=None), total=100), an_order("2", a_line())]
    site.call("ingest", "--flow", "orders", str(site.drop("1.json", orders, flow="orders")))
    site.call("emit")
    assert [json.loads(text)["total"] for _, text in sorted(site.out("orders").items())] == ["100", "8.20"]


def test_emit_says_when_another_process_is_at_it(site: Site) -> None:
    with psycopg.connect(site.url, autocommit=True) as other, try_writer(other, "work_orders"):
        done = site.call("emit", "--flow", "work_orders")
        assert "another process is writing files of work_orders" in done.stderr
        assert "nothing has to go out" not in done.stdout


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"file_name": "x.json"}, "must hold the key"),
        ({"file_name": "{partner}-{order_number}.json"}, "needs a /"),
        ({"file_name": "{partner}/{order_number}/{odd}.json"}, "odd, no column"),
        ({"form": Form.ARRAY, "file_name": "{file_id}.json", "once": True}, "once needs Form.ONE"),
        ({"form": Form.ARRAY, "file_name": "{partner}/{file_id}.json"}, "partner, no column"),
    ],
)
def test_a_declaration_that_would_lose_files_is_refused(changes: dict[str, Any], says: str) -> None:
    orders = FLOWS["orders"]
    with pytest.raises(ValueError, match=says):
        replace(orders, outbound=(replace(orders.outbound[-1], **changes),))
