"""What tests of the command line have in common."""

import json
import subprocess
from pathlib import Path
from typing import Any

T1, T2 = "2022-05-05T22:02:34Z", "2022-05-05T23:02:34Z"
NOWHERE = "postgresql://anna:s3cret@127.0.0.1:1/tidegate"


def report(vehicle: str, time: str = T1, status: str = "driving") -> dict[str, str]:
    return {"vehicle_id": vehicle, "report_time": time, "status": status}


def write(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def lines(done: "subprocess.CompletedProcess[str]") -> list[Any]:
    """What stands on standard output: one line of JSON after the other."""
    return [json.loads(line) for line in done.stdout.splitlines()]


def sentence(done: "subprocess.CompletedProcess[str]") -> str:
    """What stands on standard error: one sentence for a person."""
    assert "Traceback" not in done.stderr
    (line,) = done.stderr.splitlines()
    return line
