"""From changed rows to outbound files: translated, validated, named; nothing is written yet."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from string import Formatter
from typing import Any

from pydantic import TypeAdapter, ValidationError

from file_processing.outbound.record_document import record_document
from models.flow import Flow
from models.outbound import Form, Outbound, RenderFunction, Row
from services.files.names import portable

Content = bytes | Callable[[int], bytes]


@dataclass(frozen=True, slots=True)
class Draft:
    """A file that is to be sealed.

    document: the name of its kind, see `Outbound`.
    name: below the flow's output folder; `{file_id}` still stands where the ledger's number belongs.
    content: in bytes, or what writes it once that number is known.
    completes: the rows that have gone out wholly once this file is there. carries: its other rows.
    """

    document: str
    name: str
    content: Content
    records: int
    completes: Sequence[Row]
    carries: Sequence[Row]

    def numbered(self, number: int) -> tuple[str, bytes]:
        """Name and content of the file that has this number in the ledger."""
        content = self.content if isinstance(self.content, bytes) else self.content(number)
        return self.name.replace("{file_id}", str(number)), content


@dataclass(slots=True)
class Drafts:
    """What a batch of rows came to.

    done: rows that have nothing to send. quarantined: rows that cannot be sent, and why.
    """

    files: list[Draft] = field(default_factory=list)
    done: list[Row] = field(default_factory=list)
    quarantined: list[tuple[Row, str]] = field(default_factory=list)


class Translator:
    """Translates rows of one flow. Made once: building the adapters takes milliseconds."""

    def __init__(self, flow: Flow) -> None:
        self.flow = flow
        self._documents = [_Documents(flow, outbound) for outbound in flow.outbound]

    def drafts(self, rows: Sequence[Row]) -> Drafts:
        """The files that carry these rows, in order.

        A row that any of its documents cannot be made of is quarantined whole.
        """
        result = Drafts()
        made = [documents.make(rows) for documents in self._documents]
        wrong = {index: reason for _, reasons in reversed(made) for index, reason in reasons.items()}
        last_of: dict[int, int] = {}
        for number, (texts, _) in enumerate(made):
            last_of.update(dict.fromkeys(texts.keys() - wrong, number))
        for index, row in enumerate(rows):
            if index in wrong:
                result.quarantined.append((row, wrong[index]))
            elif index not in last_of:
                result.done.append(row)
        for number, (documents, (texts, _)) in enumerate(zip(self._documents, made, strict=True)):
            for part in documents.parts(index for index in texts if index not in wrong):
                content = documents.content([texts[index] for index in part])
                completes = [rows[index] for index in part if last_of[index] == number]
                carries = [rows[index] for index in part if last_of[index] != number]
                name = documents.name(rows[part[0]])
                result.files.append(Draft(documents.document, name, content, len(part), completes, carries))
        return result


class _Documents:
    """One kind of document of a flow."""

    def __init__(self, flow: Flow, outbound: Outbound) -> None:
        self._flow = flow
        self._outbound = outbound
        document = outbound.document or record_document(flow)
        self._model = TypeAdapter[Any](document)
        self._list = TypeAdapter[list[Any]](list[document])  # type: ignore[valid-type]  # made at run time
        to_json = partial(self._model.serializer.to_json, by_alias=True)  # what dump_json calls, for less
        self._write: Callable[[Any], Content] = partial(_rendered, outbound.render) if outbound.render else to_json

    @property
    def document(self) -> str:
        return self._outbound.name

    def make(self, rows: Sequence[Row]) -> tuple[dict[int, Content], dict[int, str]]:
        """The document of each row as JSON, or what renders it, and why there is none where it cannot be made."""
        fields: dict[int, Mapping[str, object]] = {}
        wrong: dict[int, str] = {}
        for index, row in enumerate(rows):
            try:
                translated = self._outbound.to_document(row)
            except Exception as error:  # noqa: BLE001  # the flow's own function may fail in any way
                wrong[index] = f"flow {self._flow.name} cannot translate it: {type(error).__name__}: {error}"
            else:
                if translated is not None:
                    fields[index] = translated
        try:
            valid = self._list.validate_python(list(fields.values()))
        except ValidationError:
            valid = []
            for index, values in tuple(fields.items()):
                try:
                    valid.append(self._model.validate_python(values))
                except ValidationError as error:
                    wrong[index] = _reasons(error)
                    del fields[index]
        made: dict[int, Content] = {}
        for index, document in zip(fields, valid, strict=True):
            try:
                made[index] = self._write(document)
            except Exception as error:  # noqa: BLE001  # a serializer of the flow may fail in any way as well
                wrong[index] = f"flow {self._flow.name} cannot write it: {type(error).__name__}: {error}"
        return made, wrong

    def parts(self, indexes: Iterable[int]) -> Iterator[list[int]]:
        """The rows of each file."""
        size = 1 if self._outbound.form is Form.ONE else self._outbound.max_records
        waiting = iter(indexes)
        while part := list(islice(waiting, size)):
            yield part

    def content(self, contents: Sequence[Content]) -> Content:
        texts = [content for content in contents if isinstance(content, bytes)]
        match self._outbound.form:
            case Form.ONE:
                return texts[0] + b"\n" if texts else contents[0]
            case Form.LINES:
                return b"".join(text + b"\n" for text in texts)
            case Form.ARRAY:
                return b"[\n" + b",\n".join(texts) + b"\n]\n"
            case Form.ENVELOPE:
                key = json.dumps(self._outbound.envelope).encode()
                return b"{" + key + b": [\n" + b",\n".join(texts) + b"\n]}\n"

    def name(self, first: Row) -> str:
        return file_name(self._outbound, first)


def _rendered(render: RenderFunction, document: object) -> Content:
    """What writes it; that it can be written is found now, and not when its file is numbered."""
    render(document, 0)
    return partial(render, document)


def file_name(outbound: Outbound, row: Mapping[str, Any]) -> str:
    """The file's name below the flow's folder, of the row's values; `{file_id}` stays as it is."""
    return filled(f"{outbound.name}/{outbound.file_name}".lstrip("/"), row)


def filled(pattern: str, values: Mapping[str, Any]) -> str:
    """The pattern with the values, made safe as parts of a path.

    See `portable` for what becomes of a value.
    """
    parts = []
    for text, name, _spec, _conversion in Formatter().parse(pattern):
        parts.append(text)
        if name == "file_id":
            parts.append("{file_id}")
        elif name is not None:
            parts.append(portable(str(values[name])))
    return "".join(parts)


def _reasons(error: ValidationError) -> str:
    return "; ".join(
        f"{'.'.join(map(str, detail['loc'])) or 'document'}: {detail['msg']}"
        for detail in error.errors(include_url=False, include_context=False)
    )
