"""Whose word is taken: what tells the daemon what to do must be ours or root's, and nobody else's to change.

The rule is that of OpenSSH's StrictModes, for the path itself and every folder above it. Two things pass that are
common and harmless: a group that only we are in, as umask 002 makes it, and folders like /tmp, where the sticky bit
lets nobody move what is another's.
"""

import contextlib
import grp
import os
import pwd
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from loguru import logger

from models.errors import StopDaemon

_OPEN_TO_OTHERS = 0o067  # the group may be let pass
_OURS = re.compile(r"postgres(\.new|\.lock|\.users)?|run|api-token|demo|app\.log(\.\d+)?|lost\+found")
_NAMED = 3


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
    _check_real(real, what, path)
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


def make_private(folder: Path, what: str) -> Path:
    """Make a folder that is nobody else's, or make it so; its path without links, to be used from here on.

    One that is open to others is closed only if nothing but ours lies in it: else somebody may need it as it is.
    Passing through may be left to the folder's group: root gives it to the user of the embedded server.
    Raises StopDaemon also for a link, and for a folder that another user could put another one in place of.
    """
    named = folder.absolute()
    try:
        for above in reversed(named.parents):
            above.mkdir(exist_ok=True)
            _check_real(above.resolve(strict=True), what, folder)
        real = named.parent.resolve(strict=True) / named.name
        if real.is_symlink():
            raise StopDaemon(f"{what} {folder} is a link, which is not followed", hint=f"set {what} to a folder itself")
        with contextlib.suppress(FileExistsError):
            real.mkdir(mode=0o700)
        _check_owner(real.lstat(), real, what, folder)
        with opened(real) as descriptor:
            _close_to_others(descriptor, what, folder)
            _check_status(os.fstat(descriptor), real, what, folder)
    except OSError as error:
        raise StopDaemon(f"{what} {folder} cannot be used: {error.strerror}") from error
    return real


@contextmanager
def opened(folder: Path) -> Iterator[int]:
    """A descriptor of the folder itself: what was looked at is what is changed. Raises OSError for a link."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def user_name(uid: int) -> str:
    """The name of a user, or its number where there is none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _below(folder: Path) -> Iterator[Path]:
    for place, folders, files in os.walk(folder):
        yield from (Path(place, name) for name in (*folders, *files))


def _close_to_others(descriptor: int, what: str, named: Path) -> None:
    status = os.fstat(descriptor)
    mode = stat.S_IMODE(status.st_mode)
    if not mode & _OPEN_TO_OTHERS or mode & stat.S_ISVTX or status.st_uid != os.geteuid():
        return
    foreign = sorted(name for name in os.listdir(descriptor) if not _OURS.fullmatch(name))
    if foreign:
        some = ", ".join(foreign[:_NAMED]) + (", …" if len(foreign) > _NAMED else "")
        raise StopDaemon(
            f"{what} {named} (mode {mode:04o}) is open to other users, and not only Tidegate's files are in it: {some}",
            hint=f"set {what} to a folder of its own, or, if nobody else needs what is there: chmod 700 '{named}'",
        )
    os.fchmod(descriptor, 0o700)
    logger.warning("closed {} {} to other users: its mode was {:04o}", what, named, mode)


def _check_real(real: Path, what: str, named: Path) -> None:
    """A path without links, and every folder above it."""
    for each in (real, *real.parents):
        _check(each, what, named)


def _check(each: Path, what: str, named: Path, *, sticky_is_safe: bool = True) -> None:
    try:
        status = each.stat()
    except FileNotFoundError:
        return  # since it was listed; what is not there is not believed
    _check_status(status, each, what, named, sticky_is_safe=sticky_is_safe)


def _check_status(status: os.stat_result, each: Path, what: str, named: Path, *, sticky_is_safe: bool = True) -> None:
    _check_owner(status, each, what, named)
    mode = stat.S_IMODE(status.st_mode)
    is_sheltered = sticky_is_safe and stat.S_ISDIR(status.st_mode) and mode & stat.S_ISVTX
    writers = mode & (stat.S_IWGRP | stat.S_IWOTH)
    if writers == stat.S_IWGRP and _is_private(status.st_gid, os.geteuid()):
        writers = 0
    if writers and not is_sheltered:
        raise StopDaemon(
            f"{_told(each, what, named)} (mode {mode:04o}) can be changed by others",
            hint=f"if nobody has: chmod go-w '{each}'",
        )


def _check_owner(status: os.stat_result, each: Path, what: str, named: Path) -> None:
    if status.st_uid not in (0, os.geteuid()):
        raise StopDaemon(
            f"{_told(each, what, named)} belongs to {user_name(status.st_uid)}",
            hint=f"run Tidegate as that user, or, if you know what is there: chown {user_name(os.geteuid())} '{each}'",
        )


def _told(each: Path, what: str, named: Path) -> str:
    return f"{what} {named} is not trusted: {'it' if each == named else each}"


def _is_private(gid: int, uid: int) -> bool:
    """Whether it is the user's own group, and nobody else is in it."""
    try:
        user, group = pwd.getpwuid(uid), grp.getgrgid(gid)
    except KeyError:
        return False
    others = {*group.gr_mem, *(each.pw_name for each in pwd.getpwall() if each.pw_gid == gid)} - {user.pw_name}
    return user.pw_gid == gid and not others
