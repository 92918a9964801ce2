"""Flows that only a test has: written into a folder, and forgotten afterwards."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from models.tables import Base


@contextmanager
def flow_files(folder: Path, **texts: str) -> Iterator[Path]:
    """A folder of flows by name; what they declare in this process is forgotten at the end."""
    folder.mkdir()
    for name, text in texts.items():
        (folder / f"{name}.py").write_text(text)
    tables = {*Base.metadata.tables}
    try:
        yield folder
    finally:
        for name in {*Base.metadata.tables} - tables:
            Base.metadata.remove(Base.metadata.tables[name])
        for name in texts:
            sys.modules.pop(f"flows.{name}", None)
            for mapper in [*Base.registry.mappers]:
                if mapper.class_.__module__ == f"flows.{name}":
                    Base.registry._dispose_cls(mapper.class_)
