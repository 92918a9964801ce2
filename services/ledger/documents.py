"""Which document an outbound file is of, where the ledger does not say it: the first release sealed files without."""

from psycopg import Connection

from models.flow import Flow

# Files of a named document lie in a folder of its name.
_TELL = """
update tidegate.outbound_file set document = coalesce((
    select d.name from unnest(%(names)s::text[], %(suffixes)s::text[]) as d (name, suffix)
    where starts_with(outbound_file.name, d.name || '/') and right(outbound_file.name, length(d.suffix)) = d.suffix
    limit 1
), '')
where flow = %(flow)s and document is null
"""


def tell(connection: Connection, flow: Flow) -> None:
    """Have every file of the flow know its document. A daemon of the first release may still be sealing some."""
    suffixes = flow.document_suffixes
    connection.execute(_TELL, {"flow": flow.name, "names": [*suffixes], "suffixes": [*suffixes.values()]})
