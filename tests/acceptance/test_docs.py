"""What README and docs tell a reader to type does what they say, taken out of them word by word."""

import re
import shlex
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from services.files.names import is_finished
from tests.support.processes import ROOT
from tests.support.sites import Site, free_port
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from partners.intempus import Intempus

TOKEN = "a token of the docs"

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def snippets(page: str, language: str) -> list[str]:
    """The fenced blocks of a page in one language, in order."""
    return [text for name, text in _BLOCK.findall((ROOT / page).read_text()) if name == language]


def commands(block: str) -> list[str]:
    """The commands of a shell block; a backslash joins lines, and so does an open quote."""
    found: list[str] = []
    for line in block.splitlines():
        if found and (found[-1].endswith("\\") or found[-1].count("'") % 2):
            found[-1] += f"\n{line}"
        else:
            found.append(line)
    return found


def loaded(site: Site, flow: str) -> list[str]:
    return [line["name"] for line in site.ledger() if (line["flow"], line["status"]) == (flow, "loaded")]


@dataclass
class Reader:
    """Somebody who types what stands there, in a folder that looks like a checkout."""

    site: Site
    variables: dict[str, str] = field(default_factory=dict)
    said: str = ""

    def __post_init__(self) -> None:
        for name in (".venv", "main.py", "sample_files", "partners", "services", "models"):
            (self.folder / name).symlink_to(ROOT / name)

    @property
    def folder(self) -> Path:
        return self.site.input.parent

    def type(self, command: str) -> str:
        """Its output, once it succeeds: a daemon that is at work needs its time, as does a reader."""
        assigned = re.match(r"([A-Z]+)=", command)
        if assigned is not None:
            self.variables[assigned[1]] = self.type(
                f'set -o pipefail; eval {shlex.quote(command)} && printf %s "${assigned[1]}"'
            ).strip()
            return self.variables[assigned[1]]
        try:
            said = eventually(lambda: self._run(command), what=command)
        except AssertionError as error:
            raise AssertionError(f"{command}: {self.said}") from error
        if command.startswith("cp "):
            eventually(lambda: not [path for path in self.site.waiting() if is_finished(path.name)], what=command)
        return said

    def _run(self, command: str) -> str:
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=self.folder,
            env=self.site.environment | self.variables | {"COLUMNS": "160", "API_TOKEN": TOKEN},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        self.said = f"{done.stdout}{done.stderr} "
        return self.said if done.returncode == 0 else ""


@pytest.fixture
def reader(site: Site) -> Reader:
    site.settings = site.settings.model_copy(update={"api_port": free_port()})
    reader = Reader(site)
    reader.variables["API"] = f"http://127.0.0.1:{site.settings.api_port}"
    return reader


def test_ten_minutes_of_the_readme(reader: Reader) -> None:
    site = reader.site
    typed = [line for block in snippets("README.md", "sh") for line in commands(block)]
    ten_minutes = typed[: typed.index("make demo")]
    assert ten_minutes.pop(0) == "make run"
    daemon = site.start()
    said = {command: reader.type(command) for command in ten_minutes}
    results = iter(said.items())

    assert next(results)[0].startswith("cp ")
    assert "loaded" in next(results)[1]
    assert "van-17" in next(results)[1]
    assert next(results)[0].startswith("cp ")
    command, report = next(results)
    assert command.startswith("cat ") and '"pointer"' in report and '"reason"' in report
    command, lineage = next(results)
    assert command.endswith("trace vehicle_status van-21") and ".json" in lineage
    assert next(results)[0].startswith("cp ")
    assert "UPDATE 1" in next(results)[1]
    command, _ = next(results)
    eventually(lambda: '"isDone":true' in reader.type(command), what=command)
    assert next(results, None) is None
    assert site.stop(daemon) == 0


@pytest.mark.parametrize(
    "command", [line for block in snippets("README.md", "sh") for line in commands(block) if "--help" in line]
)
def test_help_that_the_readme_names_answers(command: str, reader: Reader) -> None:
    assert "Usage" in reader.type(command) or "usage" in reader.type(command)


def test_every_command_of_the_readme_is_one(site: Site) -> None:
    _, _, section = (ROOT / "README.md").read_text().partition("\n## Commands\n")
    table = re.findall(r"^\| `([a-z]+)[` ]", section.partition("\n## ")[0], re.MULTILINE)
    known = re.findall(r"^│ ([a-z]+) ", site.call("--help", COLUMNS="120").stdout, re.MULTILINE)
    assert sorted({*table}) == sorted({*known})


@pytest.mark.skipif(not all(map(shutil.which, ("curl", "jq"))), reason="there is no curl or jq here")
def test_docs_of_the_api(reader: Reader, intempus: "Intempus") -> None:
    site = reader.site
    site.connect(
        API_TOKEN=TOKEN, INTEMPUS_API_URI=intempus.uri, INTEMPUS_API_USER=intempus.user, INTEMPUS_API_KEY=intempus.key
    )
    intempus.create(name="Inspect pump P-100")
    daemon = site.start()
    blocks = snippets("docs/api.md", "sh")
    answers = {}
    for command in (line for block in blocks for line in commands(block)):
        if not command.startswith("API="):  # the port is the test's
            answers[command] = reader.type(command)
    first, second = (answer for command, answer in answers.items() if "/inbound/vehicle_status" in command)
    assert first.startswith("/inbound/")
    assert '"location":"/inbound/' in second
    (became,) = (answer for command, answer in answers.items() if "$LOCATION" in command)
    assert first.removeprefix("/inbound/") in became
    assert '"status":' in became
    assert [case["name"] for case in intempus.cases.values()][-1] == "Replace bearing on pump P-101"
    eventually(lambda: len(site.rows("cases")) == 2, what="both cases")
    eventually(lambda: len(loaded(site, "vehicle_status")) == 2, what="both bodies are loaded, also the packed one")
    assert site.stop(daemon) == 0


def test_the_flow_of_the_docs_loads_and_goes_out(site: Site) -> None:
    """As processes: what a flow declares stays in a process until it ends."""
    flow, outbound, connectors = snippets("docs/flows.md", "python")
    further = "    outbound=(METERS_OUT,),\n    sources=(METERS,),\n    destinations=(BILLING,),\n)\n"
    folder = site.input.parent / "flows"
    folder.mkdir()
    (folder / "meter_readings.py").write_text(f"{outbound}\n{connectors}\n{flow.removesuffix(')' + chr(10))}{further}")
    site.settings = site.settings.model_copy(update={"flows_dir": folder})
    (content,) = re.findall(r"Drop `(\{.*?\})` into", (ROOT / "docs/flows.md").read_text())

    daemon = site.start()
    eventually((site.input / "meter_readings").is_dir, what="the flow's folder")
    site.drop("m.json", content, flow="meter_readings")
    assert site.settled(1)[0]["status"] == "loaded"
    (out,) = eventually(lambda: [*site.out("meter_readings").values()], what="its outbound file")
    assert '"kwh":"12.500"' in out
    assert site.stop(daemon) == 0
