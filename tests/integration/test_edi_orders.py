"""Orders by EDI: what a message says, why one is rejected, and what answers it; mock-edi plays the partner."""

import dataclasses
import datetime
import io
import threading
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from mockedi import edifact as judge_edifact, transactions, x12 as judge_x12
from mockedi.envelope import Interchange as JudgedInterchange
from mockedi.transactions import Party
from mockedi.validate import validate
from pydantic import TypeAdapter

import flows
from file_processing.inbound.adhoc import GivenFile
from file_processing.inbound.formats import detect
from file_processing.inbound.formats.base import Malformed, Reading, RejectExchange
from file_processing.inbound.formats.edi.interchanges import InterchangeBatch
from file_processing.inbound.limits import Limits
from file_processing.inbound.long_file import LongFiles
from file_processing.inbound.pipeline import Pipeline
from file_processing.inbound.routing import RoutedFile
from models.edi.message import Message, Segment
from models.errors import RetryLater
from models.outbound import Row
from services.files.folders import Folders
from tests.support import edi_samples
from tests.support.edi_samples import ORDER, ORDER_X12, replaced

ORDERS = flows.discover()["orders"]
DOCUMENTS = {outbound.name: outbound for outbound in ORDERS.outbound}
NOW = datetime.datetime(2026, 1, 31, 10, 30, tzinfo=datetime.UTC)


def batch_of(data: bytes) -> InterchangeBatch:
    (batch,) = detect.format_of("", data, ORDERS).read(io.BytesIO(data), Reading("", ORDERS))
    assert isinstance(batch, InterchangeBatch)
    return batch


def read(text: str) -> Any:
    """The records of an interchange: what the flow makes of each message."""
    return batch_of(text.encode()).records


def row(record: dict[str, Any], **changes: object) -> Row:
    """The row of a valid record, with its lines, as the writer sees it."""
    assert ORDERS.to_rows is not None
    (made,) = ORDERS.to_rows(TypeAdapter[Any](ORDERS.record).validate_python(record))
    lines = list(made["order_lines"])  # type: ignore[call-overload]
    return {**made, "order_lines": lines, "changed_at": NOW, **changes}


def one(*body: str, una: str = "UNA:+.? '") -> Any:
    (record,) = read(edi_samples.edifact(body or ORDER, una=una))
    return record


def one_x12(*body: str) -> Any:
    (record,) = read(edi_samples.x12(body or ORDER_X12))
    return record


def test_an_edifact_order_says_who_what_when() -> None:
    record = one(
        "BGM+220+PO-1+9",
        "DTM+137:202601310930:203",
        "DTM+2:20260205:102",
        "NAD+BY+4012345000009::9++Example:Stores+1 Market Street+Hamburg++20457+DE",
        "NAD+SU+5790000000012::9",
        "NAD+DP+DC-7::92",
        "CUX+2:EUR:9",
        "LIN+1++4006381333931:EN",
        "PIA+1+OURS:SA+THEIRS:IN",
        "IMD+F++:::Bearing:6204",
        "QTY+21:10.5:PCE",
        "PRI+AAB:12.00",
        "PRI+AAA:9.99",
        "LIN+2",
        "PIA+5+GRS-1:SA",
        "QTY+21:3",
        "UNS+S",
        "CNT+1:13.5",
        "CNT+2:2",
    )
    origin = record.pop("edi")
    assert record == {
        "partner": "BUYER",
        "order_number": "PO-1",
        "purpose": "original",
        "ordered_at": "2026-01-31T09:30:00Z",
        "revised_at": "2026-01-31T09:00:00Z",
        "currency": "EUR",
        "buyer": {"gln": "4012345000009", "name": "Example Stores", "address": "1 Market Street, 20457 Hamburg, DE"},
        "ship_to": {"id": "DC-7"},
        "requested_delivery": "2026-02-05",
        "lines": [
            {
                "line_number": 1, "gtin": "4006381333931", "sku": "OURS", "description": "Bearing 6204",
                "quantity": "10.5", "unit": "PCE", "unit_price": "9.99",
            },
            {"line_number": 2, "sku": "GRS-1", "quantity": "3"},
        ],
    }  # fmt: skip
    assert (origin["interchange"], origin["message"], origin["sender"]) == ("REF1", "1", ["BUYER", "ZZ"])
    assert origin["lines"]["2"] == {"quantity": "3", "ids": [["GRS-1", "SA"]]}


