"""EDI readers: what stands in a file is read, and what is wrong is named by segment and element."""

import contextlib
import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings, strategies as st
from mockedi import edifact as judge_edifact, x12 as judge_x12

import flows
from file_processing.inbound.formats import detect
from file_processing.inbound.formats.base import Batch, Exchange, Malformed, Reading, RejectExchange
from file_processing.inbound.formats.detect import format_of, plain_name
from file_processing.inbound.formats.edi import edifact, x12
from file_processing.inbound.formats.edi.format import EDIFACT, MAX_BYTES, X12
from file_processing.inbound.formats.edi.received import EnvelopeError, Received, Rejected
from models.edi.message import Endpoint, Message, Standard
from models.errors import RejectFile, RetryLater
from tests.support import edi_oracle, edi_samples
from tests.support.edi_samples import ORDER, ORDER_X12

FLOW = flows.discover()["orders"]
NOW = datetime(2026, 1, 31, 9, tzinfo=UTC)

# What values hold: everything printable that the character set has, separators and release character too.
VALUES = st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_categories=["Cc"]), max_size=8)
ELEMENTS = st.lists(st.lists(VALUES, min_size=1, max_size=3), max_size=4)
BODIES = st.lists(st.tuples(st.from_regex(r"[A-TV-Z][A-Z0-9]{2}", fullmatch=True), ELEMENTS), max_size=4)


def received(data: bytes) -> Received:
    """What a reader makes of a file that is right."""
    read = x12.read(data) if data.lstrip().startswith(b"ISA") else edifact.read(data)
    assert isinstance(read, Received), read
    return read


def batch(data: bytes, go_on: Callable[[], None] = lambda: None) -> Batch:
    """The messages of an EDI file, for a flow that knows none of them. Raises RejectFile."""
    name = "x.edi"
    reading = Reading(plain_name(name), replace(FLOW, messages={}), go_on=go_on)
    (only,) = format_of(name, data[:1000], FLOW).read(io.BytesIO(data), reading)
    return only


def trimmed(elements: list[list[str]]) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(components) for components in elements)


@given(
    st.lists(BODIES, min_size=1, max_size=3),
    st.sampled_from(["UNA:+.? '", "UNA:+,? '", "UNA<>.\\ !", "UNA|^,% ~", "UNA:+.? \n"]),
)
def test_edifact_that_was_written_is_read_again(messages: list[list[tuple[str, list[list[str]]]]], una: str) -> None:
    component, element, decimal, release, _, terminator = list(una[3:])

    def escaped(value: str) -> str:
        marks = {component, element, release, terminator}
        return "".join(release + letter if letter in marks else letter for letter in value)

    def segment(tag: str, *elements: list[str]) -> str:
        return element.join([tag, *(component.join(map(escaped, parts)) for parts in elements)]) + terminator

    text = una + segment("UNB", ["UNOC", "3"], ["A", "14"], ["B"], ["260131", "0900"], ["R'1"])
    for number, body in enumerate(messages):
        text += segment("UNH", [str(number)], ["ORDERS", "D", "96A", "UN"])
        text += "".join(segment(tag, *elements) for tag, elements in body)
        text += segment("UNT", [str(len(body) + 2)], [str(number)])
    text += segment("UNZ", [str(len(messages))], ["R'1"])
    read_again = received(text.encode("latin-1"))
    assert read_again.interchange.sender == Endpoint("A", "14")
    assert read_again.interchange.receiver == Endpoint("B", "")
    assert (read_again.interchange.reference, read_again.interchange.decimal_mark) == ("R'1", decimal)
    read = [[(segment.tag, segment.elements) for segment in message.segments[1:-1]] for message in read_again.messages]
    assert read == [[(tag, trimmed(elements)) for tag, elements in body] for body in messages]
    for message in read_again.messages:
        assert [segment.number for segment in message.segments] == [*range(1, len(message.segments) + 1)]
        assert text[slice(*message.segments[0].span)].startswith("UNH")
        assert text[slice(*message.segments[-1].span)].startswith("UNT")


