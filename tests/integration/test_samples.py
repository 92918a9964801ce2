"""Every flow has samples that fit its declaration; every bad sample is bad for a reason."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

import flows
from file_processing.inbound.formats.base import Reading
from file_processing.inbound.formats.edi.format import EDIFACT, X12
from models.errors import RejectRecord
from models.flow import CHILDREN_DIGEST, Flow

SAMPLES = Path(__file__).parents[2] / "sample_files"
FLOWS = flows.discover()
GOOD = sorted(path for name in FLOWS for path in (SAMPLES / name).glob("*.*"))
BAD = sorted((SAMPLES / "bad").iterdir())


def records(path: Path, flow: Flow) -> list[Any]:
    data = path.read_bytes()
    for known in (EDIFACT, X12):
        if known.recognises(path.name, data):
            (batch,) = known.read(io.BytesIO(data), Reading(path.name, flow))
            return list(batch.records)
    text = data.decode()
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in text.splitlines()]
    document = json.loads(text)
    if isinstance(document, dict) and flow.envelope in document:
        document = document[flow.envelope]
    return document if isinstance(document, list) else [document]


def routes(path: Path) -> list[str]:
    """The flows that a file dropped straight into `input/` could belong to."""
    head = path.read_text("utf-8").lstrip()
    message_types = EDIFACT.signs(path.read_bytes()) | X12.signs(path.read_bytes())
    return [
        flow.name
        for flow in FLOWS.values()
        if path.name.startswith(flow.file_prefixes)
        or not message_types.isdisjoint(flow.messages)
        or (flow.envelope is not None and head.startswith(f'{{"{flow.envelope}":'))
    ]


def faults(path: Path, flow: Flow) -> int:
    adapter = TypeAdapter[Any](flow.record)
    count = 0
    for record in records(path, flow):
        try:
            valid = adapter.validate_json(json.dumps(record))
            if flow.to_rows is not None:
                list(flow.to_rows(valid))
        except (ValidationError, RejectRecord):
            count += 1
    return count


def test_folders_are_flows() -> None:
    assert {folder.name for folder in SAMPLES.iterdir()} == {*FLOWS, "bad"}


@pytest.mark.parametrize("name", FLOWS)
def test_flow_has_a_sample_with_records(name: str) -> None:
    assert any(records(path, FLOWS[name]) for path in GOOD if path.parent.name == name)


@pytest.mark.parametrize("path", GOOD, ids=lambda path: path.name)
def test_sample_fits_the_declaration(path: Path) -> None:
    flow = FLOWS[path.parent.name]
    adapter = TypeAdapter[Any](flow.record)
    children = {table.name for table in flow.sql_tables[1:]}
    for record in records(path, flow):
        read = adapter.validate_json(json.dumps(record))
        for row in flow.to_rows(read) if flow.to_rows else [read if isinstance(read, dict) else read.model_dump()]:
            assert set(row) - children <= set(flow.columns) - {CHILDREN_DIGEST}
            assert set(flow.key) <= set(row)


@pytest.mark.parametrize("path", GOOD, ids=lambda path: path.name)
def test_sample_routes_from_the_input_folder_itself(path: Path) -> None:
    assert routes(path) == [path.parent.name]


@pytest.mark.parametrize(
    ("name", "bad", "good"),
    [
        ("vehicle_status_partly_bad.json", 4, 2),
        ("work_orders_contradicting_flags.json", 1, 1),
        ("objects_detection_negative_and_fraction.json", 2, 1),
    ],
)
def test_partly_bad_sample(name: str, bad: int, good: int) -> None:
    path = SAMPLES / "bad" / name
    (flow,) = (FLOWS[flow] for flow in routes(path))
    assert faults(path, flow) == bad
    assert len(records(path, flow)) == bad + good


def test_truncated_sample_is_no_json() -> None:
    with pytest.raises(json.JSONDecodeError):
        json.loads((SAMPLES / "bad" / "vehicle_status_truncated.json").read_text())


def test_nobodys_sample_belongs_to_no_flow() -> None:
    assert [path.name for path in BAD if not routes(path)] == ["nobodys_file.json"]
