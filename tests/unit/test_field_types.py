"""The field types of partners' records: what they take, what they reject, and what comes out."""

import json
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Annotated, Any

import pytest
from hypothesis import given, strategies as st
from pydantic import Field, TypeAdapter, ValidationError

from models.field_types import (
    EARLIEST,
    LATEST,
    DecimalNumber,
    ExactNumber,
    Flag,
    Instant,
    Int32,
    Int32OrText,
    Int64,
    Int64OrText,
    IsoDate,
    Text,
    UtcInstant,
    WholeNumber,
)

instant: TypeAdapter[datetime] = TypeAdapter(Instant)
utc_instant: TypeAdapter[datetime] = TypeAdapter(UtcInstant)
iso_date: TypeAdapter[date] = TypeAdapter(IsoDate)
int32: TypeAdapter[int] = TypeAdapter(Int32)
int32_or_text: TypeAdapter[int] = TypeAdapter(Int32OrText)
flag: TypeAdapter[bool] = TypeAdapter(Flag)
text: TypeAdapter[str] = TypeAdapter(Text)

offsets = st.timedeltas(timedelta(hours=-23, minutes=-59), timedelta(hours=23, minutes=59)).map(
    lambda delta: timezone(timedelta(minutes=delta // timedelta(minutes=1)))
)
moments = st.datetimes(
    EARLIEST.replace(tzinfo=None) + timedelta(days=1), LATEST.replace(tzinfo=None) - timedelta(days=1)
)
json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=2), st.dictionaries(st.text(max_size=2), inner, max_size=2)),
    max_leaves=3,
)


def rejects(adapter: TypeAdapter[Any], value: object) -> bool:
    try:
        adapter.validate_python(value)
    except ValidationError:
        return True
    return False


@given(moments, offsets, st.sampled_from("T t"))
def test_a_time_with_an_offset_comes_out_as_the_same_moment(moment: datetime, offset: timezone, between: str) -> None:
    aware = moment.replace(tzinfo=offset)
    for adapter in (instant, utc_instant):
        assert adapter.validate_python(aware.isoformat(sep=between)) == aware
        assert adapter.validate_python(aware.astimezone(UTC).isoformat().replace("+00:00", "Z")) == aware


@given(moments)
def test_a_naive_time_is_rejected_unless_the_partner_means_utc(moment: datetime) -> None:
    assert rejects(instant, moment.isoformat())
    assert utc_instant.validate_python(moment.isoformat()) == moment.replace(tzinfo=UTC)


@pytest.mark.parametrize(
    "accepted",
    ["2022-05-05T22:02Z", "2022-05-05t22:02:34z", "2022-05-05 22:02:34.123456789+0200", " 2022-05-05T22:02:34,5Z ",
     "2024-02-29T00:00:00-00:00"],
)  # fmt: skip
def test_a_time_may_be_written_as_iso_8601_allows(accepted: str) -> None:
    assert not rejects(instant, accepted)


@pytest.mark.parametrize(
    "rejected",
    ["", "now", "2022-05-05", "22:02:34Z", "1494012444", "1494012444000", "-1", "0", 1494012444, 1.5, True, None, [],
     "2022-02-29T00:00:00Z", "2022-02-31T00:00:00Z", "2022-13-01T00:00:00Z", "2022-05-05T24:01:00Z",
     "2022-05-05T22:60:00Z", "0000-01-01T00:00:00Z", "10000-01-01T00:00:00Z", "0001-01-01T00:00:00+01:00",
     "9999-12-31T23:59:59-01:00", "2022-05-05T22:02:34+99:00", "2022-05-05T22:02:34Z\n2022", "20220505T220234Z",
     "\uff12\uff10\uff12\uff12-05-05T22:02:34Z"],
)  # fmt: skip
def test_what_is_no_time_is_rejected(rejected: object) -> None:
    assert rejects(instant, rejected)
    assert rejects(utc_instant, rejected)


@given(st.dates())
def test_a_date_is_iso_8601_text(day: date) -> None:
    assert iso_date.validate_python(day.isoformat()) == day


@pytest.mark.parametrize(
    "rejected",
    ["", "1767225600", 1767225600, 0, "0", 1.0, True, None, "2026-02-30", "20260131", "2026-01-31T00:00:00Z",
     "2026-1-31", "0000-01-01", "2026-01-31\n2026", "\uff12\uff10\uff12\uff16-01-31"],
)  # fmt: skip
def test_what_is_no_date_is_rejected(rejected: object) -> None:
    assert rejects(iso_date, rejected)


