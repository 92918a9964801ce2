"""What the ledger is told of interchanges, within the transaction that loads: their control references, our answers."""

import hashlib
from datetime import UTC, datetime

from loguru import logger
from psycopg import Connection
from psycopg.types.json import Jsonb

from file_processing import documents
from file_processing.batch import Malformed
from file_processing.edi import acknowledgement
from file_processing.edi.received import Received, RejectInterchange
from file_processing.planning import Incoming, Plan
from models import edi_text
from models.edi import Standard
from models.ledger import OutboundStatus
from services.db.triggers import CHANNEL

_SUFFIXES = {Standard.EDIFACT: ".edi", Standard.X12: ".x12"}

_DUPLICATE = "26"
"""Of data element 0085: duplicate detected."""


def claim(connection: Connection, plan: Plan) -> RejectInterchange | None:
    """Remember the control reference of a file that loads; why it does not, where that was used before."""
    received = plan.file.interchange
    if received is None:
        return None
    interchange = received.interchange
    key = [
        interchange.standard.value,
        ":".join(interchange.sender),
        ":".join(interchange.receiver),
        interchange.reference,
    ]
    claimed = connection.execute(
        """
        insert into tidegate.interchange as i (standard, sender, receiver, reference, inbound_file_id)
        values (%s, %s, %s, %s, %s)
        on conflict (standard, sender, receiver, reference)
            do update set inbound_file_id = excluded.inbound_file_id where i.inbound_file_id = %s
        returning 1
        """,
        [*key, plan.file_id, plan.supersedes],
    ).fetchone()
    if claimed is not None:
        return None
    found = connection.execute(
        """
        select inbound_file_id from tidegate.interchange
        where (standard, sender, receiver, reference) = (%s, %s, %s, %s)
        """,
        key,
    ).fetchone()
    assert found is not None
    return RejectInterchange(
        f"{interchange.sender.id} used the control reference {interchange.reference} before, in #{found[0]}",
        hint="the sender has to give every interchange a control reference of its own",
        code=_DUPLICATE if interchange.standard is Standard.EDIFACT else "",
        tag="UNB" if interchange.standard is Standard.EDIFACT else "ISA",
        element=5 if interchange.standard is Standard.EDIFACT else 13,
        received=received,
    )


def answer(connection: Connection, file: Incoming, *, flow: str, node: str) -> None:
    """Fix the acknowledgement of an interchange as an outbound file, which the writer writes.

    Where the fault is ours, the partner is told nothing.
    """
    received = file.interchange
    if received is None:
        return
    for told in acknowledgement.refusals(received.acknowledgements):
        logger.bind(flow=flow, file=file.name).warning("{}: {} of {}", flow, told, received.interchange.sender.id)
    if file.is_test and received.messages:
        logger.bind(flow=flow, file=file.name).info(
            "{}: {} is a test of {}: it is answered, nothing of it loads",
            flow,
            file.name,
            received.interchange.sender.id,
        )
    whole = file.refused if isinstance(file.refused, RejectInterchange) else None
    if file.refused is not None and whole is None:
        return
    reply = acknowledgement.acknowledge(received, whole, _faults(file, received), datetime.now(UTC))
    if reply is None:
        return
    row = connection.execute("select nextval('tidegate.outbound_file_id_seq')").fetchone()
    assert row is not None
    content = edi_text.render(reply, row[0])
    pattern = reply.type.lower() + "/{partner}/{number}" + _SUFFIXES[reply.standard]
    connection.execute(
        """
        insert into tidegate.outbound_file (id, flow, name, sha256, bytes, records, status, node, content, taken)
        values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
        """,
        [
            row[0],
            flow,
            documents.filled(pattern, {"partner": received.interchange.sender.id, "number": row[0]}),
            hashlib.sha256(content).digest(),
            len(content),
            len(reply.messages),
            OutboundStatus.WRITING.value,
            node,
            content,
            Jsonb([]),
        ],
    )
    connection.execute("select pg_notify(%s, %s)", [CHANNEL, flow])


def _faults(file: Incoming, received: Received) -> acknowledgement.Faults:
    if not file.lands:
        return dict.fromkeys(range(len(received.messages)))
    assert file.messages is not None
    records = [file.messages.records[refused.position] for refused in file.refusals]
    positions = [refused.position for refused in file.refusals]
    return {
        position: record.cause if isinstance(record, Malformed) else None
        for position, record in zip(positions, records, strict=True)
    }
