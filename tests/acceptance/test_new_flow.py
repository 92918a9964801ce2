"""A new flow is one file in a folder: its table, its folder and all the rest come by themselves."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

import flows
from models.flow import Flow
from models.tables import OWN_COLUMNS, Base
from tests.support.processes import ROOT
from tests.support.sites import Site, running

MODEL = """
from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, Field
from sqlalchemy.orm import Mapped, mapped_column

from models.flow import Flow
from models.field_types import Instant, Text
from models.tables import LoadedRow


class {name}Record(BaseModel):
    sensor: Annotated[Text, Field(alias="sensorId")]
    measured_at: Instant
    celsius: float
    remark: str | None = None


class {name}Row(LoadedRow):
    __tablename__ = "{name}"

    sensor: Mapped[str] = mapped_column(primary_key=True)
    measured_at: Mapped[datetime]
    celsius: Mapped[float]
    remark: Mapped[str | None]
{further}

FLOW = Flow(record={name}Record, table={name}Row, envelope="{name}", newest_by="measured_at")
"""

TYPED_DICT = MODEL.replace("BaseModel, Field", "Field").replace("(BaseModel)", "(TypedDict)").replace(
    'remark: str | None = None', 'remark: NotRequired[str]'
).replace('sensor: Annotated[Text, Field(alias="sensorId")]', "sensor: Text").replace(
    "from sqlalchemy.orm", "from typing_extensions import NotRequired, TypedDict\nfrom sqlalchemy.orm"
)  # fmt: skip


@pytest.fixture
def folder(site: Site, tmp_path: Path) -> Iterator[Path]:
    """A folder for flows of the site; what they declare is forgotten afterwards."""
    made = tmp_path / "flows"
    made.mkdir()
    site.settings = site.settings.model_copy(update={"flows_dir": made})
    before = {*Base.metadata.tables}
    yield made
    for name in {*Base.metadata.tables} - before:
        Base.metadata.remove(Base.metadata.tables[name])
    for name, module in [*sys.modules.items()]:
        if str(getattr(module, "__file__", None)).startswith(f"{made}/"):
            del sys.modules[name]


def declare(folder: Path, name: str, text: str = MODEL, further: str = "") -> None:
    (folder / f"{name}.py").write_text(text.format(name=name, further=further))


@pytest.mark.parametrize(
    ("name", "text", "id_field"), [("frost", MODEL, "sensorId"), ("thaw", TYPED_DICT, "sensor")], ids=["model", "dict"]
)
def test_a_flow_of_one_file_loads_what_is_dropped(
    name: str, text: str, id_field: str, site: Site, folder: Path
) -> None:
    declare(folder, name, text)
    with running(site):
        assert (site.input / name).is_dir()
        records = [
            {id_field: "s1", "measured_at": "2026-01-31T12:00:00Z", "celsius": -3.5},
            {id_field: "s2", "measured_at": "2026-01-31T12:00:00Z", "celsius": 1, "remark": "it thaws"},
            {id_field: "s3", "celsius": 1},
        ]
        site.drop("by_folder.json", records, flow=name)
        site.settled(1)
        site.drop("by_envelope.json", {name: [records[0] | {"celsius": 0, "measured_at": "2026-01-31T13:00:00Z"}]})
        first, second = site.settled(2)
        assert (first["flow"], first["status"], first["inserted"], first["rejected"]) == (name, "partial", 2, 1)
        assert (second["flow"], second["updated"]) == (name, 1)
        assert [(row["sensor"], row["celsius"], row["remark"]) for row in site.rows(name)] == [
            ("s1", 0.0, None),
            ("s2", 1.0, "it thaws"),
        ]
        (error,) = site.report("by_folder.json", name)["errors"]
        assert (error["pointer"], error["reason"]) == ("/2/measured_at", "measured_at is missing")


def test_every_command_knows_the_new_flow(site: Site, folder: Path) -> None:
    declare(folder, "hail")
    path = site.input.parent / "x.json"
    path.write_text(json.dumps({"hail": [{"sensorId": "s1", "measured_at": "2026-01-31T12:00:00Z", "celsius": 1}]}))
    site.call("ingest", str(path))
    assert re.search(r"^hail\n  folder .*/input/hail\n  envelope +hail$", site.call("flows").stdout, re.MULTILINE)
    assert re.search(r"^hail +0 +1 +0 +0 +0 +1 +0$", site.call("status").stdout, re.MULTILINE)
    assert "record 0 of #1 x.json" in site.call("trace", "hail", "s1").stdout
    names = sorted([*flows.discover(), "hail"])
    assert f"{len(names)} flows: {', '.join(names)}" in " ".join(site.call("check").stdout.split())


def test_a_flow_may_not_repeat_a_name(site: Site, folder: Path) -> None:
    declare(folder, "work_orders")
    done = site.call("flows", expect=2)
    assert "there is already a flow 'work_orders' (rename it)" in done.stderr


@pytest.mark.parametrize("name", ["Frost", "2frost", "a-b", "x" * 41])
def test_a_name_that_is_no_folder_and_metric_everywhere_stops_the_start(name: str, site: Site, folder: Path) -> None:
    declare(folder, name)
    assert "a flow's name is lower case letters, digits and _, at most 40" in site.call("flows", expect=2).stderr


def test_a_rejected_file_is_retried_after_its_flow_changed(site: Site, folder: Path, tmp_path: Path) -> None:
    """Processes: a module is imported once in each."""
    declare(folder, "gust", MODEL.replace("celsius: float", "celsius: int"))
    record = {"sensorId": "s1", "measured_at": "2026-01-31T12:00:00Z", "celsius": 1.5}
    with running(site):
        site.drop("x.json", {"gust": [record]})
        assert site.settled(1)[0]["status"] == "rejected"
    declare(folder, "gust")
    process = site.start()
    site.fork("retry", "1")
    assert site.settled(2)[1]["status"] == "loaded"
    assert site.stop(process) == 0


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of Tidegate: its migrations may grow."""
    copy = tmp_path / "project"
    copy.mkdir()
    for name in ("commands", "file_processing", "flows", "models", "services"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("main.py", "settings.py"):
        shutil.copy(ROOT / name, copy)
    return copy


def test_a_changed_declaration_says_what_differs_and_its_hint_works(site: Site, project: Path) -> None:
    def run(*command: str, expect: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, *command],
            cwd=project,
            env=site.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == expect, done.stdout + done.stderr
        return done

    record = {"sensorId": "s1", "measured_at": "2026-01-31T12:00:00Z", "celsius": 1}
    old, new = project / "old.json", project / "new.json"
    old.write_text(json.dumps({"squall": [record]}))
    new.write_text(json.dumps({"squall": [record | {"sensorId": "s2"}]}))
    declare(project / "flows", "squall")
    run("main.py", "ingest", str(old))
    more = MODEL.replace("remark: str | None = None", "remark: str | None = None\n    knots: float | None = None")
    declare(project / "flows", "squall", more, further="    knots: Mapped[float | None]\n")

    (said,) = run("main.py", "run", expect=2).stderr.splitlines()[-1:]
    assert "table squall no longer fits its declaration: column knots (double precision) is missing" in said
    hint = re.search(r"\((python .*)\)$", said)
    assert hint is not None
    for command in hint[1].split(", then "):
        python, *arguments = shlex.split(command)
        assert python == "python"
        run(*arguments)
    run("main.py", "ingest", str(new))
    assert [(row["sensor"], row["knots"]) for row in site.rows("squall")] == [("s1", None), ("s2", None)]
    assert "nothing differs" in run("main.py", "db", "revision", "nothing").stdout


# no code outside flows/ knows a field

GENERIC = {"created_at", "updated_at", "deleted_at"}
"""Names that say nothing of any partner."""


def fields(flow: Flow) -> set[str]:
    schema = TypeAdapter(flow.record).json_schema(by_alias=True)
    nested = schema.get("$defs", {}).values()
    names = {name for part in (schema, *nested) for name in part.get("properties", {})}
    names |= {column.name for column in flow.sql_table.columns if column.name not in OWN_COLUMNS}
    # A single lower-case word (status, number, title) is a word of English as well.
    return {name for name in names if not re.fullmatch("[a-z]+", name)} - GENERIC


def test_no_code_outside_flows_knows_a_field_of_any_flow() -> None:
    names: set[str] = set().union(*map(fields, flows.discover().values()))
    assert {"vehicle_id", "report_time", "orderNo", "object_value"} <= names
    pattern = re.compile(rf"\b({'|'.join(sorted(names))})\b")
    rooms = [
        path for room in ("commands", "file_processing", "services", "models") for path in (ROOT / room).rglob("*.py")
    ]
    found: dict[str, Any] = {
        str(path.relative_to(ROOT)): sorted({*pattern.findall(path.read_text())})
        for path in (*rooms, ROOT / "main.py", ROOT / "settings.py")
    }
    assert {path: known for path, known in found.items() if known} == {}
