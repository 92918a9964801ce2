"""From records to rows and reasons, whatever the flow's author wrote."""

import io
import itertools
import json
import time
from typing import Annotated, Any, ClassVar

import pytest
from hypothesis import given, strategies as st
from pydantic import AliasChoices, BaseModel, ConfigDict, Field
from sqlalchemy import Integer, MetaData, Text as SqlText
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from typing_extensions import TypedDict

import flows
from file_processing.inbound import record_errors, validate
from file_processing.inbound.formats.base import Batch, Reading
from file_processing.inbound.formats.detect import format_of, plain_name
from file_processing.inbound.limits import Limits, Rejects
from file_processing.inbound.validate import CheckedBatch, Validator
from models.errors import RejectRecord
from models.field_types import Text
from models.flow import Flow, RecordType

FLOWS = flows.discover()


class Own(DeclarativeBase):
    """Tables of these tests, which no database gets."""

    metadata: ClassVar[MetaData] = MetaData()


class Row(Own):
    __tablename__ = "validated"
    key: Mapped[str] = mapped_column(SqlText, primary_key=True)
    number: Mapped[int | None] = mapped_column(Integer)


LIMITS = Limits(max_bytes=1 << 30, max_unpack_ratio=100, max_rejects=1000)


def flow_of(record: RecordType, **options: Any) -> Flow:
    return Flow(record=record, table=Row, name="tested", **options)  # type: ignore[arg-type]  # no LoadedRow


def check(flow: Flow, *things: object) -> CheckedBatch:
    (batch,) = batches(flow, json.dumps(things))
    return Validator(flow).check(batch, Rejects(LIMITS))


def batches(flow: Flow, text: str, name: str = "x.json") -> list[Batch]:
    data = text.encode()
    return list(format_of(name, data, flow).read(io.BytesIO(data), Reading(plain_name(name), flow)))


class AsModel(BaseModel):
    key: Text
    number: int | None = None


class AsTypedDict(TypedDict):
    key: Text
    number: int | None


@pytest.mark.parametrize("record", [AsModel, AsTypedDict])
def test_fields_become_columns_without_a_function(record: RecordType) -> None:
    checked = check(flow_of(record), {"key": "a", "number": 1}, {"key": 5, "number": 1}, {"key": "b", "number": None})
    assert list(checked.rows) == [("a", 1), ("b", None)]
    assert list(checked.positions) == [0, 2]
    assert [bad.position for bad in checked.rejected] == [1]


def test_a_record_may_become_any_number_of_rows() -> None:
    flow = flow_of(AsModel, to_rows=lambda thing: [{"key": thing.key + str(n)} for n in range(thing.number or 0)])
    checked = check(flow, {"key": "a", "number": 2}, {"key": "b"}, {"key": "c", "number": 1})
    assert list(checked.rows) == [("a0", None), ("a1", None), ("c0", None)]
    assert list(checked.positions) == [0, 0, 2]


def test_a_row_may_leave_out_what_may_be_null_and_nothing_else() -> None:
    flow = flow_of(AsModel, to_rows=lambda thing: [{"key": thing.key} if thing.number is None else {"number": 1}])
    checked = check(flow, {"key": "a"}, {"key": "b", "number": 1}, {"key": "c"})
    assert list(checked.rows) == [("a", None), ("c", None)]
    (bad,) = checked.rejected
    assert bad.position == 1
    assert bad.errors[0]["reason"] == "flow tested cannot turn it into rows: KeyError: 'key'"


def test_a_flow_may_reject_a_record_when_it_makes_rows_of_it() -> None:
    def to_rows(thing: AsModel) -> list[dict[str, object]]:
        if thing.number is None:
            raise RejectRecord("a thing of no number is none")
        return [vars(thing)]

    checked = check(flow_of(AsModel, to_rows=to_rows), {"key": "a"}, {"key": "b", "number": 1})
    assert list(checked.rows) == [("b", 1)]
    assert [error["reason"] for bad in checked.rejected for error in bad.errors] == ["a thing of no number is none"]


def test_the_digest_of_children_is_the_one_that_tables_hold() -> None:
    """Another one would have every row that is loaded again taken for changed, and sent."""
    line = {"line_number": 1, "gtin": "4006381333931", "quantity": 3, "unit_price": "9.90"}
    order = {"partner": "p", "order_number": "1", "ordered_at": "2026-01-31T12:00:00Z", "currency": "EUR"}
    orders = [order | {"buyer": {"id": "b"}, "lines": lines} for lines in ([line], [line | {"unit_price": 9.9}])]
    checked = check(FLOWS["orders"], *orders)
    digests = [row[-1] for row in checked.rows]
    assert digests == 2 * [bytes.fromhex("a1c6340447440b5586edcf1c43cdca7efa62e9f5b3e7a9ad8d3bd5f7d9f5f80f")]


