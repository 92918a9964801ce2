"""The unit, the image and the composition say what they promise."""

import os
import re
import shutil
import stat
import subprocess
import tomllib
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

import settings
from commands.demo_stage import PORTS
from tests.conftest import POSTGRES_IMAGE

ROOT = Path(__file__).parents[2]
UNIT = ROOT / "deploy" / "tidegate.service"
SYSUSERS, TMPFILES = ROOT / "deploy" / "tidegate.sysusers.conf", ROOT / "deploy" / "tidegate.tmpfiles.conf"
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yaml").read_text())
DOCKERFILE = (ROOT / "Dockerfile").read_text()

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze here")


def unit() -> dict[str, list[str]]:
    pairs = [line.split("=", 1) for line in UNIT.read_text().splitlines() if re.match(r"\w+=", line)]
    keys = {key for key, _ in pairs}
    return {key: [value for k, value in pairs if k == key] for key in keys}


def systemd_analyze(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, check=False)


@needs_systemd
def test_exposure_is_at_most_2_5() -> None:
    ran = systemd_analyze("security", "--offline=true", "--threshold=25", UNIT)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    exposure = re.search(r"exposure level for tidegate\.service: ([\d.]+)", ran.stdout)
    assert exposure is not None
    assert float(exposure[1]) <= 2.5


@needs_systemd
def test_systemd_understands_every_line(tmp_path: Path) -> None:
    copy = tmp_path / UNIT.name
    # The program is not installed here; everything else is as it is.
    copy.write_text(re.sub("(?m)^ExecStart=.*", "ExecStart=/bin/true", UNIT.read_text()))
    ran = systemd_analyze("verify", "--man=no", "--recursive-errors=no", copy)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")


def test_unit_names_only_settings() -> None:
    set_here = dict(value.split("=", 1) for value in unit()["Environment"])
    assert {name for name in set_here if not name.startswith("PYTHON")} <= set(settings.names())


def test_unit_may_write_wherever_the_daemon_writes() -> None:
    set_here = dict(value.split("=", 1) for value in unit()["Environment"])
    writable = ("/var/lib/tidegate/", "/var/log/tidegate/")
    for name, field in settings.Settings.model_fields.items():
        if isinstance(field.default, Path):
            assert set_here[name.upper()].startswith(writable), name
    assert unit()["StateDirectory"] == ["tidegate"]
    made = {line.split()[1] for line in TMPFILES.read_text().splitlines() if line.startswith("d ")}
    assert {path for name, path in set_here.items() if name.endswith("_DIR")} <= made


def test_unit_is_watched_and_comes_back_for_ever() -> None:
    read = unit()
    assert read["Type"] == ["notify"]
    assert read["WatchdogSec"] == ["30"]
    assert read["Restart"] == ["on-failure"]
    assert read["StartLimitIntervalSec"] == ["0"]
    assert int(read["TimeoutStopSec"][0]) > 10


def test_unit_takes_no_more_of_the_machine_than_it_says() -> None:
    read = unit()
    assert int(read["LimitNOFILE"][0]) >= 65536
    assert {"MemoryMax", "TasksMax"} <= set(read)
    assert read["ProcSubset"] == ["pid"]
    assert read["UMask"] == ["0027"]


@dataclass(frozen=True)
class Installed:
    """The folders as the packaging makes them; ids: of users and groups by name."""

    state: Path
    users: dict[str, int]
    groups: dict[str, int]

    def sh(self, script: str, *groups: str, user: int) -> bool:
        """Whether a user in these groups can do it, working in the state folder."""
        ids = [self.groups[name] for name in groups]
        ran = subprocess.run(
            ["/bin/sh", "-c", script],
            user=user, group=user, extra_groups=ids, cwd=self.state, capture_output=True, check=False,
        )  # fmt: skip
        return ran.returncode == 0


@pytest.fixture
def installed(open_folder: Path) -> Installed:
    (open_folder / "etc").mkdir()
    for program, conf in (["systemd-sysusers"], SYSUSERS), (["systemd-tmpfiles", "--create"], TMPFILES):
        if os.geteuid() != 0 or shutil.which(program[0]) is None:
            pytest.skip(f"it takes root and {program[0]}")
        subprocess.run([*program, f"--root={open_folder}", "-"], input=conf.read_bytes(), check=True)
    users, groups = (
        {line.split(":")[0]: int(line.split(":")[2]) for line in (open_folder / "etc" / name).read_text().splitlines()}
        for name in ("passwd", "group")
    )
    (open_folder / "var").chmod(0o755)
    return Installed(open_folder / "var" / "lib" / "tidegate", users, groups)


