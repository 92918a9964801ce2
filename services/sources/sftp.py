"""Fetching files from a partner's SFTP server: each is whole and on disk here before it leaves his folder."""

import asyncio
import hashlib
import os
import stat
import urllib.parse
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncssh
from loguru import logger
from psycopg import Connection

from models.connector import SftpSource
from models.errors import RetryLater
from services import filing, ssh
from services.db import claims
from services.supervisor import Tell, in_thread
from settings import Settings

UNFINISHED = (".tmp", ".part", ".partial", ".filepart", "~", ".swp", ".crdownload")
"""How names of files end that are still being written."""

FILES_AT_ONCE = 128
"""So many files are made durable and remembered together."""

SMALL_BYTES = 256 * 1024
"""A file up to this size is read in one go, which takes half the requests."""

EMPTY_POLLS = 3
"""An empty file may be one that its sender has only opened so far: it is left alone for so many polls."""

MAX_NAME_BYTES = 200


@dataclass(frozen=True, slots=True)
class Remote:
    """A file as the server lists it. mtime: in seconds, as SFTP has it."""

    name: bytes
    size: int
    mtime: int

    @classmethod
    def of(cls, name: bytes, attributes: asyncssh.SFTPAttrs) -> "Remote":
        return cls(name, attributes.size or 0, attributes.mtime or 0)

    @property
    def key(self) -> str:
        """The name as the bookmark has it: JSON cannot hold every byte."""
        return urllib.parse.quote_from_bytes(self.name)

    @property
    def text(self) -> str:
        return os.fsdecode(self.name)

    @property
    def shape(self) -> list[int]:
        return [self.size, self.mtime]


@dataclass(frozen=True, slots=True)
class Fetched:
    """A file that is here, not yet in its place: in memory, or else in `part`."""

    file: Remote
    name: str
    part: Path
    content: bytes | None


