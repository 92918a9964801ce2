"""Folders that cannot be as they are configured: found at the start, not file by file."""

from pathlib import Path

import pytest

from tests.support.disks import mounted_twice
from tests.support.sites import Site, running
from tests.support.waiting import eventually


@pytest.mark.parametrize(
    ("setting", "where", "says"),
    [
        ("REJECTED_DIR", "input/rejected", "lies within INPUT_DIR"),
        ("OUTPUT_DIR", "archive/out", "lies within ARCHIVE_DIR"),
        ("ARCHIVE_DIR", "rejected", "is REJECTED_DIR"),
        ("DATA_DIR", "input/data", "lies within INPUT_DIR"),
        ("LOG_FILE", "input/app.log", "lies within INPUT_DIR"),
        ("INPUT_DIR", ".data/input", "lies within DATA_DIR"),
        ("DATA_DIR", "input", "is INPUT_DIR"),
    ],
)
@pytest.mark.parametrize("command", ["run", "check"])
def test_folders_within_each_other_are_refused(site: Site, setting: str, where: str, says: str, command: str) -> None:
    (site.input.parent / "link").symlink_to(site.input.parent)
    done = site.call(command, expect=2, **{setting: str(site.input.parent / "link" / where)})
    told = " ".join((done.stdout + done.stderr).split())
    assert f"{setting} " in told
    assert says in told
    assert f"set {setting} to a place of its own" in told


def test_an_input_folder_in_the_archive_is_refused_too(site: Site) -> None:
    done = site.call("run", expect=2, INPUT_DIR=str(site.archive / "in"))
    assert "lies within ARCHIVE_DIR" in " ".join(done.stderr.split())


def test_a_folder_within_one_that_is_mounted_a_second_time_is_refused(site: Site, tmp_path: Path) -> None:
    site.input.mkdir(exist_ok=True)
    second = tmp_path / "second"
    second.mkdir()
    with mounted_twice(site.input, second) as done:
        if not done:
            pytest.skip("only root may mount a folder")
        told = " ".join(site.call("check", expect=2, REJECTED_DIR=str(second / "rejected")).stdout.split())
    assert "lies within INPUT_DIR" in told


@pytest.mark.parametrize("command", ["run", "check"])
def test_a_flow_s_folder_that_is_a_link_is_refused(site: Site, tmp_path: Path, command: str) -> None:
    (tmp_path / "elsewhere").mkdir()
    site.input.mkdir(exist_ok=True)
    (site.input / "orders").symlink_to(tmp_path / "elsewhere")
    done = site.call(command, expect=2)
    told = " ".join((done.stdout + done.stderr).split())
    assert "orders is a link, and in INPUT_DIR links are not followed" in told
    assert "mount the other one there" in told


def test_a_flow_s_folder_that_becomes_a_link_is_left_alone_and_told(
    site: Site, tmp_path: Path, logged: list[str]
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a.json").write_text("{}")
    with running(site):
        eventually((site.input / "orders").is_dir, what="the flow's folder")
        (site.input / "orders").rmdir()
        (site.input / "orders").symlink_to(tmp_path / "elsewhere")
        eventually(lambda: any("a flow's folder is a link" in line for line in logged), what="a line of it")
    assert (site.input / "orders").is_symlink()
    assert [path.name for path in (tmp_path / "elsewhere").iterdir()] == ["a.json"]
    assert site.ledger() == []
