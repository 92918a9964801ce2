"""Parameters of the ledger's statements, as the server takes them."""

import psycopg
from hypothesis import given, settings as run_settings, strategies as st

from services.ledger.statements import array

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0")) | st.text('{}",\\\\ \n', max_size=6)
WORDS = st.sampled_from(["", "null", "NULL", "{}", "a,b", '"', "\\\\", " ", "'; drop table x --"])


def test_an_array_is_to_the_server_what_it_is_here(database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:

        @given(st.lists(st.none() | TEXT | WORDS), st.lists(st.none() | st.integers(-(2**63), 2**63 - 1)))
        @run_settings(max_examples=200, deadline=None)
        def holds(texts: list[str | None], numbers: list[int | None]) -> None:
            query = "select %s::text[], %s::bigint[]"
            assert connection.execute(query, [array(texts), array(numbers)]).fetchone() == (texts, numbers)

        holds()


def test_bytes_are_told_by_their_digits(database_url: str) -> None:
    values = [bytes(range(256)), b"", b"\\\\x00"]
    with psycopg.connect(database_url, autocommit=True) as connection:
        told = array([rf"\x{value.hex()}" for value in values])
        assert connection.execute("select %s::bytea[]", [told]).fetchone() == (values,)
