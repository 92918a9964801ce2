"""Which record of a key wins, said twice: among the staged ones, and against the one in the table.

Both take of equals the one whose file arrived last, on which the local replica counts
(`services.sources.local_replica`); where the first record of a key stays, the one whose file arrived first.
"""

from psycopg import sql

from models.flow import Flow
from services.ledger.arrival import came_before


def newest_first(flow: Flow) -> sql.Composable:
    """The winner first: the newest, and of equals the last that arrived, or the first where it stays.

    ctid tells the order of the rows of one record.
    """
    if flow.append_only:
        return sql.SQL("source_file_id, record_position, ctid")
    arrival = sql.SQL("source_file_id desc, record_position desc, ctid desc")
    if flow.newest_by is None:
        return arrival
    return sql.SQL("{} desc, ").format(sql.Identifier(flow.newest_by)) + arrival


def and_not_newer(flow: Flow) -> sql.Composable:
    """What keeps a row in the table that is newer than the one that comes."""
    later = came_before(sql.SQL("excluded.source_file_id"))
    if flow.append_only:
        return sql.SQL(" and not ") + later
    if flow.newest_by is None:
        return sql.SQL(" and ") + later
    older = sql.SQL("t.{0} < excluded.{0} or t.{0} = excluded.{0}").format(sql.Identifier(flow.newest_by))
    return sql.SQL(" and ({} and {})").format(older, later)
