"""Why a record is rejected: in plain words, with the place where it stands and the value that is wrong."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from file_processing.inbound.formats.base import Batch, Malformed, RecordText
from file_processing.inbound.formats.positions import Place, Steps
from models.ledger import RecordError
from services.text import storable

VALUE_CHARACTERS = 200
"""As much of a wrong value is shown in a report."""

REASONS = 100
"""So many reasons of one record are told; it may be a list of a million wrong things."""

NO_NUL = r"may not contain the character NUL (\u0000)"


@dataclass(frozen=True, slots=True)
class RejectedText:
    """A rejected record: its own text, and at least one error."""

    position: int
    text: str
    errors: tuple[RecordError, ...]


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
    """Every reason of every bad record, by its index."""
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


# Pydantic's messages that speak of Python, in the sender's terms.
_PLAIN_WORDS = {
    "datetime_from_date_parsing": "is no time that exists: {last}",
    "datetime_parsing": "is no time that exists: {last}",
    "extra_forbidden": "{field} is not known here",
    "missing": "{field} is missing",
    "timezone_aware": "has no time zone: add Z for UTC or an offset like +02:00",
    "string_type": "should be text",
    "bool_type": "should be true or false",
    "list_type": "should be a list",
    "dict_type": "should be an object",
    "model_type": "should be an object",
    "model_attributes_type": "should be an object",
    "dataclass_type": "should be an object",
}


def _in_plain_words(detail: ErrorDetails) -> str:
    kind, message, value = detail["type"], detail["msg"], detail["input"]
    if kind in _PLAIN_WORDS:
        return _PLAIN_WORDS[kind].format(field=detail["loc"][-1], last=message.rpartition(", ")[2])
    if kind == "string_pattern_mismatch" and "\0" in value:
        return NO_NUL
    if kind == "string_too_short" and value == "":
        return "may not be empty"
    if kind in ("value_error", "assertion_error"):
        return message.removeprefix("Value error, ").removeprefix("Assertion failed, ")
    return re.sub(r"^\w+ (?=should )", "", message)


def rejected(batch: Batch, reasons: Mapping[int, Iterable[Reason]]) -> list[RejectedText]:
    """The bad records of a batch, by index, each with where it stands and why it is rejected."""
    return [
        RejectedText(
            batch.first + record.index,
            record.text,
            tuple(_error(batch, record, reason) for reason in _first(list(reasons[record.index]))),
        )
        for record in islice(batch.texts(reasons), len(reasons))  # behind the last of them nothing is walked
    ]


def _first(reasons: Sequence[Reason]) -> Sequence[Reason]:
    left_out = len(reasons) - REASONS
    if left_out <= 0:
        return reasons
    return [*reasons[:REASONS], Reason((), f"and {left_out} more reason{'s' if left_out > 1 else ''}")]


def rejected_by_database(batch: Batch, reasons: Mapping[int, str]) -> list[RejectedText]:
    """The same for records that the database would not take."""
    return rejected(batch, {index: [Reason((), _from_database(text))] for index, text in reasons.items()})


def _from_database(text: str) -> str:
    return f"text in it {NO_NUL}" if text.endswith("0x00") else f"the database rejects it: {text}"


def _error(batch: Batch, record: RecordText, reason: Reason) -> RecordError:
    value = reason.value
    if reason.steps:
        at = record.locate(reason.steps)
    else:
        whole = batch.records[record.index]
        value = record.text[reason.at :] if isinstance(whole, Malformed) else whole
        at = record.place.after(record.text[: reason.at])
    if reason.column is not None:
        at = Place(at.line, reason.column)
    error = RecordError(
        record=batch.first + record.index,
        pointer=storable(batch.pointer(record.index, reason.steps)),
        line=at.line,
        column=at.column,
        reason=storable(reason.text),
    )
    if value is not ...:
        error["value"] = shown(value)
    return error


_to_json = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode


def shown(value: object) -> str:
    """A wrong value as JSON; a long one is cut, which shows by the `…` at its end."""
    try:
        text = _to_json(value)
    except (ValueError, TypeError):  # 1e999 is infinite to Python; a flow's own validator may say anything
        text = _to_json(storable(repr(value)))
    return text if len(text) <= VALUE_CHARACTERS else text[: VALUE_CHARACTERS - 1] + "…"
