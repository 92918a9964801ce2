"""The command line as a person and a script meet it: help, wrong usage, wrong configuration."""

import json
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import flows
import main
from tests.support.command_line import NOWHERE, sentence, write
from tests.support.processes import ROOT
from tests.support.sites import Site

FLOWS = flows.discover()


def commands() -> Iterator[tuple[str, Any]]:
    for name in main.COMMANDS:
        command = main.command(name)
        inner = getattr(command, "commands", None)
        yield from ((f"{name} {each}", below) for each, below in inner.items()) if inner else [(name, command)]


def test_every_command_of_the_design_is_there() -> None:
    names = {name for name, _ in commands()}
    wanted = {"run", "ingest", "status", "files", "retry", "trace", "flows", "check", "db uri", "db upgrade"}
    assert wanted <= names


@pytest.mark.parametrize("name", [name for name, _ in commands()])
def test_help_has_an_example_and_a_sentence_for_each_option(name: str, site: Site) -> None:
    shown = site.call(*name.split(), "--help").stdout
    assert f"python main.py {name}" in shown
    command = dict(commands())[name]
    for parameter in command.params:
        if parameter.name != "context":
            assert parameter.help, f"{name}: {parameter.name} says nothing"


@pytest.mark.parametrize("name", main.COMMANDS)
def test_the_list_of_commands_shows_the_line_that_its_help_begins_with(name: str, site: Site) -> None:
    _, line = main.COMMANDS[name]
    beginning, *_ = main.command(name).help.split("\n\n")
    assert line == " ".join(beginning.split())
    assert line in " ".join(site.call("--help", COLUMNS="200").stdout.split())


