"""What a running daemon says of itself, in DATA_DIR/run, so that `status` knows it while the database is down."""

import contextlib
import dataclasses
import fcntl
import itertools
import json
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from models.errors import TidegateError
from services import trust
from services.text import hidden

_REFRESH_SECONDS = 1.0
_STUCK_SECONDS = 60.0
"""A daemon that has said nothing of itself for so long no longer works."""


class Phase(StrEnum):
    """What the daemon is about."""

    STARTING = "starting"
    WATCHING = "watching"
    WAITING_FOR_DATABASE = "waiting for database"
    WAITING_FOR_ROOM = "waiting for room"
    STOPPING = "stopping"


@dataclass(frozen=True, slots=True)
class Fault:
    """What keeps the daemon, or one flow, from working, since when, and what helps.

    phase: what the daemon is about because of it; where one flow rests it watches for the others.
    """

    text: str
    hint: str
    since: datetime
    phase: Phase = Phase.WAITING_FOR_DATABASE

    @property
    def of_one_flow(self) -> bool:
        return self.phase is Phase.WATCHING


class JobPhase(StrEnum):
    """How a connector or server of the daemon is."""

    WAITING = "waiting"  # not tried yet
    RUNNING = "running"
    FAILING = "failing"  # tried again and again
    STOPPED = "stopped"  # until a person acts and starts the daemon anew


@dataclass(frozen=True, slots=True)
class JobState:
    """One connector or server.

    detail: what it does, or why it fails; `hint` says what helps.
    since: when the phase began. failures: how often it was started again.
    """

    name: str
    phase: JobPhase
    detail: str
    hint: str
    since: datetime
    failures: int


@dataclass(frozen=True, slots=True)
class DaemonState:
    """One running daemon.

    fault: what keeps all of it from working. resting: what keeps single flows from it.
    outbound: why outbound files of a flow cannot be written.
    crowds: the folders in which very many files wait, with how many are known to.
    """

    pid: int
    node: str
    started_at: datetime
    updated_at: datetime
    state: Phase
    input_dir: Path
    fault: Fault | None = None
    resting: Mapping[str, Fault] = field(default_factory=dict)
    outbound: Mapping[str, str] = field(default_factory=dict)
    waiting: tuple[tuple[str, str], ...] = ()
    crowds: Mapping[str, int] = field(default_factory=dict)
    counters: Mapping[str, int] = field(default_factory=dict)
    connectors: tuple[JobState, ...] = ()

    def why_not_alive(self) -> list[str]:
        """Why it had better be started anew; nothing when it lives."""
        silent = (datetime.now(UTC) - self.updated_at).total_seconds()
        return [f"the daemon has said nothing of itself for {silent:.0f} seconds"] if silent > _STUCK_SECONDS else []

    def why_not_ready(self) -> list[str]:
        """Why it does not load what comes now; nothing when it does."""
        fault = [self.fault.text] if self.fault else []
        phase = [] if self.state is Phase.WATCHING else [f"the daemon is {self.state}"]
        return [*self.why_not_alive(), *phase, *fault]


