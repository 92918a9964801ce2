"""What every format owes to the pipeline, see formats/base.py: each member of FORMATS passes all of it.

A new format needs a line in BUILDERS.
"""

import io
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache

import pytest
from hypothesis import given, settings, strategies as st

import flows
from file_processing.inbound.formats import detect
from file_processing.inbound.formats.base import (
    BATCH_BYTES,
    MAX_RECORD_BYTES,
    AnswerFile,
    Batch,
    Format,
    Malformed,
    Reading,
    RecordText,
    RejectExchange,
)
from file_processing.inbound.formats.detect import FORMATS, format_of, plain_name
from file_processing.inbound.formats.positions import Place
from models.errors import RejectFile, RetryLater
from models.flow import Flow
from tests.support.edi_samples import ORDER, ORDER_X12, edifact, replaced, x12

FLOWS = flows.discover()
NOW = datetime(2026, 1, 31, 9, tzinfo=UTC)
SMALL = 256
"""Bytes of a batch: a record takes about as many."""


@dataclass(frozen=True, repr=False, eq=False)
class Builder:
    """How files of a format are made.

    known: the format. flow: whose they are. record: the text of one, by its number.
    around: what stands before and behind so many records. between: what separates two.
    endless: the start of a file whose first record goes on for ever.
    malformed: the text of what is no record; none where such a one spoils the whole file.
    shows_format, shows_flow: whether content alone tells.
    """

    known: Format
    flow: Flow
    record: Callable[[int], str]
    around: Callable[[int], tuple[str, str]]
    endless: str
    between: str = "\n"
    malformed: str | None = None
    encoding: str = "utf-8"
    shows_format: bool = True
    shows_flow: bool = True

    def content(self, records: Sequence[str]) -> bytes:
        before, behind = self.around(len(records))
        return f"{before}{self.between.join(records)}{behind}".encode(self.encoding)

    @property
    def file_name(self) -> str:
        return f"x{self.known.suffixes[0]}"

    @property
    def head(self) -> bytes:
        """The first bytes of a file."""
        return self.content(self.records(2))[:500]

    def records(self, count: int) -> list[str]:
        return [self.record(number) for number in range(count)]


def report(number: int) -> str:
    return f'{{"vehicle_id": "é-{number}", "report_time": "2022-05-05T22:02:34Z", "status": "{"🚚" * (number % 20)}"}}'


def edifact_order(number: int) -> str:
    body = [*replaced(ORDER, "BGM", f"BGM+220+PO-{number}+9"), "FTX+AAI+++Söhne ?'und Töchter?'"]
    return "\n".join(f"{segment}'" for segment in (f"UNH+{number}+ORDERS:D:96A:UN", *body, f"UNT+12+{number}"))


def x12_order(number: int) -> str:
    body = replaced(ORDER_X12, "BEG", f"BEG*00*SA*PO-{number}**20260131")
    return "\n".join(f"{segment}~" for segment in (f"ST*850*{number:04d}", *body, f"SE*7*{number:04d}"))


EDIFACT_HEAD, X12_HEAD = edifact().partition("UNH")[0], x12().partition("ST*")[0]

NAMED = {known.name: known for known in FORMATS}
BUILDERS = {
    "JSON, in an envelope": Builder(
        NAMED["JSON"],
        FLOWS["vehicle_status"],
        lambda number: report(number).replace(", ", ",\n  "),
        lambda _: ('{"sent": {"by": ["é"]},\n "vehicle_status": [', '\n], "more": null}'),
        '{"vehicle_status": [{"vehicle_id": "',
        between=", ",
    ),
    "JSON, a list": Builder(
        NAMED["JSON"],
        FLOWS["vehicle_status"],
        report,
        lambda _: ("[", "]\n"),
        '[{"vehicle_id": "',
        between=",\n",
        shows_flow=False,
    ),
    "JSON Lines": Builder(
        NAMED["JSON Lines"],
        FLOWS["vehicle_status"],
        report,
        lambda _: ("", "\n"),
        '{"vehicle_id": "',
        malformed='{"vehicle_id": é}',
        shows_format=False,
        shows_flow=False,
    ),
    "EDIFACT": Builder(
        NAMED["EDIFACT"],
        FLOWS["orders"],
        edifact_order,
        lambda count: (EDIFACT_HEAD, f"\nUNZ+{count}+REF1'\n"),
        f"{EDIFACT_HEAD}UNH+1+ORDERS:D:96A:UN'\nBGM+220+",
        malformed="UNH+bad+ORDERS:D:96A:UN'\nBGM+999+PO-1+9'\nUNT+3+bad'",
        encoding="latin-1",
    ),
    "X12": Builder(
        NAMED["X12"],
        FLOWS["orders"],
        x12_order,
        lambda count: (X12_HEAD, f"\nGE*{count}*7~\nIEA*1*000000001~\n"),
        f"{X12_HEAD}ST*850*0001~\nBEG*00*SA*",
        malformed="ST*850*bad~\nBEG*99*SA*PO-1**20260131~\nSE*3*bad~",
    ),
}

