"""Any bytes to records: streamed in small pieces they give what a strict parser gives, or are rejected."""

import io
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings, strategies as st

import flows
from file_processing.inbound.formats import json_lines, json_parse, json_stream, positions
from file_processing.inbound.formats.base import Batch, Malformed, Reading
from file_processing.inbound.formats.detect import format_of, plain_name
from file_processing.inbound.formats.positions import START, Place
from models.errors import RejectFile

FLOW = flows.discover()["vehicle_status"]
ENVELOPE = "things"
BLANKS = " \t\r\n"

# Text that looks like the syntax around it, and characters of one to four bytes.
awkward = st.sampled_from(
    ['"', "\\", "[", "]", "{", "}", ",", ":", "\n", "\t", "/", "a", "é", "€", "😀", "\x7f", "\x00"]
)
texts = st.one_of(st.text(max_size=8), st.text(awkward, max_size=12), st.just(ENVELOPE)).filter(
    lambda text: text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)
)
keys = st.one_of(st.sampled_from(["id", "sub", ENVELOPE, "a/b~c", ""]), texts)
scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), texts)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(keys, inner, max_size=4)),
    max_leaves=12,
)
objects = st.one_of(
    st.fixed_dictionaries(
        {"id": values}, optional={"sub": st.lists(st.fixed_dictionaries({"id": values}), max_size=3)}
    ),
    st.dictionaries(keys, values, max_size=4),
)
lists = st.one_of(st.lists(objects, max_size=12), st.lists(values, max_size=12))
batch_sizes = st.one_of(st.integers(16, 512), st.sampled_from([16, 17, 64]))


blanks = st.builds(lambda start, count: (BLANKS * 11)[start : start + count], st.integers(0, 3), st.integers(0, 40))
"""Drawn at once: letter by letter takes half of a test's time."""


@st.composite
def written(draw: st.DrawFn, value: object) -> str:
    """`value` as JSON in some style: its blanks, its escapes."""
    style = draw(st.integers(0, 3))
    if style < 3:
        indent, separators = [(None, (",", ":")), (2, None), ("\t", (" , ", "\n:\r "))][style]
        text = json.dumps(value, ensure_ascii=draw(st.booleans()), indent=indent, separators=separators)
    else:
        text = json.dumps(value, ensure_ascii=False).replace("/", r"\/")
    return draw(blanks) + text + draw(blanks)


def read(data: bytes, size: int, *, name: str = "x.json", envelope: str | None = ENVELOPE) -> list[Batch]:
    return list(batches_of(io.BytesIO(data), size, name=name, envelope=envelope))


def batches_of(file: io.BytesIO, size: int, *, name: str = "x.json", envelope: str | None = None) -> Iterator[Batch]:
    flow = replace(FLOW, envelope=envelope)
    return format_of(name, file.getbuffer()[:100].tobytes(), flow).read(
        file, Reading(plain_name(name), flow, batch_bytes=size)
    )


def joined(batches: list[Batch]) -> list[object]:
    """All records, once every batch has proved where it says that it stands."""
    found: list[object] = []
    for batch in batches:
        assert batch.first == len(found)
        assert len(batch.records) > 0 or len(batches) == 1
        found += batch.records
    return found


def check_places(batches: list[Batch], text: str) -> None:
    """Every record is found, word for word, at the line and column that its batch gives."""
    lines = text.split("\n")
    for batch in batches:
        texts = list(batch.texts(range(len(batch.records))))
        assert [record.index for record in texts] == [*range(len(batch.records))]
        for told, record in zip(texts, batch.records, strict=True):
            line, column = told.place.line, told.place.column
            rest = "\n".join([lines[line - 1][column - 1 :], *lines[line:]])
            assert rest.startswith(told.text)
            assert told.locate(()) == told.place
            if not isinstance(record, Malformed):
                assert same(json.loads(told.text), record)


