"""Once more: contents to be loaded again, files to be put back or delivered again, rows to go out again."""

from dataclasses import dataclass

from psycopg import Connection, sql

from models.errors import TidegateError
from models.flow import Flow
from models.ledger import OutboundStatus
from services.db.identifiers import names
from services.ledger.outbound import key_of_state
from services.ledger.statements import statement, transition

_RELOAD = statement("""
update tidegate.inbound_file set reload = true
where flow = %s and sha256 = %s and status in {in_table} and superseded_by is null
""")


def reload_content(connection: Connection, flow: str, sha256: bytes) -> None:
    """Have a content that was loaded before loaded again: a source went back to it, and means it."""
    connection.execute(_RELOAD, [flow, sha256])


# A file that a crash left without a receipt has the name that its repeat has, and was meant only once.
_RELOAD_RECEIVED = statement("""
update tidegate.inbound_file set reload = true
where flow = %(flow)s and sha256 = %(sha256)s and status in {in_table} and superseded_by is null
  and not exists (select from tidegate.receipt where flow = %(flow)s and idempotency_key = %(key)s)
  and not exists (
    select from tidegate.inbound_file
    where flow = %(flow)s and sha256 = %(sha256)s and name = %(name)s and status <> {duplicate}
  )
""")


def reload_received(connection: Connection, *, flow: str, name: str, sha256: bytes, key: str | None) -> None:
    """The same for what came by HTTP, unless this is a repeat of a request.

    Commit it before the file is in place, or the loader could be faster.
    """
    with connection.transaction():
        connection.execute(_RELOAD_RECEIVED, {"flow": flow, "name": name, "sha256": sha256, "key": key})


def reload_file(connection: Connection, file_id: int) -> None:
    """Have the content of one archived file loaded again."""
    connection.execute("update tidegate.inbound_file set reload = true where id = %s", [file_id])


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
