"""The demo, from start to Ctrl-C: all of it comes up, every flow gets records, and nothing is left running."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from commands import demo_stage
from tests.support.processes import ROOT
from tests.support.waiting import eventually

TABLES = ("vehicles_status", "objects_detection", "work_orders", "customers", "cases", "orders")


class Demo:
    """The demo as a process, with everything it keeps in `home`."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.screen = home.parent / "screen.txt"
        with self.screen.open("wb") as screen:
            self.process = subprocess.Popen(
                [sys.executable, str(ROOT / "main.py"), "demo", "--every", "0.05", "--folder", str(home)],
                cwd=home.parent,
                # Not ours: it must take nothing from here.
                env={**os.environ, "DATABASE_URL": "postgresql://nobody@127.0.0.1:1/nothing", "WORKERS": "1"},
                stdout=screen,
                stderr=screen,
            )

    def shown(self) -> str:
        return self.screen.read_text()

    def tidegate(self, *arguments: str) -> str:
        """What a person sees who follows the screen: `cd` there, and ask."""
        command = [sys.executable, str(ROOT / "main.py"), *arguments]
        return subprocess.run(command, cwd=self.home, capture_output=True, text=True, check=False).stdout

    def children(self) -> list[str]:
        return [line for line in _processes() if str(self.home) in line and str(self.process.pid) != line.split()[0]]


def _processes() -> list[str]:
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
                found.append(f"{folder.name} {(folder / 'cwd').readlink()} {command}")
            except OSError:  # it has ended meanwhile
                continue
    return found


@pytest.fixture
def demo(open_folder: Path) -> Iterator[Demo]:
    made = Demo(open_folder / "demo")
    yield made
    if made.process.poll() is None:
        made.process.send_signal(signal.SIGINT)
        made.process.wait(60)


@pytest.mark.timeout(300)  # several waits, each of which has its own end
def test_demo_shows_all_flows_and_ends_on_ctrl_c(demo: Demo) -> None:
    eventually(lambda: "\nNow\n" in demo.shown() or demo.process.poll() is not None, 60, "the screen")
    assert demo.process.poll() is None, demo.shown()
    counts = sql.SQL(" union all ").join(
        sql.SQL("select least(count(*), 1) from {}").format(sql.Identifier(table)) for table in TABLES
    )
    with psycopg.connect(demo.tidegate("db", "uri").strip(), autocommit=True) as connection:
        eventually(lambda: connection.execute(counts).fetchall() == [(1,)] * 6, 60, "a record in every flow")
    eventually(lambda: list(demo.home.glob("output/cases/*.json")), 20, "an outbound file")
    assert "did not work" not in demo.shown()
    assert demo.tidegate("db", "psql", "-At", "-c", "select count(*) > 0 from orders") == "t\n"
    assert demo.children()
    demo.process.send_signal(signal.SIGINT)
    assert demo.process.wait(60) == 0, demo.shown()
    assert demo.children() == []


def test_demo_says_what_to_open_and_what_to_try(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    demo_stage.tell_what_to_try(demo_stage.PORTS, tmp_path)
    shown = capsys.readouterr().out
    for port in demo_stage.PORTS.values():
        assert str(port) in shown
    assert json.dumps({"error_rate": 1}) in shown
    assert str(tmp_path) in shown