def same(one: object, other: object) -> bool:
    """Equal, where 1, 1.0 and true are three different things."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


@given(st.data(), lists, batch_sizes)
def test_an_array_gives_its_records_in_order(data: st.DataObject, things: list[Any], size: int) -> None:
    text = data.draw(written(things))
    batches = read(text.encode(), size)
    assert same(joined(batches), things)
    check_places(batches, text)


@given(
    st.data(),
    lists,
    st.dictionaries(keys.filter(lambda key: key != ENVELOPE), values, max_size=3),
    st.dictionaries(keys.filter(lambda key: key != ENVELOPE), values, max_size=3),
    batch_sizes,
)
def test_an_envelope_gives_its_records_whatever_stands_around_them(
    data: st.DataObject, things: list[Any], before: dict[str, Any], after: dict[str, Any], size: int
) -> None:
    after = {key: value for key, value in after.items() if key not in before}
    text = data.draw(written({**before, ENVELOPE: things, **after}))
    batches = read(text.encode(), size)
    assert same(joined(batches), things)
    check_places(batches, text)
    assert all(batch.pointer(0, ("a",)) == f"/{ENVELOPE}/{batch.first}/a" for batch in batches)


@given(st.data(), st.lists(values, min_size=1, max_size=12), batch_sizes)
def test_json_lines_give_a_record_a_line(data: st.DataObject, things: list[Any], size: int) -> None:
    lines = [data.draw(written(thing)).replace("\n", "") for thing in things]
    text = data.draw(st.sampled_from(["\n", "\r\n", "\n \n\n"])).join(lines) + data.draw(st.sampled_from(["", "\n"]))
    batches = read(text.encode(), size, name="x.JSONL")
    assert same(joined(batches), things)
    check_places(batches, text)


@given(st.data(), objects, batch_sizes)
def test_an_object_without_the_envelope_is_one_record(data: st.DataObject, thing: dict[str, Any], size: int) -> None:
    text = data.draw(written(thing))
    (batch,) = read(text.encode(), size, envelope=None)
    assert batch.pointer(0, ("a",)) == "/a"
    assert same(batch.records[0], thing)
    check_places([batch], text)


def strictly(data: bytes) -> list[Any]:
    """The records as the standard library reads them, where it is as strict as RFC 8259 and we are."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) < len(pairs):
            raise ValueError("a key stands twice")
        return dict(pairs)

    def no_number(name: str) -> None:
        raise ValueError(name)

    document = json.loads(data.decode("utf-8-sig"), object_pairs_hook=once, parse_constant=no_number)
    json.dumps(document, ensure_ascii=False).encode()  # no lone surrogates
    if isinstance(document, dict):
        document = document.get(ENVELOPE, [document])
    if not isinstance(document, list):
        raise ValueError("no list of records")  # as the others
    return document


@st.composite
def spoiled(draw: st.DrawFn) -> bytes:
    """A document that was cut, or had something put into it, or bytes of it overwritten."""
    things: Any = draw(lists)
    form = draw(st.sampled_from([things, {ENVELOPE: things}, {"x": [1], ENVELOPE: things, "y": {"z": ""}}]))
    data = bytearray(draw(written(form)).encode())
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(data)))
        junk = draw(
            st.one_of(
                st.binary(max_size=3),
                st.sampled_from(
                    [b",", b"]", b"[", b"{", b"}", b'"', b"\\", b":", b"NaN", b"-", b"1e5", b'"id":1,', b"\x0b",
                     b"\\ud800", b"\xff", b"\xc3", f'"{ENVELOPE}":[],'.encode(), b",1", b"0", b"[]", b"null"]
                ),
            )
        )  # fmt: skip
        match draw(st.sampled_from(["insert", "overwrite", "cut", "drop"])):
            case "insert":
                data[at:at] = junk
            case "overwrite":
                data[at : at + len(junk)] = junk
            case "cut":
                del data[at:]
            case "drop":
                del data[at : at + draw(st.integers(1, 4))]
    return bytes(data)


