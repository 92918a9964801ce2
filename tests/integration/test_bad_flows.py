"""What a flow of one's own may do: a record that it stumbles over is rejected, the others load."""

import json
import textwrap
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from services.db import engine as databases, schema
from tests.support.bad_input import check_agreement, rejected
from tests.support.flow_files import flow_files
from tests.support.sites import Site

THINGS = """
from typing import Any
from pydantic import BaseModel, field_validator
from sqlalchemy import CheckConstraint, String
from sqlalchemy.orm import Mapped, mapped_column
from models.flow import Flow, PartlyBad
from models.tables import LoadedRow

class Thing(BaseModel):
    id: int
    name: Any

class ThingRow(LoadedRow):
    __tablename__ = "NAME"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    name: Mapped[str] = mapped_column(String(5))

"""

AddFlow = Callable[..., str]


@pytest.fixture
def with_flow(site: Site, tmp_path: Path) -> Iterator[AddFlow]:
    """Adds a flow of things that have an id and a name of five characters at most; gives its name."""
    with ExitStack() as flows:

        def add(body: str = "", options: str = "") -> str:
            name = f"things_{uuid.uuid4().hex[:12]}"
            text = THINGS.replace("NAME", name) + textwrap.dedent(body).replace("OTHER", f"{name}_2")
            text += f"\nFLOW = Flow(record=Thing, table=ThingRow, {options})\n"
            folder = flows.enter_context(flow_files(tmp_path / "further flows", **{name: text}))
            site.settings = site.settings.model_copy(update={"flows_dir": folder})
            with databases.open_database(site.settings) as database:
                schema.prepare(database.engine, site.flows())
            return name

        yield add


def load(site: Site, flow: str, content: object) -> dict[str, Any]:
    """The ledger's line of a file with this content."""
    site.drop("x.json", content, flow=flow)
    site.load()
    return site.ledger()[-1]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("a\0b", "text in it may not contain the character NUL"),
        ("123456", "the database rejects it: value too long for type character varying(5)"),
        (None, "the database rejects it: null value in column"),
    ],
    ids=["nul", "too-long", "null"],
)
@pytest.mark.parametrize("policy", ["KEEP_VALID", "ALL_OR_NOTHING"])
def test_only_the_record_that_the_database_rejects_is_rejected(
    site: Site, with_flow: AddFlow, name: str | None, reason: str, policy: str
) -> None:
    flow = with_flow(options=f"partly_bad=PartlyBad.{policy}")
    content: list[dict[str, object]] = [{"id": number, "name": str(number)} for number in range(20)]
    content[7]["name"] = name
    line = load(site, flow, content)
    report = site.report("x.json", flow)
    check_agreement(site, line, report)
    (error,) = report["errors"]
    assert (error["record"], error["pointer"], error["value"]) == (7, "/7", {"id": 7, "name": name})
    assert error["reason"].startswith(reason)
    kept = 19 if policy == "KEEP_VALID" else 0
    assert len(site.rows(flow)) == kept
    assert line["status"] == ("partial" if kept else "rejected")