MARKS = [
    edifact.Marks(),
    edifact.Marks("<", ">", ".", "\\", "!"),
    edifact.Marks("]", "-", ",", "^", "["),
    edifact.Marks(release="\uffff"),
    edifact.Marks(terminator="\n"),
    edifact.Marks(element="\r", component="\n"),
]


@st.composite
def texts_of_marks(draw: st.DrawFn) -> tuple[edifact.Marks, str]:
    """Text in which separators, release characters and line ends stand close together, and the marks it goes by."""
    marks = draw(st.sampled_from(MARKS))
    separating = st.sampled_from([marks.component, marks.element, marks.release, marks.terminator])
    pieces = st.one_of(separating, separating, st.sampled_from(["UNA", "BGM", "LIN", "A", "é", " ", "\r", "\n"]))
    return marks, draw(st.sampled_from(["", "LIN", " \r\nLIN"])) + "".join(draw(st.lists(pieces, max_size=14)))


@given(texts_of_marks())
@settings(max_examples=500)
def test_edifact_is_cut_as_pydifact_cuts_it(case: tuple[edifact.Marks, str]) -> None:
    marks, text = case
    expected, fault = up_to_fault(edi_oracle.cut(text, 0, marks))
    found, error = up_to_fault(edifact.cut(text, 0, marks))
    assert found == expected
    assert (error is None) == (fault is None)
    if isinstance(error, EnvelopeError) and isinstance(fault, edi_oracle.Fault):
        assert fault.reason in error.reason
        assert error.at == fault.at


def up_to_fault(segments: Iterator[object]) -> tuple[list[object], Exception | None]:
    found = []
    try:
        for segment in segments:
            found.append(segment)  # noqa: PERF402  # what came before a fault counts
    except (EnvelopeError, edi_oracle.Fault) as fault:
        return found, fault
    return found, None


@given(st.lists(BODIES, min_size=1, max_size=3), st.sampled_from(["*>~", "|:\n", "\x1d\x1f\x1e", "^<!"]))
def test_x12_that_was_written_is_read_again(messages: list[list[tuple[str, list[list[str]]]]], marks: str) -> None:
    element, component, terminator = list(marks)

    def clean(value: str) -> str:  # there is no release character
        return "".join(letter for letter in value if letter not in marks)

    def segment(tag: str, *elements: list[str]) -> str:
        return element.join([tag, *(component.join(map(clean, parts)) for parts in elements)]) + terminator

    isa = edi_samples.x12().split("~")[0].replace("*", element)[:-1] + component + terminator
    text = isa + segment("GS", ["PO"], ["A"], ["B"], ["20260131"], ["0900"], ["7"], ["X"], ["004010"])
    for number, body in enumerate(messages):
        text += segment("ST", ["850"], [str(number)])
        text += "".join(segment(tag, *elements) for tag, elements in body)
        text += segment("SE", [str(len(body) + 2)], [str(number)])
    text += segment("GE", [str(len(messages))], ["7"]) + segment("IEA", ["1"], ["000000001"])
    read_again = received(text.encode())
    assert read_again.interchange.standard is Standard.X12
    read = [[(segment.tag, segment.elements) for segment in message.segments[1:-1]] for message in read_again.messages]
    cleaned = [
        [(tag, tuple(tuple(map(clean, parts)) for parts in elements)) for tag, elements in body] for body in messages
    ]
    assert read == cleaned