every_format = pytest.mark.parametrize("builder", [pytest.param(one, id=name) for name, one in BUILDERS.items()])
every_format_of_single_records = pytest.mark.parametrize(
    "builder", [pytest.param(one, id=name) for name, one in BUILDERS.items() if one.malformed is not None]
)


def read(builder: Builder, content: bytes, batch_bytes: int = BATCH_BYTES, *, name: str = "") -> list[Batch]:
    reading = Reading(name or builder.file_name, builder.flow, batch_bytes=batch_bytes)
    return list(builder.known.read(io.BytesIO(content), reading))


@cache
def twelve(builder: Builder, batch_bytes: int, *, with_malformed: bool = False) -> Sequence[Batch]:
    """A file of twelve records, read once for all tests."""
    records = builder.records(12)
    if with_malformed and builder.malformed is not None:
        records[4] = builder.malformed
    return read(builder, builder.content(records), batch_bytes)


def joined(batches: Sequence[Batch]) -> list[object]:
    return [record for batch in batches for record in batch.records]


def all_texts(batches: Sequence[Batch]) -> list[RecordText]:
    return [told for batch in batches for told in batch.texts(range(len(batch.records)))]


def text_from(content: str, place: Place) -> str:
    """The rest of a file from a place on."""
    assert place.line >= 1
    assert place.column >= 1
    lines = content.split("\n")
    return "\n".join([lines[place.line - 1][place.column - 1 :], *lines[place.line :]])


def test_every_format_has_its_builders() -> None:
    assert len(NAMED) == len(FORMATS)
    assert NAMED.keys() == {builder.known.name for builder in BUILDERS.values()}


# Recognised.


@every_format
def test_a_file_is_recognised_by_its_name(builder: Builder) -> None:
    head = builder.head
    assert builder.known.serves(builder.flow)
    for suffix in builder.known.suffixes:
        for name in (f"a{suffix}", f"A{suffix.upper()}", f"a.b{suffix}.gz", f"a{suffix}.GZ"):
            assert format_of(name, head, builder.flow) is builder.known
    assert format_of(f"a{builder.known.suffixes[0]}", b"", builder.flow) is builder.known


@every_format
def test_a_file_is_recognised_by_its_first_bytes(builder: Builder) -> None:
    for start in (b"", b"\xef\xbb\xbf", b"\r\n "):
        head = start + builder.head
        for name in ("a", "a.txt", "a.dat.gz"):
            assert (format_of(name, head, builder.flow) is builder.known) == builder.shows_format


@every_format
def test_a_flow_that_declares_nothing_for_a_format_gets_another(builder: Builder) -> None:
    for flow in FLOWS.values():
        if not builder.known.serves(flow):
            head = builder.head
            found = format_of(f"a{builder.known.suffixes[0]}", head, flow)
            assert found is not builder.known
            assert found.serves(flow)


@every_format
def test_the_start_of_a_file_leads_to_its_flow_and_to_no_other(builder: Builder) -> None:
    head = builder.head
    signs = builder.known.signs(head)
    told = [flow.name for flow in FLOWS.values() if not signs.isdisjoint(builder.known.signs_of(flow))]
    assert told == ([builder.flow.name] if builder.shows_flow else [])
    if signs:
        assert detect.signs(head) == (builder.known, signs)
        assert not any(other.signs(head) & signs for other in FORMATS if other is not builder.known)
    assert builder.known.describe(signs).isprintable()
    assert builder.known.describe(signs)


@every_format
@given(data=st.binary(max_size=100), cut=st.integers(0, 1000))
def test_any_first_bytes_have_some_signs_or_none(builder: Builder, data: bytes, cut: int) -> None:
    for head in (data, builder.content(builder.records(2))[:cut] + data):
        assert all(isinstance(sign, str) for sign in builder.known.signs(head))
        assert builder.known.recognises("a", head) in (True, False)


