"""What is loaded: records of the flows as the field sends them, and the same as rows that are parsed already."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from psycopg.types.json import Jsonb
from pydantic import TypeAdapter

from models.flow import CHILDREN_DIGEST, Flow

VEHICLES = "vehicle_status"
VEHICLES_TABLE = "vehicles_status"
START = datetime(2026, 1, 31, 12, tzinfo=UTC)
FIRST = 10**12
"""The number of a vehicle that no benchmark counts."""
Row = tuple[Any, ...]
Record = Mapping[str, Any]


@dataclass(frozen=True, eq=False, slots=True)
class Parsed:
    """Rows of a flow's table in the order of `columns`, and those of each table of children behind their key."""

    columns: tuple[str, ...]
    rows: list[Row]
    children: tuple[list[Row], ...] = ()


def vehicles(count: int, *, first: int = 0, days: int = 0) -> Iterator[Row]:
    """Reports of different vehicles; `days` makes them newer."""
    statuses = ("driving", "parking", "charging", "accident")
    for number in range(first, first + count):
        time_of = START + timedelta(days=days, milliseconds=number)
        yield f"{number * 0x9E3779B97F4A7C15 % 2**128:032x}", time_of, statuses[number % 4]


def parsed_vehicles(rows: Iterable[Row]) -> Parsed:
    return Parsed(("vehicle_id", "report_time", "status"), list(rows))


def as_text(rows: Iterable[Row]) -> Iterator[str]:
    """Each as a record of the flow."""
    for vehicle, moment, status in rows:
        yield json.dumps({"vehicle_id": vehicle, "report_time": moment.isoformat(), "status": status})


def write_file(path: Path, records: Iterable[str], envelope: str = VEHICLES) -> Path:
    """One file of a flow, written as it comes."""
    with path.open("w") as file:
        file.write(f'{{"{envelope}": [')
        separator = "\n"
        for record in records:
            file.write(f"{separator}{record}")
            separator = ",\n"
        file.write("\n]}\n")
    return path


def detections(count: int) -> Iterator[Record]:
    """Events with three detections each."""
    for number in range(count):
        seen = [{"object_type": kind, "object_value": number % 9} for kind in ("cars", "pedestrians", "signs")]
        vehicle = f"{number * 0x9E3779B97F4A7C15 % 2**128:032x}"
        moment = (START + timedelta(milliseconds=number)).isoformat()
        yield {"vehicle_id": vehicle, "detection_time": moment, "detections": seen}


def work_orders(count: int) -> Iterator[Record]:
    """Work orders in the client's own form, whose status is spread over flags."""
    flags = ("isActive", "isCanceled", "isDone", "isOnHold", "isPending")
    for number in range(count):
        yield {
            "orderNo": number,
            **dict.fromkeys(flags, False),
            flags[number % 5]: True,
            "isDeleted": False,
            "isSynced": False,
            "summary": f"Replace bearing on pump P-{number}",
            "creationDate": START.isoformat(),
            "lastUpdateDate": (START + timedelta(milliseconds=number)).isoformat(),
            "deletedDate": None,
        }


def orders(count: int) -> Iterator[Record]:
    """Orders of three lines each."""
    for number in range(count):
        lines = [
            {"line_number": line, "gtin": "4006381333931", "quantity": line, "unit": "PCE", "unit_price": 9.99}
            for line in (1, 2, 3)
        ]
        yield {
            "partner": "4012345000009",
            "order_number": f"PO-{number}",
            "ordered_at": START.isoformat(),
            "currency": "EUR",
            "buyer": {"gln": "4012345000009"},
            "lines": lines,
        }


def edifact(count: int) -> str:
    """The same orders as an EDIFACT interchange, a message each."""
    messages = []
    for number in range(count):
        segments = [
            f"UNH+{number}+ORDERS:D:96A:UN:EAN008",
            f"BGM+220+PO-{number}+9",
            "DTM+137:202601311200:203",
            "NAD+BY+4012345000009::9",
            "CUX+2:EUR:9",
        ]
        for line in (1, 2, 3):
            segments += [f"LIN+{line}++4006381333931:EN", f"QTY+21:{line}:PCE", "PRI+AAA:9.99"]
        segments += ["UNS+S", "CNT+2:3"]
        messages += [*segments, f"UNT+{len(segments) + 1}+{number}"]
    head = "UNB+UNOC:3+4012345000009:14+5790000000012:14+260131:1200+1"
    return "UNA:+.? '\n" + "'\n".join([head, *messages, f"UNZ+{count}+1", ""])


def parsed(flow: Flow, records: Iterable[Record]) -> Parsed:
    """The records as the rows that the flow makes of them."""
    adapter = TypeAdapter[Any](flow.record)
    columns = tuple(column for column in flow.columns if column != CHILDREN_DIGEST)
    to_rows = flow.to_rows or (lambda record: [record])
    found = Parsed(columns, [], tuple([] for _ in flow.children))
    for record in records:
        for row in to_rows(adapter.validate_json(json.dumps(record))):
            found.rows.append(tuple(map(_value, (row[column] for column in columns))))
            key = [row[column] for column in flow.key]
            for number, child in enumerate(flow.children):
                lines = row[child.__tablename__]
                assert isinstance(lines, list)
                found.children[number].extend(
                    (*key, *(line[column] for column in flow.child_columns(number))) for line in lines
                )
    return found


def _value(value: object) -> object:
    return Jsonb(value) if isinstance(value, dict) else value
