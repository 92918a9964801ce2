"""Fetching files from a partner's SFTP server: each is whole and on disk here before it leaves the folder there."""

import asyncio
import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncssh
from loguru import logger
from psycopg import Connection

from models.connector import SftpSource
from models.errors import RetryLater
from services.db.engine import Connect
from services.files import durable, names
from services.files.directory import Folder
from services.files.durable import Temporary
from services.ledger import cursors, locks
from services.runtime.blocking import in_thread
from services.runtime.supervisor import Job, Tell
from services.sources import remote_files
from services.sources.remote_files import RemoteFile
from services.transport import ssh
from settings import Settings

FILES_AT_ONCE = 128
"""So many files are made durable and remembered together."""

SMALL_BYTES = 256 * 1024
"""A file up to this size is read in one go, which takes half the requests."""

EMPTY_POLLS = 3
"""An empty file may be one that its sender has only opened so far: it is left alone for so many polls."""


@dataclass(frozen=True, slots=True)
class FetchedFile:
    """A file that is here, not yet in its place: under a temporary name.

    name: the one it gets. sha256: of its content.
    """

    file: RemoteFile
    name: str
    here: Temporary
    sha256: bytes


Fetched = dict[RemoteFile, bytes | None]
"""Files that are here, with the SHA-256 of what was fetched; None where an earlier version did not remember it."""