@every_format
def test_its_media_types_lead_back_to_it(builder: Builder) -> None:
    head = builder.content(builder.records(1))
    assert builder.known.media_types
    for kind, suffix in builder.known.media_types.items():
        assert suffix in builder.known.suffixes
        assert format_of(f"body{suffix}", head, builder.flow) is builder.known
        for flow in FLOWS.values():
            assert detect.media_types(flow).get(kind) == (suffix if builder.known.serves(flow) else None)
    assert builder.known.media_types.keys().isdisjoint(
        kind for other in FORMATS if other is not builder.known for kind in other.media_types
    )


# Read in batches.


@every_format
@pytest.mark.parametrize("count", [1, 2, 100])
@pytest.mark.parametrize("batch_bytes", [16, SMALL, BATCH_BYTES])
def test_records_come_in_order_and_their_positions_count_up(builder: Builder, count: int, batch_bytes: int) -> None:
    content = builder.content(builder.records(count))
    batches = read(builder, content, batch_bytes)
    at = 0
    for batch in batches:
        assert batch.first == at
        assert len(batch.records) > 0
        at += len(batch.records)
    assert at == count
    assert joined(batches) == joined(read(builder, content))
    assert all(not isinstance(record, Malformed) for record in joined(batches))


@every_format
def test_batches_add_up_to_what_the_file_holds(builder: Builder) -> None:
    records = builder.records(100)
    content = builder.content(records)
    (whole,) = read(builder, content)
    assert whole.size == len(content)
    batches = read(builder, content, SMALL)
    assert sum(batch.size for batch in batches) <= len(content)
    assert sum(batch.size for batch in batches) >= sum(len(record.encode(builder.encoding)) for record in records)


MOST_BYTES = MAX_RECORD_BYTES + 3 * BATCH_BYTES
"""So much of a file may stand in memory."""


class Endless(io.RawIOBase):
    """A file that goes on for ever. taken: bytes that were read of it."""

    def __init__(self, start: bytes, chunks: Iterator[bytes]) -> None:
        self._left = start
        self._chunks = chunks
        self.taken = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]  # typeshed: Buffer
        while len(self._left) < len(buffer):
            self._left += next(self._chunks)
        buffer[:], self._left = self._left[: len(buffer)], self._left[len(buffer) :]
        self.taken += len(buffer)
        assert self.taken <= MOST_BYTES, "it is read whole"
        return len(buffer)


@every_format
def test_a_file_of_any_length_is_read_in_batches_of_bounded_size_or_rejected(builder: Builder) -> None:
    """Never taken into memory first."""
    batch_bytes, longest = 4096, 1000

    def chunks() -> Iterator[bytes]:
        for start in itertools.count(step=200):
            records = (builder.record(number) for number in range(start, start + 200))
            yield (builder.between.join(records) + builder.between).encode(builder.encoding)

    endless = Endless(builder.around(1)[0].encode(builder.encoding), chunks())
    reading = Reading(builder.file_name, builder.flow, batch_bytes=batch_bytes)
    came: list[Batch] = []
    with suppress(RejectFile):
        for batch in itertools.islice(builder.known.read(io.BufferedReader(endless), reading), 20):
            came.append(batch)
            assert batch.size <= 2 * batch_bytes + longest
            assert endless.taken <= (len(came) + 2) * 2 * batch_bytes
    assert len(came) in (0, 20)


@every_format
def test_a_record_without_end_is_rejected_before_it_fills_the_memory(builder: Builder) -> None:
    endless = Endless(builder.endless.encode(), itertools.repeat(b"x" * (1 << 20)))
    reading = Reading(builder.file_name, builder.flow)
    with pytest.raises(RejectFile, match=r"l(ong|arg)er than"):
        list(builder.known.read(io.BufferedReader(endless), reading))


@every_format
def test_the_way_through_a_long_file_can_be_left(builder: Builder) -> None:
    """A batch at a time, or where `go_on` raises."""
    asked = 0

    def go_on() -> None:
        nonlocal asked
        asked += 1
        if asked > 10:
            raise RetryLater("the daemon is stopping")

    content = builder.content(builder.records(100))
    reading = Reading(builder.file_name, builder.flow, batch_bytes=SMALL, go_on=go_on)
    came: list[Batch] = []
    with suppress(RetryLater):
        came.extend(builder.known.read(io.BytesIO(content), reading))
    assert len(came) > 10 or asked > 10


# Where records stand.


