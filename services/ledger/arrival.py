"""Which file came before which, so that any order of loading gives the same table.

A file's arrival is its ctime when it was first seen in the input folder; of files of one moment the name tells,
then the content. The ledger keeps it, and a row's arrival is that of the last file that said what stands there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from psycopg import Connection, sql

from services.ledger.statements import statement


class Arrival(NamedTuple):
    """What files are put in order by. at: nanoseconds since the epoch; of another machine by its own clock."""

    at: int
    name: str
    content: bytes


@dataclass(frozen=True, slots=True)
class Arrivals:
    """The files that one transaction loads: by their ids in the ledger, ascending, when they came.

    in_order: no other file that came before one of them is still to be loaded.
    are_last: nor is any loaded, or being loaded, that came after them.
    """

    of: Mapping[int, Arrival]
    in_order: bool = True
    are_last: bool = False

    @property
    def parameters(self) -> Mapping[str, object]:
        """What a statement with `came_before` in it takes."""
        known = self.of.values()
        return {
            "files": list(self.of),
            "arrivals": [arrival.at for arrival in known],
            "names": [arrival.name for arrival in known],
            "contents": [arrival.content for arrival in known],
            "are_last": self.are_last,
        }


AFTER_ALL = Arrivals({})
"""Of files that come after all that the ledger knows, in the order of their ids."""

_CAME_BEFORE = """
(%(are_last)s or tidegate.came_before(
    coalesce(t.confirmed_file_id, t.source_file_id), {file}, %(files)s, %(arrivals)s, %(names)s, %(contents)s
))"""


def came_before(file: sql.Composable) -> sql.Composable:
    """Whether what the row `t` says came before a file of this transaction, or is that file's.

    file: the id of that one. The statement takes `Arrivals.parameters`.
    """
    return sql.SQL(_CAME_BEFORE).format(file=file)


_CAME_BETWEEN = statement("""
select exists (
    select from tidegate.inbound_file
    where flow = %(flow)s and status in {in_table} and superseded_by is null
      and arrival between %(after)s and %(before)s
      and (arrival, name collate "C", sha256) > (%(after)s, %(after_name)s collate "C", %(content)s)
      and (arrival, name collate "C", sha256) < (%(before)s, %(before_name)s collate "C", %(content)s)
      and id >= %(since)s
)
""")


def came_between(connection: Connection, flow: str, first: Arrival, again: Arrival, since: int = 0) -> bool:
    """Whether another file that is loaded came between two of one content; with an id from `since` on."""
    parameters = {
        "flow": flow,
        "content": first.content,
        "after": first.at,
        "after_name": first.name,
        "before": again.at,
        "before_name": again.name,
        "since": since,
    }
    (found,) = connection.execute(_CAME_BETWEEN, parameters).fetchone() or (False,)
    return bool(found)


_NEWEST = statement("select coalesce(max(arrival), 0) from tidegate.inbound_file where flow = %s and {current}")


def newest(connection: Connection, flow: str) -> int:
    """When the last file of the flow came that is loaded; it looks at all of them."""
    (found,) = connection.execute(_NEWEST, [flow]).fetchone() or (0,)
    return int(found)


_CAME_AGAIN = """
update tidegate.inbound_file f set arrival = p.arrival
from (
    select id, max(arrival) as arrival from unnest(%s::bigint[], %s::bigint[]) as p (id, arrival) group by id
) p
where f.id = p.id and f.arrival < p.arrival
"""


def came_again(connection: Connection, lines: Sequence[tuple[int, int]]) -> None:
    """The content of these lines came again, and says the same: it counts as of then."""
    if lines:
        connection.execute(_CAME_AGAIN, [[line for line, _ in lines], [at for _, at in lines]])