class SftpFetcher:
    """Fetches what rests in one remote folder, again and again.

    The cursor remembers what is fetched and not yet archived over there, so that a crash in
    between, or an archive that cannot take a file, has nothing fetched a second time.
    """

    def __init__(self, flow: str, source: SftpSource, settings: Settings, connect: Connect) -> None:
        self._flow = flow
        self._source = source
        self._input = Folder(settings.input_dir.resolve()) / flow
        self._login = ssh.Login.of(source.server, settings)
        self._folder = os.fsencode(settings.text(source.folder))
        self._archive = os.fsencode(settings.text(source.archive))
        self._interval_seconds = float(settings.text(source.interval))
        self._settle_seconds = settings.settle_seconds
        self._connect = connect
        self._warned: set[str] = set()
        self._empty: Counter[RemoteFile] = Counter()

    @property
    def name(self) -> str:
        return f"{self._flow}/{self._source.name}"

    @property
    def jobs(self) -> list[Job]:
        return [Job(self.name, self.poll)]

    async def poll(self, tell: Tell) -> float:
        """Fetch what is there; the seconds until the next look."""
        async with locks.try_connector(self._connect, self.name) as connection:
            if connection is None:
                tell("another daemon polls")
                return self._interval_seconds
            await in_thread(self._remove_abandoned)
            async with ssh.connected(self._login) as session:
                fetched = await self._fetch_all(session, connection)
        tell(f"polls every {self._interval_seconds:g} s; {fetched} files at {datetime.now(UTC):%H:%M:%S}Z")
        return self._interval_seconds

    def _remove_abandoned(self) -> None:
        """Whoever had the connector before may have been killed amid a file, and never come back."""
        with suppress(FileNotFoundError), self._input.open() as folder:
            durable.remove_abandoned(folder)

    async def _fetch_all(self, session: ssh.Session, connection: Connection) -> int:
        state = await in_thread(cursors.read, connection, self._flow, self._source.name)
        before: dict[str, Any] = state.get("fetched", {})
        resting = await self._at_rest(session)
        here = {file: _sha256(before[file.key]) for file in resting if before.get(file.key, [])[:2] == file.shape}
        reasons = await self._archive_all(session, here)
        stuck: Fetched = {file: here[file] for file in reasons}
        wanted = self._ripe(file for file in resting if file not in here)
        came = 0
        arriving: asyncio.Task[int] | None = None
        try:
            for start in range(0, len(wanted), FILES_AT_ONCE):
                with ExitStack() as temporaries:
                    group = await self._download_all(session, wanted[start : start + FILES_AT_ONCE], temporaries)
                    if arriving is not None:
                        came += await arriving
                    # The next ones come while these are written.
                    arriving = asyncio.create_task(
                        self._arrive(session, connection, group, stuck, reasons, temporaries.pop_all())
                    )
        finally:
            if arriving is not None:
                came += await arriving
        await self._remember(connection, stuck)
        if stuck:
            file, reason = next(iter(reasons.items()))
            archive = os.fsdecode(self._archive)
            raise RetryLater(
                f"{len(stuck)} fetched files cannot be moved to {archive!r} over there: {file.text!r}: {reason}",
                hint=f"new ones are fetched all the same; check {self._source.archive.name}",
            )
        return came

    def _ripe(self, files: Iterable[RemoteFile]) -> list[RemoteFile]:
        """Those of the files that are not empty, or have been so for long enough."""
        found = list(files)
        self._empty = Counter({file: self._empty[file] + 1 for file in found if file.size == 0})
        return [file for file in found if file.size or self._empty[file] > EMPTY_POLLS]

    async def _arrive(
        self,
        session: ssh.Session,
        connection: Connection,
        group: Sequence[FetchedFile],
        stuck: Fetched,
        reasons: dict[RemoteFile, str],
        temporaries: ExitStack,
    ) -> int:
        """Bring files into the input folder, and then to the archive over there.

        What does not go gets into `stuck`, and why into `reasons`.
        """
        with temporaries:
            await in_thread(self._place, group)
        for one in group:
            logger.bind(flow=self._flow, file=one.name).info(
                "{} fetched {}: {} bytes", self.name, one.name, one.file.size
            )
        files: Fetched = {one.file: one.sha256 for one in group}
        await self._remember(connection, stuck | files)
        stay = await self._archive_all(session, files)
        stuck.update((file, files[file]) for file in stay)
        reasons.update(stay)
        return len(group)

    async def _remember(self, connection: Connection, files: Fetched) -> None:
        state = {"fetched": {file.key: file.remembered(sha256) for file, sha256 in files.items()}}
        await in_thread(cursors.move, connection, self._flow, self._source.name, state)

    async def _at_rest(self, session: ssh.Session) -> list[RemoteFile]:
        """The files that two looks find alike; the oldest first."""
        before = set(await self._listed(session))
        if not before:
            return []
        await asyncio.sleep(self._settle_seconds)
        both = before.intersection(await self._listed(session))
        return sorted(both, key=lambda file: (file.mtime, file.name))

    async def _listed(self, session: ssh.Session) -> list[RemoteFile]:
        """The files that may be fetched."""
        try:
            files = await session.ask(remote_files.listed(session, self._folder))
        except asyncssh.SFTPConnectionLost:
            raise
        except asyncssh.SFTPError as error:
            raise RetryLater(
                f"{self._login.place} does not list the folder {os.fsdecode(self._folder)!r}: {error.reason}",
                hint=f"check {self._source.folder.name}",
            ) from error
        most = self._source.max_bytes
        for file in files:
            if file.size > most:
                self._warn_once(f"{file.text!r} stays there: {file.size} bytes are more than {most}")
        return [file for file in files if file.size <= most]

    def _warn_once(self, what: str) -> None:
        if what not in self._warned:
            self._warned.add(what)
            logger.warning("{}: {}", self.name, what)

    async def _download_all(
        self, session: ssh.Session, files: Sequence[RemoteFile], temporaries: ExitStack
    ) -> list[FetchedFile]:
        """Those of the files that could be had."""
        at_once = asyncio.Semaphore(self._source.parallel)
        try:
            folder = temporaries.enter_context(self._input.open(make=True))
        except OSError as error:
            raise self._not_written(error) from error

        async def download(file: RemoteFile) -> FetchedFile | None:
            async with at_once:
                try:
                    here = temporaries.enter_context(Temporary(folder))
                    return await self._download(session, file, here)
                except asyncssh.SFTPConnectionLost:
                    raise
                except asyncssh.SFTPError as error:
                    self._warn_once(f"{file.text!r} cannot be fetched: {error.reason}")
                    return None

        return [one for one in await _all(download(file) for file in files) if one is not None]

    async def _download(self, session: ssh.Session, file: RemoteFile, here: Temporary) -> FetchedFile | None:
        """Fetch one file; None when it has changed meanwhile."""
        path = self._folder + b"/" + file.name
        try:
            if file.size <= SMALL_BYTES:
                content = await session.ask(remote_files.content(session.sftp, path, file.size))
                size, sha256 = len(content), hashlib.sha256(content).digest()
                here.file.write(content)
            else:
                # By its descriptor: what has the temporary name by now need not be that file.
                local = f"/proc/self/fd/{here.file.fileno()}"
                await session.ask(session.sftp.get(path, local.encode(), progress_handler=session.heard))
                size, sha256 = await in_thread(_measured, Path(local))
        except OSError as error:
            if session.is_cut:
                raise
            raise self._not_written(error) from error  # a full disk, for one
        if size != file.size:
            self._warn_once(f"{file.text!r} has changed while it was fetched; it is fetched again")
            return None
        return FetchedFile(file, names.local(file.text), here, sha256)

    def _place(self, group: Sequence[FetchedFile]) -> None:
        """Make files durable and give them their names."""
        try:
            for one in group:
                one.here.sync()
            for number, one in enumerate(group, start=1):
                one.here.place(one.name, number)
            group[0].here.entry.folder.sync()
        except OSError as error:
            raise self._not_written(error) from error

    def _not_written(self, error: OSError) -> RetryLater:
        return RetryLater(
            f"files cannot be written to {self._input.path}: {error.strerror or error}",
            hint="make room or mend the permissions there",
        )

    async def _archive_all(self, session: ssh.Session, files: Fetched) -> dict[RemoteFile, str]:
        """Move files to the archive over there; those that do not go, and why."""
        at_once = asyncio.Semaphore(self._source.parallel)
        stuck: dict[RemoteFile, str] = {}

        async def archive(file: RemoteFile) -> None:
            try:
                async with at_once:
                    work = remote_files.archive(session, self._folder, self._archive, file, files[file])
                    if not await session.ask(work):
                        logger.info(
                            "{}: {!r} has changed since it was fetched; it is fetched again", self.name, file.text
                        )
            except asyncssh.SFTPConnectionLost:
                raise
            except asyncssh.SFTPError as error:
                stuck[file] = error.reason

        await _all(archive(file) for file in files)
        return stuck


def _sha256(remembered: Sequence[Any]) -> bytes | None:
    return bytes.fromhex(remembered[2]) if len(remembered) > 2 else None


def _measured(path: Path) -> tuple[int, bytes]:
    """Size and SHA-256."""
    with path.open("rb") as file:
        return os.fstat(file.fileno()).st_size, hashlib.file_digest(file, "sha256").digest()


async def _all(work: Iterable[Any]) -> list[Any]:
    """All results in order; the first error ends the others."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one) for one in work]
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from errors
    return [task.result() for task in tasks]
