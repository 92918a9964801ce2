"""Bad input, dropped into a running site: it is refused with a report or waits and says why; the daemon lives on."""

import ctypes
import errno
import gzip
import io
import itertools
import json
import os
import socket
import sys
import textwrap
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from loguru import logger

from file_processing import daemon
from file_processing.inbound import error_report as reporting
from file_processing.inbound.formats import json as records
from file_processing.inbound.formats.base import Batch
from models.tables import Base
from services.files import filing
from tests.support.disks import small_disk
from tests.support.sites import Site, running
from tests.support.waiting import eventually

T1 = "2022-05-05T22:02:34Z"
STATUS = "vehicle_status"


def good(vehicle: str = "a", **changes: object) -> dict[str, object]:
    return {"vehicle_id": vehicle, "report_time": T1, "status": "driving"} | changes


def order(**changes: object) -> dict[str, object]:
    return {"orderNo": 1, "summary": "Pump", "creationDate": T1, "lastUpdateDate": T1} | changes


def event(**changes: object) -> dict[str, object]:
    return {"vehicle_id": "a", "detection_time": T1, "object_type": "cars", "object_value": 1} | changes


def lives_on(site: Site) -> None:
    """The next good file loads."""
    vehicle = f"good-{uuid.uuid4()}"
    site.drop(f"{vehicle}.json", [good(vehicle)], flow=STATUS)
    eventually(
        lambda: vehicle in {row["vehicle_id"] for row in site.rows("vehicles_status")}, what="the next good file"
    )


@contextmanager
def enduring(site: Site) -> Iterator[Site]:
    """A daemon at work, which has to be so afterwards."""
    with running(site):
        yield site
        lives_on(site)


