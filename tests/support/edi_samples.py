"""EDI as partners write it: interchanges put together from segments, with their counts right unless told otherwise."""

from collections.abc import Sequence

ORDER = (
    "BGM+220+PO-1+9",
    "DTM+137:20260131:102",
    "NAD+BY+4012345000009::9",
    "CUX+2:EUR:9",
    "LIN+1++4006381333931:EN",
    "QTY+21:10:PCE",
    "PRI+AAA:2.50",
    "UNS+S",
    "CNT+2:1",
)
ORDER_X12 = (
    "BEG*00*SA*PO-1**20260131",
    "CUR*BY*USD",
    "N1*BY*Acme*92*A1",
    "PO1*1*10*EA*2.50**VP*ABC",
    "CTT*1",
)


def edifact(
    *messages: Sequence[str],
    una: str = "UNA:+.? '",
    unb: str = "UNOC:3+BUYER:ZZ+SELLER:ZZ+260131:0900+REF1",
    kind: str = "ORDERS:D:96A:UN",
    unt: str = "",
    unz: str = "",
) -> str:
    """An interchange of these messages; `unt` and `unz` replace what closes the last one and all."""
    segments = [f"UNB+{unb}"]
    for number, body in enumerate(messages or (ORDER,), start=1):
        segments += [f"UNH+{number}+{kind}", *body, f"UNT+{len(body) + 2}+{number}"]
    if unt:
        segments[-1] = unt
    reference = unb.split("+")[4] if unb.count("+") >= 4 else ""
    segments.append(unz or f"UNZ+{len(messages) or 1}+{reference}")
    return una + "\n" + "".join(f"{segment}'\n" for segment in segments)


def x12(
    *sets: Sequence[str],
    reference: str = "000000001",
    kind: str = "850",
    functional_id: str = "PO",
    se: str = "",
    ge: str = "",
    iea: str = "",
) -> str:
    """An interchange of these transaction sets in one group; `se`, `ge`, `iea` replace what closes the last."""
    isa = f"ISA*00*{'':10}*00*{'':10}*ZZ*{'BUYER':15}*ZZ*{'SELLER':15}*260131*0900*U*00401*{reference}*0*P*>"
    segments = [isa, f"GS*{functional_id}*BUYER*SELLER*20260131*0900*7*X*004010"]
    for number, body in enumerate(sets or (ORDER_X12,), start=1):
        segments += [f"ST*{kind}*{number:04d}", *body, f"SE*{len(body) + 2}*{number:04d}"]
    if se:
        segments[-1] = se
    segments += [ge or f"GE*{len(sets) or 1}*7", iea or f"IEA*1*{reference}"]
    return "".join(f"{segment}~\n" for segment in segments)


def replaced(body: Sequence[str], old: str, *new: str) -> list[str]:
    """The body with the segment that starts with `old` replaced."""
    assert any(segment.startswith(old) for segment in body)
    return [part for segment in body for part in (new if segment.startswith(old) else (segment,))]
