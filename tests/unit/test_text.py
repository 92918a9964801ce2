"""Text of others, made safe: what prints stays, what does not is spelled out."""

import html
import itertools
import json
import math
import os
import time
from collections.abc import Iterator
from decimal import Decimal
from typing import Any
from unittest import mock
from urllib.parse import quote

import pytest
from hypothesis import given, strategies as st

from services import text as texts
from services.text import (
    exact_json,
    hidden,
    hide,
    one_line,
    printable,
    read_exact_json,
    storable,
    storable_json,
)

ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=40)
"""Halves of surrogate pairs too."""

FILE_NAMES = st.binary(min_size=1, max_size=60).map(os.fsdecode)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), ANY_TEXT),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(ANY_TEXT, inner, max_size=3)),
    max_leaves=8,
)


@given(st.one_of(ANY_TEXT, FILE_NAMES))
def test_a_text_is_shown_without_what_a_terminal_or_database_cannot_take(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    assert shown.encode().decode() == shown


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_what_can_be_shown_is_shown_as_it_is(text: str) -> None:
    shown = printable(text)
    remaining = iter(shown)
    assert all(character in remaining for character in text if character.isprintable())
    if text.isprintable():
        assert shown == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\nb.json", r"a\nb.json"),
        ("\x1b[31mred.json", r"\x1b[31mred.json"),
        ("🚚 é.json", "🚚 é.json"),
        (os.fsdecode(b"\xff.json"), r"\xff.json"),
        ("\u202egnp.json", r"\u202egnp.json"),
        ("\ud800", r"\ud800"),
        ("\0", r"\x00"),
    ],
)
def test_the_rest_is_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("  busy,\r\n\ttry  later\n", "busy, try later"),
        ("a\u2028b\x0bc\x85d", "a b c d"),
        ("\x1b[31mred\0\n", r"\x1b[31mred\x00"),
        ("\n", ""),
    ],
)
def test_several_lines_are_put_one_behind_the_other(text: str, shown: str) -> None:
    assert one_line(text) == shown


@given(ANY_TEXT)
def test_one_line_is_one(text: str) -> None:
    line = one_line(text)
    assert line.isprintable()
    assert "  " not in line
    assert line == line.strip()


@given(ANY_TEXT)
def test_whatever_is_storable_is_utf_8_without_nul_and_anything_else_stays(text: str) -> None:
    stored = storable(text)
    assert stored.encode().decode() == stored
    assert "\0" not in stored
    if "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text):
        assert stored == text


@pytest.mark.parametrize(("text", "stored"), [("a\0b", r"a\u0000b"), ("\ud800", r"\ud800"), ("a\nb é🚚", "a\nb é🚚")])
def test_what_cannot_be_stored_is_spelled_out(text: str, stored: str) -> None:
    assert storable(text) == stored


def strings(value: Any) -> Iterator[str]:
    match value:
        case str():
            yield value
        case list():
            yield from itertools.chain.from_iterable(map(strings, value))
        case dict():
            yield from itertools.chain.from_iterable(map(strings, (*value, *value.values())))


@given(VALUES)
def test_a_storable_value_is_json_that_the_database_takes(value: Any) -> None:
    stored = storable_json(value)
    text = json.dumps(stored, ensure_ascii=False, allow_nan=False)
    assert not any("\0" in string for string in strings(stored))
    assert text.encode().decode() == text
    assert storable_json(stored) == stored


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        ({"a\0": ["\ud800", {"b": math.inf}]}, {r"a\u0000": [r"\ud800", {"b": "inf"}]}),
        ([math.nan, -math.inf, 1.5, 10**30, True, None], ["nan", "-inf", 1.5, 10**30, True, None]),
        ("plain", "plain"),
    ],
)
def test_a_value_keeps_its_shape(value: object, stored: object) -> None:
    assert storable_json(value) == stored


