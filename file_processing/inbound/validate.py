"""From a batch of records to rows, and to the reasons why a record is none."""

import hashlib
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from itertools import chain, islice
from operator import attrgetter, itemgetter
from types import MappingProxyType
from typing import Annotated, Any, NamedTuple, TypeVar, cast

from pydantic import AliasChoices, AliasPath, BaseModel, FailFast, TypeAdapter, ValidationError
from sqlalchemy import Table
from typing_extensions import is_typeddict

from file_processing.inbound.formats.base import Batch
from file_processing.inbound.limits import Rejects
from file_processing.inbound.record_errors import VALUE_CHARACTERS, Reason, RejectedText, reasons_of, rejected
from models.errors import RejectRecord
from models.flow import CHILDREN_DIGEST, Flow
from services.text import storable

DRIFT_NAMES = 100
"""So many fields that the flow does not know are named, of every batch."""

PIECE_RECORDS = 1000
"""So many records are looked at together in a batch that has bad ones: their reasons take far more room than they."""

RowValues = tuple[object, ...]
"""The values of `Flow.columns`, in that order."""


ChildRows = tuple[Sequence[RowValues], ...]
"""The children of one row, for each of `Flow.children`: the values behind the parent's key."""

_T = TypeVar("_T")
_ToValues = Callable[[Iterable[_T]], list[RowValues]]


class CheckedBatch(NamedTuple):
    """What a batch came to.

    records: how many were looked at: all, up to where too many are bad.
    rows: those of every good record, and for each row, in `positions`, the position of its
        record in the file.
    rejected: the bad records; of too many the first. bad: how many there are.
    drift: fields that the flow does not know, with the number of records that have them.
    """

    batch: Batch
    records: int
    rows: Sequence[RowValues]
    positions: Sequence[int]
    children: Sequence[ChildRows | None]
    rejected: Sequence[RejectedText]
    bad: int
    drift: Mapping[str, int]


_NO_DRIFT: Mapping[str, int] = MappingProxyType({})