@every_format
@given(wanted=st.sets(st.integers(0, 11)), batch_bytes=st.sampled_from([16, SMALL, BATCH_BYTES]))
def test_each_wanted_record_comes_word_for_word_with_its_place(
    builder: Builder, wanted: set[int], batch_bytes: int
) -> None:
    records = builder.records(12)
    content = builder.content(records)
    for batch in twelve(builder, batch_bytes):
        of_batch = [position - batch.first for position in sorted(wanted)]
        told = list(batch.texts(frozenset(of_batch)))
        assert [one.index for one in told] == [index for index in of_batch if 0 <= index < len(batch.records)]
        for one in told:
            assert one.text.strip() == records[batch.first + one.index]
            assert text_from(content.decode(builder.encoding), one.place).startswith(one.text)


@every_format
@pytest.mark.parametrize("batch_bytes", [SMALL, BATCH_BYTES])
def test_a_value_is_found_in_its_record(builder: Builder, batch_bytes: int) -> None:
    for batch in twelve(builder, batch_bytes):
        for one in batch.texts(range(len(batch.records))):
            record = batch.records[one.index]
            assert one.locate(()) == one.place
            assert isinstance(record, dict)
            for field in (*record, "no such field"):
                at = one.locate((field,))
                inside = one.text[: len(one.text) - len(text_from(one.text, _less(at, one.place)))]
                assert one.place.after(inside) == at
            assert batch.pointer(one.index, ("a/b", 0)).endswith("/a~1b/0")


def _less(at: Place, start: Place) -> Place:
    """The place in a text that starts at `start`."""
    return Place(at.line - start.line + 1, at.column - (start.column - 1 if at.line == start.line else 0))


@every_format
def test_a_file_of_records_fits(builder: Builder) -> None:
    for batch in read(builder, builder.content(builder.records(3)), SMALL):
        record = batch.records[0]
        assert isinstance(record, dict)
        assert batch.misfit(frozenset(record)) is None


# What is wrong.


@every_format_of_single_records
def test_what_is_no_record_costs_only_itself(builder: Builder) -> None:
    assert builder.malformed is not None
    records = [builder.record(0), builder.malformed, builder.record(2)]
    content = builder.content(records)
    for batch_bytes in (16, BATCH_BYTES):
        batches = read(builder, content, batch_bytes)
        good, bad, further = joined(batches)
        assert isinstance(bad, Malformed)
        assert bad.reason
        assert [good, further] == [joined(read(builder, builder.content([records[at]])))[0] for at in (0, 2)]
        told = all_texts(batches)[1]
        assert told.text.strip() == builder.malformed
        assert 0 <= bad.at < len(builder.malformed)


@every_format
def test_an_empty_file_is_rejected(builder: Builder) -> None:
    for content in (b"", b"\n", b" \r\n\t" * 1000):
        with pytest.raises(RejectFile):
            read(builder, content, SMALL)


