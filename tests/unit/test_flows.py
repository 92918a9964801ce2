"""What the flows that come with Tidegate make of their partners' records."""

import importlib
import itertools
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st
from pydantic import TypeAdapter, ValidationError

import flows
from models.errors import RejectRecord, StopDaemon
from models.tables import Base
from tests.support.flow_files import flow_files

FLOWS = flows.discover()
ADAPTERS = {name: TypeAdapter[Any](flow.record) for name, flow in FLOWS.items()}
T1 = "2022-05-05T22:02:34.546Z"

REPORT = {"vehicle_id": "a", "report_time": T1, "status": "driving"}
EVENT = {"vehicle_id": "a", "detection_time": T1}
ORDER = {"orderNo": 42, "summary": "Pump", "creationDate": T1, "lastUpdateDate": T1}

STATUS_FLAGS = {"isCanceled": "cancelled", "isDone": "completed", "isOnHold": "on_hold", "isPending": "pending"}


def rows(flow: str, record: object) -> list[dict[str, Any]]:
    """The rows of a record; raises ValidationError when it is rejected."""
    read = ADAPTERS[flow].validate_python(record)
    to_rows = FLOWS[flow].to_rows
    return [dict(row) for row in (to_rows(read) if to_rows else [read])]


def row(flow: str, record: object) -> dict[str, Any]:
    (only,) = rows(flow, record)
    return only


def rejection(flow: str, record: object) -> str:
    with pytest.raises((ValidationError, RejectRecord)) as caught:
        rows(flow, record)
    return str(caught.value)


# vehicle_status


@pytest.mark.parametrize("status", ["driving", "accident", "in garage", "Лёд", "x" * 50])
def test_a_vehicle_status_is_free_text(status: str) -> None:
    assert row("vehicle_status", REPORT | {"status": status})["status"] == status


def test_a_vehicle_id_is_any_text() -> None:
    assert row("vehicle_status", REPORT | {"vehicle_id": "van-17"})["vehicle_id"] == "van-17"


@pytest.mark.parametrize("change", [{"status": "x" * 51}, {"status": ""}, {"vehicle_id": 24}, {"status": "a\0b"}])
def test_a_vehicle_report_is_rejected(change: dict[str, object]) -> None:
    rejection("vehicle_status", REPORT | change)


@given(st.datetimes(datetime(1, 1, 3), datetime(9999, 12, 29)), st.integers(-14 * 60, 14 * 60))  # noqa: DTZ001
def test_a_time_is_the_same_moment_whatever_its_offset(moment: datetime, minutes: int) -> None:
    told = moment.replace(tzinfo=timezone(timedelta(minutes=minutes)))
    read = row("vehicle_status", REPORT | {"report_time": told.isoformat()})["report_time"]
    assert read == told


def test_a_vehicle_report_without_time_zone_is_rejected() -> None:
    assert "timezone" in rejection("vehicle_status", REPORT | {"report_time": "2022-05-05T22:02:34"})


# detection_events

DETECTIONS = st.lists(
    st.tuples(st.sampled_from(["cars", "pedestrians", "Ampeln"]), st.integers(0, 2**31 - 1), st.booleans()), max_size=5
)


@given(DETECTIONS)
def test_an_event_becomes_a_row_per_detection(detections: list[tuple[str, int, bool]]) -> None:
    sent = [{"object_type": kind, "object_value": float(n) if fraction else n} for kind, n, fraction in detections]
    made = rows("detection_events", EVENT | {"detections": sent})
    assert [(each["object_type"], each["object_value"]) for each in made] == [(kind, n) for kind, n, _ in detections]
    assert {each["vehicle_id"] for each in made} <= {"a"}


def test_a_flat_event_is_one_detection() -> None:
    flat = rows("detection_events", EVENT | {"object_type": "cars", "object_value": 4})
    assert flat == rows("detection_events", EVENT | {"detections": [{"object_type": "cars", "object_value": 4}]})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({}, "needs detections"),
        ({"object_type": "cars"}, "needs detections"),
        ({"object_value": 1}, "needs detections"),
        ({"detections": [], "object_type": "cars"}, "not both"),
        ({"detections": [{"object_type": "cars", "object_value": 1}], "object_value": 1}, "not both"),
        ({"object_type": "cars", "object_value": -1}, "greater than or equal to 0"),
        ({"object_type": "cars", "object_value": 1.9}, "whole number"),
        ({"object_type": "cars", "object_value": "3"}, "whole number"),
        ({"object_type": "cars", "object_value": True}, "whole number"),
        ({"object_type": "cars", "object_value": 2**31}, "less than or equal"),
        ({"object_type": "x" * 51, "object_value": 1}, "at most 50 characters"),
    ],
)
def test_a_detection_event_is_rejected(change: dict[str, object], says: str) -> None:
    assert says in rejection("detection_events", EVENT | change)


