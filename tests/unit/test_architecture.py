"""What stands where: the contracts of pyproject.toml see what they forbid, and here is what they cannot see."""

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from models.ledger import FILE_TRANSITIONS, SCHEMA
from models.tables import Base

ROOT = Path(__file__).parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
PACKAGES: list[str] = PYPROJECT["root_packages"]
CONTRACTS: dict[str, str] = {contract["id"]: contract["name"] for contract in PYPROJECT["contracts"]}
OURS = {*PACKAGES, "main", "settings", "tests", "partners", "benchmarks"}

BREAKS = [
    ("downward", "models", "import flows"),
    ("downward", "flows", "import services"),
    ("downward", "services/db", "import file_processing"),
    ("downward", "file_processing/inbound", "import commands"),
    ("rooms", "services/sources", "import services.observer"),
    ("rooms", "services/observer", "import services.api"),
    ("rooms", "services/api", "import services.destinations"),
    ("rooms", "services/db", "import services.observer"),
    ("rooms", "services/ledger", "import services.api"),
    ("rooms", "services/runtime", "import services.ledger"),
    ("rooms", "services/transport", "import services.files"),
    ("pipelines", "file_processing/inbound", "import file_processing.outbound"),
    ("pipelines", "file_processing/outbound", "import file_processing.inbound"),
    ("pipelines", "file_processing/outbound", "import file_processing.daemon"),
    ("formats", "file_processing/inbound/formats", "import services.ledger.inbound"),
    ("formats", "file_processing/inbound/formats/edi", "import psycopg"),
    ("drivers", "services/files", "import psycopg"),
    ("drivers", "services/observer", "from psycopg import sql"),
    ("flows", "flows", "from flows import vehicle_status"),
    ("flows", "flows/orders", "from flows import cases"),
    ("declare", "models", "import settings"),
    ("declare", "flows", "import psycopg"),
    ("declare", "models", "from loguru import logger"),
    ("top", "services/db", "import main"),
    ("top", "file_processing/inbound", "from partners import erp"),
]

MODULE_LINES, FUNCTION_LINES, PUBLIC_METHODS = 350, 50, 12
"""More than that does not fit a reader's head."""

HISTORY = "services/db/migrations"
"""What was written once, and never changes again."""


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_bytes())


