"""From EDI messages to orders: EDIFACT ORDERS (D.96A, 220) and X12 850 (004010)."""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from models.edi.message import Message, Segment, SegmentError, origin

Fields = dict[str, object]

# BGM 1225 and BEG01.
PURPOSES = {"": "original", "9": "original", "5": "replace", "1": "cancel"}
PURPOSES_X12 = {"00": "original", "05": "replace", "01": "cancel"}

_ORDER_OF_PURPOSES = ("original", "replace", "cancel")

# Data elements 7143 and 235: what kind of number an article number is.
GTIN = ("EN", "SRV", "UP", "EAN", "UPC")
GTIN_X12 = ("EN", "UP", "UK", "UA", "UI", "E8")
SKU = ("SA", "VP", "VN", "IN", "BP", "PI", "SK", "MF", "MG")
"""The supplier's own number first, then the buyer's, then the maker's."""

# Data element 639: a price for so many units; all other codes are for one.
PRICE_UNITS_X12 = {"PN": 10, "HP": 100, "TP": 1000}

_NUMBER = re.compile(r"[+-]?\d{1,20}(\.\d{1,20})?", re.ASCII)
_NOT_SIGNED = re.compile(r"[0-9]{1,20}(\.[0-9]{1,20})?")
_LINE_NUMBER = re.compile(r"[0-9]{1,9}")
_GLN = re.compile(r"[0-9]{13}")
_CURRENCY = re.compile(r"[A-Z]{3}")
_DIGITS = {"102": 8, "203": 12, "204": 14}
"""By the code of a date's form: the digits of CCYYMMDD, with HHMM, with HHMMSS."""


def from_orders(message: Message) -> Fields:
    """The order that an EDIFACT ORDERS message places. Raises SegmentError."""
    mark = message.interchange.decimal_mark
    header = _until(message.segments, "LIN", "UNS", "UNT")
    bgm = _first(message, header, "BGM")
    if bgm.get(1) not in ("220", "105", "224", "226"):
        raise SegmentError(f"{bgm.get(1)!r} is no order: 220 is one", bgm, 1)
    purpose = PURPOSES.get(bgm.get(3))
    if purpose is None:
        raise SegmentError(f"function {bgm.get(3)} is not taken: 9 original, 5 replace, 1 cancel are", bgm, 3)
    dates = {dtm.get(1): dtm for dtm in reversed(header) if dtm.tag == "DTM"}
    if "137" not in dates:
        raise SegmentError("no DTM+137 says when it was ordered", bgm)
    parties = {nad.get(1): _party(nad) for nad in reversed(header) if nad.tag == "NAD"}
    currency = next((_currency(cux, 1, 2) for cux in header if cux.tag == "CUX"), None)
    if currency is None:
        raise SegmentError("no CUX says the currency", bgm)
    lines = [_line(block, mark) for block in _blocks(message.segments[len(header) :], "LIN", ("UNS", "UNT"))]
    if not lines and purpose != "cancel":
        raise SegmentError("no LIN says what is ordered", bgm)
    last_line = _last_line(message)
    summary = [segment for segment in message.segments if segment.number > last_line]
    for cnt in (segment for segment in summary if segment.tag == "CNT"):
        _check_control(cnt, lines, mark)
    requested = dates.get("2") or dates.get("64") or dates.get("69")
    totals = [moa for moa in summary if moa.tag == "MOA" and moa.get(1) == "79"]
    return _order(
        message,
        order_number=bgm.get(2),
        purpose=purpose,
        ordered_at=_moment(dates["137"]),
        currency=currency,
        buyer=parties.get("BY") or {"id": message.interchange.sender.id},
        ship_to=parties.get("DP") or parties.get("ST"),
        requested_delivery=_moment(requested)[:10] if requested else None,
        total=_number(totals[0], 1, 2, mark) if totals else None,
        lines=lines,
    )


