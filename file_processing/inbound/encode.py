"""Rows in the form in which binary COPY takes them: made once, sent as they are, cut between two rows where need be.

A value that its column cannot hold is found here, and rejects its record by name: what is sent is not cut down to a
column's width without a word.
"""

import struct
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, chain
from operator import itemgetter
from typing import Any

import psycopg

# What `Copy.write_row` itself calls; psycopg offers no way to it but on a connection. The rows are those that it sends,
# as tests on a real server say.
from psycopg._copy_base import format_row_binary
from psycopg.abc import Transformer
from psycopg.adapt import AdaptersMap, Transformer as NewTransformer
from psycopg.postgres import types as type_names
from psycopg.pq import Format
from psycopg.types.json import set_json_dumps

from file_processing.inbound.formats.base import Batch
from file_processing.inbound.record_errors import Reason, RejectedText, rejected
from file_processing.inbound.validate import CheckedBatch, ChildRows, RowValues
from models.errors import RejectFile
from models.flow import Flow
from services import text
from services.db import sqlstate

HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
TRAILER = b"\xff\xff"
"""What stands before and behind the rows of a COPY."""

SOURCE = ("source_file_id", "record_position")
"""The columns behind a row's own that tell where it comes from."""

_SOURCE_TYPES = [type_names["int8"].oid, type_names["int4"].oid]
_SOURCE_FIELDS = struct.Struct(">iqii")
_FIELD_COUNT = struct.Struct(">h")
_SAYS_NOTHING = -1


@dataclass(frozen=True, slots=True)
class ColumnTypes:
    """The types that a flow's columns have in the database, by OID: of its table, and of each table of children."""

    table: tuple[int, ...]
    children: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class EncodedChildren:
    """Rows of one table of children, each with the key of its parent.

    ends: where each ends in `data`. counts: how many belong to each parent; -1 where its record says nothing of them.
    """

    data: bytes
    ends: Sequence[int]
    counts: Sequence[int]

    def with_source(self, file_id: int, positions: Iterable[int]) -> Iterator[bytes]:
        """The same rows, each with where its parent comes from."""
        start = last = 0
        for position, count in zip(positions, self.counts, strict=True):
            source = _SOURCE_FIELDS.pack(8, file_id, 4, position)
            last, first = last + max(count, 0), last
            for end in self.ends[first:last]:
                (fields,) = _FIELD_COUNT.unpack_from(self.data, start)
                yield from (_FIELD_COUNT.pack(fields + len(SOURCE)), self.data[start + _FIELD_COUNT.size : end], source)
                start = end

    def select(self, parents: Sequence[int]) -> "EncodedChildren":
        ends = [0, *accumulate(max(count, 0) for count in self.counts)]
        own = [index for parent in parents for index in range(ends[parent], ends[parent + 1])]
        return EncodedChildren(*_selected(self.data, self.ends, own), [self.counts[parent] for parent in parents])


@dataclass(frozen=True, slots=True)
class EncodedRows:
    """Rows of one file, all or some of those that a batch came to, each with where it comes from.

    ends: where each ends in `data`. positions: of the record that each comes from.
    keys: of the rows; of a long file's only where they are needed.
    children: those of the rows in each of the flow's tables of children.
    """

    file_id: int
    data: bytes
    ends: Sequence[int]
    positions: Sequence[int]
    keys: Sequence[RowValues] = ()
    children: tuple[EncodedChildren, ...] = ()

    def __len__(self) -> int:
        return len(self.ends)

    @property
    def all(self) -> int:
        """How many there are with their children."""
        return len(self.ends) + sum(len(own.ends) for own in self.children)

    def says_nothing(self, index: int) -> bool:
        """Whether the record of that row says nothing of its children: these stay as they are."""
        return self.children[0].counts[index] == _SAYS_NOTHING

    def select(self, indexes: Sequence[int]) -> "EncodedRows":
        """Some of the rows, in that order, with their children."""
        return EncodedRows(
            self.file_id,
            *_selected(self.data, self.ends, indexes),
            [self.positions[index] for index in indexes],
            [self.keys[index] for index in indexes] if self.keys else (),
            tuple(own.select(indexes) for own in self.children),
        )


