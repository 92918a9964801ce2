"""Tidegate's own columns of a flow's table: added at the start where the table was made without them."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import Engine, text

import flows
from models.errors import StopDaemon
from models.tables import OWN_COLUMNS
from services.db import misfits, schema
from tests.support.flow_files import flow_files
from tests.support.sites import Site, running
from tests.support.waiting import eventually

FLOWS = flows.discover()
T1 = "2022-05-05T22:02:34Z"
OLD = "insert into vehicles_status (vehicle_id, report_time, status) values ('old', '2022-05-05', 'driving')"

FROST = """
from sqlalchemy.orm import Mapped, mapped_column
from typing_extensions import TypedDict

from models.flow import Flow
from models.tables import LoadedRow


class Reading(TypedDict):
    sensor: str
    celsius: float


class ReadingRow(LoadedRow):
    __tablename__ = "frost"

    sensor: Mapped[str] = mapped_column(primary_key=True)
    celsius: Mapped[float]


FLOW = Flow(record=Reading, table=ReadingRow)
"""


def in_catalog(engine: Engine, table: str) -> dict[str, tuple[str, bool, bool]]:
    """Type, whether it may be null and whether it has a default, by column; the order tells nothing."""
    with engine.connect() as connection:
        found = misfits.columns(connection, [table])[table]
    return {column.name: (column.type, column.nullable, column.filled) for column in found}


@pytest.mark.parametrize(
    ("table", "column"),
    [
        *(("vehicles_status", column) for column in sorted(OWN_COLUMNS - {"children_digest"})),
        ("orders", "children_digest"),
    ],
)
def test_a_missing_own_column_is_added_and_nothing_else_changes(table: str, column: str, engine: Engine) -> None:
    declared = in_catalog(engine, table)
    with engine.begin() as connection:
        connection.execute(text(OLD))
        connection.execute(text(f"alter table {table} drop column {column} cascade"))
    schema.prepare(engine, FLOWS)
    assert in_catalog(engine, table) == declared
    with engine.connect() as connection:
        rows = connection.execute(text("select vehicle_id, status, is_synced from vehicles_status")).all()
    assert rows == [("old", "driving", False)]


def test_a_table_without_any_of_them_works_after_the_start(site: Site) -> None:
    """Rows that were there go out, new ones are loaded, and a change by hand is noticed."""
    site.execute(OLD)
    site.execute(
        "alter table vehicles_status "
        + ", ".join(f"drop column {column} cascade" for column in sorted(OWN_COLUMNS - {"children_digest"}))
    )
    with running(site):
        eventually(lambda: '"old"' in "".join(site.out("vehicle_status").values()), what="the row that was there")
        site.drop("v.json", [{"vehicle_id": "new", "report_time": T1, "status": "driving"}], flow="vehicle_status")
        (line,) = site.settled(1)
        site.execute("update vehicles_status set status = 'by hand' where vehicle_id = 'old'")
        eventually(lambda: "by hand" in "".join(site.out("vehicle_status").values()), what="the change by hand")
    rows = {row["vehicle_id"]: row["source_file_id"] for row in site.rows("vehicles_status")}
    assert rows == {"old": None, "new": line["id"]}


def test_a_business_column_is_never_added(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("alter table vehicles_status drop column status cascade"))
    with pytest.raises(StopDaemon, match=r"column status .* is missing in the database"):
        schema.prepare(engine, FLOWS)


@pytest.fixture
def frosty(site: Site, tmp_path: Path) -> Iterator[Site]:
    """A site with a flow of its own, whose table is there without a column of ours."""
    with flow_files(tmp_path / "flows", frost=FROST) as folder:
        site.execute("create table frost (sensor text primary key, celsius double precision not null)")
        site.execute("insert into frost values ('s1', -3.5)")
        yield replace(site, settings=site.settings.model_copy(update={"flows_dir": folder}))


def test_a_table_of_a_flow_from_elsewhere_gets_them_too(frosty: Site) -> None:
    with running(frosty):
        frosty.drop("f.json", [{"sensor": "s2", "celsius": 1}], flow="frost")
        (line,) = frosty.settled(1)
    rows = [(row["sensor"], row["celsius"], row["source_file_id"]) for row in frosty.rows("frost")]
    assert rows == [("s1", -3.5, None), ("s2", 1.0, line["id"])]
