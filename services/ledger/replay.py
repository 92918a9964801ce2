"""Once more: files to be loaded again, files to be put back or delivered again, rows to go out again."""

from dataclasses import dataclass

from psycopg import Connection, sql

from models.errors import TidegateError
from models.flow import Flow
from models.ledger import OutboundStatus
from services.db.identifiers import names
from services.ledger.outbound import key_of_state
from services.ledger.statements import statement, transition

_PLACE_AGAIN = """
insert into tidegate.placed_file (flow, identity, again) values (%s, %s, true)
on conflict (flow, identity) do update set again = true
"""


def place_again(connection: Connection, flow: str, identity: str) -> None:
    """Have a file loaded whatever is known of its content: who places it means it.

    Call it before the file has its name, or the loader could be faster. A file that never gets it leaves a line
    that no other file can have.
    """
    with connection.transaction():
        connection.execute(_PLACE_AGAIN, [flow, identity])


_PLACE_REPEATED = statement("""
insert into tidegate.placed_file (flow, identity, again)
select %(flow)s, %(identity)s, false
where exists (
    select from tidegate.inbound_file
    where flow = %(flow)s and sha256 = %(sha256)s and name = %(name)s and status <> {duplicate}
        and ({current} or {not_current})
)
on conflict do nothing
""")


def place_repeated(connection: Connection, *, flow: str, name: str, sha256: bytes, identity: str) -> None:
    """Have a file not loaded that repeats one of the same name and content, which was meant only once.

    So comes again what its sender got no answer to: the first one is loaded, and nobody knows of it.
    """
    with connection.transaction():
        values = {"flow": flow, "name": name, "sha256": sha256, "identity": identity}
        connection.execute(_PLACE_REPEATED, values)


def set_place(connection: Connection, file_id: int, place: str | None) -> None:
    """Where a rejected file is kept; None for one that is put back."""
    connection.execute("update tidegate.inbound_file set filed_as = %s where id = %s", [place, file_id])


def release_quarantined(connection: Connection, flow: Flow) -> int:
    """Try the rows again that could not be translated; how many there are."""
    query = sql.SQL("update {} set outbound_error = null, is_synced = false where outbound_error is not null")
    return connection.execute(query.format(sql.Identifier(flow.sql_table.name))).rowcount


# A row names the file of its last document; the files of the others name the row.
_SEND_AGAIN = """
update {table} set is_synced = false
where is_synced and (outbound_file_id = %(id)s or ({key}, changed_at) in (
    select {fields}, (r ->> {last})::timestamptz
    from tidegate.outbound_file f, jsonb_array_elements(f.carries) r where f.id = %(id)s))
"""


def send_rows_again(connection: Connection, flow: Flow, file_id: int) -> int:
    """Have the rows go out again that an outbound file carried; how many there are.

    A row that changed since has gone out in another file, and stays as it is.
    Raises TidegateError when the flow's rows go out once in their life.
    """
    if flow.once:
        raise TidegateError(
            f"#{file_id}: what {flow.name} sends goes out once, and never again",
            hint="put the file back as it was: one that a partner turned down is then delivered again",
        )
    query = statement(
        _SEND_AGAIN,
        table=sql.Identifier(flow.sql_table.name),
        key=names(flow.key),
        fields=key_of_state(flow),
        last=sql.Literal(len(flow.key)),
    )
    return connection.execute(query, {"id": file_id}).rowcount


_DEAD_LETTERS = statement("""
select id from tidegate.outbound_file where status = {failed} and flow = coalesce(%s, flow) order by id
""")


def dead_letters(connection: Connection, flow: str | None) -> list[int]:
    """The files that partners turned down for good, of one flow or of all."""
    return [number for (number,) in connection.execute(_DEAD_LETTERS, [flow]).fetchall()]


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A file that a partner turned down for good.

    is_kept: the ledger has its content, and no newer file has its name.
    """

    flow: str
    name: str
    sha256: bytes
    is_kept: bool


_DEAD_LETTER = statement("""
select flow, name, sha256, content is not null and not exists (
    select from tidegate.outbound_file n where n.flow = o.flow and n.name = o.name and n.id > o.id)
from tidegate.outbound_file o where id = %s and status = {failed}
""")


def dead_letter(connection: Connection, file_id: int) -> DeadLetter | None:
    """The dead letter of this id; None when the file is no such."""
    found = connection.execute(_DEAD_LETTER, [file_id]).fetchone()
    return DeadLetter(*found) if found else None


_DELIVER_AGAIN = transition(
    """
    update tidegate.outbound_file set status = {target}, attempts = 0, last_error = null
    where id = %s and status = {source}
    """,
    OutboundStatus.FAILED,
    OutboundStatus.WRITTEN,
)


def deliver_again(connection: Connection, file_id: int) -> bool:
    """Have a dead letter delivered once more, as it is."""
    return bool(connection.execute(_DELIVER_AGAIN, [file_id]).rowcount)


_GIVE_UP = transition(
    """
    update tidegate.outbound_file o set status = {target}, content = null
    where id = %(id)s and status = {source} and (%(anew)s or exists (
        select 1 from tidegate.outbound_file n where n.flow = o.flow and n.name = o.name and n.id > o.id))
    """,
    OutboundStatus.FAILED,
    OutboundStatus.SUPERSEDED,
)


def give_up(connection: Connection, file_id: int, *, goes_out_anew: bool) -> bool:
    """Have done with a dead letter whose rows go out in another file; False when they do not, and it stays one."""
    connection.execute(_GIVE_UP, {"id": file_id, "anew": goes_out_anew})
    return dead_letter(connection, file_id) is None