def imports(*paths: Path) -> dict[Path, set[str]]:
    """The top-level names that each file imports."""
    found: dict[Path, set[str]] = {}
    for path in paths:
        names = found.setdefault(path.relative_to(ROOT), set())
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Import):
                names.update(alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                names.add((node.module or "").partition(".")[0])
    return found


def room(name: str) -> list[Path]:
    return sorted((ROOT / name).rglob("*.py"))


def product() -> dict[str, Path]:
    """Every module that a user runs, by its path in the repository."""
    paths = [ROOT / "main.py", ROOT / "settings.py", *(path for package in PACKAGES for path in room(package))]
    return {str(path.relative_to(ROOT)): path for path in paths}


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-logo", "--no-cache"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def copied(folder: Path) -> Path:
    shutil.copy(ROOT / "pyproject.toml", folder)
    for package in PACKAGES:
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def breach(number: int) -> Path:
    return Path(BREAKS[number][1], f"breach_{number}.py")


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the linter says of all breaches together, by contract; none of their modules knows another."""
    copy = copied(tmp_path_factory.mktemp("broken"))
    for number, (_, _, line) in enumerate(BREAKS):
        (copy / breach(number)).write_text(f"{line}\n")
    ran = lint(copy)
    assert ran.returncode == 1, ran.stdout + ran.stderr
    told = " ".join(ran.stdout.partition("Broken contracts")[2].split())  # long names are wrapped
    starts = sorted((told.index(name), contract) for contract, name in CONTRACTS.items() if name in told)
    ends = [start for start, _ in starts[1:]] + [len(told)]
    return {contract: told[start:end] for (start, contract), end in zip(starts, ends, strict=True)}


# The contracts.


def test_every_contract_is_broken_below() -> None:
    assert {contract for contract, _, _ in BREAKS} == set(CONTRACTS)


def test_contracts_hold() -> None:
    ran = lint(ROOT)
    assert ran.returncode == 0, ran.stdout


@pytest.mark.parametrize(
    "number", [pytest.param(n, id=f"{contract}: {line} in {where}") for n, (contract, where, line) in enumerate(BREAKS)]
)
def test_a_contract_sees_its_breach(broken: dict[str, str], number: int) -> None:
    module = ".".join(breach(number).with_suffix("").parts)
    assert f"{module} -> " in broken[BREAKS[number][0]]


@pytest.mark.parametrize("package", ["services", "file_processing"])
def test_a_new_room_needs_its_place(package: str, tmp_path: Path) -> None:
    copy = copied(tmp_path)
    (copy / package / "annexe.py").write_text('"""Who knows whom?"""\n')
    ran = lint(copy)
    assert ran.returncode == 1
    assert f"- {package}.annexe" in ran.stdout


# What they cannot see.


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


# Who speaks SQL.

LEDGER_TABLES = sorted(table.name for table in Base.metadata.tables.values() if table.schema == SCHEMA)
LEDGER_ROWS = sorted(mapper.class_.__name__ for mapper in Base.registry.mappers if mapper.local_table.schema == SCHEMA)
_NAMES = "|".join(LEDGER_TABLES)
ON_LEDGER = re.compile(
    rf"\b{SCHEMA}\.(?:{_NAMES})\b|{{SCHEMA}}\.(?:{_NAMES})\b|(?:'{SCHEMA}'|SCHEMA), '(?:{_NAMES})'"
    rf"|\b(?:{'|'.join(LEDGER_ROWS)})\b"
)


@cache
def code(path: Path) -> str:
    """A module without its comments and docstrings, which are for people."""
    module = ast.parse(path.read_bytes())
    for node in ast.walk(module):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            match node.body:
                case [ast.Expr(ast.Constant(str())), *rest]:
                    node.body = [*rest, ast.Pass()]
    return ast.unparse(module)


def test_only_the_ledger_speaks_sql_on_its_tables() -> None:
    assert {"inbound_file", "outbound_file", "cursor"} <= {*LEDGER_TABLES}
    allowed = (
        "services/ledger/",
        f"{HISTORY}/",
        "services/db/migrate.py",
        "services/db/triggers.py",
        "models/ledger.py",
    )
    found = {name: ON_LEDGER.findall(code(path)) for name, path in product().items() if not name.startswith(allowed)}
    assert {name: statements for name, statements in found.items() if statements} == {}


SETS_STATUS = re.compile(r"update\s+tidegate\.(\w+)[^\"]*?\bset\b[^\"]*?\bstatus\s*=\s*(\S+?)[,\s]")


def test_states_change_only_by_the_table_of_transitions() -> None:
    """An inbound file's never do; an outbound file's by `transition`, which fills in a target that the table has."""
    assert not any(FILE_TRANSITIONS.values())
    changes = [found for path in room("services/ledger") for found in SETS_STATUS.findall(path.read_text())]
    assert set(changes) == {("outbound_file", "{target}")}


def test_sql_on_the_ledger_is_seen_where_it_stands() -> None:
    for line in (
        f'"select 1 from {SCHEMA}.cursor"',
        'f"delete from {SCHEMA}.inbound_file"',
        f"sql.Identifier('{SCHEMA}', 'receipt')",
        "sql.Identifier(SCHEMA, 'receipt')",
        "select(OutboundFileRow)",
    ):
        assert ON_LEDGER.search(ast.unparse(ast.parse(line)))
    speakers = [name for name, path in product().items() if ON_LEDGER.search(code(path))]
    assert len([name for name in speakers if name.startswith("services/ledger/")]) > 5


def test_only_the_database_s_room_knows_alembic() -> None:
    users = {str(path) for path, names in imports(*product().values()).items() if "alembic" in names}
    assert users
    assert {name for name in users if not name.startswith("services/db/")} == set()


# Who knows EDI.

EDI = re.compile(r"(?<![a-z0-9])(?:edi|edifact|x12|contrl|997)(?![a-z0-9])", re.IGNORECASE)


def test_only_the_formats_know_edi() -> None:
    """Nothing else changes when a standard is added."""
    allowed = ("file_processing/inbound/formats/", "services/ledger/interchanges.py", f"{HISTORY}/")
    found = {
        name: EDI.findall(path.read_text())
        for name, path in product().items()
        if name.startswith(("file_processing/", "services/")) and not name.startswith(allowed)
    }
    assert {name: words for name, words in found.items() if words} == {}


def test_edi_is_seen_where_it_stands() -> None:
    assert EDI.findall("edi_text, an X12 file; EDIFACT; credit, 1997, ediX") == ["edi", "X12", "EDIFACT"]
    assert EDI.search((ROOT / "file_processing/inbound/formats/detect.py").read_text())


# What fits a reader's head.


def functions(node: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (found for found in ast.walk(node) if isinstance(found, ast.FunctionDef | ast.AsyncFunctionDef))


def test_no_module_is_too_long() -> None:
    lengths = {name: len(path.read_text().splitlines()) for name, path in product().items()}
    assert {name: lines for name, lines in lengths.items() if lines > MODULE_LINES} == {}


def test_no_function_is_too_long() -> None:
    lengths = {
        f"{name} {function.name}": (function.end_lineno or 0) - function.lineno + 1
        for name, path in product().items()
        if not name.startswith(HISTORY)
        for function in functions(tree(path))
    }
    assert len(lengths) > 500
    assert {name: lines for name, lines in lengths.items() if lines > FUNCTION_LINES} == {}


def test_no_class_offers_too_much() -> None:
    offers = {
        f"{name} {found.name}": [
            method.name
            for method in found.body
            if isinstance(method, ast.FunctionDef | ast.AsyncFunctionDef) and not method.name.startswith("_")
        ]
        for name, path in product().items()
        for found in ast.walk(tree(path))
        if isinstance(found, ast.ClassDef)
    }
    assert len(offers) > 100
    assert {name: methods for name, methods in offers.items() if len(methods) > PUBLIC_METHODS} == {}
