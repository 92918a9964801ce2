"""As whom the embedded server runs: PostgreSQL refuses root, so root needs a user of its own for it.

That user may plant a link wherever it may write. So root reads there only what is that user's own regular file, and
has everything else there done by a process of that user's.
"""

import os
import pwd
import shutil
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path

from loguru import logger

from models.errors import StopDaemon
from services import trust

NAME = "tidegate-pg"
RUN_SECONDS = 190
"""No program of the server's may take longer; a start itself gives up before."""

_HINT = "run Tidegate as an ordinary user, or set DATABASE_URL to a PostgreSQL of yours"
_READ_AND_PASS = stat.S_IROTH | stat.S_IXOTH
_READ_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class ServerUser:
    """The user to run the server as: ourselves (all None), or, when we are root, another one."""

    name: str | None = None
    uid: int | None = None
    gid: int | None = None

    @property
    def owner(self) -> int:
        """The number of this user."""
        return os.geteuid() if self.uid is None else self.uid

    @property
    def login(self) -> str:
        """The name by which the kernel's word for a peer is known."""
        return trust.user_name(self.owner)

    def own(self, tree: Path) -> None:
        """Make this user the owner of `tree` with all that is in it, if it is root's; nobody else gets in meanwhile."""
        if self.uid is None or self.gid is None or tree.stat().st_uid == self.uid:
            return
        tree.chmod(0o700)
        for _, folders, files, descriptor in os.fwalk(tree):
            for name in (*folders, *files):
                os.chown(name, self.uid, self.gid, dir_fd=descriptor, follow_symlinks=False)
        os.chown(tree, self.uid, self.gid)

    def run(
        self, *command: str | Path, cwd: Path, given: str | None = None, wanted: bool = False
    ) -> "subprocess.CompletedProcess[str]":
        """Run a program as this user, with `given` on its standard input; `wanted`: what it says on the other is.

        Raises OSError and subprocess.TimeoutExpired.
        """
        return subprocess.run(
            command,
            user=self.uid,
            group=self.gid,
            extra_groups=None if self.uid is None else [],
            cwd=cwd,
            env={"PATH": os.defpath, "LC_ALL": "C"},  # none of the PG… variables
            input=given or "",
            stdout=subprocess.PIPE if wanted else subprocess.DEVNULL,  # a pipe would stay open in the server
            stderr=subprocess.PIPE,
            text=True,
            timeout=RUN_SECONDS,
            check=False,
        )

    def read(self, path: Path) -> str | None:
        """The end of a file of this user's; None where there is none, or it is another's, or no file at all."""
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return None
        with open(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or status.st_uid != self.owner:
                return None
            file.seek(max(0, status.st_size - _READ_BYTES))
            return file.read(_READ_BYTES).decode(errors="replace")

    def let_enter(self, folder: Path) -> None:
        """Let this user, and no other, pass through a folder of root's that is closed.

        Raises StopDaemon where another group passes already: it would be shut out.
        """
        if self.gid is None:
            return
        try:
            with trust.opened(folder) as descriptor:
                status = os.fstat(descriptor)
                mode = stat.S_IMODE(status.st_mode)
                if mode & stat.S_IXOTH or (status.st_gid == self.gid and mode & stat.S_IXGRP):
                    return
                if mode & stat.S_IRWXG and status.st_gid != self.gid:
                    raise StopDaemon(
                        f"DATA_DIR {folder} (mode {mode:04o}) is open to its group {status.st_gid}",
                        hint=f"set DATA_DIR to a folder of its own, or: chmod g= '{folder}'",
                    )
                os.fchown(descriptor, -1, self.gid)
                os.fchmod(descriptor, mode | stat.S_IXGRP)
        except OSError as error:
            raise StopDaemon(f"{folder} is closed to the embedded server: {error.strerror}", hint=_HINT) from error
        logger.info("let the user {} into {}, and not read it: the embedded PostgreSQL runs as it", self.name, folder)

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
    """The user for the server in `data`: ourselves, or `tidegate-pg` for root.

    Raises StopDaemon when the data is another's: what that one's server says is not to be believed.
    """
    if os.geteuid() != 0:
        user = ServerUser()
    else:
        entry = _own_user()
        user = ServerUser(entry.pw_name, entry.pw_uid, entry.pw_gid)
    if data.exists() and (uid := data.stat().st_uid) not in (user.owner, os.geteuid()):
        raise StopDaemon(
            f"{data} belongs to {trust.user_name(uid)}",
            hint=f"run Tidegate as that user, or, if you know what is there: chown -R {user.login} '{data}'",
        )
    return user


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