@given(
    st.sampled_from([edi_samples.edifact(), edi_samples.edifact(ORDER, ORDER), edi_samples.x12(ORDER_X12, ORDER_X12)]),
    st.lists(
        st.tuples(st.integers(0, 700), st.sampled_from(["replace", "insert", "delete", "cut"]), st.binary(max_size=4)),
        min_size=1,
        max_size=5,
    ),
)
def test_whatever_happens_to_a_file_it_is_read_or_rejected(text: str, changes: list[tuple[int, str, bytes]]) -> None:
    data = text.encode()
    for at, how, what in changes:
        match how:
            case "replace":
                data = data[:at] + what + data[at + len(what) :]
            case "insert":
                data = data[:at] + what + data[at:]
            case "delete":
                data = data[:at] + data[at + len(what) :]
            case _:
                data = data[: len(data) - at]
    with contextlib.suppress(RejectFile):
        assert batch(data).exchange is not None


@given(st.binary(max_size=200), st.sampled_from([b"UNA", b"UNB+", b"UNA:+.? 'UNB+UNOC:3", b"ISA*", b""]))
def test_bytes_of_any_kind_are_rejected(data: bytes, start: bytes) -> None:
    with contextlib.suppress(RejectFile):
        batch(start + data)


@dataclass(frozen=True)
class Fault:
    """Why an envelope is rejected; `exchange` answers it, where it can be told who sent it."""

    reason: str
    code: str
    line: int | None
    column: int | None
    received: Received | None
    exchange: Exchange | None


def rejection(text: str) -> Fault:
    """What the reader says of the file, and the format the same."""
    data = text.encode("latin-1")
    rejected = x12.read(data) if text.startswith("ISA") else edifact.read(data)
    assert isinstance(rejected, Rejected)
    with pytest.raises(RejectExchange) as caught:
        batch(data)
    raised, error = caught.value, rejected.error
    assert (raised.reason, raised.hint) == (error.reason, error.hint)
    assert (raised.exchange is None) == (rejected.received is None)
    return Fault(error.reason, error.fault.code, raised.line, raised.column, rejected.received, raised.exchange)


EDIFACT_FAULTS: list[tuple[str, str, str]] = [
    (edi_samples.edifact(unt="UNT+99+1"), "29", "UNT (segment 11), element 1: counts 99, the message has 11 segments"),
    (edi_samples.edifact(unt="UNT+x+1"), "29", "UNT (segment 11), element 1: counts x"),
    (edi_samples.edifact(unt="UNT+11+7"), "28", "UNT (segment 11), element 2: says '7', UNH '1'"),
    (edi_samples.edifact(unz="UNZ+2+REF1"), "29", "UNZ, element 1: counts 2, the interchange has 1 messages"),
    (edi_samples.edifact(unz="UNZ+1+REF2"), "28", "UNZ, element 2: says 'REF2', UNB 'REF1'"),
    (edi_samples.edifact(unz="UNX"), "15", "UNX: stands outside of a message"),
    (edi_samples.edifact().partition("UNZ")[0], "13", "UNZ: it is missing"),
    (edi_samples.edifact().partition("UNT")[0], "13", "UNT: it is missing"),
    (
        edi_samples.edifact(unt="UNZ+1+REF1"),
        "13",
        "UNZ (segment 11): stands within message 1, which UNT does not close",
    ),
    (edi_samples.edifact() + edi_samples.edifact(una=""), "35", "UNB: a second interchange follows behind UNZ"),
    (edi_samples.edifact() + edi_samples.edifact(), "35", "UNA: a second interchange follows behind UNZ"),
    (edi_samples.edifact() + "DTM+1'", "35", "DTM: a segment follows behind UNZ"),
    (edi_samples.edifact(una="UNA:+.? 'UNA:+.? '"), "15", "UNA: stands twice"),
    (edi_samples.edifact(una="UNA::.? '"), "", "UNA: six characters that can be told apart"),
    (edi_samples.edifact(una="UNA:+;? '"), "", "UNA: the decimal mark is ';'"),
    (edi_samples.edifact(unb="UNOZ:3+A+B+260131:0900+R"), "14", "UNB, element 1: the syntax UNOZ:3 is not known"),
    (edi_samples.edifact(unb="UNOC:3++B+260131:0900+R"), "13", "UNB, element 2: an interchange needs a sender"),
    (edi_samples.edifact(unb="UNOC:3+A+B+260231:0900+R"), "12", "UNB, element 4: 260231:0900 is no date and time"),
    (
        edi_samples.edifact(unb="UNOC:3+A+B+260131:0900+"),
        "13",
        "UNB, element 5: an interchange needs a control reference",
    ),
    (edi_samples.edifact(kind="ORDERS"), "13", "UNH (segment 1), element 2: a message needs a version"),
    (edi_samples.edifact().replace("UNH+1", "UNG+ORDERS'UNH+1"), "14", "UNG: functional groups are not read"),
    (edi_samples.edifact()[:-4], "30", "the text ends within a segment"),
    (edi_samples.edifact().replace("PO-1", "PO?\n1"), "21", "a line ends behind the release character"),
    (edi_samples.edifact().replace("BGM", "B:M"), "12", "'B:M' is no segment tag"),
    (edi_samples.edifact(ORDER, ORDER).replace("UNH+2", "UNH+1"), "12", "UNH (segment 1), element 1: the reference 1"),
    ("UNB+UNOC:3+A+B+260131:0900+R'UNZ+0+R'", "32", "UNZ: the interchange holds no message"),
]


