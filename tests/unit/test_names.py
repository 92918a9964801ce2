"""Names of files: they fit every file system, stay text, and two values never share one."""

import os
from pathlib import PurePosixPath

import pytest
from hypothesis import example, given, strategies as st

from services.files import names
from services.files.names import is_finished, local, numbered, portable, storable, with_suffix

NAMES = st.text(st.characters(exclude_characters="/\0", codec="utf-8"), min_size=1, max_size=300)
BYTE_NAMES = st.binary(min_size=1, max_size=255).filter(lambda name: not {0, ord("/")}.intersection(name))
UNFINISHED = [".tmp", ".part", ".partial", ".filepart", "~", ".swp", ".crdownload"]


@given(NAMES, st.integers(1))
def test_names_fit_the_file_system_and_stay_text(name: str, number: int) -> None:
    for made in (with_suffix(name, ".errors.json"), numbered(name[:80], number), numbered(name, f"{number}-2")):
        assert len(os.fsencode(made)) <= names.MAX_BYTES
        assert made.encode().decode() == made
    assert with_suffix(name, ".errors.json").endswith(".errors.json")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.json", "a.7.json"),
        ("a.json.gz", "a.7.json.gz"),
        ("a", "a.7"),
        (".hidden", ".hidden.7"),
        ("é" * 125 + ".json", "é" * 124 + ".7.json"),
        ("a." + "b" * 250, "a." + "b" * 250 + ".7"),
    ],
)
def test_a_numbered_name_keeps_its_kind(name: str, expected: str) -> None:
    assert numbered(name, 7) == expected


@given(st.text(st.characters(exclude_characters="/\0", exclude_categories=()), min_size=1, max_size=60))
def test_hidden_and_unfinished_names_are_not_finished(name: str) -> None:
    for ending in UNFINISHED:
        assert not is_finished(name + ending)
        assert not is_finished(name + ending.upper())
    assert not is_finished("." + name)
    assert is_finished(name + ".json") == (not name.startswith("."))


@given(st.text(max_size=250), st.text(max_size=250))
@example("a/b", "a_b")
@example("a" * 200, "a" * 201)
@example("..", ".")
@example("a/b", portable("a/b"))
def test_two_values_never_share_a_portable_name(one: str, other: str) -> None:
    made = [portable(value) for value in (one, other)]
    assert (made[0] == made[1]) == (one == other)
    for part in made:
        assert part.isascii()
        assert PurePosixPath(part).parts == (part,)
        assert not part.startswith(".")
        assert 0 < len(part) <= names.MAX_PART_BYTES


@given(st.from_regex(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,199}", fullmatch=True))
def test_a_portable_value_is_left_as_it_is(value: str) -> None:
    assert portable(value) == value


@given(BYTE_NAMES, BYTE_NAMES)
@example(b"a\n.json", b"a\t.json")
@example(b".hidden", b"hidden")
@example(b"a\xff", b"a\xfe")
@example(b"..", b".")
@example(b"a\n.json", local("a\n.json").encode())
def test_a_partners_name_becomes_one_of_ours_that_no_other_gets(one: bytes, other: bytes) -> None:
    made = [local(os.fsdecode(name)) for name in (one, other)]
    assert (made[0] == made[1]) == (one == other)
    for name in made:
        assert name.isprintable()
        assert name.encode().decode() == name
        assert PurePosixPath(name).parts == (name,)
        assert not name.startswith(".")
        assert len(name.encode()) <= names.MAX_PART_BYTES


@pytest.mark.parametrize("name", ["orders.json", "Bestellung März.edi.gz", "🚚.x12", "a b", "x" * 200])
def test_a_partners_name_without_surprises_is_kept(name: str) -> None:
    assert local(name) == name


@pytest.mark.parametrize("name", ["../orders.json.gz", "or\nders.json.gz", ".orders.json.gz", "o" * 300 + ".json.gz"])
def test_a_partners_name_keeps_its_suffix_whatever_else_is_changed(name: str) -> None:
    stem, dot, suffix = local(name).partition(".")
    assert (dot, suffix) == (".", "json.gz")
    assert "o" in stem


@given(BYTE_NAMES)
def test_a_name_of_any_bytes_gets_into_the_ledger(name: bytes) -> None:
    made = storable(os.fsdecode(name))
    assert len(made.encode()) <= names.MAX_BYTES
    if made != os.fsdecode(name):
        assert made.isprintable()


@pytest.mark.parametrize("name", ["a.json", "a\nb.json", "🚚.json"])
def test_a_name_in_utf_8_is_in_the_ledger_as_it_is(name: str) -> None:
    assert storable(name) == name


def test_a_name_that_is_no_utf_8_is_spelled_out() -> None:
    assert storable(os.fsdecode(b"a\xff.json")) == r"a\xff.json"