def test_an_x12_order_says_who_what_when() -> None:
    record = one_x12(
        "BEG*05*SA*PO-1**20260131",
        "CUR*BY*USD",
        "DTM*002*20260205",
        "N1*BY*Acme*UL*0614141000012",
        "N1*ST*Store 12*92*0012",
        "N3*500 Main St",
        "N4*Springfield*IL*62701*US",
        "PO1*1*48*EA*2.25**UP*012345678905*VP*BOLT-M8",
        "PID*F****Bolt",
        "PO1**1000*EA*83*HP*BP*THEIRS",
        "CTT*2*1048",
        "AMT*TT*938",
    )
    record.pop("edi")
    assert record == {
        "partner": "BUYER",
        "order_number": "PO-1",
        "purpose": "replace",
        "ordered_at": "2026-01-31T00:00:00Z",
        "revised_at": "2026-01-31T09:00:00.000001Z",
        "currency": "USD",
        "buyer": {"gln": "0614141000012", "name": "Acme"},
        "ship_to": {"id": "0012", "name": "Store 12", "address": "500 Main St, Springfield, IL 62701, US"},
        "requested_delivery": "2026-02-05",
        "total": "938",
        "lines": [
            {
                "line_number": 1, "gtin": "012345678905", "sku": "BOLT-M8", "description": "Bolt", "quantity": "48",
                "unit": "EA", "unit_price": "2.25",
            },
            {"line_number": 2, "sku": "THEIRS", "quantity": "1000", "unit": "EA", "unit_price": "0.83"},
        ],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("una", "sent", "quantity"),
    [
        ("UNA:+,? '", "27,5", "27.5"),
        ("UNA:+.? '", "27.5", "27.5"),
        ("UNA:+,? '", ",5", "0.5"),
        ("UNA:+.? '", "7.", "7"),
    ],
)
def test_the_decimal_mark_is_the_one_that_una_sets(una: str, sent: str, quantity: str) -> None:
    body = replaced(replaced(ORDER, "QTY", f"QTY+21:{sent}:PCE"), "PRI", "PRI+AAA:1")
    assert one(*body, una=una)["lines"][0]["quantity"] == quantity


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("QTY", "QTY+21:27,5:PCE", "QTY (segment 7), element 1.2: '27,5' is not a number, its decimal mark is ."),
        ("QTY", "QTY+21:-5:PCE", "QTY (segment 7), element 1.2: '-5' is less than zero"),
        ("QTY", "QTY+21:7-:PCE", "QTY (segment 7), element 1.2: '7-' is less than zero"),
        ("PRI", "PRI+AAA:-1", "PRI (segment 8), element 1.2: '-1' is less than zero"),
        ("CUX", "CUX+2:euro:9", "CUX (segment 5), element 1.2: 'euro' is no currency"),
        ("LIN", "FTX+AAI", "BGM (segment 2): no LIN says what is ordered"),
        ("QTY", "QTY+12:5:PCE", "LIN (segment 6): no QTY+21 says how many"),
        ("BGM", "BGM+220+PO-1+4", "BGM (segment 2), element 3: function 4 is not taken"),
        ("BGM", "BGM+230+PO-1+9", "BGM (segment 2), element 1: '230' is no order"),
        ("DTM", "DTM+137:20260231:102", "DTM (segment 3), element 1.2: '20260231' is no date that exists"),
        ("DTM", "DTM+137:310126:101", "DTM (segment 3), element 1.3: format 101 is not known"),
        ("DTM", "DTM+2:20260101:102", "BGM (segment 2): no DTM+137 says when it was ordered"),
        ("CUX", "FTX+AAI", "BGM (segment 2): no CUX says the currency"),
        ("CNT", "CNT+2:5", "CNT (segment 10), element 1.2: says 5, the number of lines is 1"),
        ("CNT", "CNT+1:5", "CNT (segment 10), element 1.2: says 5, the quantities come to 10"),
        ("LIN", "LIN+x++ABC:SA", "LIN (segment 6), element 1: 'x' is no line number"),
        ("LIN", "LIN+1+2+ABC:SA", "LIN (segment 6), element 2: a deleted line is not taken"),
        ("PRI", "PRI+AAA:1:::3:PCE", "PRI (segment 8), element 1.2: 1 for 3 cannot be told for one"),
    ],
)
def test_an_edifact_message_that_is_no_order_is_rejected_by_segment_and_element(
    old: str, new: str, reason: str
) -> None:
    assert one(*replaced(ORDER, old, new)).reason.startswith(f"message 1, {reason}")


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("BEG", "BEG*04*SA*PO-1**20260131", "BEG (segment 2), element 1: purpose '04' is not taken"),
        ("BEG", "BEG*00*SA*PO-1**260131", "BEG (segment 2), element 5: '260131' is no date that exists"),
        ("CUR", "PER*BD*Ann", "BEG (segment 2): no CUR says the currency"),
        ("CUR", "CUR*BY*$", "CUR (segment 3), element 2: '$' is no currency"),
        ("PO1", "N2*1", "BEG (segment 2): no PO1 says what is ordered"),
        ("PO1", "PO1*1*-2*EA*2.50**VP*ABC", "PO1 (segment 5), element 2: '-2' is less than zero"),
        ("PO1", "PO1*1*many*EA*2.50**VP*ABC", "PO1 (segment 5), element 2: 'many' is not a number"),
        ("CTT", "CTT*2", "CTT (segment 6), element 1: says 2, the number of lines is 1"),
        ("CTT", "CTT*1*11", "CTT (segment 6), element 2: says 11, the quantities come to 10"),
    ],
)
def test_an_x12_set_that_is_no_order_is_rejected_by_segment_and_element(old: str, new: str, reason: str) -> None:
    assert one_x12(*replaced(ORDER_X12, old, new)).reason.startswith(f"message 0001, {reason}")


