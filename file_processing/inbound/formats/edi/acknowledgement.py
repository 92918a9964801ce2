"""What an interchange is answered with: CONTRL (EDIFACT), 997 (X12). It tells of syntax, not of business."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from file_processing.inbound.formats.edi.received import EnvelopeFault, Received
from models.edi.message import Group, Message, SegmentError, Standard
from models.edi.text import Body, Reply

Faults = Mapping[int, SegmentError | None]
"""The rejected messages by position from 0, each with the segment at fault where there is one."""

# Data element 0083 of CONTRL, and 0085 for a value that cannot be.
_ACKNOWLEDGED, _REJECTED = "7", "4"
_INVALID_VALUE = "12"
_SERVICE_SEGMENTS = ("UNA", "UNB", "UNZ")

# Of 997: 718 for a set with bad segments, 720 for a segment with bad elements, 723 for a bad value.
_SEGMENTS_IN_ERROR, _ELEMENTS_IN_ERROR, _BAD_VALUE = "5", "8", "7"
_GROUP_SEGMENTS = ("GS", "GE")


def acknowledge(received: Received, whole: EnvelopeFault | None, faults: Faults, now: datetime) -> Reply | None:
    """The answer to an interchange; `None` where none may be given.

    whole: why all of it is rejected. faults: of messages of one that is not.
    """
    interchange = received.interchange
    if not received.answerable:
        return None
    if interchange.standard is Standard.EDIFACT:
        group, kind, functional_id, version = None, "CONTRL", "", "D:3:UN"
        messages = [_contrl(received, whole, faults)]
    elif received.groups:
        group = next(iter(received.groups))
        kind, functional_id, version = "997", "FA", group.version
        messages = [_997(received, group, whole, faults) for group in received.groups]
    else:
        return None  # a 997 speaks of groups, and there is none
    return Reply(
        standard=interchange.standard,
        syntax=interchange.syntax,
        sender=interchange.sender,
        receiver=interchange.receiver,
        test=interchange.test,
        group=group,
        type=kind,
        functional_id=functional_id,
        version=version,
        prepared_at=now,
        messages=messages,
    )


def _contrl(received: Received, whole: EnvelopeFault | None, faults: Faults) -> Body:
    interchange = received.interchange
    action = _ACKNOWLEDGED if whole is None else _REJECTED
    uci: list[str | list[str]] = ["UCI", interchange.reference, [*interchange.sender], [*interchange.receiver], action]
    if whole is not None:
        uci.append(whole.code or _INVALID_VALUE)
        if whole.tag in _SERVICE_SEGMENTS:
            uci += [whole.tag, _position(whole.element)]
        return [uci]
    body: Body = [uci]
    for position, message in enumerate(received.messages):
        name = [message.type, *message.version.split(":")]
        if position not in faults:
            body.append(["UCM", message.reference, name, _ACKNOWLEDGED])
            continue
        error = faults[position]
        body.append(["UCM", message.reference, name, _REJECTED, "" if error else _INVALID_VALUE])
        if error is not None:
            body.append(["UCS", str(error.segment.number), "" if error.element else _INVALID_VALUE])
            if error.element:
                component = [str(error.component)] if error.component else []
                body.append(["UCD", _INVALID_VALUE, [*_position(error.element), *component]])
    return body


def _position(element: int) -> list[str]:
    """Data element 0098 counts the segment's tag as well."""
    return [str(element + 1)] if element else []


def _997(received: Received, group: Group, whole: EnvelopeFault | None, faults: Faults) -> Body:
    sets = [(position, message) for position, message in enumerate(received.messages) if message.group == group]
    body: Body = [["AK1", group.functional_id, group.reference]]
    accepted = 0
    for position, message in sets:
        body.append(["AK2", message.type, message.reference])
        if whole is not None:
            own = [whole.code] if whole.message == message.reference and whole.code else []
            body.append(["AK5", "R", *own])
        elif position in faults:
            body += _set_in_error(faults[position])
        else:
            body.append(["AK5", "A"])
            accepted += 1
    verdict = "A" if accepted == len(sets) and whole is None else "P" if accepted else "R"
    included = max(received.groups[group], len(sets))
    ak9: list[str | list[str]] = ["AK9", verdict, str(included), str(len(sets)), str(accepted)]
    if whole is not None and whole.tag in _GROUP_SEGMENTS and whole.code:
        ak9.append(whole.code)
    return [*body, ak9]


def _set_in_error(error: SegmentError | None) -> Body:
    body: Body = []
    if error is not None:
        body.append(["AK3", error.segment.tag, str(error.segment.number), "", _ELEMENTS_IN_ERROR])
        if error.element:
            body.append(["AK4", str(error.element), "", _BAD_VALUE])
    return [*body, ["AK5", "R", _SEGMENTS_IN_ERROR]]


def rejections(acknowledgements: Sequence[Message]) -> list[str]:
    """What a partner turns down of what we sent, as its acknowledgements tell."""
    told = []
    for message in acknowledgements:
        if message.type == "CONTRL":
            rejected = [segment for segment in message.all("UCI") if segment.get(4) == _REJECTED]
            rejected += [segment for segment in message.all("UCM") if segment.get(3) == _REJECTED]
        else:
            rejected = [segment for segment in message.all("AK9", "AK5", "IK5") if segment.get(1) in ("R", "E", "P")]
        if rejected:
            about = next((segment.get(1) for segment in message.all("UCI")), None)
            about = about or next((segment.get(2) for segment in message.all("AK1")), "")
            told.append(f"{message.type} {message.reference} rejects our interchange or group {about}")
    return told
