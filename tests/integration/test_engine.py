"""Connections: which server, as whom, and what is shown of the URI."""

import os
import signal
from pathlib import Path

import pytest
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from models.errors import RetryLater, StopDaemon
from services.db.connection import DatabaseConnection
from services.db.engine import open_database, ping
from settings import Settings
from tests.support.waiting import eventually


def on(uri: str) -> Settings:
    return Settings(_env_file=None, database_url=SecretStr(uri))


@pytest.mark.parametrize("scheme", ["postgres://", "postgresql://", "postgresql+psycopg://"])
def test_every_usual_scheme_connects(database_url: str, scheme: str) -> None:
    uri = scheme + database_url.partition("://")[2]
    with open_database(on(uri)) as database:
        assert int(ping(database.engine).partition(".")[0]) >= 14
        assert not database.embedded
        database.recover()  # nothing of ours to start again


def test_session_is_in_utc_and_says_who_it_is(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGTZ", "Asia/Tokyo")
    with open_database(on(database_url)) as database, database.engine.connect() as connection:
        assert connection.scalar(text("show timezone")) == "UTC"
        assert str(connection.scalar(text("show application_name"))).endswith(f":{os.getpid()}")


def test_a_connection_that_its_server_has_ended_is_not_handed_out_again(database_url: str) -> None:
    with open_database(on(database_url)) as database, database.connect() as other:
        with database.engine.connect() as connection:
            driver = connection.connection.driver_connection
            assert isinstance(driver, DatabaseConnection)
            assert not driver.is_lost()
        other.execute("select pg_terminate_backend(%s)", [driver.info.backend_pid])
        eventually(driver.is_lost, what="the end of the connection")
        assert ping(database.engine)


def test_a_notice_of_the_server_is_not_the_end_of_a_connection(database_url: str) -> None:
    with open_database(on(database_url)) as database, database.connect() as listening, database.connect() as other:
        assert isinstance(listening, DatabaseConnection)
        heard: list[str] = []
        listening.add_notify_handler(lambda notify: heard.append(notify.channel))
        listening.execute("listen something")
        other.execute("notify something")
        eventually(lambda: [*listening.execute("select 1")] and heard, what="the notice")
        assert not listening.is_lost()
        assert heard == ["something"]


def test_options_of_the_uri_are_kept(database_url: str) -> None:
    uri = f"{database_url}{'&' if '?' in database_url else '?'}options=-c%20statement_timeout%3D1234"
    with open_database(on(uri)) as database, database.engine.connect() as connection:
        assert connection.scalar(text("show statement_timeout")) == "1234ms"
        assert connection.scalar(text("show timezone")) == "UTC"


def test_text_is_sent_as_utf_8_whatever_the_uri_says(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
    uri = f"{database_url}{'&' if '?' in database_url else '?'}client_encoding=LATIN1"
    with open_database(on(uri)) as database, database.engine.connect() as connection:
        assert connection.scalar(text("show client_encoding")) == "UTF8"


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("postgresql://u:SECRET@db.example:5433/x", "postgresql://u@db.example:5433/x"),
        ("postgres://u:SEC%2FRET@h/x?sslmode=require", "postgresql://u@h/x?sslmode=require"),
        ("postgresql://h/x?user=u&password=SECRET", "postgresql://h/x?user=u"),
        ("postgresql://u@h1,h2:5433/x?target_session_attrs=primary", None),
    ],
)
def test_password_is_never_shown(uri: str, shown: str | None) -> None:
    with open_database(on(uri)) as database:
        assert database.uri == (shown or uri)
        assert "SEC" not in repr(database)


@pytest.mark.parametrize("uri", ["mysql://u:SECRET@h/x", "SECRET", "postgresql://u:SECRET@h:port:x/?nonsense=1"])
def test_what_is_no_uri_stops_without_quoting_it(uri: str) -> None:
    with pytest.raises(StopDaemon, match="DATABASE_URL is not a PostgreSQL URI") as caught, open_database(on(uri)):
        pass
    assert "SECRET" not in str(caught.value)


def test_server_may_be_down_when_it_is_opened() -> None:
    with open_database(on("postgresql://u:SECRET@127.0.0.1:1/x")) as database:
        with pytest.raises(RetryLater, match="onnection refused") as caught:
            ping(database.engine)
        assert "SECRET" not in str(caught.value)


def test_embedded_server_that_died_is_recovered_and_the_same_engine_goes_on(open_folder: Path) -> None:
    # So long a path that the socket is elsewhere, and somewhere else after the restart.
    data_dir = open_folder / ("x" * 100)
    with open_database(Settings(_env_file=None, data_dir=data_dir)) as database:
        assert database.embedded
        assert ping(database.engine).startswith("18.")
        os.kill(int((data_dir / "postgres" / "postmaster.pid").read_text().split()[0]), signal.SIGINT)
        with pytest.raises((RetryLater, OperationalError)):  # noqa: PT012  # until the server is gone
            while True:
                ping(database.engine)
        database.recover()
        assert ping(database.engine).startswith("18.")