@pytest.fixture
def hardy(site: Site, impatient: None) -> Iterator[Site]:
    """A site on which the next good file has to load, whatever the test dropped."""
    with enduring(site):
        yield site


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits is tried again soon."""
    monkeypatch.setattr(daemon, "LONGEST_PAUSE_SECONDS", 0.1)


@pytest.fixture
def log() -> Iterator[list[str]]:
    """The lines of the log, from WARNING on."""
    lines: list[str] = []
    sink = logger.add(lambda line: lines.append(str(line)), format="{message}", level="WARNING")
    yield lines
    logger.remove(sink)


def said(log: list[str], words: str) -> bool:
    return any(words in line for line in log)


def refused(site: Site, flow: str = STATUS, *, files: int = 1) -> Any:
    """The report of the last of so many files, which is refused: ledger, folder and report agree."""
    line = site.settled(files)[-1]
    assert line["status"] == "rejected"
    assert line["flow"] == (flow if flow != filing.UNROUTED else None)
    assert (line["inserted"], line["updated"]) == (0, 0)
    assert site.waiting() == []
    kept = Path(line["filed_as"])
    assert kept.parent == site.rejected / flow
    assert os.path.lexists(kept)
    (path,) = [
        path for path in kept.parent.glob("*.errors.json") if json.loads(path.read_bytes())["ledger_id"] == line["id"]
    ]
    report = json.loads(path.read_bytes())
    check_agreement(site, line, report)
    return report


def check_agreement(site: Site, line: dict[str, Any], report: Any) -> None:
    """The report says what the ledger says."""
    assert (report["file"], report["flow"], report["status"]) == (line["name"], line["flow"], line["status"])
    assert (report["records"], report["rejected"]) == (line["records"], line["rejected"])
    assert report["sha256"] == (line["sha256"].hex() if line["sha256"] else None)
    assert report["errors"]
    first = report["errors"][0]
    assert first["reason"] in line["error"]
    listed = [problem for problem in report["errors"] if "record" in problem]
    kept = site.query("select * from tidegate.rejected_record where inbound_file_id = %s order by id", line["id"])
    assert [problem["reason"] for problem in listed] == [row["reason"] for row in kept]
    for problem, row in zip(listed, kept, strict=True):
        assert [problem[key] for key in ("record", "pointer", "line", "column")] == [
            row[key] for key in ("position", "pointer", "line", "column")
        ]
        if row["value"] is None:
            assert "value" not in problem
        elif row["value"].endswith("…"):
            assert problem["value"] == row["value"]
        else:
            assert problem["value"] == json.loads(row["value"])


# Files that are refused whole.


def text_of(*things: object) -> str:
    return json.dumps({STATUS: things})


NOT_JSON: dict[str, tuple[bytes | str, str, int | None, int | None]] = {
    # content, reason, line, column
    "empty": ("", "the file is empty", None, None),
    "blank": (" \n\n ", "the file is empty", None, None),
    "only-a-bom": (b"\xef\xbb\xbf", "the file is empty", None, None),
    "truncated": ('{"vehicle_status": [\n  {"vehicle_id": "a", "rep', "the JSON is cut off", 2, 27),
    "two-documents": (text_of(good()) + "\n" + text_of(good()), "more text follows after the end of the JSON", 2, 1),
    "number": ("17", "the file holds a number, not a record or a list", 1, 1),
    "string": ('"vehicle"', "the file holds a string", 1, 1),
    "null": ("null", "the file holds null", 1, 1),
    "true": ("true", "the file holds true or false", 1, 1),
    "not-json-at-all": ("vehicle_id;report_time\na;b\n", "not valid JSON: expected value, found 'vehicle_id'", 1, 1),
    "xml": ("<vehicle/>", "not valid JSON: expected value, found '<'", 1, 1),
    "nan": ('[{"vehicle_id": NaN}]', "not valid JSON: expected value, found 'NaN'", 1, 17),
    "infinity": ('[\n{"vehicle_id": -Infinity}]', "not valid JSON: invalid number, found 'Infinity'", 2, 17),
    "duplicate-key": ('[{"vehicle_id": "a", "vehicle_id": "b"}]', 'the key "vehicle_id" stands twice', 1, 35),
    "duplicate-envelope": ('{"vehicle_status": [], "vehicle_status": []}', 'the key "vehicle_status" stands', 1, 41),
    "no-list-in-envelope": ('{"vehicle_status":\n {"a": 1}}', '"vehicle_status" holds an object, not a list', 2, 2),
    "comma-at-the-end": ('[{"vehicle_id": "a"},]', "not valid JSON: a comma stands before the closing bracket", 1, 22),
    "utf-16-le": (text_of(good()).encode("utf-16-le"), "the text is UTF-16 or UTF-32", 1, 1),
    "utf-16-be": (text_of(good()).encode("utf-16-be"), "the text is UTF-16 or UTF-32", 1, 1),
    "utf-16-le-bom": (b"\xff\xfe" + text_of(good()).encode("utf-16-le"), "the text is UTF-16 or UTF-32", 1, 1),
    "utf-16-be-bom": (b"\xfe\xff" + text_of(good()).encode("utf-16-be"), "the text is UTF-16 or UTF-32", 1, 1),
    "utf-32": (text_of(good()).encode("utf-32-le"), "the text is UTF-16 or UTF-32", 1, 1),
    "zeros": (bytes(4096), "the file is filled with zero bytes", 1, 1),
    "latin-1": ('[{"vehicle_id": "Zoë"}]'.encode("latin-1"), "the text is not valid UTF-8", 1, 20),
    "lone-surrogate": (r'[{"vehicle_id": "\ud800"}]', "half of a surrogate pair", 1, 24),
    "lone-surrogate-in-utf-8": (b'[{"vehicle_id": "\xed\xa0\x80"}]', "the text is not valid UTF-8", 1, 18),
    "nul-byte": (b'[{"vehicle_id": "a\x00b"}]', "a control character stands inside a string", 1, 19),
    "line-break-in-string": ('[{"vehicle_id": "a\nb"}]', "a control character stands inside a string", 1, 19),
    "deep": ("[" * 10_000 + "]" * 10_000, "the JSON is nested deeper than 200 levels", 1, 202),
    "deep-objects": ('{"a":' * 10_000 + "1" + "}" * 10_000, "the JSON is nested deeper than 200 levels", 1, None),
    "deep-and-cut": ('[{"vehicle_id": ' + "[" * 10_000, "the JSON is nested deeper than 200 levels", 1, None),
    "5000-digits": (f'[{{"vehicle_id": {"9" * 5000}}}]', "a number has more than 4,300 digits", 1, None),
}  # fmt: skip


@pytest.mark.parametrize(("content", "reason", "line", "column"), NOT_JSON.values(), ids=NOT_JSON.keys())
def test_what_is_no_list_of_records_is_refused_whole(
    hardy: Site, content: bytes | str, reason: str, line: int | None, column: int | None
) -> None:
    hardy.drop("x.json", content, flow=STATUS)
    report = refused(hardy)
    (error,) = report["errors"]
    assert error["reason"].startswith(reason)
    assert error.get("line") == line
    if column is not None:
        assert error["column"] == column
    data = content if isinstance(content, bytes) else content.encode()
    assert (hardy.rejected / STATUS / "x.json").read_bytes() == data
    assert hardy.rows("vehicles_status") == []


def test_a_byte_order_mark_does_no_harm(hardy: Site) -> None:
    hardy.drop("bom.json", b"\xef\xbb\xbf" + text_of(good()).encode())
    assert hardy.settled(1)[0]["status"] == "loaded"


def test_an_empty_list_loads_nothing_and_is_no_fault(hardy: Site) -> None:
    hardy.drop("none.json", {STATUS: []})
    (line,) = hardy.settled(1)
    assert (line["status"], line["records"]) == ("loaded", 0)


# Records that are refused, in a file whose other record loads.


@pytest.mark.parametrize(
    ("record", "field", "reason"),
    [
        pytest.param(good(vehicle_id=17), "vehicle_id", "should be text", id="number-for-text"),
        pytest.param(good(vehicle_id=None), "vehicle_id", "should be text", id="null-for-text"),
        pytest.param(good(vehicle_id=""), "vehicle_id", "may not be empty", id="empty-key"),
        pytest.param(good(status="a\0b"), "status", r"may not contain the character NUL (\u0000)", id="nul"),
        pytest.param(good(status="x" * 51), "status", "should have at most 50 characters", id="too-long"),
        pytest.param(good(status={"a": []}), "status", "should be text", id="object-for-text"),
        pytest.param(good(report_time="2022-05-05T22:02:34"), "report_time", "has no time zone: add Z", id="naive"),
        pytest.param(
            good(report_time="0000-01-01T00:00:00Z"),
            "report_time",
            "should be greater than or equal to 0001-01-02",
            id="year-0",
        ),
        pytest.param(good(report_time="10000-01-01T00:00:00Z"), "report_time", "", id="year-10000"),
        pytest.param(good(report_time="0001-01-01T00:00:00+01:00"), "report_time", "", id="before-year-1-in-utc"),
        pytest.param(
            good(report_time="2023-02-31T00:00:00Z"),
            "report_time",
            "is no time that exists: day value is outside expected range",
            id="31-february",
        ),
        pytest.param(good(report_time="2022-05-05T24:01:00Z"), "report_time", "is no time that exists", id="hour-24"),
        pytest.param(good(report_time="2022-05-05"), "report_time", "should be a time as ISO 8601", id="only-a-day"),
        pytest.param(good(report_time="1494012444"), "report_time", "should be a time as ISO 8601", id="epoch-text"),
        pytest.param(good(report_time=1494012444), "report_time", "should be a time as ISO 8601", id="epoch"),
        pytest.param({"vehicle_id": "a", "status": "x"}, "report_time", "report_time is missing", id="missing"),
        pytest.param({}, "vehicle_id", "vehicle_id is missing", id="empty-record"),
        pytest.param(17, None, "should be an object", id="no-object"),
        pytest.param([good()], None, "should be an object", id="list-in-list"),
        pytest.param(None, None, "should be an object", id="null"),
    ],
)
def test_a_bad_vehicle_report_is_refused_and_the_others_load(
    hardy: Site, record: Any, field: str | None, reason: str
) -> None:
    check_one_bad_record(hardy, STATUS, STATUS, good("fine"), record, field, reason)


@pytest.mark.parametrize(
    ("record", "field", "reason"),
    [
        pytest.param(order(isDone="yes"), "isDone", "should be true or false", id="yes-for-flag"),
        pytest.param(order(isDone=1), "isDone", "should be true or false", id="1-for-flag"),
        pytest.param(order(isDone=None), "isDone", "should be true or false", id="null-for-flag"),
        pytest.param(order(orderNo=1.9), "orderNo", "should be a whole number", id="fraction"),
        pytest.param(order(orderNo=True), "orderNo", "should be a whole number", id="true-for-number"),
        pytest.param(order(orderNo="1.5"), "orderNo", "should be a whole number", id="fraction-as-text"),
        pytest.param(order(orderNo=2**31), "orderNo", "should be less than or equal to 2147483647", id="beyond-column"),
        pytest.param(order(orderNo=-1), "orderNo", "should be greater than or equal to 0", id="negative"),
        pytest.param(order(orderNo=10**3999), "orderNo", "should be less than or equal to", id="4000-digits"),
        pytest.param(order(orderNo="9" * 4000), "orderNo", "should be a whole number", id="4000-digits-as-text"),
        pytest.param(order(orderNo=1e300), "orderNo", "", id="huge-float"),
        pytest.param(order(creationDate=None), "creationDate", "should be a time", id="null-time"),
        pytest.param(order(isDone=True, isPending=True), None, "flags contradict each other", id="contradiction"),
        pytest.param({}, "orderNo", "orderNo is missing", id="empty"),
    ],
)
def test_a_bad_work_order_is_refused_and_the_others_load(
    hardy: Site, record: Any, field: str | None, reason: str
) -> None:
    check_one_bad_record(hardy, "work_orders", None, order(orderNo=77), record, field, reason)


@pytest.mark.parametrize(
    ("record", "field", "reason"),
    [
        pytest.param(event(object_value=-1), "object_value", "should be greater than or equal to 0", id="negative"),
        pytest.param(event(object_value="4"), "object_value", "should be a whole number", id="digits-as-text"),
        pytest.param(event(detections=[]), None, "not both", id="both-forms"),
        pytest.param(
            {"vehicle_id": "a", "detection_time": T1, "detections": [{"object_type": "x", "object_value": 1.5}]},
            "detections/0/object_value",
            "should be a whole number",
            id="nested",
        ),
        pytest.param(
            {"vehicle_id": "a", "detection_time": T1, "detections": {}}, "detections", "should be a list", id="no-list"
        ),
    ],
)
def test_a_bad_detection_is_refused_and_the_others_load(
    hardy: Site, record: Any, field: str | None, reason: str
) -> None:
    flow = "detection_events"
    check_one_bad_record(hardy, flow, "objects_detection_events", event(vehicle_id="fine"), record, field, reason)


def check_one_bad_record(
    site: Site, flow: str, envelope: str | None, fine: object, bad: object, field: str | None, reason: str
) -> None:
    content = [fine, bad, fine]
    site.drop("x.json", {envelope: content} if envelope else content, flow=flow)
    (line,) = site.settled(1)
    assert (line["status"], line["records"], line["rejected"], line["inserted"]) == ("partial", 3, 1, 1)
    report = site.report("x.json", flow)
    check_agreement(site, line, report)
    error = report["errors"][0]
    assert error["record"] == 1
    start = f"/{envelope}/1" if envelope else "/1"
    assert error["pointer"] == (start if field is None else f"{start}/{field}")
    assert error["line"] == 1
    assert reason in error["reason"]
    value = bad
    for step in (field or "").split("/") if field else []:
        value = value[int(step)] if isinstance(value, list) else value.get(step, ...)  # type: ignore[attr-defined]
    shown = json.dumps(None if value is ... else value, ensure_ascii=False)
    if value is ...:
        assert "value" not in error
    elif len(shown) <= 200:
        assert error["value"] == value
    else:
        assert error["value"] == shown[:199] + "…"


def test_a_naive_time_is_utc_where_the_partner_says_so(hardy: Site) -> None:
    hardy.drop("x.json", order(creationDate="2022-05-05T22:02:34"), flow="work_orders")
    hardy.settled(1)
    assert hardy.rows("work_orders")[0]["created_at"].isoformat() == "2022-05-05T22:02:34+00:00"


def test_infinity_out_of_a_large_exponent_is_refused(hardy: Site) -> None:
    hardy.drop("x.json", '[{"orderNo": 1e999}]', flow="work_orders")
    report = refused(hardy, "work_orders")
    assert report["errors"][0]["value"] == "inf"


def test_unknown_fields_load_and_are_counted_in_the_ledger(hardy: Site) -> None:
    hardy.drop("x.json", [good("a", colour="red"), good("b", colour=1, **{"odd\0\n": 2}), good("c")], flow=STATUS)
    (line,) = hardy.settled(1)
    assert (line["status"], line["inserted"]) == ("loaded", 3)
    assert line["drift"] == {"colour": 2, "odd\\u0000\n": 1}


def test_a_thousand_unknown_fields_do_not_fill_the_ledger(hardy: Site) -> None:
    content = [good(str(number), **{f"field-{number}-{other}": 1 for other in range(50)}) for number in range(1000)]
    hardy.drop("x.json", content, flow=STATUS)
    (line,) = hardy.settled(1)
    assert line["inserted"] == 1000
    assert len(line["drift"]) == 100


def test_a_record_in_the_wrong_envelope_is_told_the_right_one(hardy: Site) -> None:
    hardy.drop("x.json", {"vehicles": [good()]}, flow=STATUS)
    report = refused(hardy)
    (error,) = report["errors"]
    assert error["reason"] == (
        'neither a record of vehicle_status nor {"vehicle_status": [record, …]}: its keys are "vehicles"'
    )


# Names.

NAMES = {
    "255-bytes": "x" * 250 + ".json",
    "255-bytes-of-emoji": "🚚" * 62 + "aa.json",
    "newline": "a\nb.json",
    "quotes": "a'b\"c`d.json",
    "spaces": "  a b .json",
    "emoji": "🚚.json",
    "not-utf-8": os.fsdecode(b"\xff\xfe\x80.json"),
    "percent-and-braces": "%s{}{0}%(name)s<red>.json",
    "shell": "$(touch x);-rf *.json",
    "right-to-left": "\u202egnp.json",
    "backslash": "a\\b.json",
    "no-suffix": "vehicles",
    "dash": "--flow=x.json",
}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES.keys())
def test_any_name_loads_and_any_name_is_refused_with_its_report(hardy: Site, name: str) -> None:
    hardy.drop(name, [good()], flow=STATUS)
    (line,) = hardy.settled(1)
    assert line["status"] == "loaded"
    assert line["name"].isprintable()
    (kept,) = [path for path in hardy.archive.rglob("*") if path.is_file()]
    assert kept.name == (name if name.isascii() or name.encode(errors="ignore").decode() == name else line["name"])
    for files in (2, 3):
        hardy.drop(name, f'[{{"vehicle_id": {files}', flow=STATUS)
        assert refused(hardy, files=files)["file"] == line["name"]
    assert len(list((hardy.rejected / STATUS).iterdir())) == 4


def test_a_name_may_come_twice_within_a_second(hardy: Site) -> None:
    for number in range(6):
        path = hardy.drop("same.json", [good(str(number))] if number % 2 else "{", flow=STATUS)
        eventually(lambda path=path: not path.exists(), what="the file taken")  # type: ignore[misc]
    lines = hardy.settled(6)
    assert [line["status"] for line in lines] == [
        "rejected",
        "loaded",
        "duplicate",
        "loaded",
        "duplicate",
        "loaded",
    ] or [line["status"] for line in lines] == ["rejected", "loaded"] * 3
    assert len({line["filed_as"] for line in lines}) == 6
    assert all(Path(line["filed_as"]).exists() for line in lines)
    assert len(hardy.rows("vehicles_status")) == 3


# What is no file at all.


def make_fifo(path: Path, _outside: Path) -> None:
    os.mkfifo(path)


def make_socket(path: Path, _outside: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        here = Path.cwd()
        os.chdir(path.parent)  # a socket's path may not be longer than 107 bytes
        try:
            server.bind(path.name)
        finally:
            os.chdir(here)


def make_device(path: Path, _outside: Path) -> None:
    try:
        os.mknod(path, 0o644 | 0o020000, os.makedev(1, 5))  # /dev/zero, which never ends
    except PermissionError:
        pytest.skip("devices may not be made here")


def make_link_out(path: Path, outside: Path) -> None:
    (outside / "secret.json").write_text(json.dumps([good("secret")]))
    path.symlink_to(outside / "secret.json")


def make_link_in(path: Path, _outside: Path) -> None:
    (path.parent / ".hidden").write_text(json.dumps([good("secret")]))
    path.symlink_to(".hidden")


def make_dangling_link(path: Path, outside: Path) -> None:
    path.symlink_to(outside / "nowhere")


def make_loop(path: Path, _outside: Path) -> None:
    path.symlink_to(path)


def make_linked_folder(path: Path, outside: Path) -> None:
    (outside / "x.json").write_text(json.dumps([good("secret")]))
    path.symlink_to(outside, target_is_directory=True)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (make_fifo, "not a regular file"),
        (make_socket, "not a regular file"),
        (make_device, "not a regular file"),
        (make_link_out, "a symbolic link"),
        (make_link_in, "a symbolic link"),
        (make_dangling_link, "a symbolic link"),
        (make_loop, "a symbolic link"),
        (make_linked_folder, "a symbolic link"),
    ],
)
def test_what_is_no_file_is_moved_aside_unread(
    hardy: Site, tmp_path: Path, make: Callable[[Path, Path], None], reason: str
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    make(hardy.input / STATUS / "x.json", outside)
    line = hardy.settled(1)[0]
    assert (line["status"], line["sha256"], line["error"]) == ("rejected", None, reason)
    (error,) = hardy.report("x.json", STATUS)["errors"]
    assert error["reason"] == reason
    assert error["hint"]
    assert os.path.lexists(hardy.rejected / STATUS / "x.json")
    assert not os.path.lexists(hardy.input / STATUS / "x.json")
    assert hardy.rows("vehicles_status") == []


def test_a_folder_may_be_called_like_a_file(hardy: Site) -> None:
    (hardy.input / STATUS / "x.json").mkdir()
    (hardy.input / "y.json").mkdir()
    hardy.drop("inside.json", [good()], flow=f"{STATUS}/x.json")
    assert hardy.settled(1)[0]["status"] == "loaded"
    hardy.drop("inside.json", [good()], flow="y.json")
    report = refused(hardy, filing.UNROUTED, files=2)
    assert report["errors"][0]["reason"] == "the folder 'y.json' belongs to no flow"
    assert "vehicle_status/" in report["errors"][0]["hint"]


# Files that wait.


@contextmanager
def without_roots_override() -> Iterator[None]:
    """Permissions bind this thread, even root's: it lays down the capabilities to ignore them."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, this thread
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; twice
    assert libc.capget(header, sets) == 0
    before = sets[0]
    sets[0] &= ~0b110  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    assert libc.capset(header, sets) == 0
    try:
        yield
    finally:
        sets[0] = before
        assert libc.capset(header, sets) == 0


