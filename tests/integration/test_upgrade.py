"""A database of every schema that was released: it comes to today's with all that is in it, and goes on.

`tests/data/released/NUMBER.sql.gz` is a plain dump (`pg_dump --no-owner --no-privileges`) that a Tidegate of this
schema left behind, stopped amid its work: no partner answered any more, and output/detection_events took no file.
"""

import gzip
import hashlib
import json
import subprocess
import uuid
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import Connection
from pydantic import SecretStr
from sqlalchemy import Engine

import flows
from flows import Flows
from partners.intempus import Intempus
from partners.partner1 import Partner1
from services.db import embedded, engine as databases, migrate, schema
from services.db.migrate import OWN
from services.ledger import documents, receipts
from services.ledger.deliveries import Deliveries
from settings import Settings
from tests.conftest import site_settings
from tests.support.processes import ROOT
from tests.support.sites import Site, running
from tests.support.waiting import eventually

FLOWS = flows.discover()
RELEASED = sorted((Path(__file__).parents[1] / "data" / "released").glob("*.sql.gz"))
T1 = "2025-12-01T08:00:00Z"
VEHICLES = ROOT / "sample_files" / "vehicle_status"

CATALOG = """
select 'column', format('%%s.%%s', attrelid::regclass, attname),
       concat_ws(' ', format_type(atttypid, atttypmod), attnotnull, pg_get_expr(adbin, adrelid), attstorage)
  from pg_attribute a join pg_class c on c.oid = attrelid left join pg_attrdef on adrelid = attrelid and adnum = attnum
 where attnum > 0 and not attisdropped and relkind = 'r' and relnamespace = any (%(ours)s::regnamespace[])
union all
select 'index', indexrelid::regclass::text, concat_ws(' ', pg_get_indexdef(indexrelid), indisvalid)
  from pg_index join pg_class c on c.oid = indexrelid where relnamespace = any (%(ours)s::regnamespace[])
union all
select 'constraint', format('%%s.%%s', conrelid::regclass, conname), pg_get_constraintdef(oid)
  from pg_constraint where connamespace = any (%(ours)s::regnamespace[])
union all
select 'trigger', format('%%s.%%s', tgrelid::regclass, tgname),
       concat_ws(' ', tgenabled, pg_get_triggerdef(oid), obj_description(oid))
  from pg_trigger where not tgisinternal
union all
select 'function', proname, prosrc from pg_proc where pronamespace = any (%(ours)s::regnamespace[])
order by 1, 2
"""
RELATIONS = """
select oid::regclass::text, relfilenode, xmin::text from pg_class
where relnamespace = any (%(ours)s::regnamespace[]) order by 1
"""
TRIGGERS = "select oid, xmin::text from pg_trigger order by 1"

# What the dump of schema 0001 holds.
COUNTS = {
    "cases": 4,
    "customers": 4,
    "objects_detection": 12,
    "order_lines": 20,
    "orders": 14,
    "tidegate.cursor": 5,
    "tidegate.inbound_file": 39,
    "tidegate.interchange": 4,
    "tidegate.outbound_file": 49,
    "tidegate.placed_file": 0,
    "tidegate.receipt": 2,
    "tidegate.rejected_record": 8,
    "vehicles_status": 12,
    "work_orders": 8,
}
DOCUMENTS = {
    "contrl/5790000000012/7.edi": "contrl",
    "contrl/4012345000009/27.edi": "contrl",
    "997/PARTNER2/10.x12": "997",
    "997/ACMEBUYER/26.x12": "997",
    "ordrsp/5790000000012/PO-1-8.edi": "ordrsp",
    "ordrsp/4012345000009/PO-2001-32.edi": "ordrsp",
    "ordrsp/4012345000009/PO-2002-33.edi": "ordrsp",
    "855/PARTNER2/PO-2-11.x12": "855",
    "855/ACMEBUYER/PO-3001-34.x12": "855",
}
"""All others are unnamed, those of partners called 855 and contrl too."""

CURSORS = {
    ("cases", "intempus"): {"reached": 9113344550},
    ("cases", "cases/intempus full sync"): {"synced_at": "2025-11-21T17:22:59.016948+00:00"},
    ("customers", "crm"): {
        "pages": ["f17173d6e4a8997ffdc193b8ff1bf74c38fb4007d06d28767fc4f87b631ccfa3"],
        "since": None,
    },
    ("orders", "partner1"): {
        "pages": ["4f53cda18c2baa0c0354bb5f9a3ecbe5ed12ab4d8e11ba873c2f11161202b945"],
        "since": "2025-11-21T17:23:26.558915Z",
    },
    ("orders", "partner2"): {"fetched": {}},
}
LINES = ("tidegate.alembic_version", "tidegate.site_revision")
of_0001 = pytest.mark.parametrize("released", [path for path in RELEASED if path.name == "0001.sql.gz"], indirect=True)


