"""The references that senders have given their interchanges: none is used twice."""

from collections.abc import Sequence

from psycopg import Connection

_CLAIM = """
insert into tidegate.interchange as i (standard, sender, receiver, reference, inbound_file_id)
values (%s, %s, %s, %s, %s)
on conflict (standard, sender, receiver, reference)
    do update set inbound_file_id = excluded.inbound_file_id where i.inbound_file_id = %s
returning 1
"""

_FOUND = """
select inbound_file_id from tidegate.interchange
where (standard, sender, receiver, reference) = (%s, %s, %s, %s)
"""


def claim(connection: Connection, reference: Sequence[str], file_id: int, supersedes: int | None) -> int | None:
    """Remember the reference of a file that loads; the ledger id of the file that had it before, None for none.

    reference: standard, sender, receiver, and the sender's own number.
    supersedes: the file that this one takes the place of, which may well have had the same.
    """
    if connection.execute(_CLAIM, [*reference, file_id, supersedes]).fetchone() is not None:
        return None
    found = connection.execute(_FOUND, list(reference)).fetchone()
    assert found is not None  # a line that is there refused the claim, and none is ever taken away
    return int(found[0])
