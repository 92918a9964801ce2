"""What a refused file leaves beside it: why, and the bad records ready to be mended."""

import gzip
import io
import itertools
import json
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from file_processing.batch import Batch
from file_processing.edi.reading import SUFFIXES as EDI_SUFFIXES
from file_processing.edi.received import Received
from file_processing.ledger import Entry
from file_processing.opening import is_packed
from file_processing.positions import Steps
from file_processing.records import LINE_SUFFIXES
from file_processing.refusal import Problem, Refused
from models.errors import RejectFile
from models.ledger import FileStatus
from services import filing

_HIDDEN = re.compile(r"\.(\d+)\.(?:errors|rejected)\.tmp")

_MEMORY_BYTES = 1 << 20
"""Refused records of a file that stay in memory; more go to a temporary file."""

MEND_RECORDS = "the other records are loaded: mend these in the file ending in {suffix}, and drop it into {folder}"
MEND_FILE = "nothing of it is loaded: mend the file, and drop it into {folder}"
MEND_MESSAGES = (
    "the other messages are loaded: have the sender send these again, or mend them in the file ending in {suffix}, "
    "give that interchange a control reference of its own (head and end), and drop it into {folder}"
)
OR_RETRY = "; if it is the flow that is wrong, mend the flow and call: python main.py retry {id}"


class Refusals:
    """The refused records of one file, in order; memory is bounded, the file is not."""

    def __init__(self) -> None:
        self.records = 0
        self.envelope: Steps = ()
        self.single = False
        self.lines = False
        self.edi: Received | None = None
        self._spool: IO[bytes] | None = None

    def add(self, refused: list[Refused], batch: Batch) -> None:
        """Add records that were refused, with the batch that tells the form of their file."""
        if not refused:
            return
        self.envelope, self.single, self.lines, self.edi = batch.envelope, batch.single, batch.lines, batch.edi
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

    def __del__(self) -> None:
        self.close()  # the file waits, and is read anew

    def close(self) -> None:
        if self._spool is not None:
            self._spool.close()
            self._spool = None


def whole_file(error: RejectFile) -> dict[str, Any]:
    """What is wrong with a file that is refused as a whole."""
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
                if is_packed(self._name):
                    with gzip.open(file, "wb") as packed:
                        _write_records(packed, refusals)
                else:
                    _write_records(file, refusals)

    def publish(self, name: str) -> None:
        """Give the reports the name under which the file itself is kept; twice does no harm. Raises OSError."""
        for report, visible in (
            (self.errors, filing.with_suffix(name, ".errors.json")),
            (self.records, rejected_name(name)),
        ):
            with suppress(FileNotFoundError):
                filing.rename(report, self._folder, visible, self._id)

    def discard(self) -> None:
        self.errors.unlink(missing_ok=True)
        self.records.unlink(missing_ok=True)


def hidden(folder: Path) -> set[int]:
    """The ledger ids whose reports lie in `folder` and are not in place."""
    try:
        names = [entry.name for entry in os.scandir(folder)]
    except FileNotFoundError:
        return set()
    return {int(match[1]) for match in map(_HIDDEN.fullmatch, names) if match}


def rejected_name(name: str) -> str:
    """`a.json` → `a.json.rejected.json`, shortened where the file system needs it."""
    return filing.with_suffix(name, rejected_suffix(name))


def rejected_suffix(name: str) -> str:
    """`.rejected.json`; the kind of file stays: `.jsonl`, `.edi`, `.gz`."""
    packed = ".gz" if is_packed(name) else ""
    kind = Path(name[: len(name) - len(packed)]).suffix.lower()
    return f".rejected{kind if kind in (*LINE_SUFFIXES, *EDI_SUFFIXES) else '.json'}{packed}"


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
        "what_next": _what_next(entry, refusals),
    }
    text = io.TextIOWrapper(file, "utf-8", errors="backslashreplace", write_through=True)
    text.write(json.dumps(head, indent=2, ensure_ascii=False)[:-2] + ',\n  "errors": [')
    between = "\n    "
    for problem in itertools.chain([whole_file(whole)] if whole else [], map(_as_json, refusals.problems())):
        text.write(between + json.dumps(problem, ensure_ascii=False))
        between = ",\n    "
    text.write("\n  ]\n}\n")
    text.detach()


def _what_next(entry: Entry, refusals: Refusals) -> str:
    folder = f"input/{entry.flow}/" if entry.flow else "the folder of its flow below input/"
    mend = MEND_FILE
    if entry.status is FileStatus.PARTIAL:
        mend = MEND_MESSAGES if refusals.edi else MEND_RECORDS
    return (mend + OR_RETRY).format(suffix=rejected_suffix(entry.name), folder=folder, id=entry.id)


def _as_json(problem: Problem) -> dict[str, Any]:
    """A problem with its value as JSON rather than as text that holds JSON; one that was cut is text."""
    listed: dict[str, Any] = {**problem}
    value = problem.get("value")
    if value is not None and not value.endswith("…"):
        listed["value"] = json.loads(value)
    return listed


def _write_records(file: IO[bytes] | gzip.GzipFile, refusals: Refusals) -> None:
    """The refused records word for word, in the envelope that their file had."""
    if refusals.edi is not None:
        file.write(refusals.edi.enclosed([record.text for record in refusals]))
        return
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
