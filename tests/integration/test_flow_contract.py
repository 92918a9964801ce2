"""What every flow keeps, derived from its declaration and its samples: no field is named here."""

import dataclasses
import gzip
import io
import json
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from pydantic import TypeAdapter
from sqlalchemy import Engine

import flows
from file_processing.inbound import routing
from file_processing.inbound.formats import detect
from file_processing.inbound.formats.base import Reading
from file_processing.inbound.formats.json_parse import loads
from models.flow import Flow
from tests.support.processes import ROOT
from tests.support.sites import Site

FLOWS = flows.discover()
SAMPLES = {name: sorted((ROOT / "sample_files" / name).glob("*.*")) for name in FLOWS}

every_flow = pytest.mark.parametrize("flow", FLOWS.values(), ids=FLOWS)
every_sample = pytest.mark.parametrize(
    "path", [path for paths in SAMPLES.values() for path in paths], ids=lambda path: path.name
)


def content(path: Path) -> bytes:
    return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()


def records(flow: Flow) -> list[Any]:
    """The records of a flow's samples, with numbers as JSON can be made of them again."""
    found: list[Any] = []
    sendable = dataclasses.replace(flow, exact_numbers=False)
    for path in SAMPLES[flow.name]:
        data, name = content(path), detect.plain_name(path.name)
        for batch in detect.format_of(name, data, flow).read(io.BytesIO(data), Reading(name, sendable)):
            found += batch.records
    return found


def required(flow: Flow) -> list[str]:
    """The fields that a record must have, as the partner calls them."""
    return list(TypeAdapter(flow.record).json_schema(by_alias=True).get("required", []))


def in_envelope(flow: Flow, *sent: object) -> object:
    return {flow.envelope: sent} if flow.envelope else sent


def ingest(site: Site, flow: Flow, *paths: Path, expect: int = 0) -> list[dict[str, Any]]:
    done = site.call("ingest", "--json", "--flow", flow.name, *map(str, paths), expect=expect)
    return [json.loads(line) for line in done.stdout.splitlines()]


def written(site: Site, name: str, sent: object) -> Path:
    path = site.input.parent / name
    path.write_text(json.dumps(sent))
    return path


@every_flow
def test_it_has_a_sample(flow: Flow) -> None:
    assert records(flow)


@every_flow
def test_its_samples_load_with_nothing_rejected(flow: Flow, site: Site) -> None:
    lines = ingest(site, flow, *SAMPLES[flow.name])
    assert [(line["file"], line["status"], line["rejected"]) for line in lines] == [
        (str(path), "loaded", 0) for path in SAMPLES[flow.name]
    ]
    assert len(site.rows(flow.sql_table.name)) == sum(line["inserted"] for line in lines)


@every_flow
def test_a_second_load_changes_nothing(flow: Flow, site: Site) -> None:
    ingest(site, flow, *SAMPLES[flow.name])
    before = site.rows(flow.sql_table.name)
    again = written(site, "again.json", in_envelope(flow, *records(flow)))
    (line,) = ingest(site, flow, again)
    assert (line["status"], line["inserted"], line["updated"], line["rejected"]) == ("loaded", 0, 0, 0)
    assert line["unchanged"] + line["stale"] >= line["records"]
    assert site.rows(flow.sql_table.name) == before


def _moved(value: Any, days: int) -> object:
    if isinstance(value, int):
        return value + days
    return (datetime.fromisoformat(value) + timedelta(days=days)).isoformat()


def rows(flow: Flow, record: object) -> list[dict[str, Any]]:
    sent = loads(json.dumps(record).encode(), exact=flow.exact_numbers)
    read = TypeAdapter[Any](flow.record).validate_python(sent)
    if flow.to_rows is None:
        return [read if isinstance(read, dict) else read.model_dump()]
    return [dict(row) for row in flow.to_rows(read)]


