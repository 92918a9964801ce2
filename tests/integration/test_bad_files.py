"""Files that are odd in themselves: what they are called, and what is no file at all."""

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from services.files.folders import UNROUTED
from tests.support.bad_input import STATUS, good, rejected, taken_in, vehicles
from tests.support.sites import Site

NAMES = {
    "255-bytes": "x" * 250 + ".json",
    "255-bytes-of-emoji": "🚚" * 62 + "aa.json",
    "newline": "a\nb.json",
    "quotes": "a'b\"c`d.json",
    "spaces": "  a b .json",
    "emoji": "🚚.json",
    "not-utf-8": os.fsdecode(b"\xff\xfe\x80.json"),
    "percent-and-braces": "%s{}{0}%(name)s<red>.json",
    "shell": "$(touch x);-rf *.json",
    "right-to-left": "\u202egnp.json",
    "backslash": "a\\b.json",
    "no-suffix": "vehicles",
    "dash": "--flow=x.json",
}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES.keys())
def test_any_name_loads_and_any_name_is_rejected_with_its_report(site: Site, name: str) -> None:
    site.drop(name, [good()], flow=STATUS)
    site.load()
    (line,) = site.ledger()
    assert line["status"] == "loaded"
    assert line["name"].isprintable()
    (kept,) = [path for path in site.archive.rglob("*") if path.is_file()]
    assert kept.name == (name if name.isascii() or name.encode(errors="ignore").decode() == name else line["name"])
    for number in (2, 3):
        site.drop(name, f'[{{"vehicle_id": {number}', flow=STATUS)
        site.load()
        assert rejected(site, site.ledger()[-1])["file"] == line["name"]
    assert len(list((site.rejected / STATUS).iterdir())) == 4


# What is no file at all.


def make_fifo(path: Path, _outside: Path) -> None:
    os.mkfifo(path)


def make_socket(path: Path, _outside: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        here = Path.cwd()
        os.chdir(path.parent)  # a socket's path may not be longer than 107 bytes
        try:
            server.bind(path.name)
        finally:
            os.chdir(here)


def make_device(path: Path, _outside: Path) -> None:
    try:
        os.mknod(path, 0o644 | 0o020000, os.makedev(1, 5))  # /dev/zero, which never ends
    except PermissionError:
        pytest.skip("devices may not be made here")


def make_link_out(path: Path, outside: Path) -> None:
    (outside / "secret.json").write_text(json.dumps([good("secret")]))
    path.symlink_to(outside / "secret.json")


def make_link_in(path: Path, _outside: Path) -> None:
    (path.parent / ".hidden").write_text(json.dumps([good("secret")]))
    path.symlink_to(".hidden")


def make_dangling_link(path: Path, outside: Path) -> None:
    path.symlink_to(outside / "nowhere")


def make_loop(path: Path, _outside: Path) -> None:
    path.symlink_to(path)


def make_linked_folder(path: Path, outside: Path) -> None:
    (outside / "x.json").write_text(json.dumps([good("secret")]))
    path.symlink_to(outside, target_is_directory=True)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (make_fifo, "not a regular file"),
        (make_socket, "not a regular file"),
        (make_device, "not a regular file"),
        (make_link_out, "a symbolic link"),
        (make_link_in, "a symbolic link"),
        (make_dangling_link, "a symbolic link"),
        (make_loop, "a symbolic link"),
        (make_linked_folder, "a symbolic link"),
    ],
)
def test_what_is_no_file_is_moved_aside_unread(
    site: Site, tmp_path: Path, make: Callable[[Path, Path], None], reason: str
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (site.input / STATUS).mkdir()
    make(site.input / STATUS / "x.json", outside)
    line = taken_in(site)
    assert (line["status"], line["sha256"], line["error"]) == ("rejected", None, reason)
    (error,) = site.report("x.json", STATUS)["errors"]
    assert error["reason"] == reason
    assert error["hint"]
    assert os.path.lexists(site.rejected / STATUS / "x.json")
    assert not os.path.lexists(site.input / STATUS / "x.json")
    assert vehicles(site) == ["neighbour"]


def test_a_folder_may_be_called_like_a_file(site: Site) -> None:
    (site.input / STATUS / "x.json").mkdir(parents=True)
    (site.input / "y.json").mkdir()
    site.drop("inside.json", [good()], flow=f"{STATUS}/x.json")
    site.load()
    assert site.ledger()[0]["status"] == "loaded"
    site.drop("inside.json", [good()], flow="y.json")
    site.load()
    (error,) = rejected(site, site.ledger()[1], UNROUTED)["errors"]
    assert error["reason"] == "the folder 'y.json' belongs to no flow"
    assert "vehicle_status/" in error["hint"]


def test_the_archive_may_be_on_another_file_system(site: Site, open_folder: Path) -> None:
    site.settings = site.settings.model_copy(
        update={f"{name}_dir": open_folder / name for name in ("archive", "rejected")}
    )
    site.drop("x.json", [good()], flow=STATUS)
    site.drop("y.json", "{", flow=STATUS)
    (site.input / STATUS / "z.json").symlink_to("/etc/passwd")
    site.load()
    x, y, z = site.ledger()
    assert Path(x["filed_as"]).read_text() == json.dumps([good()])
    assert rejected(site, y)["errors"][0]["reason"] == "the JSON is cut off"
    assert Path(z["filed_as"]).is_symlink()
    assert not [path for path in open_folder.rglob(".*") if path.is_file()]
