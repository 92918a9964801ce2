"""Any order of loading gives the same table, by any number of loaders."""

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from queue import Empty, SimpleQueue
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from psycopg import sql
from pydantic import BaseModel
from sqlalchemy import ForeignKeyConstraint, Text
from sqlalchemy.orm import Mapped, mapped_column

from commands.site import Site as Assembly
from file_processing.inbound.adhoc import GivenFile
from file_processing.inbound.pipeline import InHand, Pipeline
from file_processing.inbound.routing import DroppedFile, RoutedFile
from flows import Flows
from models.flow import Flow
from models.tables import ChildRow, LoadedRow, ParentRow
from services.db import schema
from services.db.engine import Database, open_database
from tests.support.sites import Site


class Record(BaseModel):
    key: str
    at: int
    word: str
    tags: list[str] | None = None


class Newest(LoadedRow):
    __tablename__ = "order_newest"
    key: Mapped[str] = mapped_column(Text, primary_key=True)
    at: Mapped[int]
    word: Mapped[str]


class Last(LoadedRow):
    __tablename__ = "order_last"
    key: Mapped[str] = mapped_column(Text, primary_key=True)
    at: Mapped[int]
    word: Mapped[str]


class First(LoadedRow):
    __tablename__ = "order_first"
    key: Mapped[str] = mapped_column(Text, primary_key=True)
    at: Mapped[int]
    word: Mapped[str]


class Parent(ParentRow):
    __tablename__ = "order_parents"
    key: Mapped[str] = mapped_column(Text, primary_key=True)
    at: Mapped[int]
    word: Mapped[str]


class Tag(ChildRow):
    __tablename__ = "order_tags"
    __table_args__ = (ForeignKeyConstraint(["key"], ["order_parents.key"], ondelete="CASCADE"),)
    key: Mapped[str] = mapped_column(Text, primary_key=True)
    tag: Mapped[str] = mapped_column(Text, primary_key=True)


def with_tags(record: Record) -> Iterator[dict[str, Any]]:
    yield {
        "key": record.key,
        "at": record.at,
        "word": record.word,
        "order_tags": [{"tag": tag} for tag in sorted(set(record.tags or []))],
    }


FLOWS: Flows = {
    flow.name: flow
    for flow in (
        Flow(name="newest", record=Record, table=Newest, newest_by="at"),
        Flow(name="last", record=Record, table=Last),
        Flow(name="first", record=Record, table=First, append_only=True),
        Flow(name="parents", record=Record, table=Parent, newest_by="at", children=(Tag,), to_rows=with_tags),
    )
}

RECORDS = st.lists(
    st.builds(
        lambda key, at, word, tags: {"key": key, "at": at, "word": word, "tags": tags},
        st.sampled_from("abc"),
        st.integers(1, 2),
        st.sampled_from("xyz"),
        st.lists(st.sampled_from("pq"), max_size=2),
    ),
    min_size=1,
    max_size=4,
)


@st.composite
def dropped(draw: st.DrawFn, *, repeats: bool) -> tuple[list[str], list[list[int]]]:
    """The contents of files, in the order in which they came; and their numbers in groups, as they are loaded."""
    known = st.lists(RECORDS.map(json.dumps), min_size=2, max_size=6, unique=not repeats)
    contents = draw(known)
    order = draw(st.permutations(range(len(contents))))
    groups: list[list[int]] = [[]]
    for number in order:
        if groups[-1] and not draw(st.integers(0, 1)):
            groups.append([])
        groups[-1].append(number)
    return contents, groups


class Others(InHand):
    """As where others handle files of the flow too."""

    def in_order(self, files: Sequence[DroppedFile]) -> bool:
        return False


class Loading:
    """Files of one flow, loaded by some loaders, each of which is one of a daemon of its own."""

    def __init__(self, site: Site, database: Database) -> None:
        self._folder = site.input
        self._url = site.url
        self._pipelines = [Assembly(site.settings, FLOWS, database).pipeline(site.input.resolve()) for _ in range(3)]

    def tables(self, flow: Flow, contents: Sequence[str], groups: Sequence[Sequence[int]], loaders: int) -> list[Any]:
        """What stands in the flow's tables after its files are loaded, but for where it came from."""
        self._forget(flow)
        waiting: SimpleQueue[Sequence[int]] = SimpleQueue()
        for group in groups:
            waiting.put(group)
        with ThreadPoolExecutor(loaders) as pool:
            for loading in [
                pool.submit(self._load, flow, contents, waiting, each) for each in self._pipelines[:loaders]
            ]:
                loading.result()
        with psycopg.connect(self._url) as connection:
            return [
                connection.execute(sql.SQL(query).format(sql.Identifier(table.name))).fetchall()
                for table, query in zip(
                    flow.sql_tables, ("select key, at, word from {} order by 1", "table {} order by 1, 2"), strict=False
                )
            ]

    def _load(
        self, flow: Flow, contents: Sequence[str], waiting: SimpleQueue[Sequence[int]], pipeline: Pipeline
    ) -> None:
        with suppress(Empty):
            while True:
                files = [RoutedFile(self._file(number, contents[number]), flow.name) for number in waiting.get_nowait()]
                while files:
                    results = list(pipeline.handle(flow.name, files, Others()))
                    waiting_still = {result.dropped.place for result in results if result.wait is not None}
                    files = [routed for routed in files if routed.dropped.place in waiting_still]

    def _file(self, number: int, content: str) -> GivenFile:
        path = self._folder / f"{number}.json"
        path.write_text(content)
        status = path.stat()
        return GivenFile(
            path, path.name, datetime.now(UTC), size=status.st_size, mtime_ns=status.st_mtime_ns, arrival=number + 1
        )

    def _forget(self, flow: Flow) -> None:
        with psycopg.connect(self._url) as connection:
            for table in flow.sql_tables[::-1]:
                connection.execute(sql.SQL("delete from {}").format(sql.Identifier(table.name)))
            connection.execute("delete from tidegate.inbound_file")


@pytest.mark.parametrize("name", FLOWS)
def test_any_order_gives_the_same_table(site: Site, name: str) -> None:
    flow = FLOWS[name]
    with open_database(site.settings) as database:
        loading = Loading(site, database)
        schema.prepare(database.engine, FLOWS)

        @settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
        @given(dropped(repeats=flow.last_to_arrive_wins), st.integers(1, 3))
        def check(files: tuple[list[str], list[list[int]]], loaders: int) -> None:
            contents, groups = files
            in_order = [[number] for number in range(len(contents))]
            assert loading.tables(flow, contents, groups, loaders) == loading.tables(flow, contents, in_order, 1)

        check()