class Validator:
    """Checks the records of one flow. Made once: building the adapter takes milliseconds."""

    def __init__(self, flow: Flow) -> None:
        self.flow = flow
        self._list: TypeAdapter[list[Any]] = TypeAdapter(list[flow.record])  # type: ignore[name-defined]
        # What is wrong with a million records would take a gigabyte.
        all_good: Any = Annotated[list[flow.record], FailFast()]  # type: ignore[name-defined]
        self._all_good: TypeAdapter[list[Any]] = TypeAdapter(all_good)
        self._of_records = _of_records(flow)
        self._values = _in_order([name for name in flow.columns if name != CHILDREN_DIGEST], _nullable(flow.sql_table))
        self._children = {
            table.name: _in_order(columns := flow.child_columns(number), columns)
            for number, table in enumerate(flow.sql_tables[1:])
        }
        self._known = _known_fields(flow)
        # Nothing is left out where the record holds whatever comes.
        self._keeps_unknown = issubclass(flow.record, BaseModel) and flow.record.model_config.get("extra") == "allow"

    def check(self, batch: Batch, rejects: Rejects) -> CheckedBatch:
        """Validate every record of the batch, up to where too many are bad; every bad record's reasons are told.

        rejects: of its file up to here; the batch is added.
        """
        reasons: dict[int, list[Reason]] = {}
        records = len(batch.records)
        good: Sequence[int] = range(records)
        try:
            valid = self._all_good.validate_python(batch.records)
        except Exception:  # noqa: BLE001  # the flow's own validators may fail in any way
            records, good, valid, reasons = self._piece_by_piece(batch.records, rejects)
        if reasons and (misfit := batch.misfit(self._known)) is not None:
            reasons = {0: [Reason((), misfit)]}
        rows, of_records, children = self._to_rows(batch, good, valid, reasons)
        known = rejects.rejected
        rejects.add(records, len(reasons))
        shown = reasons
        if rejects.too_many():
            first = sorted(reasons)[: max(rejects.limits.max_rejects - known, 0)]
            shown = {index: reasons[index] for index in first}
        drift = self._drift(batch.records[:records])
        return CheckedBatch(batch, records, rows, of_records, children, rejected(batch, shown), len(reasons), drift)

    def check_together(self, batches: Sequence[Batch]) -> list[CheckedBatch] | None:
        """The same for a batch of each of several files; None where any record of them is bad."""
        records = [record for batch in batches for record in batch.records]
        try:
            valid = self._all_good.validate_python(records)
        except Exception:  # noqa: BLE001  # the flow's own validators may fail in any way
            return None
        has_drift = bool(self._drift(records))
        checked: list[CheckedBatch] = []
        reasons: dict[int, list[Reason]] = {}
        start = 0
        for batch in batches:
            count = len(batch.records)
            good = valid[start : start + count]
            rows, of_records, children = self._to_rows(batch, range(count), good, reasons)
            drift = self._drift(batch.records) if has_drift else _NO_DRIFT
            checked.append(CheckedBatch(batch, count, rows, of_records, children, (), 0, drift))
            start += count
        return None if reasons else checked

    def _piece_by_piece(
        self, records: Sequence[object], rejects: Rejects
    ) -> tuple[int, list[int], list[Any], dict[int, list[Reason]]]:
        """How many records were looked at, which are good, what they are, and what is wrong with the others."""
        good, valid, reasons = list[int](), list[Any](), dict[int, list[Reason]]()
        done = 0
        while done < len(records) and not rejects.too_many(done, len(reasons)):
            piece = records[done : done + PIECE_RECORDS]
            fine, checked, wrong = self._piece(piece)
            good += [done + index for index in fine]
            valid += checked
            reasons |= {done + index: told for index, told in wrong.items()}
            done += len(piece)
        return done, good, valid, reasons

    def _piece(self, records: Sequence[object]) -> tuple[Sequence[int], list[Any], dict[int, list[Reason]]]:
        good: Sequence[int] = range(len(records))
        try:
            return good, self._list.validate_python(records), {}
        except ValidationError as error:
            reasons = reasons_of(error, records)
        except Exception:  # noqa: BLE001
            return self._one_by_one(records)
        good = [index for index in good if index not in reasons]
        return good, self._list.validate_python([records[index] for index in good]), reasons

    def _one_by_one(self, records: Sequence[object]) -> tuple[Sequence[int], list[Any], dict[int, list[Reason]]]:
        good, valid, reasons = [], [], {}
        for index, record in enumerate(records):
            try:
                valid += self._list.validate_python([record])
                good.append(index)
            except ValidationError as error:
                reasons[index] = reasons_of(error, [record])[0]
            except Exception as error:  # noqa: BLE001
                reasons[index] = [Reason((), f"flow {self.flow.name} cannot check it: {_named(error)}")]
        return good, valid, reasons

    def _to_rows(
        self, batch: Batch, good: Sequence[int], valid: list[Any], reasons: dict[int, list[Reason]]
    ) -> tuple[list[RowValues], list[int], list[ChildRows | None]]:
        if self.flow.to_rows is None:
            return self._of_records(valid), [batch.first + index for index in good], []
        try:
            rows, counts, children = self._translated(valid)
        except Exception:  # noqa: BLE001  # which record it is comes out one by one
            return self._translated_one_by_one(batch, good, valid, reasons)
        return (
            rows,
            [batch.first + index for index, count in zip(good, counts, strict=True) for _ in range(count)],
            children,
        )

    def _translated_one_by_one(
        self, batch: Batch, good: Sequence[int], valid: Sequence[Any], reasons: dict[int, list[Reason]]
    ) -> tuple[list[RowValues], list[int], list[ChildRows | None]]:
        rows: list[RowValues] = []
        children: list[ChildRows | None] = []
        from_record: list[int] = []
        for index, record in zip(good, valid, strict=True):
            try:
                of_record, _, own = self._translated([record])
            except RejectRecord as error:
                reasons[index] = [Reason((), str(error))]
                continue
            except Exception as error:  # noqa: BLE001  # the flow's own function may fail in any way
                text = f"flow {self.flow.name} cannot turn it into rows: {_named(error)}"
                reasons[index] = [Reason((), text)]
                continue
            rows += of_record
            children += own
            from_record += [batch.first + index] * len(of_record)
        return rows, from_record, children

    def _translated(self, valid: Sequence[Any]) -> tuple[list[RowValues], list[int], list[ChildRows | None]]:
        """The rows of records, how many each has, and the children of the rows; with children these have a digest.

        Raises RejectRecord, and whatever else the flow's own function may.
        """
        assert self.flow.to_rows is not None
        of_records = [[*self.flow.to_rows(record)] for record in valid]
        made = list(chain.from_iterable(of_records))
        rows, counts = self._values(made), list(map(len, of_records))
        if not self._children:
            return rows, counts, []
        children = [self._children_of(row) for row in made]
        digests = _digests(children, len(self._children))
        return [(*row, digest) for row, digest in zip(rows, digests, strict=True)], counts, children

    def _children_of(self, row: Mapping[str, object]) -> ChildRows | None:
        if self._children.keys().isdisjoint(row):
            return None
        return tuple(
            [values(cast("list[dict[str, object]]", row.get(name, ()))) for name, values in self._children.items()]
        )

    def _drift(self, records: Sequence[object]) -> Counter[str]:
        if self._keeps_unknown:
            return Counter()
        objects = [record for record in records if isinstance(record, dict)]
        unknown = cast("set[str]", set().union(*objects)) - self._known
        if not unknown:
            return Counter()
        seen = Counter(name for record in objects for name in record if name in unknown)
        return Counter({storable(name[:VALUE_CHARACTERS]): count for name, count in seen.most_common(DRIFT_NAMES)})