@given(json_values)
def test_only_a_whole_number_in_range_is_a_whole_number(value: Any) -> None:
    number = type(value) in (int, float) and value == value and abs(value) != float("inf") and value == int(value)
    if number and -(2**31) <= value <= 2**31 - 1:
        assert int32.validate_python(value) == int32_or_text.validate_python(value) == value
        assert type(int32.validate_python(value)) is int
    else:
        assert rejects(int32, value)


@given(st.one_of(st.integers(), st.integers(-(2**33), 2**33), st.sampled_from([-(2**31), 2**31 - 1, 2**31])))
def test_digits_in_text_count_only_where_they_may(number: int) -> None:
    assert rejects(int32, str(number))
    if -(2**31) <= number <= 2**31 - 1:
        assert int32_or_text.validate_python(f" {number} ") == number
    else:
        assert rejects(int32_or_text, str(number))


@given(st.text(max_size=5))
def test_what_is_no_digits_is_no_number(value: str) -> None:
    digits = value.strip(" \t\r\n").removeprefix("-").removeprefix("+")
    if not (digits.isascii() and digits.isdigit()):
        assert rejects(int32_or_text, value)


@pytest.mark.parametrize(
    "value", ["1_000", "1.0", "1e3", "0x10", "", "+", "--1", "\uff11\uff12", "9" * 4000, "inf", "nan", "0\x85"]
)
def test_python_s_own_spellings_are_no_numbers(value: str) -> None:
    assert rejects(int32_or_text, value)


@given(json_values)
def test_only_true_and_false_are_flags(value: Any) -> None:
    if isinstance(value, bool):
        assert flag.validate_python(value) is value
    else:
        assert rejects(flag, value)


@given(json_values)
def test_only_text_without_nul_is_text(value: Any) -> None:
    if isinstance(value, str) and value and "\0" not in value:
        assert text.validate_python(value) == value
    else:
        assert rejects(text, value)


def test_line_breaks_hide_no_nul() -> None:
    assert rejects(text, "a\n\0")
    assert rejects(text, "a\0\n")
    assert text.validate_python("a\nb\n") == "a\nb\n"


@pytest.mark.parametrize("adapter", [instant, utc_instant, iso_date, int32, int32_or_text, flag, text])
def test_every_type_describes_itself_as_json_schema(adapter: TypeAdapter[Any]) -> None:
    assert json.dumps(adapter.json_schema())


# The same bounds beside the type, each a call of a Python function, which the type's own spare.
KINDS: list[tuple[Any, Any]] = [
    (Annotated[int, WholeNumber(ge=0)], Annotated[Int64, Field(ge=0, le=2**31 - 1)]),
    (Annotated[int, WholeNumber(from_text=True, ge=-5, le=5)], Annotated[Int64OrText, Field(ge=-5, le=5)]),
    (
        Annotated[Decimal, DecimalNumber(ge=0, max_digits=8, decimal_places=3)],
        Annotated[ExactNumber, Field(ge=0, max_digits=8, decimal_places=3)],
    ),
]
numbers = st.one_of(
    json_values,
    st.decimals(),
    st.decimals(-20, 20, places=4),
    st.integers(-20, 20),
    st.integers(-20, 20).map(lambda number: f" {number}\n"),
    st.decimals(-20, 20, places=4).map(str),
    st.from_regex(r"[+-]?[0-9]{1,9}(\.[0-9]{1,4})?", fullmatch=True),
)


@pytest.mark.parametrize(
    ("own", "beside"), [(TypeAdapter[Any](own), TypeAdapter[Any](beside)) for own, beside in KINDS]
)
@given(numbers)
def test_bounds_of_the_type_are_those_of_a_field(own: TypeAdapter[Any], beside: TypeAdapter[Any], value: Any) -> None:
    found, expected = judged(own, value), judged(beside, value)
    assert repr(found) == repr(expected)  # a Decimal's digits count too


def judged(adapter: TypeAdapter[Any], value: object) -> Any:
    """The value that comes out, or where it is rejected nothing but that."""
    try:
        return adapter.validate_python(value)
    except ValidationError:
        return "rejected"


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (Annotated[int, WholeNumber(from_text=True, ge=0)], " -5 "),
        (Annotated[Decimal, DecimalNumber(ge=0)], "-0.50"),
        (Annotated[Decimal, DecimalNumber(decimal_places=2)], "0.001"),
        (UtcInstant, "0001-01-01T00:00:00"),
    ],
)
def test_what_is_out_of_range_is_shown_as_it_was_sent(kind: Any, value: str) -> None:
    with pytest.raises(ValidationError) as rejected:
        TypeAdapter(kind).validate_python(value)
    assert [error["input"] for error in rejected.value.errors()] == [value]