@pytest.fixture
def secret(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(texts, "_secrets", {})
    hide("short")
    hide('a"b\\c/d e')
    return 'a"b\\c/d e'


def test_a_secret_is_not_shown_in_any_writing(secret: str) -> None:
    for form in (secret, json.dumps(secret), quote(secret, safe="")):
        for shown in (hidden(f"a{form}b"), printable(f"a{form}b"), one_line(f" a\n{form}b")):
            assert "[secret]" in shown
            assert "c" not in shown.replace("[secret]", "")
    assert json.loads(hidden(json.dumps({"said": secret}), is_json=True)) == {"said": "[secret]"}


@given(st.text(st.characters(exclude_categories=()), min_size=6, max_size=40), ANY_TEXT, ANY_TEXT)
def test_json_without_secrets_is_json(secret: str, before: str, behind: str) -> None:
    with mock.patch.object(texts, "_secrets", {}):
        hide(secret)
        told = hidden(json.dumps([before + secret + behind]), is_json=True)
    assert isinstance(json.loads(told), list)


SIGNS = '/+="<ü🚚 aZ9'


def any_case(draw: st.DrawFn, text: str) -> str:
    return "".join(draw(st.sampled_from([one.lower(), one.upper()])) for one in text)


@st.composite
def written_anyhow(draw: st.DrawFn, secret: str) -> str:
    """A secret as a partner may write it, each character in its own way."""
    parts = []
    for character in secret:
        backslashes = "\\" * draw(st.integers(1, 9))
        ascii_only = json.dumps(character)[1:-1]
        ways = [
            character,
            character if character in "aZ9" else backslashes + character,
            "".join(f"%{any_case(draw, f'{octet:02x}')}" for octet in character.encode()),
            f"&#{ord(character)};",
            f"&#x{ord(character):x};",
            html.escape(character),
            html.escape(html.escape(character)),
            "".join(
                f"{backslashes}u{any_case(draw, unit)}"
                for unit in (character.encode("utf-16-be").hex()[at : at + 4] for at in (0, 4))
                if unit
            ),
            ascii_only,
            json.dumps(ascii_only)[1:-1],
        ]
        parts.append(draw(st.sampled_from(ways)))
    return "".join(parts)


@given(st.data())
def test_a_secret_is_hidden_in_any_mix_of_writings(data: st.DataObject) -> None:
    secret = data.draw(st.text(SIGNS, min_size=6, max_size=30))
    written = data.draw(written_anyhow(secret))
    with mock.patch.object(texts, "_secrets", {}):
        hide(secret)
        assert hidden(f"(({written}))") == "(([secret]))"
        told = json.loads(hidden(json.dumps({"said": f"(({written}))", "more": [json.dumps(written)]}), is_json=True))
        assert told == {"said": "(([secret]))", "more": ['"[secret]"']}


def test_a_secret_that_begins_with_a_quote_leaves_no_escape_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts, "_secrets", {})
    hide('"99999')
    told = json.loads(hidden(json.dumps({"more": json.dumps('"99999')}), is_json=True))
    assert told == {"more": '"[secret]"'}


@given(VALUES)
def test_json_without_secrets_stays_what_it_is(value: Any) -> None:
    text = json.dumps(value)
    with mock.patch.object(texts, "_secrets", {}):
        hide("no/such+secret")
        assert hidden(text, is_json=True) == text
        if isinstance(value, str):
            assert hidden(value) == value


@pytest.mark.parametrize("piece", ["a", "a\\", "\\", "%25", "a%5c", "&amp;", r"c\u005c", "&#0", '"', "secret/ab%2"])
def test_a_long_text_is_soon_without_secrets(piece: str, secret: str) -> None:
    """Whatever a partner makes up: the time grows with the text and no faster."""
    hide("c" * 40 + "/d")
    hide("secret/ab+c")
    text = piece * ((1 << 20) // len(piece))
    begin = time.process_time()
    assert hidden(text) == text
    assert time.process_time() - begin < 10


def test_a_number_that_is_a_secret_is_no_number_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts, "_secrets", {})
    hide("12345678")
    assert hidden('{"a": 12345678, "b": [1, null]}', is_json=True) == '{"a": "[secret]", "b": [1, null]}'


def test_too_short_a_secret_is_in_other_words(secret: str) -> None:
    assert hidden("a short word") == "a short word"


@pytest.mark.parametrize("number", ["0.1", "12345678901234567.123456789012345678", "1E+400", "-1.50"])
def test_json_keeps_every_digit_of_a_decimal(number: str) -> None:
    read = read_exact_json(f'{{"a": [{number}, 1, null, "x", {{"é\\u0001": true}}]}}')
    assert exact_json(read) == f'{{"a": [{number}, 1, null, "x", {{"\\u00e9\\u0001": true}}]}}'


def test_what_json_cannot_hold_is_still_refused() -> None:
    with pytest.raises(TypeError):
        exact_json([Decimal(1), object()])
    with pytest.raises(ValueError, match="not JSON compliant"):
        exact_json([Decimal(1), float("nan")], allow_nan=False)
