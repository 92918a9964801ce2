"""Floors: the least that anybody has to do who wants the same rows and files."""

import ctypes
import json
import os
from collections.abc import Iterable, Sequence
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event
from pathlib import Path

import psycopg
from psycopg import Cursor, sql

from benchmarks.bench import Bench
from benchmarks.data import VEHICLES_TABLE, Parsed, Row
from models.flow import Flow
from services.db.triggers import loading

_STAGE = sql.Identifier("raw_stage")


def names(columns: Iterable[str]) -> sql.Composed:
    return sql.SQL(", ").join(map(sql.Identifier, columns))


def copy(cursor: Cursor, table: sql.Identifier, columns: Sequence[str], rows: Iterable[Row]) -> None:
    """Binary COPY by psycopg."""
    parts = {"table": table, "columns": names(columns)}
    described = cursor.execute(sql.SQL("select {columns} from {table} limit 0").format(**parts)).description
    with cursor.copy(sql.SQL("copy {table} ({columns}) from stdin (format binary)").format(**parts)) as copied:
        copied.set_types([column.type_code for column in described or ()])
        for row in rows:
            copied.write_row(row)


def copy_and_upsert(bench: Bench, flow: Flow, parsed: Parsed) -> None:
    """One COPY, one upsert; children of new rows go straight into their table.

    As a loader does, it spares the server the triggers that notice a change by hand.
    """
    with psycopg.connect(bench.url) as connection, connection.cursor() as cursor:
        cursor.execute(loading(flow))
        table = sql.Identifier(flow.sql_table.name)
        parts: dict[str, sql.Composable] = {"stage": _STAGE, "table": table, "columns": names(parsed.columns)}
        create = "create temporary table {stage} on commit drop as select {columns} from {table} with no data"
        cursor.execute(sql.SQL(create).format(**parts))
        copy(cursor, _STAGE, parsed.columns, parsed.rows)
        cursor.execute(sql.SQL(_UPSERT).format(**parts, key=names(flow.key), action=_action(flow, parsed)))
        for number, rows in enumerate(parsed.children):
            columns = (*flow.key, *flow.child_columns(number))
            copy(cursor, sql.Identifier(flow.sql_tables[1 + number].name), columns, rows)


_UPSERT = "insert into {table} as t ({columns}) select {columns} from {stage} on conflict ({key}) {action}"


def _action(flow: Flow, parsed: Parsed) -> sql.Composable:
    if flow.append_only:
        return sql.SQL("do nothing")
    data = [sql.Identifier(column) for column in parsed.columns if column not in flow.key]
    assigned = sql.SQL(", ").join(sql.SQL("{0} = excluded.{0}").format(column) for column in data)
    newest = sql.Identifier(flow.newest_by or flow.key[0])
    return sql.SQL("do update set {}, changed_at = now() where t.{} <= excluded.{}").format(assigned, newest, newest)


def copy_straight(bench: Bench, flow: Flow, parsed: Parsed) -> None:
    """COPY into the table itself, which only new rows can take."""
    with psycopg.connect(bench.url) as connection, connection.cursor() as cursor:
        copy(cursor, sql.Identifier(flow.sql_table.name), parsed.columns, parsed.rows)


def read_parse_rename(paths: Iterable[Path], done: Path) -> None:
    """What stands in each small file, and the file elsewhere."""
    for path in paths:
        json.loads(path.read_bytes())
        path.rename(done / path.name)


def write_sync_rename(folder: Path, contents: Iterable[tuple[str, bytes]]) -> None:
    """A file by a temporary name, durable before it has its own."""
    for name, content in contents:
        temporary = f"{folder}/.{name}.tmp"
        with open(temporary, "wb", buffering=0) as file:
            file.write(content)
            os.fsync(file.fileno())
        os.rename(temporary, f"{folder}/{name}")  # noqa: PTH104  # a plain loop has no pathlib


def committing_on_wake(bench: Bench, folder: Path) -> BaseProcess:
    """A process that inserts and commits one row for each file that comes into the folder, whose name is its key."""
    context = get_context("spawn")
    ready = context.Event()
    process = context.Process(target=_commit_on_wake, args=(bench.url, str(folder), ready), daemon=True)
    process.start()
    assert ready.wait(30)
    return process


_IN_MOVED_TO = 0x80
_EVENT_HEAD = 16
_INSERT = f"insert into {VEHICLES_TABLE} (vehicle_id, report_time, status) values (%s, now(), 'parking')"


def _commit_on_wake(url: str, folder: str, ready: Event) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = libc.inotify_init1(0)
    libc.inotify_add_watch(descriptor, folder.encode(), _IN_MOVED_TO)
    with psycopg.connect(url, autocommit=True) as connection:
        ready.set()
        while True:
            name = os.read(descriptor, 4096)[_EVENT_HEAD:].rstrip(b"\0").decode()
            connection.execute(_INSERT.encode(), [name])
