"""What a stand-in remembers: dictionaries of JSON documents, which a small SQLite file keeps over restarts."""

import json
import sqlite3
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import Any

Document = dict[str, Any]  # JSON of a partner, as it goes over the wire


class State:
    """The collections of one stand-in; without a file they live as long as it does."""

    def __init__(self, file: Path | None) -> None:
        # Several threads use it, never two at a time: the server's, and that of a test.
        self._connection = sqlite3.connect(file or ":memory:", isolation_level=None, check_same_thread=False)
        self._connection.execute(
            "create table if not exists document (collection text, key text, body text, primary key (collection, key))"
        )

    def collection(self, name: str) -> "Collection":
        return Collection(self._connection, name)

    def close(self) -> None:
        self._connection.close()


class Collection(MutableMapping[str, Document]):
    """Documents by key, in the order in which they came; store a changed document anew to keep it."""

    def __init__(self, connection: sqlite3.Connection, name: str) -> None:
        self._connection = connection
        self._name = name
        rows = connection.execute("select key, body from document where collection = ? order by rowid", (name,))
        self._documents: dict[str, Document] = {key: json.loads(body) for key, body in rows}

    def __getitem__(self, key: str) -> Document:
        return self._documents[key]

    def __setitem__(self, key: str, document: Document) -> None:
        self._connection.execute(
            "insert into document values (?, ?, ?) on conflict (collection, key) do update set body = excluded.body",
            (self._name, key, json.dumps(document)),
        )
        self._documents[key] = document

    def __delitem__(self, key: str) -> None:
        del self._documents[key]
        self._connection.execute("delete from document where collection = ? and key = ?", (self._name, key))

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._documents))

    def __len__(self) -> int:
        return len(self._documents)