def _selected(data: bytes, ends: Sequence[int], indexes: Sequence[int]) -> tuple[bytes, Sequence[int]]:
    rows = [data[ends[index - 1] if index else 0 : ends[index]] for index in indexes]
    return b"".join(rows), list(accumulate(map(len, rows)))


@dataclass(frozen=True, slots=True)
class EncodedBatch:
    """What a batch came to; like `CheckedBatch`, but for its rows, which are on their way."""

    batch: Batch
    records: int
    rows: EncodedRows
    rejected: Sequence[RejectedText]
    bad: int
    drift: Mapping[str, int]


class Encoder:
    """Encodes the rows of one flow for columns of these types."""

    def __init__(self, flow: Flow, types: ColumnTypes) -> None:
        self._table = _RowEncoder(flow.columns, types.table, source=True)
        self._children = [
            _RowEncoder([*flow.key, *flow.child_columns(number)], own) for number, own in enumerate(types.children)
        ]
        self._key = [flow.columns.index(column) for column in flow.key]

    def encode(self, checked: CheckedBatch, file_id: int) -> EncodedBatch:
        """The rows of a batch; a record with a value that its column cannot hold is rejected."""
        reasons: dict[int, list[Reason]] = {}
        try:
            rows = self._rows(checked, file_id)
        except Exception:
            wrong = self._wrong(checked)
            if not wrong:
                raise
            rows = self._rows(_without(checked, wrong), file_id)
            reasons = {position - checked.batch.first: [Reason((), why)] for position, why in wrong.items()}
        return EncodedBatch(
            checked.batch,
            checked.records,
            rows,
            [*checked.rejected, *rejected(checked.batch, reasons)] if reasons else checked.rejected,
            checked.bad + len(reasons),
            checked.drift,
        )

    def _rows(self, checked: CheckedBatch, file_id: int) -> EncodedRows:
        data, ends = self._table.encode(
            [(*row, file_id, position) for row, position in zip(checked.rows, checked.positions, strict=True)]
        )
        keys = self._keys_of(checked.rows)
        if not self._children:
            return EncodedRows(file_id, data, ends, array("i", checked.positions), keys)
        children = tuple(
            EncodedChildren(*encoder.encode(_of_table(number, keys, checked.children)), counts)
            for (number, encoder), counts in zip(
                enumerate(self._children), _counts(len(self._children), checked.children), strict=True
            )
        )
        return EncodedRows(file_id, data, ends, array("i", checked.positions), keys, children)

    def _keys_of(self, rows: Sequence[RowValues]) -> list[RowValues]:
        return list(zip(*(map(itemgetter(index), rows) for index in self._key), strict=True))

    def _wrong(self, checked: CheckedBatch) -> dict[int, str]:
        """By position, what is wrong with the records that cannot be encoded."""
        reasons: dict[int, str] = {}
        children = checked.children or [None] * len(checked.rows)
        for row, position, own in zip(checked.rows, checked.positions, children, strict=True):
            why = self._table.misfit(row)
            for number, encoder in enumerate(self._children if own else ()):
                for child in _of_table(number, self._keys_of([row]), [own]):
                    why = why or encoder.misfit(child)
            if why is not None:
                reasons.setdefault(position, why)
        return reasons


def _of_table(number: int, keys: Iterable[RowValues], children: Iterable[ChildRows | None]) -> list[tuple[object, ...]]:
    """The children of all parents in one table, behind the keys of these."""
    return [(*key, *child) for key, own in zip(keys, children, strict=True) for child in (own[number] if own else ())]


def _counts(tables: int, children: Iterable[ChildRows | None]) -> list[Sequence[int]]:
    return [
        array("i", [_SAYS_NOTHING if own is None else len(own[number]) for own in children]) for number in range(tables)
    ]


def _without(checked: CheckedBatch, positions: Mapping[int, object]) -> CheckedBatch:
    kept = [index for index, position in enumerate(checked.positions) if position not in positions]
    return checked._replace(
        rows=[checked.rows[index] for index in kept],
        positions=[checked.positions[index] for index in kept],
        children=[checked.children[index] for index in kept] if checked.children else [],
    )


