"""What a refused file leaves beside it: why, and the bad records ready to be mended."""

import gzip
import io
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from file_processing import filing
from file_processing.batch import Batch
from file_processing.ledger import Entry
from file_processing.positions import Steps
from file_processing.validation import Problem, Refused
from models.errors import RejectFile
from models.ledger import FileStatus

_MEMORY_BYTES = 1 << 20
"""Refused records of a file that stay in memory; more go to a temporary file."""

HINT = (
    "mend the records in the .rejected.json file and drop it again; "
    "or mend the sender, or the flow, and call: python main.py retry {id}"
)
HINT_FILE = "mend the file and drop it again; or mend the flow and call: python main.py retry {id}"


class Refusals:
    """The refused records of one file, in order; memory is bounded, the file is not."""

    def __init__(self) -> None:
        self.records = 0
        self.envelope: Steps = ()
        self.single = False
        self.lines = False
        self._spool: IO[bytes] | None = None

    def add(self, refused: list[Refused], batch: Batch) -> None:
        """Add records that were refused, with the batch that tells the form of their file."""
        if not refused:
            return
        self.envelope, self.single, self.lines = batch.envelope, batch.single, batch.lines
        if self._spool is None:
            self._spool = tempfile.SpooledTemporaryFile(_MEMORY_BYTES)  # noqa: SIM115  # closed in close()
        self.records += len(refused)
        for record in refused:
            line = json.dumps([record.position, record.text, record.problems])
            self._spool.write(line.encode() + b"\n")

    def __iter__(self) -> Iterator[Refused]:
        if self._spool is None:
            return
        self._spool.seek(0)
        for line in self._spool:
            position, text, problems = json.loads(line)
            yield Refused(position, text, tuple(problems))
        self._spool.seek(0, os.SEEK_END)

    def problems(self) -> Iterator[Problem]:
        for record in self:
            yield from record.problems

    def close(self) -> None:
        if self._spool is not None:
            self._spool.close()
            self._spool = None


def whole_file(error: RejectFile) -> dict[str, Any]:
    """The one problem of a file that is refused as a whole."""
    where = {"pointer": error.pointer, "line": error.line, "column": error.column}
    return {key: value for key, value in where.items() if value is not None} | {
        "reason": error.reason,
        **({"hint": error.hint} if error.hint else {}),
    }


class Reports:
    """The report files of one refused file: written before the commit, in place after it.

    A crash in between leaves them under a hidden name that tells the ledger id, and the
    next start puts them into place or removes them.
    """

    def __init__(self, folder: Path, name: str, file_id: int) -> None:
        self._folder = folder
        self._name = name
        self._id = file_id

    @property
    def errors(self) -> Path:
        return self._folder / f".{self._id}.errors.tmp"

    @property
    def records(self) -> Path:
        return self._folder / f".{self._id}.rejected.tmp"

    def write(self, entry: Entry, refusals: Refusals, whole: RejectFile | None) -> None:
        """Write both reports under their hidden names. Raises OSError."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with _durable(self.errors) as file:
            _write_errors(file, entry, refusals, whole)
        if entry.status is FileStatus.PARTIAL:
            with _durable(self.records) as file:
                if self._name.lower().endswith(".gz"):
                    with gzip.open(file, "wb") as packed:
                        _write_records(packed, refusals)
                else:
                    _write_records(file, refusals)

    def publish(self, name: str) -> None:
        """Give the reports the name under which the file itself is kept; twice does no harm."""
        if not self.errors.exists():
            return
        target = filing.reserve(self._folder, filing.with_suffix(name, ".errors.json"), self._id)
        self.errors.replace(target)
        if self.records.exists():
            self.records.replace(filing.reserve(self._folder, rejected_name(name), self._id))

    def discard(self) -> None:
        self.errors.unlink(missing_ok=True)
        self.records.unlink(missing_ok=True)


def rejected_name(name: str) -> str:
    """`a.json` → `a.json.rejected.json`; the kind of file stays: `.jsonl`, `.gz`."""
    packed = ".gz" if name.lower().endswith(".gz") else ""
    plain = name[: len(name) - len(packed)]
    kind = Path(plain).suffix.lower()
    return filing.with_suffix(name, f".rejected{kind if kind in ('.jsonl', '.ndjson') else '.json'}{packed}")


@contextmanager
def _durable(path: Path) -> Iterator[IO[bytes]]:
    with path.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def _write_errors(file: IO[bytes], entry: Entry, refusals: Refusals, whole: RejectFile | None) -> None:
    head = {
        "file": entry.name,
        "flow": entry.flow,
        "ledger_id": entry.id,
        "sha256": entry.sha256.hex() if entry.sha256 else None,
        "status": entry.status.value,
        "records": entry.records,
        "rejected": entry.rejected,
        "what_next": (HINT_FILE if whole else HINT).format(id=entry.id),
    }
    text = io.TextIOWrapper(file, "utf-8", errors="backslashreplace", write_through=True)
    text.write(json.dumps(head, indent=2, ensure_ascii=False)[:-2] + ',\n  "errors": [')
    between = "\n    "
    for problem in [whole_file(whole)] if whole else refusals.problems():
        text.write(between + json.dumps(problem, ensure_ascii=False))
        between = ",\n    "
    text.write("\n  ]\n}\n")
    text.detach()


def _write_records(file: IO[bytes] | gzip.GzipFile, refusals: Refusals) -> None:
    """The refused records word for word, in the envelope that their file had."""
    if refusals.lines or refusals.single:
        for record in refusals:
            file.write(record.text.encode("utf-8", "surrogatepass") + b"\n")
        return
    key = "".join(f"{json.dumps(step)}: " for step in refusals.envelope)
    file.write((f"{{{key}[" if key else "[").encode())
    between = "\n  "
    for record in refusals:
        file.write((between + record.text).encode("utf-8", "surrogatepass"))
        between = ",\n  "
    file.write(b"\n]}\n" if key else b"\n]\n")