@pytest.mark.parametrize(("text", "code", "reason"), EDIFACT_FAULTS)
def test_a_fault_of_an_edifact_envelope_names_segment_and_element(text: str, code: str, reason: str) -> None:
    error = rejection(text)
    assert error.reason.startswith(reason)
    assert error.code == code
    assert error.line is not None


X12_FAULTS: list[tuple[str, str, str]] = [
    (edi_samples.x12(se="SE*9*0001"), "4", "SE (segment 7), element 1: counts 9, the transaction set has 7 segments"),
    (edi_samples.x12(se="SE*7*0002"), "3", "SE (segment 7), element 2: says '0002', ST '0001'"),
    (edi_samples.x12(ge="GE*2*7"), "5", "GE, element 1: counts 2, the group has 1 transaction sets"),
    (edi_samples.x12(ge="GE*1*8"), "4", "GE, element 2: says '8', GS '7'"),
    (edi_samples.x12(iea="IEA*2*000000001"), "", "IEA, element 1: counts 2, the interchange has 1 groups"),
    (edi_samples.x12(iea="IEA*1*000000002"), "", "IEA, element 2: says '000000002', ISA '000000001'"),
    (edi_samples.x12().partition("SE*")[0], "2", "SE: it is missing"),
    (edi_samples.x12().partition("GE*")[0], "3", "GE: it is missing"),
    (edi_samples.x12().partition("IEA")[0], "", "IEA: it is missing"),
    (edi_samples.x12(se="GE*1*7"), "2", "GE (segment 7): stands within transaction set 0001"),
    (edi_samples.x12() + edi_samples.x12(), "", "ISA: a second interchange follows behind IEA"),
    (edi_samples.x12()[:90], "", "ISA: 90 characters, it has 106"),
    (edi_samples.x12().replace("ISA*00*", "ISA*000*", 1), "", "ISA, element 2: its elements have fixed widths"),
    (edi_samples.x12(reference="00000000A"), "", "ISA, element 13: the control number '00000000A' is not nine digits"),
    (edi_samples.x12().replace("260131*0900", "261331*0900"), "", "ISA, element 9: 261331 0900 is no date and time"),
    (edi_samples.x12(ORDER_X12, ORDER_X12).replace("*0002", "*0001"), "7", "ST (segment 1), element 2: the control"),
    (edi_samples.x12(kind="85"), "6", "ST (segment 1), element 1: '85' is no transaction set"),
    (edi_samples.x12()[:-4], "", "the text ends within a segment"),
    (edi_samples.x12().replace("GS*PO", "gs*PO"), "", "'gs' is no segment tag"),
]


@pytest.mark.parametrize(("text", "code", "reason"), X12_FAULTS)
def test_a_fault_of_an_x12_envelope_names_segment_and_element(text: str, code: str, reason: str) -> None:
    error = rejection(text)
    assert error.reason.startswith(reason)
    assert error.code == code


