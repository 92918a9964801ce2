"""Reading ahead: what comes next is fetched while what came last is dealt with."""

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


def ahead(source: Iterable[T], items: int = 1) -> Generator[T, None, None]:
    """The items of `source`, taken from it by a thread that is so many items ahead.

    What `source` raises is raised here. Closing this generator ends the thread.
    """
    fetched: queue.Queue[_Item[T] | _End] = queue.Queue(maxsize=items)
    abandoned = threading.Event()

    def put(item: _Item[T] | _End) -> None:
        while not abandoned.is_set():
            with suppress(queue.Full):
                fetched.put(item, timeout=0.1)
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
        while isinstance(item := fetched.get(), _Item):
            yield item.value
        if item.error is not None:
            raise item.error
    finally:
        abandoned.set()
        reader.join()
