"""What running daemons say of themselves."""

import os
import signal
import stat
import subprocess
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest

from models.errors import TidegateError
from services.runtime.status_file import Fault, Phase, publish, running

_DAEMON = """
import sys
from pathlib import Path
from services.runtime.status_file import publish
with publish(Path(sys.argv[1]), node="other", input_dir=Path("/in")):
    print("up", flush=True)
    sys.stdin.readline()
"""


def _start_daemon(data_dir: Path) -> subprocess.Popen[str]:
    daemon = subprocess.Popen(
        [sys.executable, "-c", _DAEMON, str(data_dir)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert daemon.stdout is not None
    assert daemon.stdout.readline() == "up\n"
    return daemon


def test_a_daemon_tells_how_it_is_until_it_ends(tmp_path: Path) -> None:
    assert running(tmp_path) == []
    fault = Fault("no database", "start it", datetime.now(UTC))
    with publish(tmp_path, node="here", input_dir=Path("/in/\udcff")) as daemon:
        (state,) = running(tmp_path)
        assert (state.pid, state.node, state.state) == (os.getpid(), "here", Phase.STARTING)
        daemon.update(
            state=Phase.WAITING_FOR_DATABASE,
            fault=fault,
            waiting=(("a\n\udcff.json", "empty"),),
            crowds={"/in/orders": 10_000},
            counters={"loaded": 3},
        )
        (state,) = running(tmp_path)
        assert state.state is Phase.WAITING_FOR_DATABASE
        assert state.fault == fault
        assert state.waiting == (("a\n\udcff.json", "empty"),)
        assert (state.crowds, state.counters) == ({"/in/orders": 10_000}, {"loaded": 3})
        assert state.input_dir == Path("/in/\udcff")
        assert state.updated_at >= state.started_at
        daemon.update(state=Phase.WATCHING, fault=None)
        (state,) = running(tmp_path)
        assert (state.state, state.fault) == (Phase.WATCHING, None)
    assert running(tmp_path) == []
    assert list((tmp_path / "run").iterdir()) == []


def test_only_the_owner_may_read_it(tmp_path: Path) -> None:
    with publish(tmp_path, node="here", input_dir=tmp_path):
        run = tmp_path / "run"
        assert stat.S_IMODE(run.stat().st_mode) == 0o700
        assert {stat.S_IMODE(path.stat().st_mode) for path in run.iterdir()} == {0o600}


def test_a_killed_daemon_runs_no_more_and_leaves_nothing(tmp_path: Path) -> None:
    with publish(tmp_path, node="here", input_dir=tmp_path), _start_daemon(tmp_path) as daemon:
        assert [state.node for state in running(tmp_path)] == ["here", "other"]
        daemon.send_signal(signal.SIGKILL)
        daemon.wait()
        assert [state.node for state in running(tmp_path)] == ["here"]
        assert {path.stem for path in (tmp_path / "run").iterdir()} == {str(os.getpid())}


def test_two_daemons_of_one_process_id_do_not_meet(tmp_path: Path) -> None:
    """As in two containers that share DATA_DIR."""
    with publish(tmp_path, node="a", input_dir=tmp_path), publish(tmp_path, node="b", input_dir=tmp_path):
        assert {state.node for state in running(tmp_path)} == {"a", "b"}


def test_many_may_ask_while_it_changes(tmp_path: Path) -> None:
    seen: list[int] = []
    with publish(tmp_path, node="here", input_dir=tmp_path) as daemon:

        def ask() -> None:
            seen.extend(len(running(tmp_path)) for _ in range(50))

        askers = [threading.Thread(target=ask) for _ in range(4)]
        for asker in askers:
            asker.start()
        for count in range(200):
            daemon.update(counters={"loaded": count})
        for asker in askers:
            asker.join()
    assert seen == [1] * 200


def test_another_users_state_is_said_to_be_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbid(*_: object, **__: object) -> int:
        raise PermissionError(13, "Permission denied", "run/1.lock")

    with publish(tmp_path, node="here", input_dir=tmp_path):
        with monkeypatch.context() as patch:
            patch.setattr(os, "open", forbid)
            with pytest.raises(TidegateError, match="may not read"):
                running(tmp_path)
        assert len(running(tmp_path)) == 1
