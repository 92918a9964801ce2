"""Why a record is refused: in plain words, with the place where it stands and the value that is wrong."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NotRequired, TypedDict

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from file_processing import positions
from file_processing.batch import Batch, Malformed
from file_processing.positions import Place, Steps

VALUE_CHARACTERS = 200
"""As much of a refused value is shown in a report."""

NO_NUL = r"may not contain the character NUL (\u0000)"


class Problem(TypedDict):
    """One reason why one record is refused, as it stands in the report and in the ledger.

    record: its position in the file, from 0. value: as JSON text, see `shown`.
    """

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
class Reason:
    """steps: to the value in the record that is wrong; none when the record is, as a whole.

    column, at: see `Malformed`.
    """

    steps: Steps
    text: str
    value: object = ...
    column: int | None = None
    at: int = 0


def reasons_of(error: ValidationError, records: Sequence[object]) -> dict[int, list[Reason]]:
    reasons: dict[int, list[Reason]] = {}
    for detail in error.errors(include_url=False, include_context=False):
        index, *steps = detail["loc"]
        assert isinstance(index, int)
        record = records[index]
        if isinstance(record, Malformed):
            reasons[index] = [Reason((), record.reason, column=record.column, at=record.at)]
        else:
            value = ... if detail["type"] == "missing" else detail["input"]
            reasons.setdefault(index, []).append(Reason(tuple(steps), _in_plain_words(detail), value))
    return reasons


def _in_plain_words(detail: ErrorDetails) -> str:
    """Pydantic's message, where it speaks of Python rather than of JSON in the sender's terms."""
    match detail["type"]:
        case "missing":
            return f"{detail['loc'][-1]} is missing"
        case "extra_forbidden":
            return f"{detail['loc'][-1]} is not known here"
        case "timezone_aware":
            return "has no time zone: add Z for UTC or an offset like +02:00"
        case "datetime_from_date_parsing" | "datetime_parsing":
            return "is no time that exists: " + detail["msg"].rpartition(", ")[2]
        case "string_pattern_mismatch" if "\0" in detail["input"]:
            return NO_NUL
        case "string_too_short" if detail["input"] == "":
            return "may not be empty"
        case "string_type":
            return "should be text"
        case "bool_type":
            return "should be true or false"
        case "list_type":
            return "should be a list"
        case "dict_type" | "model_type" | "model_attributes_type" | "dataclass_type":
            return "should be an object"
        case "value_error" | "assertion_error":
            return detail["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
        case _:
            return re.sub(r"^\w+ (?=should )", "", detail["msg"])


def refuse(batch: Batch, reasons: Mapping[int, Iterable[Reason]]) -> list[Refused]:
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
    return refuse(batch, {index: [Reason((), _from_database(text))] for index, text in reasons.items()})


def _from_database(text: str) -> str:
    return f"text in it {NO_NUL}" if text.endswith("0x00") else f"the database refuses it: {text}"


def _problem(batch: Batch, index: int, reason: Reason, text: str, place: Place) -> Problem:
    """text: the record's own, which starts at `place`."""
    at, value = place.after(text[: reason.at]), reason.value
    if reason.steps:  # a message has no text for them: then it is the message's own place
        at = place.after(text[: positions.find(text, 0, reason.steps)])
    else:
        record = batch.records[index]
        value = text[reason.at :] if isinstance(record, Malformed) else record
    if reason.column is not None:
        at = Place(place.line, reason.column)
    problem = Problem(
        record=batch.first + index,
        pointer=clean(positions.pointer((*batch.steps(index), *reason.steps))),
        line=at.line,
        column=at.column,
        reason=clean(reason.text),
    )
    if value is not ...:
        problem["value"] = shown(value)
    return problem


def clean(text: str) -> str:
    """Text that a file in UTF-8 and PostgreSQL can hold: what a sender calls a field may be neither."""
    return text.replace("\0", r"\u0000").encode("utf-8", "backslashreplace").decode()


_to_json = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode


def shown(value: object) -> str:
    """A refused value as JSON; a long one is cut, which shows by the `…` at its end."""
    try:
        text = _to_json(value)
    except (ValueError, TypeError):  # 1e999 is infinite to Python; a flow's own validator may say anything
        text = _to_json(clean(repr(value)))
    return text if len(text) <= VALUE_CHARACTERS else text[: VALUE_CHARACTERS - 1] + "…"
