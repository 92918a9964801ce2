"""What a rejected file leaves beside it: why, and the bad records ready to be mended."""

import gzip
import io
import itertools
import json
import os
import re
import secrets
import tempfile
from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from file_processing.inbound.formats.base import GZIP_SUFFIX, RecordForm, Rejection
from file_processing.inbound.formats.detect import FORMATS, plain_name
from file_processing.inbound.open_file import is_compressed
from file_processing.inbound.record_errors import RejectedText
from models.ledger import FileStatus, RecordError
from services.files import durable
from services.files.directory import Entry, Folder
from services.files.names import with_suffix
from services.ledger.inbound import LedgerEntry

_HIDDEN = re.compile(r"\.(\d+)(?:\.[0-9a-f]{16})?(\.(?:errors|rejected)(?:\..+)?)\.tmp")
"""Ledger id, and how the visible name will end; the first release left that to the name of the file."""

_MEMORY_BYTES = 1 << 20
"""Rejected records of a file that stay in memory; more go to a temporary file."""

REPORT_BYTES = 64 << 10
REPORT_TIMES_FILE = 10
"""A file's rejected records and reasons take up to so many bytes, or so many times its own where that is more."""

MEND_FILE = "nothing of it is loaded: mend the file, and drop it into {folder}"
LEFT_OUT = (
    "; {left_out} more rejected records are listed nowhere, as that would take too much room: mend them in the whole "
    "file, which is kept, and drop it again, for what is loaded already does no harm"
)
OR_RETRY = "; if it is the flow that is wrong, mend the flow and call: python main.py retry {id}"


class RejectedRecords:
    """The rejected records of one file: all are counted, and the first ones found are kept, as many as may be listed.

    max_bytes: what is kept takes no more, but for the first record.
    count: of all. positions: of those that were told one by one.
    """

    __slots__ = ("_bytes_left", "_kept", "_spool", "count", "positions")

    def __init__(self, max_bytes: int) -> None:
        self.count = 0
        self.positions = array("q")
        self._kept = 0
        self._bytes_left = max_bytes
        self._spool: IO[bytes] | None = None

    @property
    def left_out(self) -> int:
        """How many are not kept."""
        return self.count - self._kept

    def add(self, records: Iterable[RejectedText]) -> None:
        for record in records:
            if self._spool is None:
                self._spool = tempfile.SpooledTemporaryFile(_MEMORY_BYTES)  # noqa: SIM115  # closed in close()
            self.count += 1
            self.positions.append(record.position)
            line = json.dumps([record.position, record.text, record.errors]).encode() + b"\n"
            self._bytes_left -= len(line)
            if self._bytes_left >= 0 or not self._kept:
                self._spool.write(line)
                self._kept += 1

    def __iter__(self) -> Iterator[RejectedText]:
        if self._spool is None:
            return
        self._spool.seek(0)
        for line in self._spool:
            position, text, errors = json.loads(line)
            yield RejectedText(position, text, tuple(errors))
        self._spool.seek(0, os.SEEK_END)

    def errors(self) -> Iterator[RecordError]:
        for record in self:
            yield from record.errors

    def __del__(self) -> None:
        self.close()  # the file waits, and is read anew

    def close(self) -> None:
        if self._spool is not None:
            self._spool.close()
            self._spool = None


@dataclass(frozen=True, slots=True)
class PendingReport:
    """The report files of one rejected file: on disk before the commit, in place after it.

    A crash in between leaves them under hidden names that tell the ledger id, and the next start
    puts them into place or removes them.

    files: each with how its visible name ends.
    """

    folder: Folder
    file_id: int
    files: tuple[tuple[str, str], ...]

    def publish(self, name: str) -> None:
        """Give the reports the name under which the file itself is kept; twice does no harm. Raises OSError."""
        with self.folder.open() as folder:
            for hidden, suffix in self.files:
                with suppress(FileNotFoundError):
                    visible = with_suffix(name, _whole_suffix(suffix, name))
                    durable.rename(folder.entry(hidden), folder, visible, self.file_id)

    def discard(self) -> None:
        with self.folder.open() as folder:
            for hidden, _ in self.files:
                folder.entry(hidden).unlink(missing_ok=True)


def most_bytes(of_file: int) -> int:
    """How many bytes of rejected records and reasons are listed of a file of that size."""
    return max(REPORT_BYTES, REPORT_TIMES_FILE * of_file)


def pending(folder: Folder) -> list[PendingReport]:
    """The reports in a folder that are not in place."""
    try:
        with folder.open() as opened:
            names = [entry.name for entry in opened.entries()]
    except FileNotFoundError:
        return []
    found: dict[int, list[tuple[str, str]]] = defaultdict(list)
    for match in filter(None, map(_HIDDEN.fullmatch, names)):
        found[int(match[1])].append((match[0], match[2]))
    return [PendingReport(folder, file_id, tuple(files)) for file_id, files in sorted(found.items())]


