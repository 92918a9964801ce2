"""From orders that came by EDI to what answers them: EDIFACT ORDRSP (D.96A, 231) and X12 855."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from models.edi.message import Standard
from models.edi.text import Body
from models.field_types import decimal_text
from models.outbound import Row

REFUSED = "refused"
"""The status of an order that we do not take: set on our side, no partner sends it."""

# BGM 1225 and LIN 1229 of ORDRSP; BAK02 and ACK01 of 855.
ACCEPTED, CHANGED, NOT_ACCEPTED = "29", "4", "27"
LINE_ACCEPTED, LINE_CHANGED, LINE_NOT_ACCEPTED = "5", "6", "7"
ACCEPTED_X12, CHANGED_X12, NOT_ACCEPTED_X12 = "AD", "AC", "RD"
LINE_CODES_X12 = {LINE_ACCEPTED: "IA", LINE_CHANGED: "IQ", LINE_NOT_ACCEPTED: "IR"}


@dataclass(frozen=True, slots=True)
class AnsweredLine:
    """An order line as it was ordered and as it stands with us.

    ids: article numbers with their kinds, as they were sent.
    ordered: the quantity that was sent; `quantity`: the one that we confirm.
    """

    number: str
    ids: list[list[str]]
    ordered: Decimal
    quantity: Decimal
    unit: str
    unit_price: Decimal | None

    @property
    def answer(self) -> str:
        if not self.quantity and self.ordered:
            return LINE_NOT_ACCEPTED
        return LINE_ACCEPTED if self.quantity == self.ordered else LINE_CHANGED


def answered_lines(order: Row) -> list[AnsweredLine]:
    rows = {str(line["line_number"]): line for line in order["order_lines"]}
    gone = {"quantity": Decimal(0), "unit": "EA", "unit_price": None}
    lines = []
    for number, sent in order["edi"]["lines"].items():
        row = rows.get(number, gone)
        quantity = Decimal(0) if order["status"] == REFUSED else row["quantity"]
        lines.append(
            AnsweredLine(number, sent["ids"], Decimal(sent["quantity"]), quantity, row["unit"], row["unit_price"])
        )
    return lines


def to_ordrsp(order: Row) -> Mapping[str, object] | None:
    """The ORDRSP for an order that came as EDIFACT; `None` for any other."""
    if order["edi"] is None or order["edi"]["standard"] != Standard.EDIFACT:
        return None
    lines, edi, at = answered_lines(order), order["edi"], order["changed_at"].astimezone(UTC)
    verdict = _verdict(order, lines, ACCEPTED, CHANGED, NOT_ACCEPTED)
    body: Body = [
        ["BGM", "231", order["order_number"], verdict],
        ["DTM", ["137", at.strftime("%Y%m%d%H%M"), "203"]],
        ["RFF", ["ON", order["order_number"]]],
        ["NAD", "BY", *_party(order["buyer"])],
        ["NAD", "SU", _endpoint(edi["receiver"])],
        ["CUX", ["2", order["currency"], "9"]],
    ]
    for line in lines:
        body += _line(line)
    body += [["UNS", "S"], ["CNT", ["2", str(len(lines))]]]
    return _reply(edi, "ORDRSP", "D:96A:UN", at, body)


def _line(line: AnsweredLine) -> Iterator[list[str | list[str]]]:
    first, *others = line.ids or [["", ""]]
    yield ["LIN", line.number, line.answer, first]
    if others:
        yield ["PIA", "1", *others[:5]]
    yield ["QTY", ["21", decimal_text(line.ordered.normalize()), line.unit]]
    if line.answer != LINE_ACCEPTED:
        yield ["QTY", ["113", decimal_text(line.quantity.normalize()), line.unit]]
    if line.unit_price is not None:
        yield ["PRI", ["AAA", decimal_text(line.unit_price.normalize())]]


def _party(party: Mapping[str, str]) -> list[str | list[str]]:
    number = [party["gln"], "", "9"] if "gln" in party else [party.get("id", ""), "", "92"]
    return [number, "", party.get("name", "")[:35]]


def _endpoint(endpoint: list[str]) -> list[str]:
    number, qualifier = endpoint
    return [number, "", "9" if qualifier == "14" else "92"]


def to_855(order: Row) -> Mapping[str, object] | None:
    """The 855 for an order that came as X12; `None` for any other."""
    if order["edi"] is None or order["edi"]["standard"] != Standard.X12:
        return None
    lines, at = answered_lines(order), order["changed_at"].astimezone(UTC)
    ordered_at = order["ordered_at"].astimezone(UTC)
    verdict = _verdict(order, lines, ACCEPTED_X12, CHANGED_X12, NOT_ACCEPTED_X12)
    body: Body = [
        ["BAK", "00", verdict, order["order_number"], f"{ordered_at:%Y%m%d}", "", "", "", "", f"{at:%Y%m%d}"],
        ["CUR", "SE", order["currency"]],
    ]
    for line in lines:
        price = "" if line.unit_price is None else decimal_text(line.unit_price.normalize())
        ids = [value for number, kind in line.ids for value in (kind, number)]
        body.append(["PO1", line.number, decimal_text(line.ordered.normalize()), line.unit, price, "", *ids])
        body.append(["ACK", LINE_CODES_X12[line.answer], decimal_text(line.quantity.normalize()), line.unit])
    body.append(["CTT", str(len(lines))])
    return _reply(order["edi"], "855", order["edi"]["version"], at, body)


def _verdict(order: Row, lines: list[AnsweredLine], accepted: str, changed: str, refused: str) -> str:
    if order["status"] == REFUSED:
        return refused
    return accepted if all(line.answer == LINE_ACCEPTED for line in lines) else changed


def _reply(edi: Mapping[str, Any], kind: str, version: str, at: datetime, body: Body) -> Mapping[str, object]:
    same = ("standard", "syntax", "sender", "receiver", "test", "group")
    return {
        **{name: edi[name] for name in same},
        "type": kind,
        "functional_id": "PR",
        "version": version,
        "prepared_at": at,
        "messages": [body],
    }