class Renamed(BaseModel):
    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True)
    key: Annotated[str, Field(alias="theKey")]
    number: Annotated[int, Field(validation_alias=AliasChoices("no", "nr"))]


@pytest.mark.parametrize("to_rows", [None, lambda record: [record.model_dump()] * (record.number or 0)])
def test_good_batches_of_several_files_come_to_the_same_together(to_rows: Any) -> None:
    flow = flow_of(AsModel, to_rows=to_rows)
    files = [[{"key": "a", "number": 2}], [], [{"key": "b"}, {"key": "c", "new": 1}], [{"key": "d", "number": 1}]]
    read = [batch for file in files for batch in batches(flow, json.dumps(file))]
    validator = Validator(flow)
    apart = [validator.check(batch, Rejects(LIMITS)) for batch in read]
    together = validator.check_together(read)
    assert together is not None
    for one, other in zip(together, apart, strict=True):
        assert (one.batch, one.records, one.rows, one.children) == (
            other.batch,
            other.records,
            other.rows,
            other.children,
        )
        assert (one.positions, one.bad, one.drift) == (other.positions, other.bad, other.drift)
    assert [dict(one.drift) for one in together] == [{}, {}, {"new": 1}, {}]


def test_batches_of_which_one_has_a_bad_record_are_checked_one_by_one() -> None:
    flow = flow_of(AsModel)
    read = [batch for file in ([{"key": "a"}], [{"key": 5}]) for batch in batches(flow, json.dumps(file))]
    assert Validator(flow).check_together(read) is None


def test_every_spelling_of_a_field_is_known() -> None:
    checked = check(
        flow_of(Renamed), {"theKey": "a", "no": 1}, {"key": "b", "nr": 2, "odd": 3}, {"key": "c", "number": 1}
    )
    assert len(checked.rows) == 3
    assert checked.drift == {"odd": 1}


class Closed(BaseModel):
    model_config = ConfigDict(extra="forbid")
    key: str


def test_a_field_that_may_not_be_there_is_named() -> None:
    checked = check(flow_of(Closed), {"key": "a", "o\0dd": 1})
    (error,) = checked.rejected[0].errors
    assert error["reason"] == r"o\u0000dd is not known here"
    assert error["pointer"] == r"/0/o\u0000dd"


def test_many_unknown_fields_take_no_more_time_than_few() -> None:
    things = [{"key": "a", f"odd-{number}": 1} for number in range(20_000)]
    started = time.perf_counter()
    checked = check(flow_of(AsModel), *things)
    assert time.perf_counter() - started < 5
    assert len(checked.drift) == validate.DRIFT_NAMES


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("é\n", '"é\\n"'),
        (None, "null"),
        (1.5, "1.5"),
        (float("inf"), '"inf"'),
        ({"a": [1, "x"]}, '{"a": [1, "x"]}'),
        ("x" * 198, '"' + "x" * 198 + '"'),
        ("x" * 199, '"' + "x" * 198 + "…"),
        (10**3999, "1" + "0" * 198 + "…"),
        (object, None),
    ],
)
def test_a_value_is_shown_as_json_and_cut(value: object, shown: str | None) -> None:
    found = record_errors.shown(value)
    assert shown is None or found == shown
    assert len(found) <= record_errors.VALUE_CHARACTERS


things = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=5)
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.one_of(st.text(max_size=3), st.sampled_from(["vehicle_id", "orderNo"])), inner, max_size=3),
    ),
    max_leaves=6,
)


@given(st.lists(things, min_size=1, max_size=6), st.sampled_from(sorted(FLOWS)), st.booleans(), st.booleans())
def test_every_record_loads_or_is_rejected_with_a_place_and_a_reason(
    content: list[Any], flow: str, as_lines: bool, indented: bool
) -> None:
    if as_lines:
        text = "\n".join(json.dumps(thing) for thing in content)
    else:
        text = json.dumps(content, indent=1 if indented else None)
    lines = text.split("\n")
    validator = VALIDATORS[flow]
    for batch in batches(FLOWS[flow], text, "x.jsonl" if as_lines else "x.json"):
        checked = validator.check(batch, Rejects(LIMITS))
        bad = {one.position for one in checked.rejected}
        assert bad.isdisjoint(checked.positions)
        assert checked.records == len(batch.records)
        for error in itertools.chain.from_iterable(one.errors for one in checked.rejected):
            assert error["reason"]
            assert 1 <= error["column"] <= len(lines[error["line"] - 1])
            assert "\0" not in json.dumps(error)
        for one in checked.rejected:
            assert json.loads(one.text) == content[one.position]


VALIDATORS = {name: Validator(flow) for name, flow in FLOWS.items()}
