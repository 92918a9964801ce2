"""Whose word is taken: the rule of StrictModes, with private groups and sticky folders let pass."""

import os
import pwd
from collections.abc import Iterator
from pathlib import Path

import pytest
from loguru import logger

from models.errors import StopDaemon
from services import trust

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
STRANGER = pwd.getpwnam("daemon")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / "folder" / "file"
    made.parent.mkdir(mode=0o755)
    made.touch(mode=0o644)
    return made


def refusal(path: Path) -> StopDaemon:
    with pytest.raises(StopDaemon) as caught:
        trust.checked(path, "FILE")
    return caught.value


def test_what_is_ours_passes_also_below_a_sticky_folder(file: Path) -> None:
    assert trust.checked(file, "FILE") == file.resolve()
    file.parent.chmod(0o1777)
    assert trust.checked(file, "FILE") == file.resolve()


def test_what_is_not_there_is_nobody_s(tmp_path: Path) -> None:
    assert trust.checked(tmp_path / "nothing", "FILE") == tmp_path / "nothing"


@pytest.mark.parametrize("mode", [0o646, 0o666])
def test_a_file_that_others_may_write_is_refused_with_the_command(file: Path, mode: int) -> None:
    file.chmod(mode)
    said = refusal(file)
    assert f"FILE {file} is not trusted: it (mode {mode:04o}) can be changed by others" in said.reason
    assert f"chmod go-w '{file}'" in said.hint


def test_a_folder_above_that_others_may_write_is_named(file: Path) -> None:
    file.parent.chmod(0o777)
    said = refusal(file)
    assert f"{file.parent} (mode 0777) can be changed by others" in said.reason
    assert f"chmod go-w '{file.parent}'" in said.hint


@needs_root
def test_another_user_s_file_or_folder_is_refused(file: Path) -> None:
    os.chown(file, STRANGER.pw_uid, -1)
    assert "it belongs to daemon" in refusal(file).reason
    os.chown(file, 0, -1)
    os.chown(file.parent, STRANGER.pw_uid, -1)
    assert f"{file.parent} belongs to daemon" in refusal(file).reason


@needs_root
def test_a_sticky_folder_of_another_user_is_no_shelter(file: Path) -> None:
    os.chown(file.parent, STRANGER.pw_uid, -1)
    file.parent.chmod(0o1777)
    assert f"{file.parent} belongs to daemon" in refusal(file).reason


