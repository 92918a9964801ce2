"""`check`: whether everything is as it must be."""

import tempfile
from dataclasses import dataclass

import typer

from commands.console import ALL_WELL, WRONG_USE, out
from commands.site import Site, check_apart, configured, make_folder
from flows import Flows
from models.errors import StopDaemon, TidegateError
from services.db import engine as databases
from settings import Settings


def check() -> None:
    """Whether configuration, folders and database are as they must be.

    Every line says ok, or BAD and why; with a BAD one the exit code is 2.

    Example:

      DATABASE_URL=postgresql://… python main.py check
    """
    settings, flows = configured()
    findings = [Finding(f"configuration, {len(flows)} flows: {', '.join(flows)}")]
    findings += [look_at_folder(settings, name, flows) for name in settings.folders]
    findings += look_whether_apart(settings)
    findings += look_at_file_systems(settings)
    findings += look_at_database(settings, flows)
    for finding in findings:
        out.print(f"{finding.sign:<4}  {finding.what}" + (f": {finding.problem}" if finding.problem else ""))
    raise typer.Exit(WRONG_USE if any(finding.sign == "BAD" for finding in findings) else ALL_WELL)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at; without a problem it is as it must be.

    warns: it works as it is, but not as well as it could.
    """

    what: str
    problem: str = ""
    warns: bool = False

    @property
    def sign(self) -> str:
        return "ok" if not self.problem else "warn" if self.warns else "BAD"


def look_at_folder(settings: Settings, name: str, flows: Flows) -> Finding:
    folder = settings.folders[name]
    what = f"{name} {folder.resolve()}"
    try:
        make_folder(settings, name, flows)
        # A file tells more than the permission bits: a full disk, a read-only mount, root.
        with tempfile.TemporaryFile(prefix=".tidegate-check", dir=folder) as file:
            file.write(b"x")
    except StopDaemon as error:
        return Finding(what, str(error))
    except OSError as error:
        return Finding(what, f"no file can be written there: {error.strerror}")
    return Finding(f"{what} is writable")


def look_whether_apart(settings: Settings) -> list[Finding]:
    try:
        check_apart(settings)
    except StopDaemon as error:
        return [Finding("the folders", str(error))]
    return []


def look_at_file_systems(settings: Settings) -> list[Finding]:
    """Where a file moves from and to; outbound files do not come from there."""
    names = [name for name, folder in settings.folders.items() if name != "OUTPUT_DIR" and folder.exists()]
    devices = {settings.folders[name].stat().st_dev for name in names}
    what = ", ".join(names)
    if len(devices) > 1:
        return [Finding(what, "on different file systems: moving a file copies it, which takes longer", warns=True)]
    return [Finding(f"{what} are on one file system")]


def look_at_database(settings: Settings, flows: Flows) -> list[Finding]:
    findings = []
    try:
        with databases.open_database(settings) as database:
            version = databases.ping(database.engine)
            findings.append(Finding(f"database {database.uri}, PostgreSQL {version}"))
            Site(settings, flows, database).prepare()
            findings.append(Finding("the schema is up to date"))
    except TidegateError as error:
        findings.append(Finding("the schema" if findings else "database", str(error)))
    return findings