def test_all_or_nothing_tells_every_bad_record_and_loads_none(site: Site, with_flow: AddFlow) -> None:
    flow = with_flow(options="partly_bad=PartlyBad.ALL_OR_NOTHING")
    content = [{"id": "x" if number % 3 else number, "name": str(number)} for number in range(30)]
    line = load(site, flow, content)
    report = rejected(site, line, flow)
    assert [error["record"] for error in report["errors"]] == [number for number in range(30) if number % 3]
    assert line["error"].startswith("nothing loaded: record 1 /1/id: ")
    assert "mend the file" in report["what_next"]
    assert not list(site.rejected.rglob("*.rejected.json"))
    assert load(site, flow, [{"id": number, "name": str(number)} for number in range(30)])["inserted"] == 30


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("Integer", 2**31),
        ("Integer", 1 << 40),
        ("Integer", -(1 << 70)),
        ("SmallInteger", 1 << 15),
        ("BigInteger", 1 << 63),
        ("REAL", 1e300),
        ("Numeric(5, 2)", 1e9),
    ],
)
def test_a_number_beyond_its_column_is_rejected_and_never_cut_down(
    site: Site, with_flow: AddFlow, column: str, value: float
) -> None:
    body = f"""
    from sqlalchemy import BigInteger, Integer, Numeric, REAL, SmallInteger

    class Thing(BaseModel):
        id: int
        name: str
        number: float

    class OtherRow(LoadedRow):
        __tablename__ = "OTHER"
        id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
        number: Mapped[Any] = mapped_column({column})

    ThingRow = OtherRow

    def to_rows(thing):
        return [{{"id": thing.id, "number": {value!r} if thing.name == "bad" else 17}}]
    """
    flow = with_flow(body, "to_rows=to_rows")
    content = [{"id": number, "name": name, "number": 1} for number, name in enumerate(["a", "bad", "b"])]
    for files in (1, 2):
        line = load(site, flow, json.dumps(content) + " " * files)
        assert (line["status"], line["inserted"], line["unchanged"]) == ("partial", 4 - files * 2, files * 2 - 2)
    assert [(row["id"], row["number"]) for row in site.rows(f"{flow}_2")] == [(0, 17), (2, 17)]


ODD_VALIDATOR = """
class Thing(Thing):
    @field_validator("name")
    @classmethod
    def check(cls, name):
        RAISE
        return name
"""

ODD_ROWS = """
def to_rows(thing):
    name = thing.name
    RAISE
    return [{"id": thing.id, "name": name}]
"""

ONE_IS_BAD = [{"id": number, "name": name} for number, name in enumerate(["a", "bad", "b", "c"])]


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("{}[name]", "KeyError: 'bad'"),
        ("raise RecursionError('deep')", "RecursionError: deep"),
        ("raise MemoryError", "MemoryError: "),
        (r"raise RuntimeError('nul \0 and \ud800')", r"RuntimeError: nul \u0000 and \ud800"),
        ("raise AttributeError(name)", "AttributeError: bad"),
    ],
    ids=["zero", "key", "recursion", "memory", "odd-text", "attribute"],
)
@pytest.mark.parametrize("where", ["validator", "to_rows"])
def test_an_odd_exception_of_a_flow_costs_one_record(
    site: Site, with_flow: AddFlow, what: str, reason: str, where: str
) -> None:
    body = (ODD_VALIDATOR if where == "validator" else ODD_ROWS).replace("RAISE", f"if name == 'bad': {what}")
    flow = with_flow(body, "to_rows=to_rows" if where == "to_rows" else "")
    line = load(site, flow, ONE_IS_BAD)
    assert (line["status"], line["inserted"], line["rejected"]) == ("partial", 3, 1)
    report = site.report("x.json", flow)
    check_agreement(site, line, report)
    (error,) = report["errors"]
    words = "cannot check it" if where == "validator" else "cannot turn it into rows"
    assert error["reason"] == f"flow {flow} {words}: {reason}"


@pytest.mark.parametrize(
    "what",
    [
        "return [{'id': 'x', 'name': name}]",
        "return [{'id': 1 << 40, 'name': name}]",
        "return [{'id': thing.id, 'name': 17}]",
        "return [{'id': thing.id, 'name': '\\ud800'}]",
        "return [{'id': object(), 'name': name}]",
        "return [{'name': name}]",
        "return None",
        "return [None]",
    ],
)
def test_a_row_that_does_not_fit_its_table_costs_one_record(site: Site, with_flow: AddFlow, what: str) -> None:
    flow = with_flow(ODD_ROWS.replace("RAISE", f"if name == 'bad': {what}"), "to_rows=to_rows")
    line = load(site, flow, ONE_IS_BAD)
    assert (line["status"], line["inserted"], line["rejected"]) == ("partial", 3, 1), line["error"]