@settings(max_examples=200)
@given(spoiled(), batch_sizes)
def test_spoiled_bytes_give_what_a_strict_parser_gives_or_are_rejected_and_batches_change_nothing(
    data: bytes, size: int
) -> None:
    try:
        expected: list[Any] | None = strictly(data)
    except (ValueError, RecursionError):
        expected = None
    try:
        found: list[object] | None = joined(read(data, size))
    except RejectFile:
        found = None
    if found is None or expected is None:
        assert found is None
        assert expected is None
    else:
        assert same(found, expected)
    assert rejection(data, size) == rejection(data, 1 << 20)


def rejection(data: bytes, size: int) -> tuple[str, int | None, int | None] | None:
    """Reason and place of a fault."""
    try:
        read(data, size)
    except RejectFile as error:
        what, _, _found = error.reason.partition(", found ")  # cut by the end of a batch
        return what, error.line, error.column
    return None


@given(st.binary(max_size=200), batch_sizes, st.sampled_from(["x.json", "x.jsonl"]))
def test_any_bytes_raise_nothing_but_a_rejection(data: bytes, size: int, name: str) -> None:
    try:
        batches = read(data, size, name=name)
    except RejectFile as error:
        place, batches = (error.line, error.column), []
    else:
        place = None, None
    assert all(number is None or number >= 1 for number in place)
    for batch in batches:
        assert len(list(batch.texts(range(len(batch.records))))) == len(batch.records)


@given(st.lists(st.one_of(st.binary(max_size=20), st.just(b'{"a": 1}'), st.just("\u00a0".encode())), max_size=6))
def test_a_bad_line_costs_only_itself(lines: list[bytes]) -> None:
    lines = [line.replace(b"\n", b" ").replace(b"\xff", b"?") for line in lines]
    data = b'{"a": 1}\n' + b"\n".join(lines)
    found = joined(read(data, 32, name="x.ndjson"))
    filled = [line for line in lines if line.strip(b" \t\r")]
    assert len(found) == len(filled) + 1
    assert [isinstance(record, Malformed) for record in found[1:]] == [not is_json(line) for line in filled]


def is_json(line: bytes) -> bool:
    try:
        json_parse.parse(line)
    except RejectFile:
        return False
    return True


def test_a_fault_deep_in_a_long_file_is_told_at_its_place() -> None:
    text = "[\n" + ",\n".join(f'{{"id": {number}}}' for number in range(500)) + ',\n{"é": "😀", "x": tru}\n]'
    with pytest.raises(RejectFile) as caught:
        read(text.encode(), 256)
    assert (caught.value.line, caught.value.column) == (502, text.splitlines()[501].index("}") + 1)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ('[{"id": 1}, {"id": "' + "x" * 3000 + '"}]', "a record is longer than"),
        (
            '{"head": "' + "x" * 3000 + '", "things": [1, 2]}',
            "a single record, or what stands before the list, is longer",
        ),
        ('{"things": [1, 2], "tail": "' + "x" * 3000 + '"}', "what stands after the list is longer"),
    ],
)
def test_what_must_stand_in_memory_whole_is_bounded(text: str, what: str) -> None:
    with mock.patch.object(json_stream, "MAX_RECORD_BYTES", 1024), pytest.raises(RejectFile, match=what):
        read(text.encode(), 128)


def test_a_line_is_bounded_too() -> None:
    with mock.patch.object(json_lines, "MAX_RECORD_BYTES", 1024), pytest.raises(RejectFile, match="a line is longer"):
        read(b'"' + b"x" * 3000 + b'"', 128, name="x.jsonl")


def test_a_fault_is_found_without_reading_on_for_the_end_of_the_record() -> None:
    file = io.BytesIO(b'[{"id": 1}, {"id": oh}, ' + b'{"id": 2}, ' * 100_000)
    with pytest.raises(RejectFile, match="expected value"):
        list(batches_of(file, 1024))
    assert file.tell() < 5000


