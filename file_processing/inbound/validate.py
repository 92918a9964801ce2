"""From a batch of records to rows, and to the reasons why a record is none."""

import hashlib
from collections import Counter
from collections.abc import Callable, Container, Mapping, Sequence
from decimal import Decimal
from operator import attrgetter, itemgetter
from types import MappingProxyType
from typing import Annotated, Any, NamedTuple, cast

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
        self._of_record = _of_record(flow)
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
            return list(map(self._of_record, valid)), [batch.first + index for index in good], []
        rows: list[RowValues] = []
        children: list[ChildRows | None] = []
        from_record: list[int] = []
        for index, record in zip(good, valid, strict=True):
            try:
                if self._children:
                    both = [self._with_children(row) for row in self.flow.to_rows(record)]
                    of_record = [values for values, _ in both]
                    children += [own for _, own in both]
                else:
                    of_record = [*map(self._values, self.flow.to_rows(record))]
            except RejectRecord as error:
                reasons[index] = [Reason((), str(error))]
                continue
            except Exception as error:  # noqa: BLE001  # the flow's own function may fail in any way
                text = f"flow {self.flow.name} cannot turn it into rows: {_named(error)}"
                reasons[index] = [Reason((), text)]
                continue
            rows += of_record
            from_record += [batch.first + index] * len(of_record)
        return rows, from_record, children

    def _with_children(self, row: Mapping[str, object]) -> tuple[RowValues, ChildRows | None]:
        """The values of a row, with the digest of its children; and these."""
        if self._children.keys().isdisjoint(row):
            return (*self._values(row), None), None
        own = tuple(
            [*map(values, cast("list[dict[str, object]]", row.get(name, ())))]
            for name, values in self._children.items()
        )
        return (*self._values(row), _digest(own)), own

    def _drift(self, records: Sequence[object]) -> Counter[str]:
        if self._keeps_unknown:
            return Counter()
        objects = [record for record in records if isinstance(record, dict)]
        unknown = cast("set[str]", set().union(*objects)) - self._known
        if not unknown:
            return Counter()
        seen = Counter(name for record in objects for name in record if name in unknown)
        return Counter({storable(name[:VALUE_CHARACTERS]): count for name, count in seen.most_common(DRIFT_NAMES)})


def _digest(children: ChildRows) -> bytes:
    """Equal for equal children in any order, 12.5 and 12.50 among them."""
    plain = [
        sorted(repr([value.normalize() if isinstance(value, Decimal) else value for value in row]) for row in rows)
        for rows in children
    ]
    return hashlib.sha256(repr(plain).encode()).digest()


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


def _of_record(flow: Flow) -> Callable[[Any], RowValues]:
    """From a validated record whose fields are the columns to the values of its row."""
    columns = flow.columns
    if is_typeddict(flow.record):
        return _in_order(columns, _nullable(flow.sql_table))
    return attrgetter(*columns) if len(columns) > 1 else lambda record: (getattr(record, columns[0]),)


def _nullable(table: Table) -> frozenset[str]:
    return frozenset(column.name for column in table.columns if column.nullable)


def _in_order(columns: Sequence[str], optional: Container[str]) -> Callable[[Mapping[str, object]], RowValues]:
    """From a row by column name to its values in this order; of optional ones it may leave out any, which are null."""
    if len(columns) == 1:
        return lambda row: (row.get(columns[0]) if columns[0] in optional else row[columns[0]],)
    of_whole_row = itemgetter(*columns)
    left_out = {column: None for column in columns if column in optional}

    def values(row: Mapping[str, object]) -> RowValues:
        try:
            found: RowValues = of_whole_row(row)
        except KeyError:
            found = of_whole_row({**left_out, **row})  # one that is missing all the same is the flow's mistake
        return found

    return values
