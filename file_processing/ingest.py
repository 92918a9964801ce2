"""Loading files now, wherever they lie, and leaving them there."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from file_processing.handler import Handler, Outcome
from flows import Flows
from models.errors import FileGone, RejectFile, RetryLater, TidegateError
from models.flow import Flow
from services.observer.scan import is_input


@dataclass(frozen=True, slots=True)
class Given:
    """A file that a person named, or that lies in a folder that a person named."""

    path: Path
    relative: str
    seen_at: datetime


def collect(paths: Sequence[Path]) -> list[Given]:
    """The files named, and those of the folders named at any depth, in order of names.

    Raises TidegateError when a path does not exist.
    """
    now = datetime.now(UTC)
    given: list[Given] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if is_input(p.name) and not p.is_dir())
            given += [Given(p, str(p), now) for p in inside]
        elif path.exists() or path.is_symlink():
            given.append(Given(path, str(path), now))
        else:
            raise TidegateError(f"{path} does not exist")
    return given


def ingest(handler: Handler, flows: Flows, given: Sequence[Given], flow: Flow | None) -> Iterator[Outcome]:
    """Load the files, each by `flow` or by what it and its folders are called and hold."""
    by_flow: dict[str, list[Given]] = {}
    for file in given:
        chosen = flow
        if chosen is None:
            try:
                routed = _route(handler, flows, file)
            except (FileGone, RetryLater) as error:
                yield Outcome(file, None, waits=error)
                continue
            if isinstance(routed, RejectFile):
                yield from handler.handle(None, [file], routed)
                continue
            chosen = routed
        by_flow.setdefault(chosen.name, []).append(file)
    for name, files in by_flow.items():
        yield from handler.handle(flows[name], files)


def _route(handler: Handler, flows: Flows, file: Given) -> Flow | RejectFile:
    folders = [flows[part] for part in file.path.absolute().parent.parts if part in flows]
    return folders[-1] if folders else handler.route_by_content(file)