def test_an_order_of_many_lines_is_read() -> None:
    asked = 0

    class Counting(tuple[Segment, ...]):
        __slots__ = ()

        def __iter__(self) -> Iterator[Segment]:
            nonlocal asked
            asked += 1
            return super().__iter__()

    lines = [part for number in range(1, 5_001) for part in (f"LIN+{number}++A:SA", "QTY+21:1")]
    body = [*ORDER[:4], *lines, "UNS+S", "CNT+2:5000"]
    message = batch_of(edi_samples.edifact(body).encode()).exchange.received.messages[0]
    message = dataclasses.replace(message, segments=Counting(message.segments))
    assert len(ORDERS.messages["ORDERS"](message)["lines"]) == 5_000  # type: ignore[arg-type]
    assert asked < 10


def test_a_daemon_that_stops_reads_no_interchange_to_its_end(tmp_path: Path) -> None:
    stopping, read = threading.Event(), []

    def stop(message: Message) -> dict[str, object]:
        stopping.set()
        read.append(message)
        return {}

    flow = dataclasses.replace(ORDERS, messages={"ORDERS": stop})
    pipeline = Pipeline(
        sqlalchemy.create_engine("postgresql+psycopg://"),  # nothing comes so far as to ask the database
        {"orders": flow},
        Folders(tmp_path, tmp_path),
        LongFiles({"orders": flow}),
        node="test",
        root=None,
        limits=Limits(1 << 20, 100, 1000),
        stopping=stopping,
    )
    path = tmp_path / "a.edi"
    path.write_text(edi_samples.edifact(ORDER, ORDER))
    with pytest.raises(RetryLater, match="the daemon is stopping"):
        list(pipeline.handle("orders", [RoutedFile(GivenFile(path, path.name, NOW), "orders")]))
    assert len(read) == 1


def test_a_message_of_a_type_that_the_flow_does_not_take_is_rejected() -> None:
    (record,) = read(edi_samples.edifact(kind="INVOIC:D:96A:UN"))
    assert record.reason == "message 1 is of type INVOIC: this flow takes ORDERS, 850"


@pytest.mark.parametrize(("code", "purpose"), [("9", "original"), ("5", "replace"), ("1", "cancel"), ("", "original")])
def test_the_function_of_a_message_is_the_purpose_of_the_order(code: str, purpose: str) -> None:
    assert one(*replaced(ORDER, "BGM", f"BGM+220+PO-1+{code}"))["purpose"] == purpose


# the partner: mock-edi writes orders that we read

BUYER = Party(identifier="BUYER", name="Buyer + Söhne", street="1 Way", city="Town", postal="123", country="DE")
SELLER = {"id": "SELLER", "name": "Seller"}
PLACED = {"po_number": "PO-77", "ordered_on": "2026-01-31", "requested_on": "2026-02-05", "currency": "EUR"}
PLACED_LINES = [
    {"line": "1", "sku": "ABC", "upc": "4006381333931", "description": "It's: 100 % + 1",
     "quantity": "10.5", "uom": "EA", "price": "9.99"},
    {"line": "2", "sku": "DEF", "quantity": "2", "uom": "CA", "price": "1.00"},
]  # fmt: skip


