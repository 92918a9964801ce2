"""Which migrations a database has seen, and running those that it has not: Tidegate's own, then the site's.

Tidegate's own revisions change its own tables. They form one line, by number, and the database remembers the
newest. A site's revisions change the tables of its flows. They lie beside the flows, each stands for itself,
and the database remembers every one: daemons with different flows may share it.
"""

import runpy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import psycopg
from loguru import logger
from sqlalchemy import Connection, text

from models.errors import RejectFile, RestFlow, RetryLater, StopDaemon
from models.ledger import SCHEMA
from services.db import sqlstate, triggers

OWN_FOLDER = Path(__file__).parent / "migrations" / "versions"
OWN = (
    "0001_ledger",
    "0002_outbound_document",
    "0003_receipt_ids",
    "0004_deliveries",
    "0005_file_identity",
    "0006_file_counts",
    "0007_daemon",
    "0008_arrival",
)
"""Tidegate's own revisions, oldest first. What else lies there is a site's: the first release wrote it there."""

_NUMBER = 4
"""Digits of a number, which the first release gave to a site's revisions too."""

_VERSION, _SITE_REVISION = f"{SCHEMA}.alembic_version", f"{SCHEMA}.site_revision"
_CREATE = f"""
create schema if not exists {SCHEMA};
create table if not exists {_VERSION} (version_num varchar(32) not null constraint alembic_version_pkc primary key);
create table if not exists {_SITE_REVISION} (id text primary key, applied_at timestamptz not null default now());
"""


@dataclass(frozen=True, slots=True)
class Revision:
    """One migration. id: what the database remembers of it."""

    id: str
    path: Path

    @classmethod
    def of(cls, path: Path) -> "Revision":
        number = path.stem.partition("_")[0]
        return cls(number if len(number) == _NUMBER else path.stem, path)

    def run(self, connection: Connection, way: str = "upgrade") -> None:
        """way: or `downgrade`. Raises StopDaemon when it does not suit the rows, or is no migration."""
        from alembic.migration import MigrationContext
        from alembic.operations import Operations

        try:
            with sqlstate.translated(), Operations.context(MigrationContext.configure(connection)):
                runpy.run_path(str(self.path))[way]()
        except RejectFile as error:
            raise StopDaemon(
                f"the migration {self.path} does not suit the rows that are there: {error.reason}",
                hint="mend it: fill the column first, or give it a server_default",
            ) from error
        except (StopDaemon, RestFlow) as error:
            raise StopDaemon(f"the migration {self.path} fails: {error.reason}", hint="mend it") from error
        except RetryLater:
            raise
        except Exception as error:
            raise StopDaemon(f"the migration {self.path} fails: {type(error).__name__}: {error}") from error


class NewerSchema(StopDaemon):
    """A newer program has upgraded the database."""


class _Seen(NamedTuple):
    """What a database has seen: Tidegate's newest revision, `None` where it is empty, and each of the site's."""

    newest: str | None
    site: frozenset[str]


def own() -> list[Revision]:
    """Tidegate's revisions, oldest first."""
    return [Revision.of(OWN_FOLDER / f"{name}.py") for name in OWN]


def of_site(folders: Sequence[Path]) -> list[Revision]:
    """The revisions in the folders, oldest first. Raises StopDaemon when two claim the same place in the line."""
    found: dict[str, Revision] = {}
    for folder in (OWN_FOLDER, *folders):
        for path in sorted(folder.glob("[0-9]*_*.py")):
            if folder == OWN_FOLDER and path.stem in OWN:
                continue
            revision = Revision.of(path)
            other = found.setdefault(revision.id, revision)
            if other.path.name != path.name:
                raise StopDaemon(
                    f"two migrations have the number {revision.id}: {other.path} and {path}",
                    hint="remove one, or name it by a time and not a number, as in 20260131T120000_what_changed.py",
                )
    return [found[key] for key in sorted(found)]


# Each session of ours says which machine and process it belongs to; one that waits, waits to upgrade as well.
_CONNECTED = text("""
    select distinct replace(application_name, 'tidegate:', '') || coalesce(' from ' || host(client_addr), '')
      from pg_stat_activity
     where datname = current_database() and application_name like 'tidegate:%'
       and application_name <> current_setting('application_name') and wait_event is distinct from 'advisory'
     order by 1
""")