def from_850(message: Message) -> Fields:
    """The order that an X12 850 transaction set places. Raises SegmentError."""
    header = _until(message.segments, "PO1", "CTT", "SE")
    beg = _first(message, header, "BEG")
    purpose = PURPOSES_X12.get(beg.get(1))
    if purpose is None:
        raise SegmentError(f"purpose {beg.get(1)!r} is not taken: 00 original, 05 replace, 01 cancel are", beg, 1)
    currency = next((_currency(cur, 2) for cur in header if cur.tag == "CUR"), None)
    if currency is None:
        raise SegmentError("no CUR says the currency", beg)
    dates = {dtm.get(1): dtm for dtm in reversed(header) if dtm.tag == "DTM"}
    parties = {block[0].get(1): _party_x12(block) for block in _blocks(header, "N1", ("PO1",))}
    blocks = list(_blocks(message.segments[len(header) :], "PO1", ("CTT", "SE")))
    lines = [_line_x12(block, number) for number, block in enumerate(blocks, start=1)]
    if not lines and purpose != "cancel":
        raise SegmentError("no PO1 says what is ordered", beg)
    for ctt in message.all("CTT"):
        _check_totals(ctt, lines)
    last_line = _last_line(message)
    totals = [amt for amt in message.all("AMT") if amt.get(1) == "TT" and amt.number > last_line]
    requested = dates.get("002")
    return _order(
        message,
        order_number=beg.get(3),
        purpose=purpose,
        ordered_at=_day(beg, 5) + "T00:00:00Z",
        currency=currency,
        buyer=parties.get("BY") or parties.get("BT") or {"id": message.interchange.sender.id},
        ship_to=parties.get("ST"),
        requested_delivery=_day(requested, 2) if requested else None,
        total=_number(totals[0], 2) if totals else None,
        lines=lines,
    )


def _order(message: Message, *, purpose: str, lines: Sequence[Fields], **fields: object) -> Fields:
    """The record. What a partner sent last counts: dates of orders have no time of day."""
    # Interchanges tell the minute: within it an original comes first and a cancellation last.
    revised_at = message.interchange.prepared_at + timedelta(microseconds=_ORDER_OF_PURPOSES.index(purpose))
    ids = {str(line["line_number"]): {"quantity": line["quantity"], "ids": line.pop("ids")} for line in lines}
    return {
        "partner": message.interchange.sender.id,
        **{name: value for name, value in fields.items() if value is not None},
        "purpose": purpose,
        "revised_at": revised_at.isoformat().replace("+00:00", "Z"),
        "lines": list(lines),
        "edi": {**origin(message), "lines": ids},
    }


def _until(segments: Sequence[Segment], *tags: str) -> list[Segment]:
    end = next((index for index, segment in enumerate(segments) if segment.tag in tags), len(segments))
    return list(segments[:end])


def _blocks(segments: Iterable[Segment], tag: str, stop: tuple[str, ...]) -> Iterator[list[Segment]]:
    """Each segment with this tag, and those behind it that belong to it."""
    block: list[Segment] = []
    for segment in segments:
        if segment.tag == tag or segment.tag in stop:
            if block:
                yield block
            block = [segment] if segment.tag == tag else []
            if segment.tag in stop:
                return
        elif block:
            block.append(segment)
    if block:
        yield block


def _first(message: Message, segments: Sequence[Segment], tag: str) -> Segment:
    found = next((segment for segment in segments if segment.tag == tag), None)
    if found is None:
        raise SegmentError(f"no {tag} follows", message.segments[0])
    return found


def _last_line(message: Message) -> int:
    """The number of the segment behind which the summary begins."""
    return max((segment.number for segment in message.all("UNS", "CTT")), default=len(message.segments))


def _line(block: Sequence[Segment], mark: str) -> Fields:
    lin = block[0]
    if lin.get(2) == "2":
        raise SegmentError("a deleted line is not taken: send the order anew without it", lin, 2)
    ids = [[lin.get(3, 1), lin.get(3, 2)]] if lin.get(3) else []
    by_tag: defaultdict[str, list[Segment]] = defaultdict(list)
    for segment in block:
        by_tag[segment.tag].append(segment)
    for pia in by_tag["PIA"]:
        if pia.get(1) in ("1", "5"):
            ids += [[value[0], value[1]] for value in pia.elements[1:] if len(value) > 1 and value[0]]
    quantity = next((qty for qty in by_tag["QTY"] if qty.get(1) in ("21", "1")), None)
    if quantity is None:
        raise SegmentError("no QTY+21 says how many", lin)
    words = [imd.get(3, part) for imd in by_tag["IMD"] for part in (4, 5)]
    return _line_fields(
        line_number=_line_number(lin, lin.get(1)),
        ids=ids,
        gtin=GTIN,
        description=" ".join(filter(None, words)),
        quantity=_number(quantity, 1, 2, mark),
        unit=quantity.get(1, 3),
        unit_price=_price(by_tag["PRI"], mark),
    )