class SftpFetcher:
    """Fetches what rests in one remote folder, again and again.

    The bookmark remembers what is fetched and not yet archived over there, so that a crash in
    between, or an archive that cannot take a file, has nothing fetched a second time.
    """

    def __init__(self, flow: str, source: SftpSource, settings: Settings, connect: claims.Connect) -> None:
        self._flow = flow
        self._source = source
        self._inbox = settings.input_dir.resolve() / flow
        self._login = ssh.Login.of(source.server, settings)
        self._folder = os.fsencode(settings.text(source.folder))
        self._archive = os.fsencode(settings.text(source.archive))
        self._interval_seconds = float(settings.text(source.interval))
        self._settle_seconds = settings.settle_seconds
        self._connect = connect
        self._told: set[str] = set()
        self._empty: Counter[Remote] = Counter()

    @property
    def name(self) -> str:
        return f"{self._flow}/{self._source.name}"

    async def poll(self, tell: Tell) -> float:
        """Fetch what is there; the seconds until the next look."""
        async with claims.held(self._connect, self.name) as connection:
            if connection is None:
                tell("another daemon polls")
                return self._interval_seconds
            await in_thread(filing.remove_stale_parts, self._inbox)
            async with ssh.connected(self._login) as session:
                fetched = await self._fetch_all(session, connection)
        tell(f"polls every {self._interval_seconds:g} s; {fetched} files at {datetime.now(UTC):%H:%M:%S}Z")
        return self._interval_seconds

    async def _fetch_all(self, session: ssh.Session, connection: Connection) -> int:
        state = await in_thread(claims.bookmark, connection, self._flow, self._source.name)
        before: dict[str, Any] = state.get("fetched", {})
        resting = await self._at_rest(session)
        here = [file for file in resting if before.get(file.key) == file.shape]
        stuck = await self._archive_all(session, here)
        wanted = self._ripe(file for file in resting if before.get(file.key) != file.shape)
        came = 0
        landing: asyncio.Task[None] | None = None
        try:
            for start in range(0, len(wanted), FILES_AT_ONCE):
                group = await self._download_all(session, wanted[start : start + FILES_AT_ONCE])
                if landing is not None:
                    await landing
                # The next ones come while these are written.
                landing = asyncio.create_task(self._land(session, connection, group, stuck))
                came += len(group)
        finally:
            if landing is not None:
                await landing
        await self._remember(connection, stuck)
        if stuck:
            file, reason = next(iter(stuck.items()))
            archive = os.fsdecode(self._archive)
            raise RetryLater(
                f"{len(stuck)} fetched files cannot be moved to {archive!r} over there: {file.text!r}: {reason}",
                hint=f"new ones are fetched all the same; check {self._source.archive.name}",
            )
        return came

    def _ripe(self, files: Iterable[Remote]) -> list[Remote]:
        """Those of the files that are not empty, or have been so for long enough."""
        found = list(files)
        self._empty = Counter({file: self._empty[file] + 1 for file in found if file.size == 0})
        return [file for file in found if file.size or self._empty[file] > EMPTY_POLLS]

    async def _land(
        self, session: ssh.Session, connection: Connection, group: Sequence[Fetched], stuck: dict[Remote, str]
    ) -> None:
        """Bring files into the input folder, and then to the archive over there; `stuck` gets what does not go."""
        await in_thread(self._place, group)
        for one in group:
            logger.bind(flow=self._flow, file=one.name).info(
                "{} fetched {}: {} bytes", self.name, one.name, one.file.size
            )
        files = [one.file for one in group]
        await self._remember(connection, [*stuck, *files])
        stuck |= await self._archive_all(session, files)

    async def _remember(self, connection: Connection, files: Iterable[Remote]) -> None:
        state = {"fetched": {file.key: file.shape for file in files}}
        await in_thread(claims.move_bookmark, connection, self._flow, self._source.name, state)

    async def _at_rest(self, session: ssh.Session) -> list[Remote]:
        """The files that two looks find alike; the oldest first."""
        before = set(await self._listed(session))
        if not before:
            return []
        await asyncio.sleep(self._settle_seconds)
        both = before.intersection(await self._listed(session))
        return sorted(both, key=lambda file: (file.mtime, file.name))

    async def _listed(self, session: ssh.Session) -> list[Remote]:
        """The files that may be fetched."""
        try:
            entries = await session.ask(_entries(session, self._folder))
        except asyncssh.SFTPConnectionLost:
            raise
        except asyncssh.SFTPError as error:
            raise RetryLater(
                f"{self._login.place} does not list the folder {os.fsdecode(self._folder)!r}: {error.reason}",
                hint=f"check {self._source.folder.name}",
            ) from error
        return [file for file in map(self._file, entries) if file is not None]

    def _file(self, entry: asyncssh.SFTPName) -> Remote | None:
        """What the entry says, if it is a file that may be fetched."""
        name, attributes = os.fsencode(entry.filename), entry.attrs
        if not stat.S_ISREG(attributes.permissions or 0) or name.startswith(b".") or b"/" in name:
            return None
        file = Remote.of(name, attributes)
        if file.text.lower().endswith(UNFINISHED):
            return None
        if file.size > self._source.max_bytes:
            self._tell_once(f"{file.text!r} stays there: {file.size} bytes are more than {self._source.max_bytes}")
            return None
        return file

    def _tell_once(self, what: str) -> None:
        if what not in self._told:
            self._told.add(what)
            logger.warning("{}: {}", self.name, what)

    async def _download_all(self, session: ssh.Session, files: Sequence[Remote]) -> list[Fetched]:
        """Those of the files that could be had."""
        at_once = asyncio.Semaphore(self._source.parallel)

        async def download(file: Remote) -> Fetched | None:
            async with at_once:
                return await self._download(session, file)

        return [one for one in await _all(download(file) for file in files) if one is not None]

    async def _download(self, session: ssh.Session, file: Remote) -> Fetched | None:
        """A small file in memory, a large one under a temporary name; None when it cannot be had now."""
        name = local_name(file.text)
        part = filing.part_of(self._inbox, name)
        path = self._folder + b"/" + file.name
        content = None
        try:
            if file.size <= SMALL_BYTES:
                content = await session.ask(_content(session.sftp, path, file.size))
                size = len(content)
            else:
                await in_thread(part.unlink, missing_ok=True)
                await session.ask(session.sftp.get(path, os.fsencode(part), progress_handler=session.heard))
                size = (await in_thread(part.stat)).st_size
        except asyncssh.SFTPConnectionLost:
            raise
        except asyncssh.SFTPError as error:
            self._tell_once(f"{file.text!r} cannot be fetched: {error.reason}")
            return None
        except OSError as error:
            if session.is_cut:
                raise
            await in_thread(part.unlink, missing_ok=True)  # of a full disk, too
            raise self._not_written(error) from error
        if size != file.size:
            self._tell_once(f"{file.text!r} has changed while it was fetched; it is fetched again")
            return None
        return Fetched(file, name, part, content)

    def _place(self, group: Sequence[Fetched]) -> None:
        """Make files durable and give them their names."""
        try:
            for one in group:
                if one.content is not None:
                    filing.write_part(one.part, one.content)
            for one in group:
                with one.part.open("rb") as file:
                    os.fsync(file.fileno())
            for number, one in enumerate(group, start=1):
                filing.rename(one.part, self._inbox, one.name, number)
            filing.sync_folder(self._inbox)
        except OSError as error:
            raise self._not_written(error) from error

    def _not_written(self, error: OSError) -> RetryLater:
        return RetryLater(
            f"files cannot be written to {self._inbox}: {error.strerror or error}",
            hint="make room or mend the permissions there",
        )

    async def _archive_all(self, session: ssh.Session, files: Iterable[Remote]) -> dict[Remote, str]:
        """Move files to the archive over there; those that do not go, and why."""
        at_once = asyncio.Semaphore(self._source.parallel)
        stuck: dict[Remote, str] = {}

        async def archive(file: Remote) -> None:
            try:
                async with at_once:
                    await session.ask(self._archive_one(session.sftp, file))
            except asyncssh.SFTPConnectionLost:
                raise
            except asyncssh.SFTPError as error:
                stuck[file] = error.reason

        await _all(archive(file) for file in files)
        return stuck

    async def _archive_one(self, sftp: asyncssh.SFTPClient, file: Remote) -> None:
        """Move a file over there, never over another one, and only if it is still as it was fetched."""
        source = self._folder + b"/" + file.name
        try:
            now = Remote.of(file.name, await sftp.lstat(source))
        except asyncssh.SFTPNoSuchFile:
            return  # someone else took it away
        if now != file:
            logger.info("{}: {!r} has changed since it was fetched; it is fetched again", self.name, file.text)
            return
        stamp = f".{datetime.now(UTC):%Y%m%dT%H%M%S%f}".encode()
        target = self._archive + b"/" + file.name
        try:
            await sftp.rename(source, target)
        except asyncssh.SFTPNoSuchFile:
            await sftp.makedirs(self._archive, exist_ok=True)
            await sftp.rename(source, target)
        except (asyncssh.SFTPFailure, asyncssh.SFTPFileAlreadyExists):
            if not await sftp.exists(target):
                raise
            await sftp.rename(source, target + stamp)