@st.composite
def changes(draw: st.DrawFn) -> Callable[[bytes], bytes]:
    """Some damage to a file."""
    steps = draw(
        st.lists(
            st.tuples(
                st.floats(0, 1),
                st.sampled_from(["insert", "overwrite", "cut", "drop", "repeat"]),
                st.one_of(st.binary(max_size=4), st.sampled_from([*map(bytes, zip(b"{}[]\",:\\'+*~?\n\0\xff"))])),
            ),
            min_size=1,
            max_size=5,
        )
    )

    def change(data: bytes) -> bytes:
        for share, how, junk in steps:
            at = int(share * len(data))
            match how:
                case "insert":
                    data = data[:at] + junk + data[at:]
                case "overwrite":
                    data = data[:at] + junk + data[at + len(junk) :]
                case "cut":
                    data = data[:at]
                case "drop":
                    data = data[:at] + data[at + 1 + len(junk) :]
                case _:
                    data = data[:at] + data[at // 2 :]
        return data

    return change


@every_format
@settings(max_examples=150)
@given(change=changes(), batch_bytes=st.sampled_from([16, SMALL, BATCH_BYTES]))
def test_damage_is_named_and_never_raises_anything_else(
    builder: Builder, change: Callable[[bytes], bytes], batch_bytes: int
) -> None:
    _check_any_content(builder, change(builder.content(builder.records(3))), batch_bytes)


@every_format
@given(data=st.binary(max_size=200), batch_bytes=st.sampled_from([16, BATCH_BYTES]))
def test_bytes_of_any_kind_are_rejected_or_read(builder: Builder, data: bytes, batch_bytes: int) -> None:
    _check_any_content(builder, data, batch_bytes)


def _check_any_content(builder: Builder, content: bytes, batch_bytes: int) -> None:
    rejection: RejectFile | None = None
    batches: list[Batch] = []
    try:
        batches = read(builder, content, batch_bytes)
    except RejectFile as error:
        rejection = error
    if rejection is not None:
        assert rejection.reason
        assert all(number is None or number >= 1 for number in (rejection.line, rejection.column))
        if isinstance(rejection, RejectExchange) and rejection.exchange is not None:
            rejection.exchange.answer(None, NOW)
        return
    for record in joined(batches):
        if isinstance(record, Malformed):
            assert record.reason
            assert record.column is None or record.column >= 1
    texts = all_texts(batches)
    assert len(texts) == sum(len(batch.records) for batch in batches)
    for batch in batches:
        for one in batch.texts(range(len(batch.records))):
            batch.pointer(one.index, ("a",))
            if not isinstance(batch.records[one.index], Malformed):
                one.locate(("a", 0))
        batch.misfit(frozenset())
    if batches and (exchange := batches[0].exchange) is not None:
        assert all(notice.isprintable() for notice in exchange.notices())
        exchange.answer(range(len(texts)), NOW)
    if texts:
        with suppress(RejectFile):
            assert len(joined(_written(builder, batches, [one.text for one in texts]))) == len(texts)


# Written back, and answered.


def _written(builder: Builder, batches: Sequence[Batch], texts: Sequence[str]) -> list[Batch]:
    """These records in the form of their file, read again."""
    form = batches[0].form
    assert form.suffix in builder.known.suffixes
    file = io.BytesIO()
    form.write(file, iter(texts))
    name = f"again{form.suffix}"
    assert format_of(name, file.getvalue()[:1000], builder.flow) is builder.known
    return read(builder, file.getvalue(), name=plain_name(name))


@every_format
@given(
    wanted=st.sets(st.integers(0, 11), min_size=1),
    batch_bytes=st.sampled_from([SMALL, BATCH_BYTES]),
    with_malformed=st.booleans(),
)
def test_records_that_are_written_back_are_the_same_when_they_are_read_again(
    builder: Builder, wanted: set[int], batch_bytes: int, with_malformed: bool
) -> None:
    batches = twelve(builder, batch_bytes, with_malformed=with_malformed)
    texts, read_first = all_texts(batches), joined(batches)
    again = _written(builder, batches, [texts[position].text for position in sorted(wanted)])
    assert list(map(_plain, joined(again))) == [_plain(read_first[position]) for position in sorted(wanted)]
    assert [one.text.strip() for one in all_texts(again)] == [texts[at].text.strip() for at in sorted(wanted)]
    assert type(again[0].form) is type(batches[0].form)


def _plain(record: object) -> object:
    """What can be compared: an exception equals only itself."""
    return replace(record, cause=None) if isinstance(record, Malformed) else record


@every_format
def test_the_form_is_that_of_the_file_and_says_what_to_do(builder: Builder) -> None:
    content = builder.content(builder.records(12))
    for suffix in builder.known.suffixes:
        batches = read(builder, content, SMALL, name=f"x{suffix}")
        assert all(batch.form == batches[0].form for batch in batches)
        assert batches[0].form.suffix == suffix
        advice = batches[0].form.advice.format(suffix=".rejected", folder="input/flow/")
        assert ".rejected" in advice
        assert "input/flow/" in advice


@every_format
def test_a_file_with_a_number_is_answered_and_any_other_is_not(builder: Builder) -> None:
    batches = read(builder, builder.content(builder.records(3)), SMALL)
    exchange = batches[0].exchange
    if exchange is None:
        assert all(batch.exchange is None for batch in batches)
        return
    assert all(exchange.reference)
    assert exchange.is_test is False
    assert [*exchange.notices()] == []
    answers = [exchange.answer(rejected, NOW) for rejected in (frozenset[int](), {1}, None)]
    rendered = [answer.render(7) for answer in answers if isinstance(answer, AnswerFile)]
    assert len(set(rendered)) == len(answers)
    for answer in answers:
        assert answer is not None
        assert answer.suffix in builder.known.suffixes
        assert answer.partner in exchange.reference.sender
        assert answer.render(8) != answer.render(7) == answer.render(7)
    repeated = exchange.repeated(5)
    assert "#5" in repeated.reason
    assert repeated.exchange is not None
    rejected = repeated.exchange.answer(None, NOW)
    assert rejected is not None
    assert rejected.render(7) != rendered[0]