# work_orders


@pytest.mark.parametrize("flags", [*itertools.product((None, False, True), repeat=len(STATUS_FLAGS))])
def test_the_flags_of_an_order_are_its_status(flags: tuple[bool | None, ...]) -> None:
    """Every combination of what a client may set or leave out; `isActive` says nothing beside another."""
    sent = {name: flag for name, flag in zip(STATUS_FLAGS, flags, strict=True) if flag is not None}
    true = [name for name, flag in sent.items() if flag]
    for active in ({}, {"isActive": False}, {"isActive": True}):
        order = ORDER | sent | active
        if len(true) > 1:
            assert f"{' and '.join(true)} are both true" in rejection("work_orders", order).replace(", ", " and ")
        else:
            assert row("work_orders", order)["status"] == (STATUS_FLAGS[true[0]] if true else "in_progress")


FLAG_NAMES = ("isActive", "isCanceled", "isDeleted", "isDone", "isOnHold", "isPending", "isSynced")


@given(
    st.fixed_dictionaries({}, optional=dict.fromkeys(FLAG_NAMES, st.booleans())),
    st.integers(0, 2**31 - 1),
    st.text(min_size=1).filter(lambda text: "\0" not in text),
    st.one_of(st.none(), st.datetimes(datetime(1970, 1, 1), datetime(2100, 1, 1))),  # noqa: DTZ001
)
def test_any_order_becomes_its_row_or_is_rejected_for_its_flags(
    flags: dict[str, bool], number: int, summary: str, deleted: datetime | None
) -> None:
    moment = deleted and deleted.replace(tzinfo=UTC)
    order: dict[str, object] = ORDER | flags | {"orderNo": number, "summary": summary}
    order["deletedDate"] = moment and moment.isoformat()
    if sum(flags.get(name, False) for name in STATUS_FLAGS) > 1:
        assert "contradict" in rejection("work_orders", order)
        return
    made = row("work_orders", order)
    assert (made["number"], made["title"]) == (number, summary)
    assert made["deleted"] == flags.get("isDeleted", False)
    assert made["deleted_at"] == (moment if made["deleted"] else None)
    assert set(made) == set(FLOWS["work_orders"].columns)


def test_deletion_does_not_touch_the_status() -> None:
    made = row("work_orders", ORDER | {"isDeleted": True, "isDone": True, "deletedDate": T1})
    assert (made["status"], made["deleted"], made["deleted_at"].isoformat()) == (
        "completed",
        True,
        "2022-05-05T22:02:34.546000+00:00",
    )


def test_an_order_number_may_be_text() -> None:
    assert row("work_orders", ORDER | {"orderNo": "42"}) == row("work_orders", ORDER)


@pytest.mark.parametrize("number", ["", "4 2", "4.0", 4.5, -1, True, None, "x", 2**31, "9" * 25])
def test_an_order_number_is_rejected(number: object) -> None:
    rejection("work_orders", ORDER | {"orderNo": number})


@pytest.mark.parametrize(
    "told", ["2024-05-02T08:00:00Z", "2024-05-02T10:00:00+02:00", "2024-05-02T08:00:00", "2024-05-02 08:00:00.000"]
)
def test_an_orders_naive_time_is_utc(told: str) -> None:
    made = row("work_orders", ORDER | {"lastUpdateDate": told})
    assert made["updated_at"] == datetime(2024, 5, 2, 8, tzinfo=UTC)


@pytest.mark.parametrize("told", ["yesterday", "", "31.02.2022", "2022-02-31T00:00:00Z", 0, 1494012444, None])
def test_an_unparseable_date_is_rejected_and_never_becomes_now(told: object) -> None:
    for field in ("creationDate", "lastUpdateDate"):
        rejection("work_orders", ORDER | {field: told})


@pytest.mark.parametrize("value", ["true", "yes", 1, 0, None, "false"])
@pytest.mark.parametrize("flag", FLAG_NAMES)
def test_a_flag_is_true_or_false_and_nothing_like_it(flag: str, value: object) -> None:
    rejection("work_orders", ORDER | {flag: value})


def test_no_file_writes_tracos_own_description() -> None:
    assert "description" not in FLOWS["work_orders"].columns
    assert "description" not in row("work_orders", ORDER | {"description": "theirs"})


# declaring


def test_the_name_of_the_file_is_the_name_of_the_flow() -> None:
    assert {name: flow.name for name, flow in FLOWS.items()} == {name: name for name in FLOWS}
    assert [*FLOWS] == sorted(FLOWS)