@pytest.mark.parametrize(("blanks", "size"), [(100, 16), (5000, 64)])
def test_blanks_are_no_records(blanks: int, size: int) -> None:
    space = " \n" * blanks
    assert joined(read(f"{space}[{space}]{space}".encode(), size)) == []
    assert joined(read(f"{space}[{space}1{space},{space}2{space}]{space}".encode(), size)) == [1, 2]


@given(st.text(st.sampled_from("ab\né😀"), max_size=30), st.text(st.sampled_from("ab\né😀"), max_size=30))
def test_places_add_up(one: str, other: str) -> None:
    assert START.after(one).after(other) == START.after(one + other)
    lines = (one + other).split("\n")
    assert START.after(one + other) == Place(len(lines), len(lines[-1]) + 1)


@given(st.data(), values)
def test_steps_lead_to_the_value(data: st.DataObject, document: object) -> None:
    steps, value = data.draw(way_into(document))
    text = data.draw(written(document))
    at = positions.find(text, 0, steps)
    found, end = json.JSONDecoder().raw_decode(text, at)
    assert same(found, value)
    assert resolved(document, positions.pointer(steps)) == [value]
    assert end <= len(text)


@given(st.data(), values)
def test_steps_that_lead_nowhere_end_at_the_last_value_that_is_there(data: st.DataObject, document: object) -> None:
    steps, value = data.draw(way_into(document))
    text = data.draw(written(document))
    further = "no such key" if isinstance(value, dict) else 10_000
    assert positions.find(text, 0, [*steps, further, "x"]) == positions.find(text, 0, steps)


@st.composite
def way_into(draw: st.DrawFn, document: Any) -> tuple[list[str | int], Any]:
    steps: list[str | int] = []
    while isinstance(document, dict | list) and document and draw(st.booleans()):
        step: Any = draw(st.sampled_from(sorted(document) if isinstance(document, dict) else range(len(document))))
        steps.append(step)
        document = document[step]
    return steps, document


def resolved(document: Any, pointer: str) -> list[Any]:
    """The reference: RFC 6901, section 4."""
    for token in pointer.split("/")[1:]:
        token = token.replace("~1", "/").replace("~0", "~")
        document = document[int(token)] if isinstance(document, list) else document[token]
    return [document]


@given(st.data(), st.lists(values, max_size=6))
def test_elements_are_the_spans_of_a_list(data: st.DataObject, things: list[Any]) -> None:
    text = data.draw(written(things))
    spans = list(positions.elements(text, text.index("[") + 1))
    assert same([json.loads(text[start:end]) for start, end in spans], things)


@pytest.mark.parametrize(
    ("text", "reason", "column"),
    [
        ('{"a": 1, "a": 2}', 'the key "a" stands twice', 14),
        ('{"a": NaN}', "expected value, found 'NaN'", 7),
        ('{"a": -Infinity}', "invalid number, found 'Infinity'", 8),
        ('{"a": 1', "cut off", 8),
        ('{"a": 1} {"a": 2}', "more text follows", 10),
        ('{"a": 1,}', "a comma stands before the closing bracket", 9),
        ('{"a": [1, 2,]}', "a comma stands before the closing bracket", 13),
        ('{"é": "\x01"}', "a control character", 8),
        (r'{"a": "\ud800"}', "half of a surrogate pair", 14),
        ("{'a': 1}", 'key must be a string, found "\'"', 2),
        ("[" * 300, "nested deeper than 200", 202),
        ("9" * 5000, "more than 4,300 digits", None),
    ],
)
def test_a_fault_is_told_in_plain_words_and_with_its_column(text: str, reason: str, column: int | None) -> None:
    with pytest.raises(RejectFile) as caught:
        json_parse.parse(text.encode())
    assert reason in caught.value.reason
    assert caught.value.line == 1
    assert column is None or caught.value.column == column


def test_the_text_of_a_long_name_or_key_is_not_repeated_whole() -> None:
    key = "k" * 100_000
    with pytest.raises(RejectFile) as caught:
        json_parse.parse(f'{{"{key}": 1, "{key}": 2}}'.encode())
    assert len(caught.value.reason) < 200