def _line_x12(block: Sequence[Segment], number: int) -> Fields:
    po1 = block[0]
    ids = [[po1.get(at + 1), po1.get(at)] for at in range(6, len(po1.elements), 2) if po1.get(at + 1)]
    words = [pid.get(5) for pid in block if pid.tag == "PID" and pid.get(1) in ("F", "")]
    price = None
    if po1.get(4):
        price = _per_unit(po1, 4, 0, _number(po1, 4), str(PRICE_UNITS_X12.get(po1.get(5), 1)))
    return _line_fields(
        line_number=_line_number(po1, po1.get(1) or str(number)),
        ids=ids,
        gtin=GTIN_X12,
        description=" ".join(filter(None, words)),
        quantity=_number(po1, 2),
        unit=po1.get(3),
        unit_price=price,
    )


def _line_fields(*, ids: Sequence[Sequence[str]], gtin: Sequence[str], **fields: object) -> Fields:
    """ids: article numbers with their kinds, in the sender's order."""
    gtins = [value for value, kind in ids if kind in gtin]
    skus = sorted((pair for pair in ids if pair[1] not in gtin), key=_preference)
    sent = {name: value for name, value in fields.items() if value not in (None, "")}
    return {
        **sent,
        **({"gtin": gtins[0]} if gtins else {}),
        **({"sku": skus[0][0]} if skus else {}),
        "ids": [list(pair) for pair in ids],
    }


def _preference(pair: Sequence[str]) -> int:
    return SKU.index(pair[1]) if pair[1] in SKU else len(SKU)


def _line_number(segment: Segment, told: str) -> int:
    if not _LINE_NUMBER.fullmatch(told):
        raise SegmentError(f"{told!r} is no line number", segment, 1)
    return int(told)


def _price(told: Sequence[Segment], mark: str) -> str | None:
    """The net price of one unit, or the gross one where there is no other."""
    prices = {pri.get(1): pri for pri in reversed(told) if pri.get(1, 2)}
    pri = prices.get("AAA") or prices.get("AAB")
    if pri is None:
        return None
    units = _number(pri, 1, 5, mark) if pri.get(1, 5) else "1"
    return _per_unit(pri, 1, 2, _number(pri, 1, 2, mark), units)


def _per_unit(segment: Segment, element: int, component: int, price: str, units: str) -> str:
    """A price for several units, for one: exactly, or not at all."""
    if Decimal(units) in (0, 1):
        return price
    of_one = Decimal(price) / Decimal(units)
    if of_one != of_one.quantize(Decimal("0.000001")):
        raise SegmentError(f"{price} for {units} cannot be told for one in six decimals", segment, element, component)
    return format(of_one.normalize(), "f")


def _party(nad: Segment) -> Fields:
    number, agency = nad.get(2, 1), nad.get(2, 3)
    name = nad.elements[3] if len(nad.elements) > 3 and nad.get(4) else nad.elements[2][:1] if nad.get(3) else ()
    street = nad.elements[4] if len(nad.elements) > 4 else nad.elements[2][1:] if nad.get(3) else ()
    town = " ".join(filter(None, (nad.get(8), nad.get(6))))
    return _party_fields(number, agency == "9", " ".join(filter(None, name)), [*street, town, nad.get(7), nad.get(9)])


def _party_x12(block: Sequence[Segment]) -> Fields:
    n1 = block[0]
    parts = [value for n3 in block if n3.tag == "N3" for value in (n3.get(1), n3.get(2))]
    for n4 in (segment for segment in block if segment.tag == "N4"):
        parts += [n4.get(1), " ".join(filter(None, (n4.get(2), n4.get(3)))), n4.get(4)]
    return _party_fields(n1.get(4), n1.get(3) == "UL", n1.get(2), parts)