ALICE, BOB = 54321, 54322


def test_who_may_drop_may_drop_and_nothing_else(installed: Installed) -> None:
    tidegate = installed.users["tidegate"]
    assert installed.sh("umask 0; mkdir input/orders && chmod 3730 input/orders", "tidegate-drop", user=tidegate)
    for folder in ("input", "input/orders"):
        drop = partial(installed.sh, user=ALICE)
        assert drop(f"umask 027; echo [] > {folder}/.a.tmp && mv {folder}/.a.tmp {folder}/a.json", "tidegate-drop")
        assert not drop(f"ls {folder}", "tidegate-drop")
        assert not drop(f"echo > {folder}/b.json", "tidegate")
        assert not installed.sh(f"rm -f {folder}/a.json || mv {folder}/a.json {folder}/b", "tidegate-drop", user=BOB)
        assert installed.sh(f"cat {folder}/a.json && mv {folder}/a.json archive/", "tidegate-drop", user=tidegate)
    for folder in (".", "output", "archive", "rejected", "data"):
        assert not installed.sh(f"echo > {folder}/x", "tidegate-drop", "tidegate", user=ALICE), folder
    for folder in ("output", "archive", "rejected"):
        assert installed.sh(f"ls {folder}", "tidegate", user=BOB)
        assert not installed.sh(f"ls {folder}", "tidegate-drop", user=ALICE)
    assert not installed.sh("cd data", "tidegate", "tidegate-drop", user=BOB)


def test_composition_starts_tidegate_after_a_healthy_postgres() -> None:
    postgres, tidegate = COMPOSE["services"]["postgres"], COMPOSE["services"]["tidegate"]
    assert postgres["ports"] == ["127.0.0.1:5433:5432"]
    assert postgres["volumes"] == ["postgres:/var/lib/postgresql", "secret:/secret:ro"]
    assert "pg_isready" in postgres["healthcheck"]["test"][1]
    assert postgres["depends_on"] == {"password": {"condition": "service_completed_successfully"}}
    assert tidegate["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    assert {service["restart"] for service in (postgres, tidegate)} == {"unless-stopped"}


def test_composition_mounts_the_folders_that_the_image_uses() -> None:
    tidegate = COMPOSE["services"]["tidegate"]
    mounts = dict(volume.split(":", 1) for volume in tidegate["volumes"])
    in_image = dict(re.findall(r"^ +([A-Z_]+)=(\S+)", DOCKERFILE, re.MULTILINE))
    for name in ("input", "output", "archive", "rejected"):
        assert mounts[f"./{name}"] == in_image[f"{name.upper()}_DIR"]
        # Docker would make a missing folder as root's, and the daemon could not write there.
        assert (ROOT / name / ".gitkeep").exists()
    assert in_image["DATA_DIR"] == mounts["state"]
    assert in_image["LOG_FILE"].startswith(mounts["state"])


def test_composition_shows_the_demo_on_loopback_when_asked() -> None:
    demo = COMPOSE["services"]["demo"]
    assert demo["profiles"] == ["demo"]
    assert demo["command"][:3] == ["python", "main.py", "demo"]
    published = [port.split(":") for port in demo["ports"]]
    assert all(address == "127.0.0.1" and outside == inside for address, outside, inside in published)
    ends = [[int(end) for end in inside.split("-")] for _, _, inside in published]
    open_ports = {port for end in ends for port in range(end[0], end[-1] + 1)}
    assert open_ports == set(PORTS.values())


def test_containers_are_confined() -> None:
    for name in ("tidegate", "demo", "password"):
        service = COMPOSE["services"][name]
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
    assert re.search(r"^USER (?!root|0)\w+$", DOCKERFILE, re.MULTILINE)
    assert "HEALTHCHECK" in DOCKERFILE


def test_image_holds_the_program_and_no_secrets() -> None:
    ignore = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    assert ignore[0] == "*"
    let_in = {line[1:] for line in ignore if line.startswith("!")}
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["root_packages"]
    assert let_in == {*packages, "partners", "main.py", "settings.py", "requirements.lock", "sample_files"}


# What is installed, and by which password.

REQUIREMENT = re.compile(r"^([A-Za-z0-9._-]+)(?:\[.*?\])?==(\S+)", re.MULTILINE)


def canonical(text: str) -> dict[str, str]:
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in REQUIREMENT.findall(text)}