async def _entries(session: ssh.Session, folder: bytes) -> list[asyncssh.SFTPName]:
    found = []
    async for entry in session.sftp.scandir(folder):
        session.heard()
        found.append(entry)
    return found


async def _content(sftp: asyncssh.SFTPClient, path: bytes, size: int) -> bytes:
    """A file of `size` bytes, or one more when it has grown."""
    async with sftp.open(path, "rb", encoding=None, block_size=0) as remote:
        content = bytearray()
        while len(content) <= size and (piece := await _block(remote, len(content), size + 1)):
            content += piece
            if len(content) == size:
                break  # asking for the end would take another round trip
    return bytes(content)


async def _block(remote: asyncssh.SFTPClientFile, start: int, end: int) -> bytes:
    block: bytes = await remote.read(end - start, start)
    return block


async def _all(work: Iterable[Any]) -> list[Any]:
    """All results in order; the first error ends the others."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one) for one in work]
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from errors
    return [task.result() for task in tasks]


def local_name(name: str) -> str:
    """A remote name as a safe one of ours; what had to be changed gets a digest, so that no two are the same."""
    made = "".join(c if c.isprintable() and c not in "/\\" and not "\udc80" <= c <= "\udcff" else "_" for c in name)
    made = made.lstrip(".") or "_"
    if made == name and len(os.fsencode(made)) <= MAX_NAME_BYTES:
        return made
    stem, dot, suffix = made.partition(".")
    digest = hashlib.sha256(os.fsencode(name)).hexdigest()[:16]
    short = os.fsencode(stem)[:100].decode("utf-8", "ignore")
    return f"{short}-{digest}{dot}{os.fsencode(suffix)[:60].decode('utf-8', 'ignore')}"