@pytest.fixture
def permissions_bind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening a file and reading a folder ask for permission, whoever runs the tests."""
    if os.geteuid() == 0:
        for name in ("open", "scandir"):
            monkeypatch.setattr(os, name, without_roots_override()(getattr(os, name)))


@pytest.mark.usefixtures("permissions_bind")
def test_an_unreadable_file_waits_until_it_may_be_read(hardy: Site, log: list[str]) -> None:
    hidden = hardy.drop(".secret", [good("secret")], flow=STATUS)
    hidden.chmod(0)
    path = hidden.rename(hidden.with_name("x.json"))
    eventually(lambda: said(log, "no permission to read the file"))
    lives_on(hardy)
    path.chmod(0o640)
    assert [line["name"] for line in hardy.settled(2)][-1] == "x.json"
    assert sum("no permission" in line for line in log) == 1


@pytest.mark.usefixtures("permissions_bind")
def test_an_unreadable_folder_is_told_and_holds_up_nothing(hardy: Site, log: list[str]) -> None:
    folder = hardy.input / STATUS / "closed"
    folder.mkdir(mode=0)
    eventually(lambda: said(log, "cannot read"))
    lives_on(hardy)


Batches = Callable[..., Iterator[Batch]]


def interfere(monkeypatch: pytest.MonkeyPatch, what: Callable[[], object]) -> None:
    """Do something to a file while it is read for the first time."""
    read: Batches = records.batches
    times = itertools.count()

    def batches(*arguments: Any, **named: Any) -> Iterator[Batch]:
        if next(times) == 0:
            what()
        yield from read(*arguments, **named)

    monkeypatch.setattr(records, "batches", batches)


@pytest.mark.parametrize("size", [0, 3 << 20], ids=["small", "streamed"])
def test_a_file_that_grows_while_it_is_read_waits_and_loads_whole(
    hardy: Site, log: list[str], monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    path = hardy.input / STATUS / "x.json"
    text = json.dumps([good("a", status="x" * 50)] * (1 + size // 100) + [good("b")])
    half = len(text) - 20

    def append() -> None:
        with path.open("a") as file:
            file.write(text[half:])

    interfere(monkeypatch, append)
    hardy.drop("x.json", text[:half], flow=STATUS)
    (line,) = hardy.settled(1)
    assert (line["status"], line["bytes"], line["inserted"]) == ("loaded", len(text), 2)
    assert said(log, "the file changed while it was read")
    assert not list(hardy.rejected.rglob("*.json"))


def test_a_file_withdrawn_while_it_is_read_is_forgotten(hardy: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    interfere(monkeypatch, (hardy.input / STATUS / "x.json").unlink)
    hardy.drop("x.json", [good("withdrawn")], flow=STATUS)
    eventually(lambda: hardy.waiting() == [], what="the file gone")
    lives_on(hardy)
    (line,) = hardy.settled(1)
    assert line["name"] != "x.json"
    assert len(hardy.rows("vehicles_status")) == 1


def test_a_file_that_vanished_before_it_was_read_is_forgotten(hardy: Site) -> None:
    for number in range(20):
        hardy.drop(f"{number}.json", [good(str(number))], flow=STATUS).unlink(missing_ok=True)
    lives_on(hardy)
    eventually(lambda: hardy.waiting() == [], what="an empty input folder")
    assert all(line["status"] == "loaded" for line in hardy.ledger())


# Sizes and compression.


def test_a_file_larger_than_allowed_is_refused_unread(site: Site) -> None:
    site.settings = site.settings.model_copy(update={"max_file_bytes": 1000})
    with enduring(site):
        site.drop("x.json", json.dumps([good()]) + " " * 1000, flow=STATUS)
        (error,) = refused(site)["errors"]
        assert "more than MAX_FILE_BYTES allows (1000)" in error["reason"]
        assert "split the file" in error["hint"]


def test_a_packed_file_loads(hardy: Site) -> None:
    hardy.drop("x.json.gz", gzip.compress(text_of(good()).encode()))
    hardy.drop("y.JSONL.GZ", gzip.compress(json.dumps(good("b")).encode()), flow=STATUS)
    two_members = gzip.compress(text_of(good("c")).encode()[:20]) + gzip.compress(text_of(good("c")).encode()[20:])
    hardy.drop("z.json.gz", two_members, flow=STATUS)
    assert [line["status"] for line in hardy.settled(3)] == ["loaded"] * 3
    assert len(hardy.rows("vehicles_status")) == 3


PACKED = gzip.compress(text_of(*(good(str(number)) for number in range(100))).encode())


@pytest.mark.parametrize("flow", [STATUS, ""], ids=["in-its-folder", "in-the-root"])
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        pytest.param(PACKED[:-20], "broken gzip", id="truncated"),
        pytest.param(PACKED[:5], "broken gzip", id="cut-in-the-head"),
        pytest.param(PACKED[:-8] + bytes(8), "broken gzip", id="wrong-checksum"),
        pytest.param(PACKED[:60] + b"garbage" + PACKED[67:], "broken gzip", id="garbage-inside"),
        pytest.param(b"this is not gzip", "broken gzip", id="not-packed"),
        pytest.param(text_of(good()).encode(), "broken gzip", id="plain-json"),
        pytest.param(PACKED + b"garbage", "broken gzip", id="garbage-behind"),
        pytest.param(b"", "the file is empty", id="empty"),
    ],
)
def test_a_broken_packed_file_is_refused(hardy: Site, content: bytes, reason: str, flow: str) -> None:
    name = "vehicle_status.json.gz"
    hardy.drop(name, content, flow=flow)
    (line,) = hardy.settled(1)
    assert line["status"] == "rejected"
    assert reason in line["error"]
    (error,) = hardy.report(name, line["flow"] or filing.UNROUTED)["errors"]
    assert reason in error["reason"]
    assert hardy.rows("vehicles_status") == []


@pytest.mark.parametrize("filling", [" ", json.dumps(good()) + ",", "["], ids=["blanks", "records", "brackets"])
def test_a_bomb_is_refused_when_it_passes_the_limit(site: Site, filling: str) -> None:
    packed = io.BytesIO()
    with gzip.open(packed, "wb") as file:
        file.write(b"[")
        for _ in range(10):
            file.write(filling.encode() * ((1 << 20) // len(filling)))
    site.settings = site.settings.model_copy(update={"max_file_bytes": 5 << 20})
    with enduring(site):
        site.drop("bomb.json.gz", packed.getvalue(), flow=STATUS)
        (error, *_) = refused(site)["errors"]
        assert error["reason"] in (
            "decompressed it is larger than MAX_FILE_BYTES allows",
            "the JSON is nested deeper than 200 levels",
        )


# Disks.


def no_room(patch: pytest.MonkeyPatch) -> None:
    """A move or a report of a larger file finds a full disk."""

    def refuse(*arguments: Any) -> Any:
        if any(isinstance(path, Path) and path.is_file() and path.stat().st_size < 16 << 10 for path in arguments):
            return rename(*arguments)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    rename = filing.rename
    patch.setattr(filing, "rename", refuse)
    patch.setattr(reporting, "_durable", refuse)


def test_a_full_archive_delays_the_filing_and_loads_once(site: Site, log: list[str], impatient: None) -> None:
    with small_disk(site.archive, no_room) as make_room, enduring(site):
        path = site.drop("x.json", [good(str(number), status="x" * 50) for number in range(500)], flow=STATUS)
        eventually(lambda: said(log, "No space left on device"))
        (line,) = site.ledger()
        assert (line["status"], line["inserted"], line["filed_at"]) == ("loaded", 500, None)
        assert path.exists()
        lives_on(site)
        make_room()
        lines = site.settled(2)
        assert [line["status"] for line in lines] == ["loaded", "loaded"]
        assert Path(lines[0]["filed_as"]).stat().st_size > 16 << 10
        assert site.waiting() == []
    assert not [path for path in site.archive.rglob(".*") if path.is_file()]


def test_a_full_folder_for_reports_delays_the_refusal(site: Site, log: list[str], impatient: None) -> None:
    with small_disk(site.rejected, no_room) as make_room, running(site):
        site.drop("x.json", [good(str(number), status=7) for number in range(500)], flow=STATUS)
        eventually(lambda: said(log, "No space left on device"))
        assert site.ledger() == []
        make_room()
        refused(site)
        lives_on(site)


def test_the_archive_may_be_on_another_file_system(site: Site, open_folder: Path) -> None:
    site.settings = site.settings.model_copy(
        update={f"{name}_dir": open_folder / name for name in ("archive", "rejected")}
    )
    with enduring(site):
        site.drop("x.json", [good()], flow=STATUS)
        assert Path(site.settled(1)[0]["filed_as"]).read_text() == json.dumps([good()])
        site.drop("y.json", "{", flow=STATUS)
        refused(site, files=2)
        (site.input / STATUS / "z.json").symlink_to("/etc/passwd")
        assert Path(site.settled(3)[2]["filed_as"]).is_symlink()
    assert not [path for path in open_folder.rglob(".*") if path.is_file()]


# What a flow of one's own may do.

AddFlow = Callable[..., AbstractContextManager[str]]


@pytest.fixture
def with_flow(site: Site, tmp_path: Path) -> AddFlow:
    """Runs the site with a further flow, of things that have an id and a name of five characters at most."""

    @contextmanager
    def add(body: str = "", options: str = "") -> Iterator[str]:
        name = f"things_{uuid.uuid4().hex[:12]}"
        folder = tmp_path / "further flows"
        folder.mkdir()
        (folder / f"{name}.py").write_text(
            textwrap.dedent(
                """
                from typing import Any
                from pydantic import BaseModel, field_validator
                from sqlalchemy import CheckConstraint, String
                from sqlalchemy.orm import Mapped, mapped_column
                from models.flow import Flow, PartlyBad
                from models.tables import LoadedRow

                class Thing(BaseModel):
                    id: int
                    name: Any

                class ThingRow(LoadedRow):
                    __tablename__ = "NAME"
                    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
                    name: Mapped[str] = mapped_column(String(5))

                """
            ).replace("NAME", name)
            + textwrap.dedent(body).replace("OTHER", f"{name}_2")
            + f"\nFLOW = Flow(record=Thing, table=ThingRow, {options})\n"
        )
        site.settings = site.settings.model_copy(update={"flows_dir": folder})
        try:
            with enduring(site):
                yield name
        finally:
            sys.modules.pop(f"flows.{name}", None)
            for table in (name, f"{name}_2"):
                if table in Base.metadata.tables:
                    Base.metadata.remove(Base.metadata.tables[table])

    return add


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("a\0b", "text in it may not contain the character NUL"),
        ("123456", "the database refuses it: value too long for type character varying(5)"),
        (None, "the database refuses it: null value in column"),
    ],
    ids=["nul", "too-long", "null"],
)
@pytest.mark.parametrize("policy", ["KEEP_VALID", "ALL_OR_NOTHING"])
def test_only_the_record_that_the_database_refuses_is_refused(
    site: Site, with_flow: AddFlow, name: str | None, reason: str, policy: str
) -> None:
    with with_flow(options=f"partly_bad=PartlyBad.{policy}") as flow:
        content = [{"id": number, "name": str(number)} for number in range(20)]
        content[7]["name"] = name
        site.drop("x.json", content, flow=flow)
        (line,) = site.settled(1)
        report = site.report("x.json", flow)
        check_agreement(site, line, report)
        (error,) = report["errors"]
        assert (error["record"], error["pointer"], error["value"]) == (7, "/7", {"id": 7, "name": name})
        assert error["reason"].startswith(reason)
        kept = 19 if policy == "KEEP_VALID" else 0
        assert len(site.rows(flow)) == kept
        assert line["status"] == ("partial" if kept else "rejected")


def test_all_or_nothing_tells_every_bad_record_and_loads_none(site: Site, with_flow: AddFlow) -> None:
    with with_flow(options="partly_bad=PartlyBad.ALL_OR_NOTHING") as flow:
        content = [{"id": "x" if number % 3 else number, "name": str(number)} for number in range(30)]
        site.drop("x.json", content, flow=flow)
        report = refused(site, flow)
        assert [error["record"] for error in report["errors"]] == [number for number in range(30) if number % 3]
        assert site.ledger()[0]["error"].startswith("nothing loaded: record 1 /1/id: ")
        assert "mend the file" in report["what_next"]
        assert not list(site.rejected.rglob("*.rejected.json"))
        site.drop("x.json", [{"id": number, "name": str(number)} for number in range(30)], flow=flow)
        assert site.settled(2)[1]["inserted"] == 30


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("Integer", 2**31),
        ("Integer", 1 << 40),
        ("Integer", -(1 << 70)),
        ("SmallInteger", 1 << 15),
        ("BigInteger", 1 << 63),
        ("REAL", 1e300),
        ("Numeric(5, 2)", 1e9),
    ],
)
def test_a_number_beyond_its_column_is_refused_and_never_cut_down(
    site: Site, with_flow: AddFlow, column: str, value: float
) -> None:
    body = f"""
    from sqlalchemy import BigInteger, Integer, Numeric, REAL, SmallInteger

    class Thing(BaseModel):
        id: int
        name: str
        number: float

    class OtherRow(LoadedRow):
        __tablename__ = "OTHER"
        id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
        number: Mapped[Any] = mapped_column({column})

    ThingRow = OtherRow

    def to_rows(thing):
        return [{{"id": thing.id, "number": {value!r} if thing.name == "bad" else 17}}]
    """
    with with_flow(body, "to_rows=to_rows") as flow:
        content = [{"id": number, "name": name, "number": 1} for number, name in enumerate(["a", "bad", "b"])]
        for files in (1, 2):
            site.drop("x.json", json.dumps(content) + " " * files, flow=flow)
            line = site.settled(files)[-1]
            assert (line["status"], line["inserted"], line["unchanged"]) == ("partial", 4 - files * 2, files * 2 - 2)
        assert [(row["id"], row["number"]) for row in site.rows(f"{flow}_2")] == [(0, 17), (2, 17)]


ODD_VALIDATOR = """
class Thing(Thing):
    @field_validator("name")
    @classmethod
    def check(cls, name):
        RAISE
        return name