class Publisher:
    """Publishes one daemon's state for as long as it is open; a crash ends that as well.

    The file `<pid>.lock` is locked while the daemon lives, `<pid>.json` says how it is.
    """

    def __init__(self, data_dir: Path, *, node: str, input_dir: Path) -> None:
        run = trust.make_private(data_dir, "DATA_DIR") / "run"
        run.mkdir(mode=0o700, exist_ok=True)
        now = datetime.now(UTC)
        self._state = DaemonState(os.getpid(), node, now, now, Phase.STARTING, input_dir)
        self._changing = threading.Lock()
        self._lock, self._path = _claim(run, os.getpid())
        self._write()

    @property
    def state(self) -> DaemonState:
        """What is published now."""
        return self._state

    def update(self, **changes: Any) -> None:
        """Change fields of the state; cheap enough for every turn of a loop."""
        with self._changing:
            changed = dataclasses.replace(self._state, **changes)
            now = datetime.now(UTC)
            if changed != self._state or (now - self._state.updated_at).total_seconds() >= _REFRESH_SECONDS:
                self._state = dataclasses.replace(changed, updated_at=now)
                self._write()

    def close(self) -> None:
        """The daemon is gone."""
        self._path.unlink(missing_ok=True)
        self._path.with_suffix(".lock").unlink(missing_ok=True)
        os.close(self._lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _write(self) -> None:
        temporary = self._path.with_suffix(".tmp")
        file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(file, "w", encoding="ascii") as out:
            out.write(_dump(self._state))
        temporary.replace(self._path)


def publish(data_dir: Path, *, node: str, input_dir: Path) -> Publisher:
    """Begin to publish this process's state."""
    return Publisher(data_dir, node=node, input_dir=input_dir)


def running(data_dir: Path) -> list[DaemonState]:
    """The daemons alive now, the longest running first; what dead ones left is removed.

    Raises TidegateError when they are another user's.
    """
    states = []
    try:
        for lock in sorted((data_dir / "run").glob("*.lock")):
            with contextlib.suppress(FileNotFoundError):
                if _is_held(lock):
                    states.append(_load(lock.with_suffix(".json").read_text(encoding="ascii")))
    except PermissionError as error:
        raise TidegateError(f"may not read {error.filename}", hint="ask as the user the daemon runs as") from error
    return sorted(states, key=lambda state: state.started_at)


def _claim(run: Path, pid: int) -> tuple[int, Path]:
    """Lock a file for this process; containers that share DATA_DIR may well all be process 1."""
    for attempt in itertools.count():
        lock = run / (f"{pid}-{attempt}.lock" if attempt else f"{pid}.lock")
        file = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Who asked for the running ones may have removed the file before we held it.
            if lock.stat().st_ino == os.fstat(file).st_ino:
                return file, lock.with_suffix(".json")
        except (BlockingIOError, FileNotFoundError):
            pass
        os.close(file)
    raise AssertionError


def _is_held(lock: Path) -> bool:
    """Whether its daemon lives; a dead one's files are removed."""
    file = os.open(lock, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        # Shared: two that ask at the same time must not take each other for a daemon.
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        for suffix in (".json", ".tmp", ".lock"):
            lock.with_suffix(suffix).unlink(missing_ok=True)
        return False
    finally:
        os.close(file)


def _dump(state: DaemonState) -> str:
    # ASCII escapes carry the odd bytes of file names, which UTF-8 refuses.
    return hidden(json.dumps(dataclasses.asdict(state), default=str, ensure_ascii=True), is_json=True)


_Told = TypeVar("_Told", DaemonState, JobState, Fault)

_READ: Mapping[type, Mapping[str, Callable[[Any], Any]]] = {
    Fault: {"since": datetime.fromisoformat, "phase": Phase},
    JobState: {"since": datetime.fromisoformat, "phase": JobPhase},
    DaemonState: {
        "started_at": datetime.fromisoformat,
        "updated_at": datetime.fromisoformat,
        "state": Phase,
        "input_dir": Path,
        "fault": lambda fault: fault and _told(Fault, fault),
        "resting": lambda faults: {flow: _told(Fault, fault) for flow, fault in faults.items()},
        "waiting": lambda files: tuple((name, reason) for name, reason in files),
        "connectors": lambda jobs: tuple(_told(JobState, job) for job in jobs),
    },
}
"""The fields that JSON has otherwise than we do."""


def _load(text: str) -> DaemonState:
    return _told(DaemonState, json.loads(text))


def _told(kind: type[_Told], raw: Mapping[str, Any]) -> _Told:
    """What a daemon wrote, perhaps one of another release: a field that came later needs a default."""
    known = [each.name for each in dataclasses.fields(kind) if each.name in raw]
    read = _READ[kind]
    return kind(**{name: read[name](raw[name]) if name in read else raw[name] for name in known})