def upgrade(connection: Connection, folders: Sequence[Path]) -> list[str]:
    """Run what the database has not seen; which processes of the older version are connected, and will stop.

    They are no reason to wait: each notices before its next transaction, and nobody may be able to reach them.

    folders: of the site's revisions. Raises StopDaemon when a migration fails, NewerSchema when the database is newer
    than this program.
    """
    seen = _seen(connection)
    line = own()
    pending = line[_position(line, seen.newest) :]
    of_flows = [revision for revision in of_site(folders) if revision.id not in seen.site]
    if not pending and not of_flows:
        return []  # without importing Alembic, which takes longer than all the rest
    older = list(connection.scalars(_CONNECTED)) if pending and seen.newest else []
    for process in older:
        logger.warning("{} runs an older version, which stops now: start the newer one there", process)
    connection.exec_driver_sql(_CREATE)
    triggers.drop(connection)
    for revision in pending:
        revision.run(connection)
    for revision in of_flows:
        revision.run(connection)
        logger.info("ran the site's migration {}", revision.path.name)
    _remember(connection, _Seen(line[-1].id, seen.site.union(revision.id for revision in of_flows)))
    if pending:
        logger.info("upgraded the schema from {} to {}", seen.newest or "nothing", line[-1].id)
    return older


def newest(connection: psycopg.Connection) -> str | None:
    """The newest of Tidegate's own revisions that the database has seen."""
    found = connection.execute(f"select version_num from {_VERSION}".encode()).fetchone()  # noqa: S608
    return str(found[0]) if found else None


def stop_if_newer(revision: str | None) -> None:
    """Raises NewerSchema when a newer program has upgraded the database to this revision since this one looked."""
    _position(own(), revision)


def _position(line: Sequence[Revision], newest: str | None) -> int:
    """How many of the line the database has seen."""
    ids = [revision.id for revision in line]
    if newest is None:
        return 0
    if newest not in ids:
        raise NewerSchema(
            f"the database is at schema revision {newest}, this program knows up to {ids[-1]}",
            hint="start the newer version of Tidegate",
        )
    return ids.index(newest) + 1


def _seen(connection: Connection) -> _Seen:
    version = text("select to_regclass(:version), to_regclass(:site)")
    there = connection.execute(version, {"version": _VERSION, "site": _SITE_REVISION}).one()
    if there[0] is None:
        return _Seen(None, frozenset())
    newest = connection.exec_driver_sql(f"select version_num from {_VERSION}").scalar_one_or_none()  # noqa: S608
    if there[1] is None:
        return _Seen(newest, frozenset()) if _has_documents(connection) else _of_first_release(newest)
    return _Seen(newest, frozenset(connection.exec_driver_sql(f"select id from {_SITE_REVISION}").scalars()))  # noqa: S608


def _has_documents(connection: Connection) -> bool:
    """Whether Tidegate's own second revision was here before there were two lines: then there is none of a site's."""
    asked = text("select from pg_attribute where attrelid = to_regclass(:table) and attname = 'document'")
    return connection.execute(asked, {"table": f"{SCHEMA}.outbound_file"}).first() is not None


def _of_first_release(newest: str | None) -> _Seen:
    """It had one line for both, with a single revision of Tidegate's own: the numbers behind that are the site's."""
    first = own()[0].id
    if newest is None or newest == first:
        return _Seen(newest, frozenset())
    if not (newest.isdecimal() and len(newest) == _NUMBER and newest > first):
        raise StopDaemon(
            f"the database is at schema revision {newest}, which no version of Tidegate wrote",
            hint=f"set {_VERSION} to the revision of tidegate's tables, {first} for those of the first release",
        )
    return _Seen(first, frozenset(f"{number:0{_NUMBER}}" for number in range(int(first) + 1, int(newest) + 1)))


def _remember(connection: Connection, seen: _Seen) -> None:
    connection.exec_driver_sql(f"delete from {_VERSION}")  # noqa: S608
    connection.execute(text(f"insert into {_VERSION} values (:newest)"), {"newest": seen.newest})  # noqa: S608
    connection.execute(
        text(f"insert into {_SITE_REVISION} (id) select unnest(cast(:ids as text[])) on conflict do nothing"),
        {"ids": sorted(seen.site)},
    )