"""

ODD_ROWS = """
def to_rows(thing):
    name = thing.name
    RAISE
    return [{"id": thing.id, "name": name}]
"""


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("{}[name]", "KeyError: 'bad'"),
        ("raise RecursionError('deep')", "RecursionError: deep"),
        ("raise MemoryError", "MemoryError: "),
        (r"raise RuntimeError('nul \0 and \ud800')", r"RuntimeError: nul \u0000 and \ud800"),
        ("raise AttributeError(name)", "AttributeError: bad"),
    ],
    ids=["zero", "key", "recursion", "memory", "odd-text", "attribute"],
)
@pytest.mark.parametrize("where", ["validator", "to_rows"])
def test_an_odd_exception_of_a_flow_costs_one_record(
    site: Site, with_flow: AddFlow, what: str, reason: str, where: str
) -> None:
    body = (ODD_VALIDATOR if where == "validator" else ODD_ROWS).replace("RAISE", f"if name == 'bad': {what}")
    with with_flow(body, "to_rows=to_rows" if where == "to_rows" else "") as flow:
        names = ["a", "bad", "b", "c"]
        site.drop("x.json", [{"id": number, "name": name} for number, name in enumerate(names)], flow=flow)
        (line,) = site.settled(1)
        assert (line["status"], line["inserted"], line["rejected"]) == ("partial", 3, 1)
        report = site.report("x.json", flow)
        check_agreement(site, line, report)
        (error,) = report["errors"]
        words = "cannot check it" if where == "validator" else "cannot turn it into rows"
        assert error["reason"] == f"flow {flow} {words}: {reason}"


@pytest.mark.parametrize(
    "what",
    [
        "return [{'id': 'x', 'name': name}]",
        "return [{'id': 1 << 40, 'name': name}]",
        "return [{'id': thing.id, 'name': 17}]",
        "return [{'id': thing.id, 'name': '\\ud800'}]",
        "return [{'id': object(), 'name': name}]",
        "return [{'name': name}]",
        "return None",
        "return [None]",
    ],
)
def test_a_row_that_does_not_fit_its_table_costs_one_record(site: Site, with_flow: AddFlow, what: str) -> None:
    with with_flow(ODD_ROWS.replace("RAISE", f"if name == 'bad': {what}"), "to_rows=to_rows") as flow:
        names = ["a", "bad", "b", "c"]
        site.drop("x.json", [{"id": number, "name": name} for number, name in enumerate(names)], flow=flow)
        (line,) = site.settled(1)
        assert (line["status"], line["inserted"], line["rejected"]) == ("partial", 3, 1), line["error"]


def test_a_reader_of_our_own_that_fails_costs_the_file_and_not_the_daemon(
    hardy: Site, log: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise LookupError("a mistake of ours")

    interfere(monkeypatch, fail)
    hardy.drop("x.json", [good()], flow=STATUS)
    (error,) = refused(hardy)["errors"]
    assert error["reason"] == "unexpected LookupError: a mistake of ours"
    assert said(log, "x.json: cannot be handled")
