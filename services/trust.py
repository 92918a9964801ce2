"""Whose word is taken: what tells the daemon what to do must be ours or root's, and nobody else's to change.

The rule is that of OpenSSH's StrictModes, for the path itself and every folder above it. Two things pass that are
common and harmless: a group that only we are in, as umask 002 makes it, and folders like /tmp, where the sticky bit
lets nobody move what is another's.
"""

import grp
import os
import pwd
import stat
from collections.abc import Iterator
from pathlib import Path

from models.errors import StopDaemon


def checked(path: Path, what: str) -> Path:
    """The path without links, if only we and root can change what is there; use this one from here on.

    what: how the sentence names it. A path at which nothing is comes back as it is.
    Raises StopDaemon with the path that is at fault, and the command that mends it.
    """
    try:
        real = path.expanduser().resolve(strict=True)
    except FileNotFoundError:
        return path
    except OSError as error:
        raise StopDaemon(f"{what} {path} cannot be read: {error.strerror}") from None
    for each in (real, *real.parents):
        _check(each, what, path)
    return real


def checked_tree(folder: Path, what: str) -> Path:
    """The same for a folder with all that is in it."""
    real = checked(folder, what)
    if not real.exists():
        return real
    known = {real}
    _check(real, what, folder, sticky_is_safe=False)  # somebody might add what is believed next time
    for path in _below(real):
        if path.is_symlink():
            target = checked(path, what)
            if target.is_dir() and not any(target.is_relative_to(each) for each in known):
                known.add(checked_tree(target, what))
        else:
            _check(path, what, folder, sticky_is_safe=False)
    return real


def make_private(folder: Path, what: str) -> None:
    """Make a folder that is nobody else's, or make it so; one that another user owns or may change is refused.

    Passing through may be left to the folder's group: root gives it to the user of the embedded server.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.stat()
        if status.st_uid == os.geteuid() and status.st_mode & 0o067 and not status.st_mode & stat.S_ISVTX:
            folder.chmod(0o700)
    except OSError as error:
        raise StopDaemon(f"{what} {folder} cannot be used: {error.strerror}") from error
    _check(folder.resolve(), what, folder)


def user_name(uid: int) -> str:
    """The name of a user, or its number where there is none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _below(folder: Path) -> Iterator[Path]:
    for place, folders, files in os.walk(folder):
        yield from (Path(place, name) for name in (*folders, *files))


def _check(each: Path, what: str, named: Path, *, sticky_is_safe: bool = True) -> None:
    try:
        status = each.stat()
    except FileNotFoundError:
        return  # since it was listed; what is not there is not believed
    mode, uid = stat.S_IMODE(status.st_mode), os.geteuid()
    told = f"{what} {named} is not trusted: {each}" if each != named else f"{what} {named} is not trusted: it"
    if status.st_uid not in (0, uid):
        raise StopDaemon(
            f"{told} belongs to {user_name(status.st_uid)}",
            hint=f"run Tidegate as that user, or, if you know what is there: chown {user_name(uid)} '{each}'",
        )
    is_sheltered = sticky_is_safe and stat.S_ISDIR(status.st_mode) and mode & stat.S_ISVTX
    writers = mode & (stat.S_IWGRP | stat.S_IWOTH)
    if writers == stat.S_IWGRP and _is_private(status.st_gid, uid):
        writers = 0
    if writers and not is_sheltered:
        raise StopDaemon(
            f"{told} (mode {mode:04o}) can be changed by others", hint=f"if nobody has: chmod go-w '{each}'"
        )


def _is_private(gid: int, uid: int) -> bool:
    """Whether it is the user's own group, and nobody else is in it."""
    try:
        user, group = pwd.getpwuid(uid), grp.getgrgid(gid)
    except KeyError:
        return False
    others = {*group.gr_mem, *(each.pw_name for each in pwd.getpwall() if each.pw_gid == gid)} - {user.pw_name}
    return user.pw_gid == gid and not others
