"""As whom the embedded server runs: PostgreSQL refuses root, so root needs a user of its own for it."""

import os
import pwd
import shutil
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path

from loguru import logger

from models.errors import StopDaemon

NAME = "tidegate-pg"
_HINT = "run Tidegate as an ordinary user, or set DATABASE_URL to a PostgreSQL of yours"
_READ_AND_PASS = stat.S_IROTH | stat.S_IXOTH


@dataclass(frozen=True, slots=True)
class ServerUser:
    """The user to run the server as: ourselves (all None), or, when we are root, another one."""

    name: str | None = None
    uid: int | None = None
    gid: int | None = None

    def own(self, tree: Path) -> None:
        """Make this user the owner of `tree` with all that is in it."""
        if self.uid is None or self.gid is None or tree.stat().st_uid == self.uid:
            return
        for path in (*tree.rglob("*"), tree):
            os.chown(path, self.uid, self.gid, follow_symlinks=False)

    def let_reach(self, path: Path) -> None:
        """Let this user pass through the folders above `path`: only those closed to it, and only pass."""
        for folder in reversed(path.parents):
            mode = folder.stat().st_mode
            if lacking := self._bits(folder, stat.S_IXOTH) & ~mode:
                _chmod(folder, mode | lacking)
                logger.warning(
                    "made {} passable (not readable) for the user {}: the embedded PostgreSQL cannot run "
                    "as root and needs {}",
                    folder,
                    self.name,
                    path,
                )

    def let_read(self, tree: Path) -> None:
        """Let this user read `tree` and run its programs, where it cannot (a wheel installed with umask 077)."""
        if not self._bits(tree, _READ_AND_PASS) & ~tree.stat().st_mode:
            return
        for path in (*tree.rglob("*"), tree):  # the folder that is asked about comes last
            mode = path.stat().st_mode
            runs = path.is_dir() or mode & stat.S_IXUSR
            _chmod(path, mode | self._bits(path, _READ_AND_PASS if runs else stat.S_IROTH))
        logger.warning("made {} readable for the user {}: the embedded PostgreSQL runs as it", tree, self.name)

    def _bits(self, path: Path, others: int) -> int:
        """The permission bits for others, moved to where they apply to this user on this path."""
        owner = path.stat()
        if self.uid is None:
            return 0
        return others << 6 if owner.st_uid == self.uid else others << 3 if owner.st_gid == self.gid else others


def owner_of(data: Path) -> ServerUser:
    """The user for the server in `data`: ourselves; for root the owner of the data, or `tidegate-pg`."""
    if os.geteuid() != 0:
        return ServerUser()
    if data.exists() and (uid := data.stat().st_uid) != 0:
        try:
            return _user(pwd.getpwuid(uid))
        except KeyError:
            logger.warning("{} belongs to user {}, who is not known here", data, uid)
    return _user(_own_user())


def _user(entry: pwd.struct_passwd) -> ServerUser:
    return ServerUser(entry.pw_name, entry.pw_uid, entry.pw_gid)


def _own_user() -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(NAME)
    except KeyError:
        pass
    useradd = shutil.which("useradd", path=f"{os.defpath}:/usr/sbin:/sbin")
    if useradd is None:
        raise StopDaemon("PostgreSQL cannot run as root, and there is no useradd to make a user for it", hint=_HINT)
    options = ["--system", "--user-group", "--no-create-home", "--home-dir", "/nonexistent"]
    done = subprocess.run(
        [useradd, *options, "--shell", "/usr/sbin/nologin", NAME], capture_output=True, text=True, check=False
    )
    try:
        entry = pwd.getpwnam(NAME)  # also when another process was faster
    except KeyError:
        raise StopDaemon(f"user {NAME} cannot be created: {done.stderr.strip()}", hint=_HINT) from None
    logger.warning("created the system user {}: the embedded PostgreSQL cannot run as root", NAME)
    return entry


def _chmod(path: Path, mode: int) -> None:
    try:
        path.chmod(stat.S_IMODE(mode))
    except OSError as error:
        raise StopDaemon(f"{path} is closed to the embedded server: {error.strerror}", hint=_HINT) from error
