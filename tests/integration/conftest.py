"""What the tests of the database share."""

from collections.abc import Iterator

import pytest
from pydantic import SecretStr
from sqlalchemy import Engine

from services.db import engine as databases
from settings import Settings


@pytest.fixture
def empty(empty_database_url: str) -> Iterator[Engine]:
    """A database with nothing in it."""
    with databases.open_database(Settings(_env_file=None, database_url=SecretStr(empty_database_url))) as database:
        yield database.engine
