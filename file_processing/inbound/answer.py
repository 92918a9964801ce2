"""The answer to a file whose sender wants one, sealed in the transaction that loads it."""

from datetime import UTC, datetime

from loguru import logger
from psycopg import Connection

from file_processing.inbound.deduplicate import LoadDecision
from file_processing.inbound.tally import Tally
from services.files import names
from services.ledger import outbound
from services.ledger.outbound import SealedFile


def seal(connection: Connection, flow: str, node: str, made: LoadDecision, tally: Tally) -> None:
    """Tell the sender what became of the file; where the fault is ours, nothing."""
    rejection = made.read.rejection
    exchange = (rejection.exchange if rejection else None) or tally.exchange
    if exchange is None:
        return
    name = made.read.file.name
    for notice in exchange.notices():
        logger.bind(flow=flow, file=name).warning("{}: {}: {}", flow, name, notice)
    if rejection is not None and rejection.exchange is None:
        return
    rejected = set(tally.rejected.positions) if made.read.loads else None
    answer = exchange.answer(rejected, datetime.now(UTC))
    if answer is None:
        return
    (number,) = outbound.next_ids(connection, 1)
    name = f"{answer.document}/{names.portable(answer.partner)}/{number}{answer.suffix}"
    file = SealedFile(number, answer.document, name, answer.render(number), answer.records)
    outbound.seal_answer(connection, flow, node, file)
