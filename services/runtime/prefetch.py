"""Reading ahead: the next batch is parsed and validated while the database digests the last one."""

import queue
import threading
from collections.abc import Generator, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Item(Generic[T]):
    value: T


@dataclass(frozen=True, slots=True)
class _End:
    error: BaseException | None


def ahead(source: Iterable[T]) -> Generator[T, None, None]:
    """The items of `source`, taken from it by a thread that is one item ahead.

    What `source` raises is raised here. Closing this generator ends the thread.
    """
    items: queue.Queue[_Item[T] | _End] = queue.Queue(maxsize=1)
    abandoned = threading.Event()

    def put(item: _Item[T] | _End) -> None:
        while not abandoned.is_set():
            with suppress(queue.Full):
                items.put(item, timeout=0.1)
                break

    def read() -> None:
        try:
            for value in source:
                put(_Item(value))
                if abandoned.is_set():
                    return
        except BaseException as error:  # noqa: BLE001  # handed over, not swallowed
            put(_End(error))
        else:
            put(_End(None))

    reader = threading.Thread(target=read, name="read ahead", daemon=True)
    reader.start()
    try:
        while isinstance(item := items.get(), _Item):
            yield item.value
        if item.error is not None:
            raise item.error
    finally:
        abandoned.set()
        reader.join()