def _party_fields(number: str, is_gln: bool, name: str, address: Iterable[str]) -> Fields:
    kind = "gln" if is_gln and _GLN.fullmatch(number) else "id"
    fields: Mapping[str, str] = {kind: number, "name": name, "address": ", ".join(filter(None, address))}
    return {field: value for field, value in fields.items() if value}


def _check_control(cnt: Segment, lines: Sequence[Fields], mark: str) -> None:
    """CNT+1 is the sum of quantities, CNT+2 the number of lines."""
    if cnt.get(1) not in ("1", "2"):
        return
    told = Decimal(_number(cnt, 1, 2, mark))
    found = _sum(lines) if cnt.get(1) == "1" else Decimal(len(lines))
    if told != found:
        what = "the quantities come to" if cnt.get(1) == "1" else "the number of lines is"
        raise SegmentError(f"says {told}, {what} {found}", cnt, 1, 2)


def _check_totals(ctt: Segment, lines: Sequence[Fields]) -> None:
    """CTT01 is the number of lines, CTT02 the sum of quantities."""
    if Decimal(_number(ctt, 1)) != len(lines):
        raise SegmentError(f"says {ctt.get(1)}, the number of lines is {len(lines)}", ctt, 1)
    if ctt.get(2) and Decimal(_number(ctt, 2)) != _sum(lines):
        raise SegmentError(f"says {ctt.get(2)}, the quantities come to {_sum(lines)}", ctt, 2)


def _sum(lines: Sequence[Fields]) -> Decimal:
    return sum((Decimal(str(line["quantity"])) for line in lines), Decimal(0))


def _currency(segment: Segment, element: int, component: int = 0) -> str:
    told = segment.get(element, component or 1)
    if not _CURRENCY.fullmatch(told):
        raise SegmentError(f"{told!r} is no currency: three letters like EUR are", segment, element, component)
    return told


def _number(segment: Segment, element: int, component: int = 1, mark: str = ".") -> str:
    """The digits of a number, with a point for its fraction; no separators of thousands, none below zero."""
    told = segment.get(element, component)
    # X12 and ISO 9735 leave a zero before the mark out, and put a minus behind it.
    plain = told if mark == "." else told.replace(mark, ".") if "." not in told else ""
    if _NOT_SIGNED.fullmatch(plain):
        return plain
    if plain.endswith("-"):
        plain = "-" + plain[:-1]
    plain = re.sub(r"^([+-]?)\.", r"\g<1>0.", plain).removesuffix(".")
    if not _NUMBER.fullmatch(plain):
        wanted = f"a number, its decimal mark is {mark}"
        raise SegmentError(f"{told!r} is not {wanted}", segment, element, component if component > 1 else 0)
    if plain.startswith("-"):
        raise SegmentError(f"{told!r} is less than zero", segment, element, component if component > 1 else 0)
    return plain


def _moment(dtm: Segment) -> str:
    """DTM as ISO 8601; partners' clocks are taken to be UTC."""
    told, form = dtm.get(1, 2), dtm.get(1, 3) or "102"
    if form not in _DIGITS:
        raise SegmentError(f"format {form} is not known: 102 is CCYYMMDD, 203 is CCYYMMDDHHMM", dtm, 1, 3)
    return _parsed(dtm, 1, 2, told, _DIGITS[form]).isoformat().replace("+00:00", "Z")


def _day(segment: Segment, element: int) -> str:
    return _parsed(segment, element, 0, segment.get(element), 8).date().isoformat()


def _parsed(segment: Segment, element: int, component: int, told: str, digits: int) -> datetime:
    try:
        if len(told) != digits or not (told.isascii() and told.isdigit()):
            raise ValueError
        full = told.ljust(14, "0")
        month, day, hour, minute, second = (int(full[at : at + 2]) for at in range(4, 14, 2))
        return datetime(int(full[:4]), month, day, hour, minute, second, tzinfo=UTC)
    except ValueError:
        raise SegmentError(f"{told!r} is no date that exists", segment, element, component) from None