def shifted(flow: Flow, record: dict[str, Any], days: int) -> dict[str, Any]:
    """The record with the field moved that says how new it is: whichever moves that column."""
    assert flow.newest_by is not None
    now = rows(flow, record)[0][flow.newest_by]
    by = timedelta(days=days) if isinstance(now, datetime) else days
    for field, value in record.items():
        try:
            moved = record | {field: _moved(value, days)}
            if rows(flow, moved)[0][flow.newest_by] - now == by:
                return moved
        except (TypeError, ValueError):
            continue  # no time, no counter, or nothing to move
    raise AssertionError(f"no field of the sample says what {flow.newest_by} is")


@pytest.mark.parametrize(
    "flow", [pytest.param(flow, id=name) for name, flow in FLOWS.items() if flow.newest_by is not None]
)
def test_an_older_record_changes_nothing_and_a_newer_one_replaces(flow: Flow, site: Site) -> None:
    record = records(flow)[0]
    files = [written(site, f"{number}.json", shifted(flow, record, days)) for number, days in enumerate((0, -1, 1))]
    ingest(site, flow, files[0])
    before = site.rows(flow.sql_table.name)
    (line,) = ingest(site, flow, files[1])
    assert (line["stale"], line["updated"], line["inserted"]) == (1, 0, 0)
    assert site.rows(flow.sql_table.name) == before
    (line,) = ingest(site, flow, files[2])
    assert (line["stale"], line["updated"], line["inserted"]) == (0, 1, 0)


@pytest.mark.parametrize(
    ("flow", "field"),
    [pytest.param(flow, field, id=f"{name}-{field}") for name, flow in FLOWS.items() for field in required(flow)],
)
def test_a_missing_required_field_is_rejected_by_name(flow: Flow, field: str, site: Site) -> None:
    good = next(record for record in records(flow) if field in record)
    bad = {name: value for name, value in good.items() if name != field}
    (line,) = ingest(site, flow, written(site, "bad.json", in_envelope(flow, bad)), expect=1)
    assert line["status"] == "rejected"
    told = [error for error in site.report("bad.json", flow.name)["errors"] if error["reason"] == f"{field} is missing"]
    assert [error["pointer"].rpartition("/")[2] for error in told] == [field]
    assert (told[0]["record"], told[0]["line"]) == (0, 1)
    assert told[0]["pointer"] == f"{f'/{flow.envelope}' if flow.envelope else ''}/0/{field}"
    assert site.rows(flow.sql_table.name) == []


@every_flow
def test_its_record_has_a_json_schema_with_required_fields(flow: Flow) -> None:
    schema = TypeAdapter(flow.record).json_schema(by_alias=True)
    assert schema["type"] == "object"
    assert required(flow)
    json.dumps(schema)


@every_flow
def test_its_table_has_the_declared_primary_key(flow: Flow, engine: Engine) -> None:
    key = sqlalchemy.inspect(engine).get_pk_constraint(flow.sql_table.name)["constrained_columns"]
    assert tuple(key) == flow.key


@every_sample
def test_its_sample_belongs_to_this_flow_alone(path: Path) -> None:
    assert routing.by_content(path.name, content(path)[: routing.FLOW_PEEK_BYTES], FLOWS).name == path.parent.name


def dropped(site: Site) -> Iterator[Path]:
    for path in (path for paths in SAMPLES.values() for path in paths):
        yield site.drop(path.name, path.read_bytes())


def test_all_samples_dropped_into_the_input_folder_itself_find_their_flows(live: Site) -> None:
    names = {path.name: path.name for path in dropped(live)}
    flow_of = {path.name: name for name, paths in SAMPLES.items() for path in paths}
    lines = live.settled(len(names))
    assert {line["name"]: (line["flow"], line["status"]) for line in lines} == {
        name: (flow_of[name], "loaded") for name in names
    }
    assert live.waiting() == []


def test_folders_and_tables_are_there_before_anything_is_dropped(live: Site) -> None:
    for name, flow in FLOWS.items():
        assert (live.input / name).is_dir()
        assert live.rows(flow.sql_table.name) == []