@pytest.fixture(params=RELEASED, ids=lambda path: path.name.removesuffix(".sql.gz"))
def released(request: pytest.FixtureRequest, empty_database_url: str) -> str:
    """The address of a database as a release left it."""
    dump = gzip.decompress(request.param.read_bytes())
    psql: list[str | Path] = [embedded.binary("psql"), "-q", "-X", "-v", "ON_ERROR_STOP=1", "-1", empty_database_url]
    subprocess.run(psql, input=dump, stdout=subprocess.DEVNULL, check=True, timeout=60)
    return empty_database_url


@pytest.fixture
def old(released: str) -> Iterator[Engine]:
    with databases.open_database(Settings(_env_file=None, database_url=SecretStr(released))) as database:
        yield database.engine


@pytest.fixture
def site(released: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    """The site of that database, with other folders; nothing is there that was in the old ones."""
    settings = site_settings(tmp_path, released, monkeypatch)
    return Site(settings.model_copy(update={"settle_seconds": 0.2, "rescan_seconds": 1.0}))


def select(engine: Engine, query: str) -> list[tuple[Any, ...]]:
    with engine.connect() as connection:
        rows = connection.exec_driver_sql(query, {"ours": ["public", "tidegate"]})
        return [tuple(row) for row in rows]


def contents(engine: Engine) -> dict[str, list[dict[str, Any]]]:
    """Every row of every table."""
    names = [name for name, *_ in select(engine, RELATIONS.replace("where", "where relkind = 'r' and"))]
    return {name: [row for (row,) in select(engine, f"select to_jsonb(t) from {name} t")] for name in names}


def tell_documents(engine: Engine, flows: Flows = FLOWS) -> None:
    with engine.begin() as pooled:
        connection = pooled.connection.driver_connection
        assert isinstance(connection, psycopg.Connection)
        for flow in flows.values():
            documents.tell(connection, flow)


def in_text(rows: list[dict[str, Any]], columns: set[str]) -> Counter[str]:
    return Counter(json.dumps({name: row[name] for name in sorted(columns)}) for row in rows)


def test_not_a_value_is_lost(old: Engine) -> None:
    before = contents(old)
    schema.prepare(old, FLOWS)
    after = contents(old)
    for table in before.keys() - {"tidegate.alembic_version", "tidegate.cursor"}:
        columns = {name for row in before[table] for name in row} - {"reload"}  # what is loaded again is a file now
        if table == "tidegate.receipt":  # its numbers are text since 0003
            before[table] = [{**row, "id": str(row["id"])} for row in before[table]]
        assert in_text(after[table], columns) == in_text(before[table], columns), table
    assert len(after["tidegate.cursor"]) == len(before["tidegate.cursor"])


def test_it_is_as_a_new_database_is(old: Engine, engine: Engine) -> None:
    """engine: on a database that was made today."""
    schema.prepare(old, FLOWS)
    assert select(old, CATALOG) == select(engine, CATALOG)
    (version,) = select(old, "select version_num from tidegate.alembic_version")
    assert version == (migrate.own()[-1].id,)


def test_a_second_start_changes_nothing(old: Engine, logged: list[str]) -> None:
    schema.prepare(old, FLOWS)
    rows = [f"select ctid::text, xmin::text from {table}" for table in contents(old)]
    before = [select(old, query) for query in (RELATIONS, TRIGGERS, *rows)]
    logged.clear()
    schema.prepare(old, FLOWS)
    assert [select(old, query) for query in (RELATIONS, TRIGGERS, *rows)] == before
    assert logged == []


@of_0001
def test_rows_are_as_many_as_they_were(old: Engine) -> None:
    schema.prepare(old, FLOWS)
    found = {table: len(rows) for table, rows in contents(old).items() if table not in LINES}
    (kinds,) = select(old, "select count(distinct (coalesce(flow, ''), status)) from tidegate.inbound_file")
    assert found == COUNTS | {
        "tidegate.destination": 0,
        "tidegate.daemon": 0,
        "tidegate.file_count": kinds[0],
    }


def test_a_line_that_is_written_meanwhile_is_counted(old: Engine, released: str) -> None:
    """A daemon of the release has not committed yet, while the database is upgraded."""
    line = "insert into tidegate.inbound_file (name, bytes, status, seen_at, node) values ('a', 0, '{}', now(), 'old')"
    with ThreadPoolExecutor(1) as pool:
        with psycopg.connect(released) as running, psycopg.connect(released, autocommit=True) as looking:
            running.execute(line.format("rejected").encode())
            upgrade = pool.submit(schema.prepare, old, FLOWS)
            waits = "select from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
            eventually(lambda: looking.execute(waits.encode()).rowcount, what="an upgrade that waits")
        upgrade.result(20)
    counted = "select coalesce(flow, ''), status, count(*) from tidegate.inbound_file group by 1, 2 order by 1, 2"
    assert select(old, "select flow, status, files from tidegate.file_count order by 1, 2") == select(old, counted)


@of_0001
def test_receipts_are_found_by_the_numbers_they_had(old: Engine) -> None:
    schema.prepare(old, FLOWS)
    with old.connect() as pooled:
        connection = pooled.connection.driver_connection
        assert isinstance(connection, Connection)
        found = [receipts.look(connection, number) for number in ("1", "2")]
        assert [one and one["flow"] for one in found] == ["vehicle_status", "vehicle_status"]
        new = receipts.issue(connection, flow="f", name="n", sha256=b"", bytes=0, key=None, place=lambda: None)
    assert uuid.UUID(new.id).version == 4


@of_0001
def test_each_outbound_file_has_its_document(old: Engine) -> None:
    schema.prepare(old, FLOWS)
    tell_documents(old)
    found = dict(select(old, "select name, document from tidegate.outbound_file"))
    assert {name: document for name, document in found.items() if document} == DOCUMENTS
    assert {"855/PO-77.json", "contrl/PO-78.json", "10.json", "cases-1.json"} <= found.keys()
    states = set(select(old, "select status, document <> '' from tidegate.outbound_file"))
    assert {state for state, _ in states} == {"writing", "written", "delivered", "failed", "superseded"}
    assert {("written", True), ("written", False), ("delivered", True), ("delivered", False)} <= states


# As the first release seals a file.
SEAL = """
insert into tidegate.outbound_file (id, flow, name, sha256, bytes, records, status, node)
values (nextval('tidegate.outbound_file_id_seq'), 'orders', '{}', '', 0, 1, 'written', 'old')
"""


@of_0001
def test_a_daemon_of_the_release_that_runs_on_has_its_files_delivered_to_whom_they_are_for(released: str) -> None:
    """It seals without a document: until the name has told it, the file is due nowhere."""
    with databases.open_database(Settings(_env_file=None, database_url=SecretStr(released))) as database:
        schema.prepare(database.engine, FLOWS)
        tell_documents(database.engine)
        erp, partner = (
            Deliveries("orders", destination.documents, in_order=False, doubts=5, longest_seconds=60)
            for destination in FLOWS["orders"].destinations
        )
        with database.connect() as connection:
            connection.execute("update tidegate.outbound_file set status = 'delivered' where status = 'written'")
            for name in ("855/PARTNER2/PO-9-91.x12", "997/PARTNER2/92.x12", "ORD-9.json"):
                connection.execute(SEAL.format(name).encode())
            assert [*erp.due(connection, 9), *partner.due(connection, 9)] == []
            documents.tell(connection, FLOWS["orders"])
            assert [file.name for file in erp.due(connection, 9)] == ["ORD-9.json"]
            assert [file.name for file in partner.due(connection, 9)] == [
                "855/PARTNER2/PO-9-91.x12",
                "997/PARTNER2/92.x12",
            ]


@of_0001
def test_a_program_without_a_flow_leaves_its_documents_to_one_that_has_it(old: Engine) -> None:
    others = {name: flow for name, flow in FLOWS.items() if name != "orders"}
    schema.prepare(old, others)
    tell_documents(old, others)
    unknown = "select distinct flow from tidegate.outbound_file where document is null"
    assert select(old, unknown) == [("orders",)]
    tell_documents(old)
    assert select(old, unknown) == []
    assert {name for (name,) in select(old, "select name from tidegate.outbound_file where document <> ''")} == {
        *DOCUMENTS
    }


@of_0001
def test_cursors_have_their_new_names(old: Engine) -> None:
    schema.prepare(old, FLOWS)
    found = select(old, "select flow, source, state from tidegate.cursor")
    assert {(flow, source): state for flow, source, state in found} == CURSORS


@of_0001
def test_the_release_before_can_come_back(old: Engine) -> None:
    before = contents(old)
    schema.prepare(old, FLOWS)
    with old.begin() as connection:
        for revision in reversed(migrate.own()[1:]):
            revision.run(connection, "downgrade")
    after = contents(old)
    for table in before.keys() - {"tidegate.alembic_version"}:
        # A column that may be null is in nobody's way.
        found = in_text(after[table], {*after[table][0]} - {"source_said", "confirmed_file_id"})
        assert found == in_text(before[table], {*before[table][0]}), table


def test_the_daemon_goes_on_with_it(site: Site) -> None:
    known = {line["id"] for line in site.ledger()}
    with running(site):
        site.drop("new.json", [{"vehicle_id": "van-1", "report_time": T1, "status": "driving"}], flow="vehicle_status")
        site.drop("old.json", (VEHICLES / "vehicle_status_2022-05-05.json").read_bytes(), flow="vehicle_status")
        lines = [line for line in site.settled(len(known) + 2) if line["id"] not in known]
        assert sorted((line["name"], line["status"]) for line in lines) == [
            ("new.json", "loaded"),
            ("old.json", "duplicate"),
        ]
        assert min(line["id"] for line in lines) == max(known) + 1
        (duplicate,) = {line["duplicate_of"] for line in lines} - {None}
        assert duplicate in known
        site.execute("update work_orders set title = 'changed by hand' where number = 10")
        eventually(lambda: "changed by hand" in site.out("work_orders").get("10.json", ""), what="the change by hand")
        eventually(lambda: "van-1" in "".join(site.out("vehicle_status").values()), what="the new row")


@of_0001
def test_what_it_had_in_hand_is_finished(site: Site) -> None:
    """A file that was sealed and not written is written as it was; a quarantined row stays, and a dead letter."""
    (sealed,) = site.query("select name, sha256, records from tidegate.outbound_file where status = 'writing'")
    with running(site):
        eventually(lambda: not site.query("select 1 from tidegate.outbound_file where status = 'writing'"), what="it")
    content = site.out("detection_events")[sealed["name"]]
    assert hashlib.sha256(content.encode()).digest() == sealed["sha256"]
    assert site.query("select 1 from objects_detection where not is_synced") == []
    shown = site.call("status").stdout
    assert "quarantined   1 row cannot go out" in shown
    assert "dead letters  1 file that a partner turned down" in shown
    assert "record 0 of #" in site.call("trace", "vehicle_status", "van-95").stdout
    assert "1 row will go out again" in site.call("retry", "--dead-letter").stdout


@of_0001
def test_sources_go_on_where_they_were(site: Site, partner1: Partner1, intempus: Intempus) -> None:
    site.connect(
        PARTNER1_API_URL=partner1.url,
        PARTNER1_API_TOKEN=partner1.token,
        INTEMPUS_API_URI=intempus.uri,
        INTEMPUS_API_USER=intempus.user,
        INTEMPUS_API_KEY=intempus.key,
        POLLING_INTERVAL_SECONDS="0.1",
    )
    with running(site):
        eventually(lambda: partner1.received, timeout=30, what="the first request")
        # A full sync may begin before the look for changes.
        since = "logical_timestamp__gt=9113344550"
        eventually(lambda: any(since in request.query for request in intempus.received), timeout=30, what=since)
    assert "updated_since=2025-11-21T17%3A23%3A26.558915Z" in partner1.received[0].query


def test_a_database_that_was_upgraded_between_two_releases_goes_on(old: Engine) -> None:
    """There, the second revision was Tidegate's own before a site's had a line of theirs, and made other columns."""
    with old.begin() as connection:
        for statement in (
            "alter table tidegate.outbound_file add column document text not null default ''",
            "drop index tidegate.outbound_file_due",
            "update tidegate.alembic_version set version_num = '0002'",
        ):
            connection.exec_driver_sql(statement)
    schema.prepare(old, FLOWS)
    with old.connect() as connection:
        assert (
            connection.exec_driver_sql("select version_num from tidegate.alembic_version").scalar_one() == OWN[-1][:4]
        )
        assert connection.exec_driver_sql("select count(*) from tidegate.site_revision").scalar_one() == 0
