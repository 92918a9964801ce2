"""Which errors are the database's at all; tests/integration has the real ones of the real server."""

import struct

import pytest
import sqlalchemy.exc

from models.errors import RejectFile, RetryLater
from services.db import sqlstate


def test_exhausted_pool_is_retried() -> None:
    assert sqlstate.classify(sqlalchemy.exc.TimeoutError("QueuePool limit reached")) is RetryLater


@pytest.mark.parametrize("error", [ValueError("x"), KeyError("x"), struct.error("x"), StopIteration()])
def test_other_errors_are_not_the_databases(error: Exception) -> None:
    expected = RejectFile if isinstance(error, struct.error) else None
    assert sqlstate.classify(error) is expected


def test_translated_leaves_other_errors_alone() -> None:
    with pytest.raises(ZeroDivisionError), sqlstate.translated():
        1 / 0  # noqa: B018