CRATE = """
from pydantic import BaseModel
from sqlalchemy import Text
from sqlalchemy.orm import Mapped, mapped_column
from models.tables import LoadedRow

class Crate(BaseModel):
    crate: str

class CrateRow(LoadedRow):
    __tablename__ = "crates"
    crate: Mapped[str] = mapped_column(Text, primary_key=True)
"""
PACKAGE = {
    "__init__.py": """
from flows.crates.fields import Crate, CrateRow
from flows.crates.mapping import rows
from models.flow import Flow

FLOW = Flow(record=Crate, table=CrateRow, to_rows=rows)
""",
    "fields.py": CRATE,
    "mapping.py": """
from flows.crates.fields import Crate

def rows(crate: Crate) -> list[dict[str, object]]:
    return [{"crate": crate.crate.upper()}]
""",
}


@pytest.fixture
def further(tmp_path: Path) -> Iterator[Path]:
    """A folder of further flows, as FLOWS_DIR names one; what they declare is forgotten in the end."""
    known = {*sys.modules}
    with flow_files(tmp_path / "further") as folder:
        yield folder
    for name in {*sys.modules} - known:
        if name.startswith("flows.crates"):
            module = sys.modules.pop(name)
            if name.endswith(".fields"):
                Base.registry._dispose_cls(module.CrateRow)


def package(folder: Path, **changes: str | None) -> Path:
    """The package `crates`, with files that are other ones, or none."""
    made = folder / "crates"
    made.mkdir()
    for name, text in {**PACKAGE, **{f"{stem}.py": text for stem, text in changes.items()}}.items():
        if text is not None:
            (made / name).write_text(text)
    return made


def test_a_flow_may_be_a_package_of_modules_that_import_each_other(further: Path) -> None:
    package(further)
    flow = flows.discover(further)["crates"]
    assert (flow.name, flow.sql_table.name) == ("crates", "crates")
    assert flow.to_rows is not None
    assert flow.to_rows(TypeAdapter[Any](flow.record).validate_python({"crate": "a"})) == [{"crate": "A"}]
    assert flow.record is sys.modules["flows.crates.fields"].Crate
    assert flows.discover(further)["crates"].table is flow.table


def test_a_package_that_comes_with_tidegate_is_the_one_that_is_imported() -> None:
    folder = Path(flows.__file__).parent / "orders"
    package, submodule = map(importlib.import_module, ("flows.orders", "flows.orders.edi"))
    assert (package.__file__, submodule.__file__) == (str(folder / "__init__.py"), str(folder / "edi.py"))
    assert FLOWS["orders"].table is package.FLOW.table
    assert FLOWS["orders"].messages["ORDERS"] is submodule.from_orders


@pytest.mark.parametrize("name", ["notes", "_crates", ".crates", "__pycache__"])
def test_a_folder_that_is_no_package_or_hidden_declares_nothing(further: Path, name: str) -> None:
    package(further, __init__=None if name in ("notes", "__pycache__") else "raise ValueError").rename(further / name)
    assert flows.discover(further).keys() == FLOWS.keys()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"mapping": None}, "line 3, does not import: ModuleNotFoundError: No module named 'flows.crates.mapping'"),
        ({"mapping": "rows = 1 / 0"}, "line 3, does not import: ZeroDivisionError"),
        ({"__init__": "FLOW = 1"}, "declares no flow"),
        ({"__init__": ""}, "declares no flow"),
    ],
)
def test_a_package_that_declares_no_flow_is_named(further: Path, changes: dict[str, str | None], reason: str) -> None:
    made = package(further, **changes)
    with pytest.raises(StopDaemon) as caught:
        flows.discover(further)
    assert caught.value.reason.startswith(f"{made / '__init__.py'}")
    assert reason in caught.value.reason


def test_a_name_is_declared_once_by_a_module_or_a_package(further: Path) -> None:
    made = package(further)
    (further / "crates.py").write_text((made / "__init__.py").read_text())
    with pytest.raises(StopDaemon, match="there is already a flow 'crates'"):
        flows.discover(further)


@pytest.mark.parametrize("name", ["orders", "cases"])
def test_a_package_takes_no_name_of_a_flow_that_comes_with_tidegate(further: Path, name: str) -> None:
    package(further).rename(further / name)
    with pytest.raises(StopDaemon, match=f"there is already a flow '{name}'"):
        flows.discover(further)


@pytest.mark.parametrize("name", ["Crates", "cra-tes", "1crate", "c" * 41])
def test_a_package_has_a_name_that_is_fit_for_one(further: Path, name: str) -> None:
    package(further).rename(further / name)
    with pytest.raises(StopDaemon, match="a flow's name is lower case letters, digits and _"):
        flows.discover(further)


def test_a_relative_folder_is_read_twice_without_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once for the settings that its flows declare, once for the flows."""
    monkeypatch.chdir(tmp_path)
    text = CRATE + "\nfrom models.flow import Flow\n\nFLOW = Flow(record=Crate, table=CrateRow)\n"
    with flow_files(tmp_path / "ours", boxes=text):
        for _ in range(2):
            assert "boxes" in flows.discover(Path("ours"))
