"""The declaration of what a flow sends out: a document, and the files that carry it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from string import Formatter
from typing import Any

from pydantic import BaseModel

Row = Mapping[str, Any]
"""A row of the flow's table by business column, with `inserted_at`, `changed_at` and the
`outbound_file_id` that carried it last; its children as lists under their tables' names."""

DocumentType = type[BaseModel] | type[Mapping[str, Any]]

RenderFunction = Callable[[Any, int], bytes]
"""From a document and the number of its file to the file's bytes. `Any` because each document
model has its own."""

DocumentFunction = Callable[[Row], Mapping[str, object] | None]
"""From a row to the fields of its document; `None` when this row has none to send."""


def pass_on(row: Row) -> Row:
    """The document is the row as it is."""
    return row


class Form(StrEnum):
    """How documents stand in a file."""

    ONE = "one"  # a file per row, replaced by its newer state
    ARRAY = "array"
    ENVELOPE = "envelope"
    LINES = "lines"  # JSON Lines


class RowOrder(StrEnum):
    """In which order rows go out."""

    KEY = "key"
    CHANGED = "changed"


@dataclass(frozen=True, slots=True)
class Outbound:
    """One kind of document that goes out when a row's business columns changed.

    document: what goes out, a Pydantic model or a TypedDict (`typing_extensions`), the latter
        validated five times as fast; it validates what `to_document` gives, and writes it by alias.
        Without one the record's fields go out again, by the names under which they came.
    to_document: a plain function from row to document; without one the row is passed on as it is.
    file_name: with `{column}` of the row for `Form.ONE`, with `{file_id}` of the batch otherwise.
    form: how documents stand in a file; `envelope` names the key for `Form.ENVELOPE`.
    name: tells several documents of one flow apart; files of a named one lie in a folder of its name.
    max_records, linger_ms: a batch is full at so many rows, and waits at most so long for more.
    order: in which order rows go out.
    fsync: whether a file must be on disk before it gets its name. Only what can be had again
        may do without.
    once: a row goes out once in its life, whatever becomes of it later.
    render: writes a document that is no JSON, alone in its file.
    """

    file_name: str
    document: DocumentType | None = None
    to_document: DocumentFunction = pass_on
    form: Form = Form.ARRAY
    envelope: str | None = None
    name: str = ""
    max_records: int = 1000
    linger_ms: int = 0
    order: RowOrder = RowOrder.CHANGED
    fsync: bool = True
    once: bool = False
    render: RenderFunction | None = None

    @property
    def fields(self) -> list[str]:
        """The names in braces of `file_name`. Raises ValueError when two rows might share a name."""
        parts = [(text, name) for text, name, _, _ in Formatter().parse(self.file_name) if name is not None]
        names = [name for _, name in parts]
        for text, name in parts[1:]:
            if "/" not in text and "file_id" not in names:
                raise ValueError(
                    f"file_name {self.file_name!r} needs a / before {{{name}}}: two rows might share a name"
                )
        return names

    def __post_init__(self) -> None:
        if self.render is not None and self.form is not Form.ONE:
            raise ValueError("a document that is rendered stands alone in its file: Form.ONE")
        if self.once and self.form is not Form.ONE:
            raise ValueError("a row goes out once as a file of its own: once needs Form.ONE")
        if (self.form is Form.ENVELOPE) != (self.envelope is not None):
            raise ValueError("Form.ENVELOPE needs an envelope key, and no other form has one")
        if self.form is not Form.ONE and "{file_id}" not in self.file_name:
            raise ValueError(
                f"file_name {self.file_name!r} of a batch must hold {{file_id}}, or files overwrite each other"
            )