@needs_root
def test_the_user_s_own_group_may_write_and_no_other(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in (file, file.parent):
        os.chown(path, STRANGER.pw_uid, STRANGER.pw_gid)
        path.chmod(0o775)
    monkeypatch.setattr(os, "geteuid", lambda: STRANGER.pw_uid)
    assert trust.checked(file, "FILE") == file
    os.chown(file, -1, pwd.getpwnam("nobody").pw_gid)
    assert "it (mode 0775) can be changed by others" in refusal(file).reason


@needs_root
def test_a_group_with_another_member_is_not_private(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.chown(file, STRANGER.pw_uid, STRANGER.pw_gid)
    file.chmod(0o664)
    monkeypatch.setattr(os, "geteuid", lambda: STRANGER.pw_uid)
    guest = pwd.struct_passwd(("guest", "x", 54321, STRANGER.pw_gid, "", "/", "/bin/false"))
    monkeypatch.setattr(pwd, "getpwall", lambda: [STRANGER, guest])
    assert "can be changed by others" in refusal(file).reason


def test_a_link_is_judged_by_where_it_leads(file: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(file)
    assert trust.checked(link, "FILE") == file.resolve()
    file.chmod(0o666)
    assert str(file) in refusal(link).reason


def test_all_that_is_in_a_folder_is_looked_at(tmp_path: Path) -> None:
    deep = tmp_path / "tree" / "package" / "__pycache__" / "module.pyc"
    deep.parent.mkdir(parents=True)
    deep.touch(mode=0o644)
    assert trust.checked_tree(tmp_path / "tree", "FLOWS_DIR") == (tmp_path / "tree").resolve()
    deep.chmod(0o666)
    with pytest.raises(StopDaemon, match=r"module\.pyc \(mode 0666\)"):
        trust.checked_tree(tmp_path / "tree", "FLOWS_DIR")


def test_a_folder_to_which_others_may_add_is_refused_sticky_or_not(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    tree.chmod(0o1777)
    with pytest.raises(StopDaemon, match=r"it \(mode 1777\) can be changed by others"):
        trust.checked_tree(tree, "FLOWS_DIR")


def test_a_folder_that_is_linked_to_is_looked_at_too(tmp_path: Path) -> None:
    module = tmp_path / "elsewhere" / "module.py"
    module.parent.mkdir()
    module.touch(mode=0o666)
    module.chmod(0o666)
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "package").symlink_to(module.parent)
    with pytest.raises(StopDaemon, match=r"module\.py \(mode 0666\)"):
        trust.checked_tree(tmp_path / "tree", "FLOWS_DIR")


def test_what_is_gone_meanwhile_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tree").mkdir()
    for name in ("a.py", "b.py"):
        (tmp_path / "tree" / name).touch(mode=0o644)
    (tmp_path / "tree" / "a.py").chmod(0o644)

    def walk(folder: Path) -> list[tuple[str, list[str], list[str]]]:
        return [(str(folder), ["__pycache__"], ["a.py", "a.py.1234"])]  # as it was a moment ago

    monkeypatch.setattr(os, "walk", walk)
    assert trust.checked_tree(tmp_path / "tree", "FLOWS_DIR") == (tmp_path / "tree").resolve()
    (tmp_path / "tree" / "a.py").chmod(0o666)
    with pytest.raises(StopDaemon, match=r"a\.py \(mode 0666\)"):
        trust.checked_tree(tmp_path / "tree", "FLOWS_DIR")


@pytest.fixture
def logged() -> Iterator[list[str]]:
    lines: list[str] = []
    sink = logger.add(lines.append, format="{level} {message}")
    yield lines
    logger.remove(sink)


def test_a_private_folder_is_made_so_and_it_is_logged(tmp_path: Path, logged: list[str]) -> None:
    assert trust.make_private(tmp_path / "above" / "new", "DATA_DIR") == (tmp_path / "above" / "new").resolve()
    assert logged == []
    open_one = tmp_path / "open"
    for name in ("postgres", "run", "demo", "lost+found"):
        (open_one / name).mkdir(parents=True)
    for name in ("postgres.lock", "postgres.users", "api-token", "app.log", "app.log.1"):
        (open_one / name).touch()
    open_one.chmod(0o775)
    trust.make_private(open_one, "DATA_DIR")
    trust.make_private(open_one, "DATA_DIR")
    assert [(tmp_path / name).stat().st_mode & 0o777 for name in ("above/new", "open")] == [0o700, 0o700]
    assert logged == [f"WARNING closed DATA_DIR {open_one} to other users: its mode was 0775\n"]


def test_a_folder_that_others_use_is_not_closed_to_them(tmp_path: Path) -> None:
    for name in ("page.html", "run", *(f"page{number}.html" for number in range(9))):
        (tmp_path / name).touch()
    tmp_path.chmod(0o755)
    with pytest.raises(
        StopDaemon, match=r"DATA_DIR .* \(mode 0755\) is open to other users, and .* page\.html"
    ) as said:
        trust.make_private(tmp_path, "DATA_DIR")
    assert "page5" not in said.value.reason
    assert f"a folder of its own, or, if nobody else needs what is there: chmod 700 '{tmp_path}'" in said.value.hint
    assert tmp_path.stat().st_mode & 0o777 == 0o755
    tmp_path.chmod(0o700)
    trust.make_private(tmp_path, "DATA_DIR")


def test_a_private_folder_is_no_link(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    victim.chmod(0o755)
    (tmp_path / ".data").symlink_to(victim)
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    for name in (".data", "dangling"):
        with pytest.raises(StopDaemon, match=rf"DATA_DIR .*{name} is a link"):
            trust.make_private(tmp_path / name, "DATA_DIR")
    assert victim.stat().st_mode & 0o777 == 0o755
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize("way", ["", "link/"])
def test_a_private_folder_lies_where_only_we_can_put_another_in_its_place(tmp_path: Path, way: str) -> None:
    above = tmp_path / "above"
    above.mkdir()
    (above / "link").symlink_to(tmp_path)
    above.chmod(0o777)
    with pytest.raises(StopDaemon, match=r"DATA_DIR .*above \(mode 0777\) can be changed by others"):
        trust.make_private(above / way / "new" / "data", "DATA_DIR")
    assert [*above.glob("*")] == [above / "link"]
    assert not (tmp_path / "new").exists()
    if not way:
        above.chmod(0o1777)
        assert trust.make_private(above / "data", "DATA_DIR").stat().st_mode & 0o777 == 0o700


@needs_root
def test_another_user_s_folder_is_not_taken_for_ours(tmp_path: Path) -> None:
    os.chown(tmp_path, STRANGER.pw_uid, -1)
    for folder in (tmp_path, tmp_path / "new"):
        with pytest.raises(StopDaemon, match=r"DATA_DIR .* belongs to daemon"):
            trust.make_private(folder, "DATA_DIR")
    assert [*tmp_path.iterdir()] == []