def placed(dialect: str) -> bytes:
    """The partner's order on the wire."""
    body = transactions.write_order(dialect, BUYER, SELLER, PLACED, PLACED_LINES, NOW)
    if dialect == "X12":
        message = judge_x12.message("850", "0001", body)
        made = judge_x12.wrap([message], "BUYER", "SELLER", "000000042", "42", "PO", moment=NOW)
        return str(judge_x12.render(made)).encode("latin-1")
    message = judge_edifact.message("ORDERS", "1", body)
    made = judge_edifact.wrap([message], "BUYER", "SELLER", "REF42", moment=NOW)
    return str(judge_edifact.render(made)).encode("latin-1")


def judged(data: bytes) -> JudgedInterchange:
    """What the partner reads; it accepts it without a fault."""
    text = data.decode("latin-1")
    interchange = judge_x12.parse(text) if text.startswith("ISA") else judge_edifact.parse(text)
    report = validate(interchange)
    assert not report.interchange_findings
    assert not report.envelope_errors
    assert not report.group_errors
    assert [message.summary() for message in report.messages if not message.accepted] == []
    return interchange


def answer(document: str, order: Row, number: int = 7) -> bytes:
    outbound = DOCUMENTS[document]
    fields = outbound.to_document(order)
    assert fields is not None
    assert outbound.document is not None
    assert outbound.render is not None
    return outbound.render(TypeAdapter[Any](outbound.document).validate_python(fields), number)


@pytest.mark.parametrize(("dialect", "document"), [("EDIFACT", "ordrsp"), ("X12", "855")])
def test_the_partner_reads_our_answer_to_the_order_that_it_wrote(dialect: str, document: str) -> None:
    record = batch_of(placed(dialect)).records[0]
    assert isinstance(record, dict)
    assert [line["quantity"] for line in record["lines"]] == ["10.5", "2"]
    assert [line["sku"] for line in record["lines"]] == ["ABC", "DEF"]
    interchange = judged(answer(document, row(record)))
    assert (interchange.sender, interchange.receiver) == ("SELLER", "BUYER")
    assert interchange.control.lstrip("0") == "7"
    (message,) = (message for _, message in interchange.messages())
    response = transactions.read_response(message, dialect)
    assert response.po_number == "PO-77"
    assert response.verdict == ("AD" if dialect == "X12" else "")
    assert [(line.sku, line.quantity, line.confirmed) for line in response.lines] == [
        ("ABC", Decimal("10.5"), Decimal("10.5")),
        ("DEF", Decimal(2), Decimal(2)),
    ]


def segments(data: bytes, tag: str) -> list[list[str]]:
    separator, terminator = ("*", "~") if data.startswith(b"ISA") else ("+", "'")
    split = [segment.split(separator) for segment in data.decode("latin-1").split(terminator)]
    return [segment[1:] for segment in split if segment[0] == tag]


def test_an_answer_says_what_of_the_order_was_changed_or_refused() -> None:
    order = row(one())
    changed = [{**order["order_lines"][0], "quantity": Decimal(4)}]
    assert segments(answer("ordrsp", order), "BGM") == [["231", "PO-1", "29"]]
    assert segments(answer("ordrsp", order), "LIN") == [["1", "5", "4006381333931:EN"]]
    short = answer("ordrsp", {**order, "order_lines": changed})
    assert segments(short, "BGM") == [["231", "PO-1", "4"]]
    assert segments(short, "LIN") == [["1", "6", "4006381333931:EN"]]
    assert segments(short, "QTY") == [["21:10:PCE"], ["113:4:PCE"]]
    refused = answer("ordrsp", {**order, "status": "refused"})
    assert (segments(refused, "BGM")[0][2], segments(refused, "LIN")[0][1]) == ("27", "7")
    gone = answer("ordrsp", {**order, "order_lines": []})
    assert (segments(gone, "BGM")[0][2], segments(gone, "LIN")[0][1]) == ("4", "7")


def test_the_same_in_x12() -> None:
    order = row(one_x12())
    changed = [{**order["order_lines"][0], "quantity": Decimal(4)}]
    assert segments(answer("855", order), "BAK")[0][:3] == ["00", "AD", "PO-1"]
    assert segments(answer("855", order), "ACK") == [["IA", "10", "EA"]]
    assert segments(answer("855", {**order, "order_lines": changed}), "ACK") == [["IQ", "4", "EA"]]
    refused = answer("855", {**order, "status": "refused"})
    assert (segments(refused, "BAK")[0][1], segments(refused, "ACK")) == ("RD", [["IR", "0", "EA"]])


def test_an_order_is_answered_in_the_standard_it_came_in() -> None:
    came_as = {"json": row(one(), edi=None), "edifact": row(one()), "x12": row(one_x12())}
    answered = {
        name: [kind for kind in ("ordrsp", "855") if DOCUMENTS[kind].to_document(order) is not None]
        for name, order in came_as.items()
    }
    assert answered == {"json": [], "edifact": ["ordrsp"], "x12": ["855"]}


