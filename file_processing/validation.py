"""From a batch of records to rows, and to the reasons why a record is none."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, NotRequired, TypedDict, cast

from pydantic import TypeAdapter, ValidationError
from typing_extensions import is_typeddict

from file_processing import positions
from file_processing.batch import Batch, Malformed
from file_processing.positions import Place, Steps
from models.flow import Flow

VALUE_CHARACTERS = 200
"""As much of a refused value is shown in a report."""

Row = tuple[object, ...]
"""The values of `Flow.columns`, in that order."""


class Problem(TypedDict):
    """One reason why one record is refused, as it stands in the report and in the ledger."""

    record: int
    pointer: str
    line: int
    column: int
    value: NotRequired[str]
    reason: str


@dataclass(frozen=True, slots=True)
class Refused:
    """A record that does not load: its own text, and at least one problem."""

    position: int
    text: str
    problems: tuple[Problem, ...]


@dataclass(frozen=True, slots=True)
class Checked:
    """What a batch came to.

    rows: those of every good record, and for each row, in `positions`, the position of its
        record in the file.
    drift: fields that the flow does not know, with the number of records that have them.
    """

    records: int
    rows: Sequence[Row]
    positions: Sequence[int]
    refused: list[Refused]
    drift: Counter[str]
    batch: Batch


class Validator:
    """Checks the records of one flow. Made once: building the adapter takes milliseconds."""

    def __init__(self, flow: Flow) -> None:
        self.flow = flow
        self._list: TypeAdapter[list[Any]] = TypeAdapter(list[flow.record])  # type: ignore[name-defined]
        self._row = _row_function(flow)
        self._known = _known_fields(flow)

    def check(self, batch: Batch) -> Checked:
        """Validate every record of the batch; every reason of every bad record is told."""
        reasons: dict[int, list[_Reason]] = {}
        good: Sequence[int] = range(len(batch.records))
        try:
            valid = self._list.validate_python(batch.records)
        except ValidationError as error:
            reasons = _reasons(error, batch.records)
            good = [index for index in good if index not in reasons]
            valid = self._list.validate_python([batch.records[index] for index in good])
        except Exception:  # noqa: BLE001  # the flow's own validators may fail in any way
            good, valid, reasons = self._one_by_one(batch.records)
        rows, of_records = self._to_rows(batch, good, valid, reasons)
        refused = refuse(batch, reasons)
        return Checked(len(batch.records), rows, of_records, refused, self._drift(batch.records), batch)

    def _one_by_one(self, records: Sequence[object]) -> "tuple[list[int], list[Any], dict[int, list[_Reason]]]":
        good, valid, reasons = [], [], {}
        for index, record in enumerate(records):
            try:
                valid += self._list.validate_python([record])
                good.append(index)
            except ValidationError as error:
                reasons[index] = _reasons(error, [record])[0]
            except Exception as error:  # noqa: BLE001
                reasons[index] = [_Reason((), f"flow {self.flow.name} cannot check it: {_named(error)}")]
        return good, valid, reasons

    def _to_rows(
        self, batch: Batch, good: Sequence[int], valid: list[Any], reasons: "dict[int, list[_Reason]]"
    ) -> tuple[list[Row], list[int]]:
        if self.flow.to_rows is None:
            return list(map(self._row, valid)), [batch.first + index for index in good]
        rows: list[Row] = []
        from_record: list[int] = []
        for index, record in zip(good, valid, strict=True):
            try:
                of_record = [self._row(row) for row in self.flow.to_rows(record)]
            except Exception as error:  # noqa: BLE001  # the flow's own function may fail in any way
                text = f"flow {self.flow.name} cannot turn it into rows: {_named(error)}"
                reasons[index] = [_Reason((), text)]
                continue
            rows += of_record
            from_record += [batch.first + index] * len(of_record)
        return rows, from_record

    def _drift(self, records: Sequence[object]) -> Counter[str]:
        objects = [record for record in records if isinstance(record, dict)]
        unknown = cast("set[str]", set().union(*objects)) - self._known
        return Counter(name for name in unknown for record in objects if name in record)


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _known_fields(flow: Flow) -> frozenset[str]:
    schema = TypeAdapter(flow.record).json_schema(by_alias=True)
    return frozenset(schema.get("properties", {}))


def _row_function(flow: Flow) -> Callable[[Any], Row]:
    """From a validated record, or from what `to_rows` makes of it, to the values of one row."""
    columns = flow.columns
    if flow.to_rows is None and not is_typeddict(flow.record):
        return lambda record: tuple(getattr(record, column) for column in columns)
    optional = {column.name for column in flow.sql_table.columns if column.nullable}
    if len(columns) > 1 and not optional.intersection(columns):
        return itemgetter(*columns)
    required = [column for column in columns if column not in optional]

    def tolerant(row: Mapping[str, object]) -> Row:
        for column in required:
            row[column]  # a missing one is the flow's mistake: KeyError
        return tuple(map(row.get, columns))

    return tolerant


@dataclass(frozen=True, slots=True)
class _Reason:
    steps: Steps
    text: str
    value: object = ...


def _reasons(error: ValidationError, records: Sequence[object]) -> dict[int, list[_Reason]]:
    reasons: dict[int, list[_Reason]] = {}
    for detail in error.errors(include_url=False, include_context=False):
        index, *steps = detail["loc"]
        assert isinstance(index, int)
        record = records[index]
        if isinstance(record, Malformed):
            reasons[index] = [_Reason((), record.reason)]
            continue
        reason = detail["msg"].removeprefix("Value error, ").replace("Input should", "should")
        missing = detail["type"] == "missing"
        text = f"{steps[-1]} is missing" if missing and steps else reason
        value = ... if missing or not steps else detail["input"]
        reasons.setdefault(index, []).append(_Reason(tuple(steps), text, value))
    return reasons


def refuse(batch: Batch, reasons: "Mapping[int, Iterable[_Reason]]") -> list[Refused]:
    """Say of each bad record where it stands, and why it is refused. Walks the text once."""
    refused: list[Refused] = []
    if not reasons:
        return refused
    text, place, placed = batch.decoded, batch.place, 0
    for index, (start, end) in enumerate(batch.spans()):
        if index not in reasons:
            continue
        place, placed = place.after(text[placed:start]), start
        problems = tuple(_problem(batch, index, reason, text[start:end], place) for reason in reasons[index])
        refused.append(Refused(batch.first + index, text[start:end], problems))
    return refused


def refuse_by_database(batch: Batch, reasons: Mapping[int, str]) -> list[Refused]:
    """The same for records, by index in the batch, that the database would not take."""
    return refuse(batch, {index: [_Reason((), text)] for index, text in reasons.items()})


def _problem(batch: Batch, index: int, reason: _Reason, text: str, place: Place) -> Problem:
    at = Place(place.line, place.column)
    if reason.steps:
        try:
            at = place.after(text[: positions.find(text, 0, reason.steps)])
        except json.JSONDecodeError:
            pass  # the line of a JSON Lines file that is no JSON: its start will do
    problem = Problem(
        record=batch.first + index,
        pointer=positions.pointer((*batch.steps(index), *reason.steps)),
        line=at.line,
        column=at.column,
        reason=reason.text,
    )
    if reason.value is not ...:
        problem["value"] = shown(reason.value)
    return problem


def shown(value: object) -> str:
    """A refused value as JSON, cut so that a report stays readable."""
    try:
        text = json.dumps(value, ensure_ascii=False, default=repr)
    except ValueError:  # an integer of more digits than Python writes
        text = f"a {type(value).__name__} too large to show"
    text = text.encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= VALUE_CHARACTERS else text[: VALUE_CHARACTERS - 1] + "…"