def pending_of(folder: Folder, file_id: int) -> PendingReport | None:
    """The report of one file, where it is not in place."""
    return next((report for report in pending(folder) if report.file_id == file_id), None)


def write(
    folder: Folder, entry: LedgerEntry, records: RejectedRecords, form: RecordForm | None, rejection: Rejection | None
) -> PendingReport:
    """Write the report of a file, and its bad records where others loaded, under hidden names. Raises OSError.

    form: how its records stand in it, as far as any were read.
    """
    suffix = _rejected_suffix(entry.name, form)
    kinds = [".errors.json", *([suffix] if entry.status is FileStatus.PARTIAL and form is not None else [])]
    report = PendingReport(folder, entry.id, tuple((_hidden(entry.id, kind), kind) for kind in kinds))
    what_next = _what_next(entry, form, suffix, records.left_out)
    with folder.open(make=True) as opened:
        try:
            for name, kind in report.files:
                with _new(opened.entry(name)) as file:
                    if kind == suffix and form is not None:
                        _write_records(file, form, records, compressed=is_compressed(entry.name))
                    else:
                        _write_errors(file, entry, records, rejection, what_next)
        except OSError:
            report.discard()
            raise
    return report


def _hidden(file_id: int, suffix: str) -> str:
    """A name that nobody can guess; the ledger id in it leads back to the file."""
    return f".{file_id}.{secrets.token_hex(8)}{suffix}.tmp"


@contextmanager
def _new(entry: Entry) -> Iterator[IO[bytes]]:
    with open(durable.create(entry), "wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def _rejected_suffix(name: str, form: RecordForm | None) -> str:
    """`.rejected.json`; the kind of file stays."""
    kind = form.suffix if form else ".json"
    return f".rejected{kind}{GZIP_SUFFIX if is_compressed(name) else ''}"


def _whole_suffix(suffix: str, name: str) -> str:
    """How the visible name ends, where a hidden one of the first release tells but the kind of report."""
    if suffix == ".errors":
        return ".errors.json"
    if suffix != ".rejected":
        return suffix
    known = {kind for form in FORMATS for kind in form.suffixes}
    kind = Path(plain_name(name)).suffix
    return f".rejected{kind if kind in known else '.json'}{GZIP_SUFFIX if is_compressed(name) else ''}"


def _write_errors(
    file: IO[bytes], entry: LedgerEntry, records: RejectedRecords, rejection: Rejection | None, what_next: str
) -> None:
    head = {
        "file": entry.name,
        "flow": entry.flow,
        "ledger_id": entry.id,
        "sha256": entry.sha256.hex() if entry.sha256 else None,
        "status": entry.status.value,
        "records": entry.records,
        "rejected": entry.rejected,
        **({"left_out": records.left_out} if records.left_out else {}),
        "what_next": what_next,
    }
    text = io.TextIOWrapper(file, "utf-8", errors="backslashreplace", write_through=True)
    text.write(json.dumps(head, indent=2, ensure_ascii=False)[:-2] + ',\n  "errors": [')
    between = "\n    "
    for error in itertools.chain([_whole_file(rejection)] if rejection else [], map(_as_json, records.errors())):
        text.write(between + json.dumps(error, ensure_ascii=False))
        between = ",\n    "
    text.write("\n  ]\n}\n")
    text.detach()


def _what_next(entry: LedgerEntry, form: RecordForm | None, suffix: str, left_out: int) -> str:
    folder = f"input/{entry.flow}/" if entry.flow else "the folder of its flow below input/"
    mend = form.advice if entry.status is FileStatus.PARTIAL and form is not None else MEND_FILE
    partly = LEFT_OUT if left_out and entry.status is FileStatus.PARTIAL else ""
    return (mend + partly + OR_RETRY).format(suffix=suffix, folder=folder, id=entry.id, left_out=left_out)


def _whole_file(rejection: Rejection) -> dict[str, Any]:
    """What is wrong with a file that is rejected as a whole."""
    where = {"pointer": rejection.pointer, "line": rejection.line, "column": rejection.column}
    return {key: value for key, value in where.items() if value is not None} | {
        "reason": rejection.reason,
        **({"hint": rejection.hint} if rejection.hint else {}),
    }


def _as_json(error: RecordError) -> dict[str, Any]:
    """An error with its value as JSON rather than as text that holds JSON; one that was cut is text."""
    listed: dict[str, Any] = {**error}
    value = error.get("value")
    if value is not None and not value.endswith("…"):
        listed["value"] = json.loads(value)
    return listed


def _write_records(file: IO[bytes], form: RecordForm, records: RejectedRecords, *, compressed: bool) -> None:
    """The rejected records word for word, in the form of their file."""
    texts = (record.text for record in records)
    if compressed:
        with gzip.open(file, "wb") as packed:
            form.write(packed, texts)  # type: ignore[arg-type]  # GzipFile is an IO[bytes] in all but name
    else:
        form.write(file, texts)
