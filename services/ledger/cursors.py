"""How far each source has got."""

from typing import Any

from psycopg import Connection
from psycopg.types.json import Jsonb


def read(connection: Connection, flow: str, source: str) -> dict[str, Any]:
    """What a source remembers; empty when it never ran."""
    found = connection.execute(
        "select state from tidegate.cursor where flow = %s and source = %s", [flow, source]
    ).fetchone()
    return dict(found[0]) if found else {}


_MOVE = """
insert into tidegate.cursor as c (flow, source, state) values (%s, %s, %s)
on conflict (flow, source) do update set state = excluded.state, updated_at = now()
where c.state is distinct from excluded.state
"""


def move(connection: Connection, flow: str, source: str, state: dict[str, Any]) -> None:
    """Call it when what lies before the cursor is on disk."""
    connection.execute(_MOVE, [flow, source, Jsonb(state)])
