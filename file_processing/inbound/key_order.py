"""The order in which new rows reach their table: that of its key.

Rows whose keys are neighbours in the index then come together: of keys that arrive at random each would go to another
page of it. And no two loaders ever wait for each other in a ring. What is upserted the server puts in order.
"""

from collections.abc import Iterator, Sequence
from operator import itemgetter

from file_processing.inbound.encode import EncodedRows
from file_processing.inbound.validate import CheckedBatch
from models.flow import Flow


def of_batch(checked: CheckedBatch, flow: Flow) -> CheckedBatch:
    """A batch with its rows by key, those of one key as they came, where each comes from a record of its own."""
    if len(set(checked.positions)) < len(checked.positions):
        return checked  # the rows of a record stay together, as the database may reject one of them
    key = itemgetter(*(flow.columns.index(column) for column in flow.key))
    try:
        order = sorted(range(len(checked.rows)), key=list(map(key, checked.rows)).__getitem__)
    except (TypeError, ArithmeticError):
        return checked  # these the database has to judge
    return checked._replace(
        rows=[checked.rows[index] for index in order],
        positions=[checked.positions[index] for index in order],
        children=[checked.children[index] for index in order] if checked.children else [],
    )


def of_blocks(blocks: Sequence[EncodedRows]) -> list[bytes]:
    """The rows of all blocks by key, each as it is sent; as they came where not all keys are at hand."""
    rows = [row for block in blocks for row in _rows(block)]
    keys = [key for block in blocks for key in block.keys]
    if len(keys) == len(rows):
        try:
            order = sorted(range(len(rows)), key=keys.__getitem__)
        except (TypeError, ArithmeticError):
            return rows
        return [rows[index] for index in order]
    return rows


def _rows(block: EncodedRows) -> Iterator[bytes]:
    start = 0
    for end in block.ends:
        yield block.data[start:end]
        start = end
