"""What goes out says what came in: mappings and names as properties, no database needed."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import PurePosixPath
from typing import Annotated, Any

from hypothesis import given, strategies as st
from pydantic import PlainSerializer, TypeAdapter
from typing_extensions import TypedDict

import flows as flow_folder
from file_processing.outbound.translate import Translator, file_name
from models.errors import RejectRecord
from models.field_types import decimal_text, offset_text, utc_text
from models.outbound import Form, Outbound

FLOWS = flow_folder.discover()
MOMENTS = st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
OWN = {"changed_at": datetime(2026, 1, 1, tzinfo=UTC), "outbound_file_id": None}
FLAGS = ("isActive", "isCanceled", "isDone", "isOnHold", "isPending")


@given(
    st.fixed_dictionaries({flag: st.booleans() for flag in FLAGS}),
    st.booleans(),
    MOMENTS,
    MOMENTS,
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1),
)
def test_a_work_order_says_on_its_way_out_what_it_said_on_its_way_in(
    flags: dict[str, bool], deleted: bool, created: datetime, updated: datetime, summary: str
) -> None:
    flow = FLOWS["work_orders"]
    sent = {"orderNo": 7, "summary": summary, "creationDate": created.isoformat()} | flags
    sent |= {"lastUpdateDate": updated.isoformat(), "isDeleted": deleted}
    sent |= {"deletedDate": updated.isoformat() if deleted else None}
    read = TypeAdapter[Any](flow.record)
    assert flow.to_rows is not None
    try:
        (row,) = flow.to_rows(read.validate_python(sent))
    except RejectRecord:
        assert sum(flags[flag] for flag in FLAGS if flag != "isActive") > 1
        return
    drafts = Translator(flow).drafts([dict(row) | OWN])
    (draft,) = drafts.files
    document = json.loads(draft.numbered(1)[1])
    assert sum(document[flag] for flag in FLAGS) == 1
    (again,) = flow.to_rows(read.validate_python(document))
    assert again == row
    assert draft.name == "7.json"


@given(st.text(), st.text())
def test_two_values_never_share_a_file_name_and_none_leaves_the_folder(one: str, other: str) -> None:
    outbound = FLOWS["orders"].outbound[-1]
    names = [file_name(outbound, {"partner": "p", "order_number": value}) for value in (one, other)]
    assert (names[0] == names[1]) == (one == other)
    for name in names:
        path = PurePosixPath(name)
        assert path.parts[0] == "p"
        assert len(path.parts) == 2
        assert not path.name.startswith(".")
        assert len(path.name.encode()) <= 255


@given(st.decimals(allow_nan=False, allow_infinity=False, places=6))
def test_a_decimal_keeps_every_digit(number: Decimal) -> None:
    assert Decimal(decimal_text(number)) == number
    assert "E" not in decimal_text(number)


@given(MOMENTS)
def test_a_moment_is_the_same_moment_in_either_form(moment: datetime) -> None:
    assert datetime.fromisoformat(utc_text(moment)) == moment
    assert datetime.fromisoformat(offset_text(moment)) == moment


def test_a_row_whose_serializer_fails_is_quarantined_alone() -> None:
    def picky(number: int) -> int:
        if number == 2:
            raise ValueError("no two")
        return number

    class Numbered(TypedDict):
        number: Annotated[int, PlainSerializer(picky)]

    flow = FLOWS["work_orders"]
    one = Outbound("{number}.json", Numbered, lambda row: {"number": row["number"]}, form=Form.ONE)
    drafts = Translator(replace(flow, outbound=(one,))).drafts([{"number": number} for number in (1, 2, 3)])
    assert [draft.name for draft in drafts.files] == ["1.json", "3.json"]
    ((row, reason),) = drafts.quarantined
    assert row["number"] == 2
    assert "flow work_orders cannot write it" in reason
    assert "no two" in reason