def test_lock_holds_what_is_required_and_a_hash_for_everything() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    locked, wanted = canonical(lock), canonical((ROOT / "requirements.txt").read_text())
    assert {name: locked.get(name) for name in wanted} == wanted, "call `make lock`"
    entries = re.split(r"^(?=[a-z])", lock, flags=re.MULTILINE)[1:]
    assert len(entries) == len(locked) > len(wanted)
    assert [entry for entry in entries if "--hash=sha256:" not in entry] == []
    assert "://" not in lock


def test_every_installation_takes_the_lock() -> None:
    for text in (DOCKERFILE, (ROOT / "Makefile").read_text()):
        assert "--require-hashes -r requirements.lock" in text


def test_images_are_named_by_exact_version() -> None:
    images = {service["image"] for service in COMPOSE["services"].values()} - {"tidegate"}
    images |= set(re.findall(r"^ARG PYTHON_IMAGE=(.*)", DOCKERFILE, re.MULTILINE))
    assert set(re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)) == {"${PYTHON_IMAGE}"}
    assert len(images) == 2
    for image in images:
        assert re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+|postgres:\d+\.\d+", image), image
    assert POSTGRES_IMAGE in images


def pin_images(folder: Path, digest: str) -> subprocess.CompletedProcess[str]:
    """In a checkout where a program named docker says this digest."""
    (folder / "deploy").mkdir(exist_ok=True)
    for name in ("Dockerfile", "docker-compose.yaml", "deploy/pin-images.sh"):
        shutil.copy(ROOT / name, folder / name)
    (folder / "docker").write_text(f"#!/bin/sh\necho {digest}\n")
    (folder / "docker").chmod(0o755)
    path = {"PATH": f"{folder}:{os.defpath}"}
    script = ["/bin/sh", "deploy/pin-images.sh"]
    return subprocess.run(script, cwd=folder, env=path, capture_output=True, text=True, check=False)


def test_images_are_pinned_by_their_digests_where_they_run(tmp_path: Path) -> None:
    digest = f"sha256:{64 * 'a'}"
    assert pin_images(tmp_path, digest).returncode == 0
    override = tmp_path / "docker-compose.override.yaml"
    pinned = yaml.safe_load(override.read_text())["services"]
    assert set(pinned) == set(COMPOSE["services"])
    assert pinned["postgres"]["image"] == pinned["password"]["image"] == f"{POSTGRES_IMAGE}@{digest}"
    assert pinned["tidegate"]["build"]["args"]["PYTHON_IMAGE"].endswith(f"-slim-trixie@{digest}")
    assert pin_images(tmp_path, "no such image").returncode != 0
    assert yaml.safe_load(override.read_text())["services"] == pinned
    override.write_text("services: {}\n")
    assert "is yours" in pin_images(tmp_path, digest).stderr
    assert override.read_text() == "services: {}\n"


def make_password(folder: Path, given: str = "") -> str:
    """What the service does that makes the password; what libpq makes of it."""
    service = COMPOSE["services"]["password"]
    script = service["command"][0].replace("$$", "$").replace("/secret", str(folder))
    environment = {"PATH": os.defpath, "GIVEN": given, "READER": str(os.getuid())}
    subprocess.run([*service["entrypoint"], script], env=environment, check=True)
    assert [stat.S_IMODE((folder / name).stat().st_mode) for name in ("password", "pgpass")] == [0o600, 0o600]
    return (folder / "password").read_text()


def test_composition_makes_a_password_once_or_takes_the_one_given(tmp_path: Path) -> None:
    assert not re.search("PASSWORD:-[^}]", (ROOT / "docker-compose.yaml").read_text())
    made = make_password(tmp_path)
    assert re.fullmatch("[0-9a-f]{48}", made)
    assert make_password(tmp_path) == made
    assert (tmp_path / "pgpass").read_text() == f"*:*:*:*:{made}\n"
    assert make_password(tmp_path, given="it's \\:$x") == "it's \\:$x"
    assert (tmp_path / "pgpass").read_text() == "*:*:*:*:it's \\\\\\:$x\n"
    assert COMPOSE["services"]["postgres"]["environment"]["POSTGRES_PASSWORD_FILE"] == "/secret/password"
    assert COMPOSE["services"]["tidegate"]["environment"]["PGPASSFILE"] == "/secret/pgpass"
