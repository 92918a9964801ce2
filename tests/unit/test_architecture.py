"""Who may import whom: the contracts of pyproject.toml see what they forbid, and what they cannot see."""

import ast
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
PACKAGES: list[str] = PYPROJECT["root_packages"]
CONTRACTS: dict[str, str] = {contract["id"]: contract["name"] for contract in PYPROJECT["contracts"]}
OURS = {*PACKAGES, "main", "settings", "tests", "partners", "benchmarks"}

BREAKS = [
    ("downward", "models/breach.py", "import flows"),
    ("downward", "flows/breach.py", "import services"),
    ("downward", "services/breach.py", "import file_processing"),
    ("rooms", "services/sources/__init__.py", "import services.observer"),
    ("rooms", "services/observer/breach.py", "import services.api"),
    ("rooms", "services/db/breach.py", "import services.observer"),
    ("flows", "flows/breach.py", "from flows import vehicle_status"),
    ("declare", "models/breach.py", "import settings"),
    ("declare", "flows/breach.py", "import psycopg"),
    ("declare", "models/breach.py", "from loguru import logger"),
    ("top", "services/breach.py", "import main"),
    ("top", "file_processing/breach.py", "from partners import erp"),
]


def imports(*paths: Path) -> dict[Path, set[str]]:
    """The top-level names that each file imports."""
    found: dict[Path, set[str]] = {}
    for path in paths:
        names = found.setdefault(path.relative_to(ROOT), set())
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Import):
                names.update(alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                names.add((node.module or "").partition(".")[0])
    return found


def room(name: str) -> list[Path]:
    return sorted((ROOT / name).rglob("*.py"))


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-logo", "--no-cache"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    for missing in ("observer", "api"):
        (tmp_path / "services" / missing).mkdir(exist_ok=True)
        (tmp_path / "services" / missing / "__init__.py").touch()
    return tmp_path


def test_every_contract_is_broken_below() -> None:
    assert {contract for contract, _, _ in BREAKS} == set(CONTRACTS)


def test_contracts_hold_in_the_copy(copy: Path) -> None:
    ran = lint(copy)
    assert ran.returncode == 0, ran.stdout


@pytest.mark.parametrize(("contract", "path", "line"), BREAKS)
def test_contract_sees_its_breach(contract: str, path: str, line: str, copy: Path) -> None:
    (copy / path).parent.mkdir(exist_ok=True)
    with (copy / path).open("a") as file:
        file.write(f"{line}\n")
    ran = lint(copy)
    assert ran.returncode == 1, ran.stdout + ran.stderr
    assert f"{CONTRACTS[contract]} BROKEN" in " ".join(ran.stdout.split())


def test_nothing_imports_main() -> None:
    paths = [ROOT / "settings.py", *(path for name in (*PACKAGES, "partners", "benchmarks") for path in room(name))]
    assert [path for path, names in imports(*paths).items() if "main" in names] == []


def test_settings_know_only_the_models() -> None:
    (names,) = imports(ROOT / "settings.py").values()
    assert names & OURS == {"models"}


def test_models_know_only_pydantic_and_sqlalchemy() -> None:
    allowed = {*sys.stdlib_module_names, "pydantic", "pydantic_core", "sqlalchemy", "typing_extensions", "models"}
    assert {str(path): names - allowed for path, names in imports(*room("models")).items() if names - allowed} == {}


def test_partners_import_nothing_of_ours() -> None:
    known = OURS - {"partners"}
    assert {str(path): names & known for path, names in imports(*room("partners")).items() if names & known} == {}
