"""Files that are rejected whole, for what they hold: not JSON, no records, broken compression, too large."""

import gzip
import io
import json

import pytest

from file_processing.inbound.formats.json import JsonFormat
from services.files.folders import UNROUTED
from tests.support.bad_input import STATUS, good, rejected, said, taken_in, text_of, vehicles
from tests.support.sites import Site

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
def test_what_is_no_list_of_records_is_rejected_whole(
    site: Site, content: bytes | str, reason: str, line: int | None, column: int | None
) -> None:
    site.drop("x.json", content, flow=STATUS)
    (error,) = rejected(site, taken_in(site))["errors"]
    assert error["reason"].startswith(reason)
    assert error.get("line") == line
    if column is not None:
        assert error["column"] == column
    data = content if isinstance(content, bytes) else content.encode()
    assert (site.rejected / STATUS / "x.json").read_bytes() == data
    assert vehicles(site) == ["neighbour"]


def test_a_byte_order_mark_does_no_harm(site: Site) -> None:
    site.drop("bom.json", b"\xef\xbb\xbf" + text_of(good()).encode())
    assert taken_in(site)["status"] == "loaded"


def test_an_empty_list_loads_nothing_and_is_no_fault(site: Site) -> None:
    site.drop("none.json", {STATUS: []})
    line = taken_in(site)
    assert (line["status"], line["records"]) == ("loaded", 0)


def test_a_record_in_the_wrong_envelope_is_told_the_right_one(site: Site) -> None:
    site.drop("x.json", {"vehicles": [good()]}, flow=STATUS)
    (error,) = rejected(site, taken_in(site))["errors"]
    assert error["reason"] == (
        'neither a record of vehicle_status nor {"vehicle_status": [record, …]}: its keys are "vehicles"'
    )


def test_a_mistake_of_ours_in_reading_costs_the_file_and_no_other(
    site: Site, logged: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    read, left = JsonFormat.read, [LookupError("a mistake of ours")]

    def fails_once(*arguments: object) -> object:
        if left:
            raise left.pop()
        return read(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(JsonFormat, "read", fails_once)
    site.drop("a.json", [good()], flow=STATUS)
    (error,) = rejected(site, taken_in(site))["errors"]
    assert error["reason"] == "unexpected LookupError: a mistake of ours"
    assert said(logged, "ERROR a.json: cannot be handled")


# Sizes and compression.


def test_a_file_larger_than_allowed_is_rejected_unread(site: Site) -> None:
    site.settings = site.settings.model_copy(update={"max_file_bytes": 1000})
    site.drop("x.json", json.dumps([good()]) + " " * 1000, flow=STATUS)
    (error,) = rejected(site, taken_in(site))["errors"]
    assert "more than MAX_FILE_BYTES allows (1000)" in error["reason"]
    assert "split the file" in error["hint"]


def test_a_compressed_file_loads(site: Site) -> None:
    site.drop("x.json.gz", gzip.compress(text_of(good()).encode()))
    site.drop("y.JSONL.GZ", gzip.compress(json.dumps(good("b")).encode()), flow=STATUS)
    two_members = gzip.compress(text_of(good("c")).encode()[:20]) + gzip.compress(text_of(good("c")).encode()[20:])
    site.drop("z.json.gz", two_members, flow=STATUS)
    site.load()
    assert [line["status"] for line in site.ledger()] == ["loaded"] * 3
    assert vehicles(site) == ["a", "b", "c"]


PACKED = gzip.compress(text_of(*(good(str(number)) for number in range(100))).encode())


@pytest.mark.parametrize("flow", [STATUS, ""], ids=["in-its-folder", "in-the-root"])
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        pytest.param(PACKED[:-20], "broken gzip", id="truncated"),
        pytest.param(PACKED[:5], "broken gzip", id="cut-in-the-head"),
        pytest.param(PACKED[:-8] + bytes(8), "broken gzip", id="wrong-checksum"),
        pytest.param(PACKED[:60] + b"garbage" + PACKED[67:], "broken gzip", id="garbage-inside"),
        pytest.param(b"this is not gzip", "broken gzip", id="not-compressed"),
        pytest.param(text_of(good()).encode(), "broken gzip", id="plain-json"),
        pytest.param(PACKED + b"garbage", "broken gzip", id="garbage-behind"),
        pytest.param(b"", "the file is empty", id="empty"),
    ],
)
def test_a_broken_compressed_file_is_rejected(site: Site, content: bytes, reason: str, flow: str) -> None:
    name = "vehicle_status.json.gz"
    site.drop(name, content, flow=flow)
    line = taken_in(site)
    assert line["status"] == "rejected"
    assert reason in line["error"]
    (error,) = site.report(name, line["flow"] or UNROUTED)["errors"]
    assert reason in error["reason"]
    assert vehicles(site) == ["neighbour"]


TOO_LARGE, TOO_DEEP = (
    "decompressed it is larger than MAX_FILE_BYTES allows",
    "the JSON is nested deeper than 200 levels",
)


@pytest.mark.parametrize(
    ("filling", "reason"),
    [(" ", TOO_LARGE), (json.dumps(good()) + ",", TOO_LARGE), ("[", TOO_DEEP)],
    ids=["blanks", "records", "brackets"],
)
def test_a_bomb_is_rejected_when_it_passes_the_limit(site: Site, filling: str, reason: str) -> None:
    compressed = io.BytesIO()
    with gzip.open(compressed, "wb") as file:
        file.write(b"[")
        for _ in range(10):
            file.write(filling.encode() * ((1 << 20) // len(filling)))
    site.settings = site.settings.model_copy(update={"max_file_bytes": 5 << 20, "max_unpack_ratio": 2000})
    site.drop("bomb.json.gz", compressed.getvalue(), flow=STATUS)
    (error,) = rejected(site, taken_in(site))["errors"]
    assert error["reason"] == reason