class _RowEncoder:
    """Encodes rows of one table. source: each ends with where it comes from."""

    def __init__(self, columns: Sequence[str], oids: Sequence[int], *, source: bool = False) -> None:
        self._columns = columns
        self._narrow = [(index, _NARROW[oid]) for index, oid in enumerate(oids) if oid in _NARROW]
        self._whole = _transformer([*oids, *_SOURCE_TYPES] if source else oids)
        self._alone = [partial(_transformer, [oid]) for oid in oids]

    def encode(self, rows: Sequence[Sequence[object]]) -> tuple[bytes, Sequence[int]]:
        """The rows, and where each ends. Raises psycopg.DataError, and whatever a value of another type leads to."""
        for index, narrow in self._narrow:
            narrow.check([row[index] for row in rows])
        buffer, ends, transformer = bytearray(), array("q"), self._whole
        for row in rows:
            format_row_binary(row, transformer, buffer)
            ends.append(len(buffer))
        return bytes(buffer), ends

    def misfit(self, row: Sequence[object]) -> str | None:
        """Which of the values its column cannot hold; None where they can all be encoded."""
        narrow = dict(self._narrow)
        for index, value in enumerate(row):
            try:
                if index in narrow:
                    narrow[index].check([value])
                format_row_binary([value], self._alone[index](), bytearray())
            except (TypeError, AttributeError) as error:  # what psycopg raises of a value of another type
                return f"{self._columns[index]}: a value is not of its column's type: {error}"
            except Exception as error:
                fault = sqlstate.translate(error)
                if not isinstance(fault, RejectFile):
                    raise
                return f"{self._columns[index]}: {fault.reason}"
        return None


@dataclass(frozen=True, slots=True)
class _Narrow:
    """A type that psycopg cuts values down to without a word. limits: what it holds, in words."""

    name: str
    limits: str
    all_fit: Callable[[Iterable[Any]], bool]

    def check(self, values: Iterable[object]) -> None:
        """Raises psycopg.DataError, and whatever a value of another type leads to. A list is looked through."""
        flat = _flat(values)
        if not self.all_fit(flat):
            wrong = next(value for value in flat if not self.all_fit([value]))
            raise psycopg.DataError(f"{text.storable(repr(wrong))[:_SHOWN]} does not fit {self.name}, {self.limits}")


_SHOWN = 50


def _flat(values: Iterable[object]) -> list[object]:
    """The values but for null, those in lists too."""
    flat = [value for value in values if value is not None]
    while any(isinstance(value, list) for value in flat):
        flat = [
            each
            for each in chain.from_iterable(value if isinstance(value, list) else [value] for value in flat)
            if each is not None
        ]
    return flat


def _integers(name: str, bits: int) -> _Narrow:
    least, most = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1

    def all_fit(values: Iterable[Any]) -> bool:
        integers = [value for value in values if isinstance(value, int)]  # psycopg takes no other
        return not integers or (least <= min(integers) and max(integers) <= most)

    return _Narrow(name, f"which holds {least} to {most}", all_fit)


def _single(values: Iterable[Any]) -> bool:
    """Whether the server would take them for `real`: what is not zero or infinite does not become so."""
    try:
        return all(not value or _SINGLE.unpack(_SINGLE.pack(value))[0] for value in values)
    except OverflowError:
        return False


_SINGLE = struct.Struct(">f")
_KINDS = {
    "int2": _integers("smallint", 16),
    "int4": _integers("integer", 32),
    "float4": _Narrow("real", "which holds 1.4e-45 to 3.4e+38", _single),
}
_NARROW = {oid: kind for name, kind in _KINDS.items() for oid in (type_names[name].oid, type_names[name].array_oid)}


class _Context:
    """What psycopg encodes values by, without a connection."""

    connection = None

    def __init__(self) -> None:
        self.adapters = AdaptersMap(psycopg.adapters)
        set_json_dumps(text.exact_json, self)  # no digit of a partner's number gets lost


_CONTEXT = _Context()


def _transformer(oids: Sequence[int]) -> Transformer:
    made = NewTransformer(_CONTEXT)
    made.set_dumper_types(oids, Format.BINARY)
    return made
