"""What the daemon does about each error of the database, with real errors of the real server."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Barrier, Thread

import psycopg
import pytest
import sqlalchemy
import sqlalchemy.exc
from sqlalchemy import Engine, text

from models.errors import Contention, NoDatabase, RejectFile, RestFlow, RetryLater, StopDaemon, TidegateError
from services.db import sqlstate
from services.db.engine import ping

VEHICLE = "insert into vehicles_status (vehicle_id, report_time, status) values ('SECRET', now(), 'ok')"

PARTITIONED = "create table months (month int) partition by list (month)"


def error_of(engine: Engine, *statements: str) -> sqlalchemy.exc.DBAPIError:
    try:
        with engine.connect() as connection:
            for statement in statements:
                connection.execute(text(statement))
    except sqlalchemy.exc.DBAPIError as error:
        return error
    raise AssertionError(f"no error from {statements}")


@pytest.mark.parametrize(
    ("statements", "kind"),
    [
        pytest.param([VEHICLE, VEHICLE], RejectFile, id="unique violation"),
        pytest.param(["insert into vehicles_status (vehicle_id) values ('x')"], RejectFile, id="null in a column"),
        pytest.param(["select 3000000000::int"], RejectFile, id="number beyond its column"),
        pytest.param(["select 'x'::int"], RejectFile, id="not a number"),
        pytest.param([VEHICLE.replace("'ok'", "repeat('x', 51)")], RejectFile, id="text too long"),
        pytest.param(
            [VEHICLE.replace("'SECRET'", "(select string_agg(md5(i::text), '') from generate_series(1, 999) i)")],
            RejectFile,
            id="text too long for the index",
        ),
        pytest.param([PARTITIONED, "insert into months values (1)"], RestFlow, id="no partition for the row"),
        pytest.param(
            [PARTITIONED, "create table may partition of months for values in (5)", "insert into may values (6)"],
            RestFlow,
            id="another partition's row",
        ),
        pytest.param(
            ["create temporary table months (month int check (month < 13))", "insert into months values (13)"],
            RejectFile,
            id="check of a table",
        ),
        pytest.param(
            ["create domain month as int check (value < 13)", "select 13::month"], RejectFile, id="check of a domain"
        ),
        pytest.param(["select * from nowhere"], StopDaemon, id="no such table"),
        pytest.param(["select nothing from vehicles_status"], StopDaemon, id="no such column"),
        pytest.param(
            ["create role tidegate_nothing", "set role tidegate_nothing", "select from vehicles_status"],
            StopDaemon,
            id="insufficient privilege",
        ),
        pytest.param(["set transaction read only", VEHICLE], NoDatabase, id="read-only server"),
        pytest.param(["set statement_timeout = 1", "select pg_sleep(9)"], RetryLater, id="cancelled"),
        pytest.param(["select pg_terminate_backend(pg_backend_pid())"], NoDatabase, id="connection closed"),
        pytest.param(["do $$ begin raise exception 'no'; end $$"], RestFlow, id="raised by a trigger"),
        pytest.param(["do $$ begin raise sqlstate '25P04'; end $$"], RetryLater, id="transaction timeout"),
        pytest.param(["do $$ begin raise sqlstate 'ZZ123'; end $$"], RestFlow, id="nobody knows it"),
        pytest.param(["do $$ begin raise check_violation; end $$"], RejectFile, id="raised for a record"),
        pytest.param(["do $$ begin raise sqlstate '53100'; end $$"], RetryLater, id="disk full"),
        pytest.param(["do $$ begin raise sqlstate '40001'; end $$"], RetryLater, id="serialization failure"),
    ],
)
def test_error_of_the_server(engine: Engine, statements: list[str], kind: type[TidegateError]) -> None:
    error = error_of(engine, *statements)
    assert sqlstate.classify(error) is kind
    assert sqlstate.classify(error.orig or error) is kind  # psycopg's own, without SQLAlchemy


def test_undefined_table_hints_at_the_command(engine: Engine) -> None:
    error = sqlstate.translate(error_of(engine, "select * from nowhere"))
    assert error is not None
    assert error.reason == 'relation "nowhere" does not exist'
    assert "python main.py db upgrade" in error.hint


def test_an_error_that_nobody_knows_is_told_with_its_code(engine: Engine) -> None:
    error = sqlstate.translate(error_of(engine, "do $$ begin raise sqlstate 'ZZ123' using message = 'odd'; end $$"))
    assert error is not None
    assert error.reason == "odd (raised by inline_code_block, SQLSTATE ZZ123)"


def test_what_ends_the_daemon_elsewhere_rests_a_flow_whose_table_it_is(engine: Engine) -> None:
    with (
        pytest.raises(RestFlow, match="does not exist") as caught,
        sqlstate.of_a_flow(),
        engine.connect() as connection,
    ):
        connection.execute(text("select * from nowhere"))
    assert "python main.py db upgrade" in caught.value.hint


def test_values_of_records_stay_out_of_the_message(engine: Engine) -> None:
    error = error_of(engine, VEHICLE, VEHICLE)
    assert "SECRET" in str(error)  # PostgreSQL's detail quotes the key
    assert str(sqlstate.translate(error)) == ('duplicate key value violates unique constraint "vehicles_status_pkey"')


def test_deadlock_is_retried(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text(VEHICLE))
        connection.execute(text(VEHICLE.replace("SECRET", "other")))
    both_hold_one, raised = Barrier(2), list[BaseException]()

    def update(*vehicles: str) -> None:
        try:
            with engine.begin() as connection:
                connection.execute(text("set local deadlock_timeout = '20ms'"))
                lock = text("select from vehicles_status where vehicle_id = :id for update")
                connection.execute(lock, {"id": vehicles[0]})
                both_hold_one.wait()
                connection.execute(lock, {"id": vehicles[1]})
        except sqlalchemy.exc.DBAPIError as error:
            raised.append(error)

    threads = [Thread(target=update, args=pair) for pair in (("SECRET", "other"), ("other", "SECRET"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [sqlstate.classify(error) for error in raised] == [Contention]


def test_lock_timeout_is_retried(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("lock table vehicles_status"))
        error = error_of(engine, "set lock_timeout = 1", "select from vehicles_status")
    assert sqlstate.classify(error) is RetryLater


@contextmanager
def engine_on(uri: str) -> Iterator[Engine]:
    engine = sqlalchemy.create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(uri))
    yield engine
    engine.dispose()


@pytest.mark.parametrize(
    ("change", "kind", "hint"),
    [
        (lambda uri: "postgresql://user:SECRET@127.0.0.1:1/x", RetryLater, ""),
        (lambda uri: uri.replace("tidegate_test_", "no_such_"), StopDaemon, "create the database"),
        (lambda uri: f"{uri}{'&' if '?' in uri else '?'}user=nobody", StopDaemon, "check user and password"),
    ],
    ids=["connection refused", "wrong database", "wrong user"],
)
def test_no_connection(database_url: str, change: Callable[[str], str], kind: type[TidegateError], hint: str) -> None:
    with engine_on(change(database_url)) as engine, pytest.raises(kind) as caught:
        ping(engine)
    assert hint in caught.value.hint
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize(
    ("number", "word"),
    [(None, "a\0b"), (None, "\ud800"), (2**70, None), (2**20_000, None)],
    ids=["NUL", "lone surrogate", "too large", "huge"],
)
def test_value_that_cannot_be_sent_is_the_files_fault(database_url: str, number: int | None, word: str | None) -> None:
    def copy_binary() -> None:
        with psycopg.connect(database_url) as connection:
            connection.execute("create temp table t (number bigint, word text)")
            with connection.cursor().copy("copy t from stdin (format binary)") as copy:
                copy.set_types(["int8", "text"])
                copy.write_row((number, word))

    with pytest.raises(RejectFile), sqlstate.translated():
        copy_binary()