def test_separators_in_a_value_do_not_break_an_answer() -> None:
    order = row(one(), order_number="A+B:C'D?E", buyer={"id": "x+", "name": "Söhne + 漢"})
    text = answer("ordrsp", order)
    assert "BGM+231+A?+B?:C?'D??E+29'" in text.decode("latin-1")
    assert "x?+::92++Söhne ?+ ??'" in text.decode("latin-1")
    judged(text)
    judged(answer("855", row(one_x12(), order_number="A*B~C>D")))


# acknowledgements


def acknowledged(text: str) -> bytes | None:
    """The acknowledgement of an interchange, whose messages that are no orders are rejected."""
    batch = batch_of(text.encode())
    bad = {position for position, record in enumerate(batch.records) if isinstance(record, Malformed)}
    answer = batch.exchange.answer(bad, NOW)
    return answer.render(8) if answer else None


def rejected(text: str) -> bytes:
    """The acknowledgement of an interchange that is rejected as a whole."""
    with pytest.raises(RejectExchange) as caught:
        batch_of(text.encode())
    assert caught.value.exchange is not None
    answer = caught.value.exchange.answer(None, NOW)
    assert answer is not None
    return answer.render(8)


BAD = replaced(ORDER, "QTY", "QTY+21:x:PCE")
BAD_X12 = replaced(ORDER_X12, "PO1", "PO1*1*x*EA")


def test_contrl_accepts_and_rejects_message_by_message() -> None:
    data = acknowledged(edi_samples.edifact(ORDER, BAD))
    assert data is not None
    assert segments(data, "UCI") == [["REF1", "BUYER:ZZ", "SELLER:ZZ", "7"]]
    assert segments(data, "UCM") == [["1", "ORDERS:D:96A:UN", "7"], ["2", "ORDERS:D:96A:UN", "4"]]
    assert (segments(data, "UCS"), segments(data, "UCD")) == ([["7"]], [["12", "2:2"]])
    judged(data)


def test_997_accepts_and_rejects_set_by_set() -> None:
    data = acknowledged(edi_samples.x12(ORDER_X12, BAD_X12))
    assert data is not None
    assert segments(data, "AK1") == [["PO", "7"]]
    assert segments(data, "AK5") == [["A"], ["R", "5"]]
    assert (segments(data, "AK3"), segments(data, "AK4")) == ([["PO1", "5", "", "8"]], [["2", "", "7"]])
    assert segments(data, "AK9") == [["P", "2", "2", "1"]]
    judged(data)


@pytest.mark.parametrize(("bodies", "verdict"), [([ORDER_X12], "A"), ([BAD_X12], "R")])
def test_997_tells_of_the_group(bodies: list[list[str]], verdict: str) -> None:
    data = acknowledged(edi_samples.x12(*bodies))
    assert data is not None
    assert segments(data, "AK9")[0][0] == verdict
    judged(data)


def test_an_interchange_that_is_rejected_is_answered() -> None:
    data = rejected(edi_samples.edifact(unz="UNZ+5+REF1"))
    assert segments(data, "UCI") == [["REF1", "BUYER:ZZ", "SELLER:ZZ", "4", "29", "UNZ", "2"]]
    judged(data)
    data = rejected(edi_samples.x12(se="SE*99*0001"))
    assert (segments(data, "AK5"), segments(data, "AK9")) == ([["R", "4"]], [["R", "1", "1", "0"]])
    judged(data)
    data = rejected(edi_samples.x12(ge="GE*9*7"))
    assert segments(data, "AK9") == [["R", "1", "1", "0", "5"]]
    judged(data)


def test_an_acknowledgement_is_never_answered() -> None:
    for text in (
        edi_samples.edifact(["UCI+7+SELLER+BUYER+4"], kind="CONTRL:D:3:UN"),
        edi_samples.x12(["AK1*PR*1", "AK9*R*1*1*0"], kind="997", functional_id="FA"),
    ):
        assert acknowledged(text) is None


def test_a_flow_that_takes_messages_has_to_send_something() -> None:
    with pytest.raises(ValueError, match="needs outbound"):
        dataclasses.replace(ORDERS, outbound=(), destinations=())


def test_what_a_partner_rejects_of_ours_is_told() -> None:
    text = edi_samples.edifact(["UCI+7+SELLER+BUYER+4"], kind="CONTRL:D:3:UN")
    assert batch_of(text.encode()).exchange.notices() == ["CONTRL 1 rejects our interchange or group 7 of BUYER"]