def test_a_fault_has_line_and_column() -> None:
    error = rejection(edi_samples.edifact(unt="UNT+99+1"))
    assert (error.line, error.column) == (13, 1)
    one_line = edi_samples.edifact(unt="UNT+99+1").replace("\n", "")
    error = rejection(one_line)
    assert (error.line, error.column) == (1, one_line.index("UNT") + 1)


def test_an_envelope_that_can_be_read_tells_who_sent_what_is_rejected() -> None:
    error = rejection(edi_samples.edifact(ORDER, ORDER, unt="UNT+99+2"))
    assert error.exchange is not None
    assert error.exchange.reference == ("edifact", "BUYER:ZZ", "SELLER:ZZ", "REF1")
    assert error.received is not None
    assert [message.reference for message in error.received.messages] == ["1", "2"]
    assert rejection(edi_samples.edifact(unb="UNOC:3++B+260131:0900+R")).received is None


@pytest.mark.parametrize(
    ("syntax", "encoding"),
    [("UNOC:3", "latin-1"), ("UNOD:3", "iso8859-2"), ("UNOY:4", "utf-8"), ("UNOK:3", "iso8859-9")],
)
def test_the_character_set_is_the_one_that_unb_names(syntax: str, encoding: str) -> None:
    text = edi_samples.edifact(["NAD+BY+++Söhne"], unb=f"{syntax}+A+B+20260131:0900+R1")
    (message,) = received(text.encode(encoding)).messages
    assert message.segments[1].get(4) == "Söhne"


def test_a_character_that_the_set_does_not_have_is_rejected_where_it_stands() -> None:
    error = rejection(edi_samples.edifact(["NAD+BY+++Söhne"], unb="UNOA:3+A+B+260131:0900+R1"))
    assert error.reason == "NAD: a character that ascii does not have, or not there"
    assert (error.code, error.line, error.column) == ("21", 4, 11)


def test_blank_lines_and_byte_order_marks_do_no_harm() -> None:
    for text in (edi_samples.edifact(), edi_samples.x12()):
        spaced = "\r\n\r\n" + text.replace("\n", "\r\n") + "\r\n  \n"
        assert len(batch(b"\xef\xbb\xbf" + spaced.encode()).records) == 1


@pytest.mark.parametrize("error", [KeyError("x"), ZeroDivisionError("x"), RecursionError("x")])
def test_a_flow_s_function_that_fails_costs_only_its_message(error: Exception) -> None:
    def fails_once(message: Message) -> Mapping[str, object]:
        if message.reference == "1":
            raise error
        return {"order": message.reference}

    text = edi_samples.edifact(ORDER, ORDER)
    flow = replace(FLOW, messages={"ORDERS": fails_once})
    (read,) = EDIFACT.read(io.BytesIO(text.encode()), Reading("x.edi", flow))
    bad, good = read.records
    assert isinstance(bad, Malformed)
    assert bad.reason == f"message 1 cannot be read: {type(error).__name__}: {error}"
    assert good == {"order": "2"}


def test_a_message_of_a_type_that_the_flow_does_not_take_is_named() -> None:
    text = edi_samples.edifact(kind="INVOIC:D:96A:UN")
    (read,) = EDIFACT.read(io.BytesIO(text.encode()), Reading("x.edi", FLOW))
    assert read.records == [Malformed("message 1 is of type INVOIC: this flow takes ORDERS, 850")]


def test_an_interchange_of_acknowledgements_holds_no_records() -> None:
    contrl = edi_samples.edifact(["UCI+7+SELLER+BUYER+7"], kind="CONTRL:D:3:UN")
    functional = edi_samples.x12(["AK1*PR*1", "AK9*A*1*1*1"], kind="997", functional_id="FA")
    for text in (contrl, functional):
        read = batch(text.encode())
        assert read.exchange is not None
        assert (list(read.records), read.exchange.answer(frozenset(), NOW)) == ([], None)


