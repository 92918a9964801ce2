"""A database of the first release in which a site changed flows' tables: its migrations stay the site's.

`tests/data/released/with_site_revisions` holds what that release left of one: the dump, and the two files that its
`db revision` wrote into the program's own folder, in one line with the program's. The first is of a flow that comes
with Tidegate, changed where it stands; the second of a flow in FLOWS_DIR.
"""

import gzip
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from psycopg.rows import dict_row

from services.db import embedded, migrate
from tests.support.processes import ROOT

LEFT = ROOT / "tests" / "data" / "released" / "with_site_revisions"
BARNS = """
from pydantic import BaseModel
from sqlalchemy import Text as SqlText
from sqlalchemy.orm import Mapped, mapped_column

from models.flow import Flow
from models.tables import LoadedRow


class BarnRecord(BaseModel):
    barn: str
    cows: int
    roof: str | None = None


class Barn(LoadedRow):
    __tablename__ = "barns"

    barn: Mapped[str] = mapped_column(SqlText, primary_key=True)
    cows: Mapped[int]
    roof: Mapped[str | None]


FLOW = Flow(record=BarnRecord, table=Barn, envelope="barns")
"""
Program = Callable[..., str]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """This Tidegate, unpacked anew, with the site's flows."""
    copy = tmp_path / "project"
    copy.mkdir()
    for name in ("commands", "file_processing", "flows", "models", "services", "main.py", "settings.py"):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, copy)
    vehicles = copy / "flows" / "vehicle_status.py"
    vehicles.write_text(
        vehicles.read_text().replace("String(50)", "String(80)").replace("max_length=50", "max_length=80")
    )
    (tmp_path / "barns").mkdir()
    (tmp_path / "barns" / "barns.py").write_text(BARNS)
    return copy


@pytest.fixture
def program(project: Path, left: str) -> Program:
    """Runs a command of it on that database."""

    def run(*command: str, expect: int = 0, **environment: str) -> str:
        given = {"DATABASE_URL": left, "FLOWS_DIR": str(project.parent / "barns"), **environment}
        done = subprocess.run(
            [sys.executable, "main.py", *command],
            cwd=project,
            env=given | {"PATH": "/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == expect, done.stdout + done.stderr
        return done.stdout + done.stderr

    return run


@pytest.fixture
def left(empty_database_url: str) -> str:
    psql: list[str | Path] = [embedded.binary("psql"), "-q", "-X", "-v", "ON_ERROR_STOP=1", "-1", empty_database_url]
    dump = gzip.decompress((LEFT / "0003.sql.gz").read_bytes())
    subprocess.run(psql, input=dump, stdout=subprocess.DEVNULL, check=True, timeout=60)
    return empty_database_url


def leave_in_place(project: Path) -> None:
    """The new version was unpacked over the old one: the site's files lie where the release wrote them."""
    for path in LEFT.glob("*.py.txt"):
        shutil.copy(path, project / "services" / "db" / "migrations" / "versions" / path.stem)


def move_to_flows(project: Path) -> None:
    for path, flows in zip(sorted(LEFT.glob("*.py.txt")), (project / "flows", project.parent / "barns"), strict=True):
        (flows / "migrations").mkdir()
        shutil.copy(path, flows / "migrations" / path.stem)


def lose(_project: Path) -> None:
    """A new folder, a new image: the site's files stayed in the old one."""


def rows(url: str, query: str) -> list[dict[str, object]]:
    with psycopg.connect(url, row_factory=dict_row) as connection:
        return connection.execute(query.encode()).fetchall()


@pytest.mark.parametrize("files", [leave_in_place, move_to_flows, lose])
def test_it_is_upgraded(left: str, project: Path, program: Program, files: Callable[[Path], None]) -> None:
    files(project)
    assert "is up to date" in program("db", "upgrade")
    assert rows(left, "select version_num from tidegate.alembic_version") == [{"version_num": migrate.own()[-1].id}]
    assert rows(left, "select id from tidegate.site_revision order by 1") == [{"id": "0002"}, {"id": "0003"}]
    assert rows(left, "select barn, roof from barns order by 1") == [
        {"barn": "b1", "roof": None},
        {"barn": "b2", "roof": "tin"},
    ]


def test_it_goes_on_and_changes_again(project: Path, program: Program) -> None:
    leave_in_place(project)
    (project / "barns.json").write_text('{"barns": [{"barn": "b3", "cows": 1, "roof": "straw"}]}')
    status = "x" * 70
    (project / "cars.json").write_text(
        f'{{"vehicle_status": [{{"vehicle_id": "v", "report_time": "2026-01-01T00:00:00Z", "status": "{status}"}}]}}'
    )
    assert "1 inserted" in program("ingest", "--flow", "barns", "barns.json")
    assert "1 inserted" in program("ingest", "--flow", "vehicle_status", "cars.json")

    barns = project.parent / "barns" / "barns.py"
    more = barns.read_text().replace("roof: Mapped", "doors: Mapped[int | None]\n    roof: Mapped")
    barns.write_text(more.replace("roof: str", "doors: int | None = None\n    roof: str"))
    assert "column doors (integer) is missing" in program("db", "upgrade", expect=2)
    wrote = program("db", "revision", "Barns have doors")
    assert f"{barns.parent / 'migrations'}/20" in wrote
    assert "_barns_have_doors.py: read it, then python main.py db upgrade" in wrote
    program("db", "upgrade")
    assert "is up to date" in program("db", "upgrade", FLOWS_DIR="")


def test_a_new_database_takes_the_files_of_the_release(
    project: Path, program: Program, server_url: str, left: str
) -> None:
    leave_in_place(project)
    with psycopg.connect(left, autocommit=True) as connection:
        connection.execute("drop schema public cascade; drop schema tidegate cascade; create schema public")
    program("db", "upgrade")
    assert rows(left, "select id from tidegate.site_revision order by 1") == [{"id": "0002"}, {"id": "0003"}]


def test_what_no_version_of_tidegate_wrote_stops_with_what_to_do(left: str, program: Program) -> None:
    with psycopg.connect(left) as connection:
        connection.execute("update tidegate.alembic_version set version_num = 'ae1027a6acf'")
    said = program("db", "upgrade", expect=2)
    assert "the database is at schema revision ae1027a6acf, which no version of Tidegate wrote" in said
    assert "set tidegate.alembic_version to the revision of tidegate's tables" in said