def in_a_process(code: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Some code in a process of its own, with `main` and `sys` imported, and the arguments as a command line."""
    start = f"import sys, main\nsys.argv = {['main.py', *arguments]!r}\n"
    return subprocess.run(
        [sys.executable, "-c", start + code], cwd=ROOT, capture_output=True, text=True, timeout=30, check=False
    )


def test_help_imports_nothing_that_only_the_commands_need() -> None:
    done = in_a_process(
        "try: main.main()\nexcept SystemExit: import json; print(json.dumps(sorted(sys.modules)), file=sys.stderr)",
        "--help",
    )
    imported = {name.partition(".")[0] for name in json.loads(done.stderr)}
    assert {"main", "typer"} <= imported
    ours = {"commands", "file_processing", "flows", "services", "settings"}
    theirs = {"alembic", "asyncssh", "fastapi", "httpx", "loguru", "psycopg", "pydantic", "sqlalchemy", "uvicorn"}
    assert imported & (ours | theirs) == set()


def test_what_goes_to_no_terminal_is_printed_without_rich() -> None:
    done = in_a_process(
        "from commands.console import out; out.print('a\\x1bb', style='red'); print('rich' in sys.modules)",
    )
    assert done.stdout == "a\\x1bb\nFalse\n"


LEFT = "import atexit, os, threading\nos._exit = lambda code: print('left with', code)\n"


def test_a_process_leaves_without_taking_the_interpreter_apart() -> None:
    done = in_a_process(LEFT + "atexit.register(print, 'the end'); main.process()", "nonsense")
    assert (done.returncode, done.stdout) == (2, "the end\nleft with 2\n")
    assert "No such command 'nonsense'" in done.stderr


def test_a_process_ends_after_its_threads() -> None:
    last = "threading.Thread(target=lambda: (threading.main_thread().join(), print('waited for'))).start()\n"
    done = in_a_process(LEFT + last + "main.process()", "nonsense")
    assert (done.returncode, done.stdout) == (2, "waited for\n")


def test_a_process_says_when_nobody_can_read_what_it_printed() -> None:
    done = in_a_process("sys.stdout = open('/dev/full', 'w'); print('lost', end=''); main.process()", "nonsense")
    assert done.returncode == 120
    assert "No space left on device" in done.stderr


def test_the_main_help_tells_the_exit_codes(site: Site) -> None:
    shown = " ".join(site.call("--help").stdout.split())
    assert "0 all well, 1 something was rejected, 2 wrong usage or configuration" in shown


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["status", "--nonsense"],
        ["ingest"],
        ["files", "--limit", "0"],
        ["files", "--limit", "many"],
        ["files", "--status", "odd"],
        ["retry"],
        ["retry", "seven"],
        ["retry", "1", "--all-rejected"],
        ["retry", "1", "--flow", "work_orders"],
        ["retry", "1", "--dead-letter"],
        ["retry", "--dead-letter", "--quarantined"],
        ["retry", "--outbound", "1", "--flow", "work_orders"],
        ["trace", "work_orders"],
        ["db", "nonsense"],
    ],
    ids=" ".join,
)
def test_wrong_usage_exits_2(arguments: list[str], site: Site) -> None:
    done = site.call(*arguments, expect=2)
    assert done.stdout == ""
    assert "Usage" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["files", "--since", "nonsense"], "--since 'nonsense' is no time (2026-01-31,"),
        (["files", "--since", "99999999999d"], "is no time"),
        (["files", "--flow", "odd"], f"there is no flow 'odd' (there are {', '.join(FLOWS)})"),
        (["ingest", "--flow", "odd", "x.json"], "there is no flow 'odd'"),
        (["ingest", "missing.json"], "missing.json does not exist"),
        (["trace", "odd", "1"], "there is no flow 'odd'"),
        (["trace", "work_orders", "99"], "work_orders has no row with number 99"),
        (["trace", "work_orders", "abc"], "number abc is no key of work_orders"),
        (["trace", "detection_events", "a"], "is vehicle_id, detection_time, object_type: 3 values, not 1"),
        (["trace", "detection_events", "a", "soon", "cars"], "detection_time (timestamp with time zone)"),
        (["retry", "99"], "there is no #99 in the ledger (`files` lists them)"),
        (["retry", "--all-rejected", "--flow", "odd"], "there is no flow 'odd'"),
        (["retry", "--outbound", "99"], "there is no outbound file #99"),
        (["retry", "--dead-letter", "--flow", "odd"], "there is no flow 'odd'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_is_said_in_a_sentence(arguments: list[str], says: str, site: Site) -> None:
    done = site.call(*arguments, expect=2)
    assert says in sentence(done)
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({"WORKERS": "many"}, "WORKERS='many' is not valid"),
        ({"LOG_LEVEL": "loud"}, "LOG_LEVEL='LOUD' is not valid"),
        ({"DATABASE_URL": "mysql://anna:s3cret@host/db"}, "DATABASE_URL is not a PostgreSQL URI (postgresql://USER"),
        ({"DATABASE_URL": NOWHERE}, "Connection refused"),
        ({"FLOWS_DIR": "nowhere"}, "FLOWS_DIR nowhere is not a folder"),
        ({"LOG_FILE": "/dev/null/app.log"}, "LOG_FILE /dev/null/app.log cannot be written: "),
    ],
    ids=lambda value: "".join(value) if isinstance(value, dict) else "",
)
def test_wrong_configuration_is_said_in_a_sentence(
    environment: dict[str, str], says: str, site: Site, samples: Path
) -> None:
    done = site.call("ingest", str(samples), expect=2, **environment)
    assert says in sentence(done)
    assert "s3cret" not in done.stdout + done.stderr + site.log()


def test_an_unknown_setting_in_env_stops_with_a_sentence(site: Site) -> None:
    write(site.input.parent / ".env", "WORKRES=3\n")
    said = sentence(site.call("--env-file", ".env", "flows", expect=2))
    assert "unknown setting WORKRES in " in said
    assert ".env, did you mean WORKERS?" in said


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("FLOW = 1 +\n", "line 1"),
        ("\n\nimport nothing_of_that_name\n", "broken.py, line 3, does not import: ModuleNotFoundError"),
        ("FLOW = 1\n", "broken.py declares no flow (a flow's file ends with FLOW = Flow(...))"),
    ],
)
def test_a_broken_flow_file_is_named_with_its_line(text: str, says: str, site: Site, tmp_path: Path) -> None:
    write(tmp_path / "more" / "broken.py", text)
    done = site.call("run", expect=2, FLOWS_DIR=str(tmp_path / "more"))
    assert says in sentence(done)


def test_a_process_says_it_as_well_without_a_traceback(site: Site, samples: Path) -> None:
    done = site.cli("ingest", "--flow", "odd", str(samples), expect=2)
    assert "there is no flow 'odd'" in sentence(done)


CONFESSION = "from pathlib import Path\nPath({!r}).touch()\n"


def test_the_env_file_of_the_working_folder_is_not_read(site: Site, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    write(tmp_path / "hostile" / "shop.py", CONFESSION.format(str(ran)))
    write(site.input.parent / ".env", f"FLOWS_DIR={tmp_path / 'hostile'}\n")
    done = site.call("flows")
    assert not ran.exists()
    assert "the .env in this folder is not read; --env-file .env has it read" in done.stderr


def test_flows_and_settings_that_others_may_change_are_refused_before_they_run(site: Site, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    flow = tmp_path / "more" / "shop.py"
    write(flow, CONFESSION.format(str(ran)))
    flow.chmod(0o666)
    done = site.call("flows", expect=2, FLOWS_DIR=str(flow.parent))
    assert f"{flow} (mode 0666) can be changed by others" in done.stderr.replace("\n", "")
    assert not ran.exists()
    write(env := site.input.parent / ".env", "WORKERS=3\n")
    env.chmod(0o622)
    assert "(mode 0622) can be changed by others" in site.call("--env-file", str(env), "flows", expect=2).stderr


def test_an_env_file_that_is_not_there_is_said(site: Site) -> None:
    assert "--env-file nowhere.env is not a file" in sentence(site.call("--env-file", "nowhere.env", "flows", expect=2))


def test_a_flow_s_folder_is_as_open_as_input(site: Site) -> None:
    site.input.chmod(0o3730)
    site.call("check")
    assert {stat.S_IMODE(folder.stat().st_mode) for folder in site.input.iterdir()} == {0o3730}
