"""An interchange of ours as text: what answers a partner's interchange, in its own standard."""

from collections.abc import Callable
from datetime import datetime

from pydantic import BaseModel

from models.edi.message import Endpoint, Group, Standard

Body = list[list[str | list[str]]]
"""The segments of a message without its envelope: tag and elements, a composite one as a list."""

CHARSETS = {
    "UNOA": "ascii", "UNOB": "ascii", "UNOC": "iso8859-1", "UNOD": "iso8859-2", "UNOE": "iso8859-5",
    "UNOF": "iso8859-7", "UNOG": "iso8859-3", "UNOH": "iso8859-4", "UNOI": "iso8859-6", "UNOJ": "iso8859-8",
    "UNOK": "iso8859-9", "UNOW": "utf-8", "UNOY": "utf-8",
}  # fmt: skip
"""The encoding of each syntax identifier (ISO 9735, UNB S001 0001)."""

CONTROL_NUMBERS = 10**9
"""ISA13 has nine digits; then X12 starts over."""


class Reply(BaseModel):
    """Messages of one type to whoever sent an interchange.

    sender, receiver, syntax, test, group: as in what is answered; they are turned round here.
    functional_id: GS01 of the reply.
    version: of the messages, as in UNH (`D:96A:UN`) or GS08 (`004010`).
    """

    standard: Standard
    syntax: str
    sender: Endpoint
    receiver: Endpoint
    test: bool
    group: Group | None
    type: str
    functional_id: str = ""
    version: str
    prepared_at: datetime
    messages: list[Body]


def render(reply: Reply, number: int) -> bytes:
    """The interchange, with `number` as its control reference."""
    return _edifact(reply, number) if reply.standard is Standard.EDIFACT else _x12(reply, number)


def _edifact(reply: Reply, number: int) -> bytes:
    charset = CHARSETS[reply.syntax.partition(":")[0]]
    day = "%Y%m%d" if reply.syntax.partition(":")[2] >= "4" else "%y%m%d"
    header: list[str | list[str]] = [
        "UNB",
        reply.syntax.split(":"),
        list(reply.receiver),
        list(reply.sender),
        [reply.prepared_at.strftime(day), reply.prepared_at.strftime("%H%M")],
        str(number),
    ]
    if reply.test:
        header += ["", "", "", "", "", "1"]
    segments: Body = [header]
    for position, body in enumerate(reply.messages, start=1):
        segments.append(["UNH", str(position), [reply.type, *reply.version.split(":")]])
        segments += body
        segments.append(["UNT", str(len(body) + 2), str(position)])
    segments.append(["UNZ", str(len(reply.messages)), str(number)])

    def escaped(value: str) -> str:
        carried = value.encode(charset, "replace").decode(charset)  # before "?" becomes the release character
        return "".join("?" + character if character in "?+:'" else character for character in carried)

    return b"UNA:+.? '" + _text(segments, "+", ":", "'", escaped).encode(charset)


def _x12(reply: Reply, number: int) -> bytes:
    control = f"{number % CONTROL_NUMBERS:09d}"
    day = reply.prepared_at
    # ISA11 is "U" up to 00401, and declares a separator for repetitions after that.
    header = [
        "ISA", "00", " " * 10, "00", " " * 10,
        f"{reply.receiver.qualifier:2.2}", f"{reply.receiver.id:15.15}",
        f"{reply.sender.qualifier:2.2}", f"{reply.sender.id:15.15}",
        f"{day:%y%m%d}", f"{day:%H%M}", "U" if reply.syntax < "00402" else "^", reply.syntax, control, "0",
        "T" if reply.test else "P", ">",
    ]  # fmt: skip
    sender, receiver = (
        (reply.group.receiver, reply.group.sender) if reply.group else (reply.receiver.id, reply.sender.id)
    )
    group = str(int(control))
    segments: Body = [
        ["GS", reply.functional_id, sender, receiver, f"{day:%Y%m%d}", f"{day:%H%M}", group, "X", reply.version]
    ]
    for position, body in enumerate(reply.messages, start=1):
        segments.append(["ST", reply.type, f"{position:04d}"])
        segments += body
        segments.append(["SE", str(len(body) + 2), f"{position:04d}"])
    segments += [["GE", str(len(reply.messages)), group], ["IEA", "1", control]]

    def plain(value: str) -> str:
        """X12 has no release character: a separator in a value has to go."""
        return value.encode("ascii", "replace").decode().translate({ord(separator): " " for separator in "*>~^"})

    return ("*".join(header) + "~" + _text(segments, "*", ">", "~", plain)).encode("ascii", "replace")


def _text(segments: Body, element: str, component: str, terminator: str, written: Callable[[str], str]) -> str:
    """Trailing empty elements and components are left out, as both standards want it."""

    def composite(value: str | list[str]) -> str:
        if isinstance(value, str):
            return written("".join(character if character.isprintable() else " " for character in value))
        return component.join(_trimmed([composite(part) for part in value]))

    return "".join(element.join(_trimmed(list(map(composite, segment)))) + terminator for segment in segments)


def _trimmed(values: list[str]) -> list[str]:
    while values and not values[-1]:
        values.pop()
    return values
