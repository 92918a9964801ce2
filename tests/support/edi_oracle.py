"""EDIFACT cut by pydifact, character by character: what our own cutting has to come to."""

import re
from collections.abc import Iterator

from pydifact.control.characters import Characters
from pydifact.exceptions import EDISyntaxError
from pydifact.token import Token
from pydifact.tokenizer import Tokenizer

from file_processing.inbound.formats.edi.edifact import Elements, Marks

_TAG = re.compile(r"[A-Z][A-Z0-9]{2}")


class Fault(Exception):
    """at: where in the text, in characters from its start."""

    def __init__(self, reason: str, at: int) -> None:
        super().__init__(reason)
        self.reason = reason
        self.at = at


class _Counted:
    """The text for pydifact, which does not tell where it is."""

    def __init__(self, text: str, start: int) -> None:
        self._text = text
        self.taken = start

    def __iter__(self) -> Iterator[str]:
        for character in self._text[self.taken :]:
            self.taken += 1
            yield character


def cut(text: str, start: int, marks: Marks) -> Iterator[tuple[str, Elements, tuple[int, int]]]:
    """The tag of each segment, its elements, and its span with the blanks behind it. Raises Fault."""
    start += len(text[start:]) - len(text[start:].lstrip(" \r\n"))
    counted, tokenizer = _Counted(text, start), Tokenizer()
    characters = Characters(marks.component, marks.element, marks.decimal, marks.release, " ", marks.terminator)  # type: ignore[no-untyped-call]
    elements: list[list[str]] = [[""]]
    try:
        for token in tokenizer.get_tokens(counted, characters):  # type: ignore[arg-type]  # it only iterates
            match token.type:
                case Token.Type.CONTENT:
                    elements[-1][-1] += token.value
                case Token.Type.COMPONENT_SEPARATOR:
                    elements[-1].append("")
                case Token.Type.DATA_SEPARATOR:
                    elements.append([""])
                case _:
                    ahead = 1 + tokenizer.isEscaped  # it has read that far into the next segment
                    end = len(text) if tokenizer.end_of_message() else counted.taken - ahead
                    tag, *values = map(tuple, elements)
                    if (len(tag) > 1 or not _TAG.fullmatch(tag[0])) and tag[0] != "UNA":
                        raise Fault("is no segment tag", start)
                    yield tag[0], tuple(values), (start, end)
                    start, elements = end, [[""]]
    except EDISyntaxError as error:
        if "Newlines" in str(error):
            raise Fault("a line ends behind the release character", counted.taken - 1) from None
        elements = [["cut off"]]
    if elements != [[""]]:
        raise Fault("the text ends within a segment", start)