def test_a_broken_acknowledgement_is_not_answered_either() -> None:
    error = rejection(edi_samples.edifact(["UCI+7+SELLER+BUYER+7"], kind="CONTRL:D:3:UN", unt="UNT+9+1"))
    assert error.exchange is not None
    assert error.exchange.answer(None, NOW) is None
    error = rejection(edi_samples.edifact(unt="UNT+99+1"))
    assert error.exchange is not None
    assert error.exchange.answer(None, NOW) is not None


@pytest.mark.parametrize(
    ("name", "head", "format_name"),
    [
        ("a.edi", b"", "EDIFACT"),
        ("a.EDIFACT", b"x", "EDIFACT"),
        ("a.x12", b"x", "X12"),
        ("a.x12.gz", b"ISA*", "X12"),
        ("a.edi", b"ISA*", "X12"),
        ("a.x12", b"UNB+", "EDIFACT"),
        ("a.txt", b"UNA:+.? '", "EDIFACT"),
        ("a.txt", b"\xef\xbb\xbf\r\nUNB+", "EDIFACT"),
        ("a.txt", b"ISA*00*", "X12"),
        ("a.json", b'{"UNA": 1}', "JSON"),
        ("a.txt", b"ISAAC", "JSON"),
    ],
)
def test_a_file_is_recognised_by_its_suffix_or_first_bytes(name: str, head: bytes, format_name: str) -> None:
    assert format_of(name, head, FLOW).name == format_name


def test_what_is_called_edi_and_is_none_is_rejected() -> None:
    with pytest.raises(RejectFile, match="neither EDIFACT"):
        batch(b'{"orders": []}')


def test_an_interchange_larger_than_the_limit_is_rejected() -> None:
    with pytest.raises(RejectFile, match="larger than 4 MB"):
        batch(b" " * (MAX_BYTES + 1))


@pytest.mark.parametrize(
    "text",
    [
        edi_samples.edifact(["FTX+AAI" + 1_500_001 * "+"]),
        "UNB" + 300_001 * "'",
        edi_samples.x12(["FTX" + 1_500_001 * "*"]),
        edi_samples.x12(300_001 * ("FTX",)),
    ],
)
def test_an_interchange_of_too_many_parts_is_rejected_before_it_is_read(text: str) -> None:
    assert rejection(text).reason.startswith("the interchange has more than ")


@pytest.mark.parametrize("text", [edi_samples.edifact(100 * ["FTX+x"]), edi_samples.x12(100 * ["FTX*x"])])
def test_reading_can_be_ended_on_the_way(text: str) -> None:
    asked = 0

    def go_on() -> None:
        nonlocal asked
        asked += 1
        if asked == 20:
            raise RetryLater("the daemon is stopping")

    with pytest.raises(RetryLater):
        batch(text.encode(), go_on)


@pytest.mark.parametrize(
    ("text", "types"),
    [
        (edi_samples.edifact(ORDER, ORDER), {"ORDERS"}),
        (edi_samples.edifact(kind="INVOIC:D:96A:UN"), {"INVOIC"}),
        (edi_samples.x12(kind="810"), {"810"}),
        ("[]", set()),
    ],
)
def test_the_start_of_a_file_shows_its_message_types(text: str, types: set[str]) -> None:
    known, signs = detect.signs(text.encode())
    assert signs == types
    assert (known in (EDIFACT, X12)) == bool(types)


def test_mock_edi_reads_our_samples_as_we_do() -> None:
    judged = judge_edifact.parse(edi_samples.edifact(ORDER, ORDER))
    ours = received(edi_samples.edifact(ORDER, ORDER).encode())
    assert [m.control for _, m in judged.messages()] == [m.reference for m in ours.messages]
    judged = judge_x12.parse(edi_samples.x12())
    assert [m.control for _, m in judged.messages()] == ["0001"]