def _digests(children: Iterable[ChildRows | None], tables: int) -> Iterator[bytes | None]:
    """Equal for equal children in any order, 12.5 and 12.50 among them; None for a row that says nothing of any."""
    children = list(children)
    said = [own for own in children if own is not None]
    plain = [iter(_plain([row for own in said for row in own[number]])) for number in range(tables)]
    for own in children:
        if own is None:
            yield None
        else:
            texts = [sorted(islice(plain[number], len(rows))) for number, rows in enumerate(own)]
            yield hashlib.sha256(repr(texts).encode()).digest()


def _plain(rows: Iterable[RowValues]) -> Iterable[str]:
    """Each row as text, which is the same for equal ones."""
    return map(repr, map(list, zip(*map(_normal, zip(*rows, strict=True)), strict=True)))


def _normal(column: Sequence[object]) -> Sequence[object]:
    if any(issubclass(kind, Decimal) for kind in set(map(type, column))):
        return [value.normalize() if isinstance(value, Decimal) else value for value in column]
    return column


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _known_fields(flow: Flow) -> frozenset[str]:
    """The names by which a record's fields may be sent."""
    if not issubclass(flow.record, BaseModel):
        return frozenset(TypeAdapter(flow.record).json_schema(by_alias=True).get("properties", {}))
    names: set[str] = set()
    for name, field in flow.record.model_fields.items():
        names.update(_spellings(field.validation_alias))
        config = flow.record.model_config
        if field.validation_alias is None or config.get("populate_by_name") or config.get("validate_by_name"):
            names.add(name)
    return frozenset(names)


def _spellings(alias: str | AliasPath | AliasChoices | None) -> set[str]:
    match alias:
        case None:
            return set()
        case AliasChoices():
            return set().union(*map(_spellings, alias.choices))
        case AliasPath():
            return {str(alias.path[0])}
        case _:
            return {alias}


def _of_records(flow: Flow) -> _ToValues[Any]:
    """From validated records whose fields are the columns to the values of their rows."""
    columns = flow.columns
    if is_typeddict(flow.record):
        return _in_order(columns, _nullable(flow.sql_table))
    values = attrgetter(*columns) if len(columns) > 1 else lambda record: (getattr(record, columns[0]),)
    return lambda records: list(map(values, records))


def _nullable(table: Table) -> frozenset[str]:
    return frozenset(column.name for column in table.columns if column.nullable)


def _in_order(columns: Sequence[str], optional: Container[str]) -> _ToValues[Mapping[str, object]]:
    """From rows by column name to their values in this order; optional ones may be left out, and are null."""
    in_order = itemgetter(*columns)
    left_out = {column: None for column in columns if column in optional}

    def values(rows: Iterable[Mapping[str, object]]) -> list[RowValues]:
        rows = list(rows)
        try:
            found = list(map(in_order, rows))
        except KeyError:
            found = [in_order({**left_out, **row}) for row in rows]  # one missing all the same is the flow's mistake
        return found if len(columns) > 1 else [(value,) for value in found]

    return values
