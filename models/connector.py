"""The declaration of how a flow's files come from partners and get to them: addresses by name, rules as functions.

A connector is on when its address is configured; without it nothing happens and nothing is wrong.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

JsonObject = dict[str, Any]
"""An object as a partner sends it: only the flow knows its fields."""

Json = Any
"""A decoded JSON value: what a partner answers has the shape that its own function knows."""


class Kind(StrEnum):
    """What a setting holds; its text is checked when the daemon starts."""

    TEXT = "text"
    URL = "url"  # http or https, without a query
    PORT = "port"
    SECONDS = "seconds"  # more than 0; may have a fraction
    PATH = "path"  # on this machine; ~ is the home folder
    SECRET = "secret"  # noqa: S105  # never shown, never logged; goes into an HTTP header
    PASSWORD = "password"  # noqa: S105  # the same, and may hold anything


@dataclass(frozen=True, slots=True)
class Setting:
    """A value out of the environment or `.env`, by its name there. An empty default: it has none.

    description: a sentence for `.env.example`.
    """

    name: str
    kind: Kind = Kind.TEXT
    default: str = ""
    description: str = ""


class Connector(Protocol):
    """What every source and destination declares.

    name: tells the connectors of a flow apart, in the log, in `status`, in the ledger's `cursor`.
    address: the setting that switches it on. settings: all that it reads.
    needs: where it is on, one setting of each of these has to be given.
    """

    @property
    def name(self) -> str: ...
    @property
    def address(self) -> Setting: ...
    @property
    def settings(self) -> tuple[Setting, ...]: ...
    @property
    def needs(self) -> tuple[tuple[Setting, ...], ...]: ...


class Destination(Connector, Protocol):
    """What every destination declares beside.

    documents: the names of the flow's kinds of document that go there.
    in_order: a file without a clear answer holds back those behind it, for a few tries; a dead letter does not.
    answer_seconds: how long its answer may take.
    """

    @property
    def documents(self) -> tuple[str, ...]: ...
    @property
    def in_order(self) -> bool: ...
    @property
    def answer_seconds(self) -> float: ...


POLLING_INTERVAL = Setting("POLLING_INTERVAL_SECONDS", Kind.SECONDS, "10", "How often sources are polled.")


@dataclass(frozen=True, slots=True)
class SourcePage:
    """What a page of an answer says.

    records: as the partner sent them; only whether there are any, and whether they changed, is looked at.
    next: the query of the next page, None behind the last one.
    cursor: where the next poll begins; the one of a poll's first page counts.
    """

    records: list[Json]
    next: Mapping[str, str] | None = None
    cursor: str | None = None


@dataclass(frozen=True, slots=True)
class RestSource:
    """Polls `GET address + path`; each page becomes a file in the input folder, byte by byte as it came.

    read: takes page, next query and cursor out of a decoded answer; a ValueError, KeyError or
        TypeError of it means that the answer is not what was agreed.
    token: sent as `Authorization: Bearer`, where there is one.
    since: the query parameter that carries the cursor.
    query: of a poll's first page; `next` of a page comes on top of it.
    tries, pause_seconds: a request that fails is sent again after pauses that double from the first.
    max_bytes: a larger answer is refused.
    """

    name: str
    address: Setting
    path: str
    read: Callable[[Json], SourcePage]
    token: Setting | None = None
    since: str | None = None
    query: Mapping[str, str] = field(default_factory=dict)
    interval: Setting = POLLING_INTERVAL
    tries: int = 5
    pause_seconds: float = 0.5
    timeout_seconds: float = 30
    max_bytes: int = 64 * 2**20

    @property
    def settings(self) -> tuple[Setting, ...]:
        return (self.address, *([self.token] if self.token else []), self.interval)

    @property
    def needs(self) -> tuple[tuple[Setting, ...], ...]:
        return ((self.token,),) if self.token else ()


@dataclass(frozen=True, slots=True)
class LookUp:
    """How to ask a partner whether it already has a document.

    query: of `GET address + path`, from the document. find: its object for this document out of the
    decoded answer, None where it has none. difference: from the document and that object to what the object says
    otherwise, None where it says the same; without it, to be there is enough.
    """

    path: str
    query: Callable[[Json], Mapping[str, str]]
    find: Callable[[Json, Json], Json | None]
    difference: Callable[[Json, Json], str | None] = lambda _document, _found: None


@dataclass(frozen=True, slots=True)
class Change:
    """A request to a partner that makes its object say what a document says; it may be repeated.

    path: below the address. sends_document: its body is the document; else it has none.
    """

    method: str
    path: str
    sends_document: bool = True


@dataclass(frozen=True, slots=True)
class RestDestination:
    """Sends files of one kind of document to `POST address + path`.

    document: the name of the flow's `Outbound` whose files these are.
    idempotency_key: the same for every sending of the same thing; without it, it is the file's.
    look_up: asked before a document is sent again of which nobody knows whether it arrived.
    known_on: statuses that say that the partner has an object for it already, which is then looked up. Where it says
        the same, the document is delivered.
    change: from the document and an object that says something else to the request that changes it; without one, or
        with None, the document is turned down, and the reason says what differs.
    retry_on: statuses beside 408, 425, 429 and 5xx that are no refusal.
    """

    name: str
    address: Setting
    path: str
    document: str = ""
    token: Setting | None = None
    idempotency_key: Callable[[Json], str] | None = None
    look_up: LookUp | None = None
    known_on: frozenset[int] = frozenset()
    change: Callable[[Json, Json], Change | None] | None = None
    retry_on: frozenset[int] = frozenset()
    in_order: bool = False
    timeout_seconds: float = 30

    def __post_init__(self) -> None:
        if (self.known_on or self.change) and self.look_up is None:
            raise ValueError(f"{self.name}: what the partner has already must be looked up: it needs look_up")

    @property
    def documents(self) -> tuple[str, ...]:
        return (self.document,)

    @property
    def answer_seconds(self) -> float:
        return self.timeout_seconds

    @property
    def settings(self) -> tuple[Setting, ...]:
        return (self.address, *([self.token] if self.token else []))

    @property
    def needs(self) -> tuple[tuple[Setting, ...], ...]:
        return ((self.token,),) if self.token else ()


@dataclass(frozen=True, slots=True)
class SftpServer:
    """The settings of a partner's SFTP server; a password or a key file is needed.

    known_hosts: the file that holds the server's key, as OpenSSH writes it.
    """

    host: Setting
    port: Setting
    user: Setting
    password: Setting
    key_file: Setting
    known_hosts: Setting

    @property
    def settings(self) -> tuple[Setting, ...]:
        return (self.host, self.port, self.user, self.password, self.key_file, self.known_hosts)

    @property
    def needs(self) -> tuple[tuple[Setting, ...], ...]:
        return ((self.host,), (self.user,), (self.password, self.key_file), (self.known_hosts,))


@dataclass(frozen=True, slots=True)
class SftpSource:
    """Fetches the regular files of a remote folder, then moves them to the remote archive.

    parallel: so many files are under way at the same time. max_bytes: a larger one is left there.
    """

    name: str
    server: SftpServer
    folder: Setting
    archive: Setting
    interval: Setting = POLLING_INTERVAL
    parallel: int = 32
    max_bytes: int = 2**30

    @property
    def address(self) -> Setting:
        return self.server.host

    @property
    def settings(self) -> tuple[Setting, ...]:
        return (*self.server.settings, self.folder, self.archive, self.interval)

    @property
    def needs(self) -> tuple[tuple[Setting, ...], ...]:
        return self.server.needs


@dataclass(frozen=True, slots=True)
class MasterPage:
    """One page of a master's list of objects.

    next: the address of the next page, relative or whole; None behind the last one. total: of the whole list.
    """

    objects: list[Json]
    next: str | None = None
    total: int | None = None


@dataclass(frozen=True, slots=True)
class RestMaster:
    """A resource whose master is a partner's REST API: fetched from there, and written there through our own API.

    The flow's envelope holds its objects. Its table is the local replica, with the columns `id`, `deleted_at`, the
    timestamp under the name of `newest_by`, and in `document` the whole of what the master sent.

    resource: its path below the address, and in our API. example: of an object, for the API's page.
    credentials: settings of which `authorization` makes the header of that name.
    id_field: of an object, its number. timestamp_field: a number that grows with every change.
    creation_field: what makes a repeated creation harmless.
    list_query: of the first page of every list. changed_since: what narrows it to what changed behind a timestamp.
    reached_header: of a page: how far the master was when it answered, by its own clock.
    read: takes a page out of a decoded answer; a ValueError, KeyError or TypeError of it means that the answer is
        not what was agreed.
    refusal: from the decoded body of a refusal to what it says, and of which fields.
    changes_seconds: between two looks for what changed. full_sync_seconds: between two comparisons of everything,
        which find what was deleted.
    """

    name: str
    resource: str
    uri: Setting
    credentials: tuple[Setting, ...]
    authorization: Callable[..., str]
    read: Callable[[Json], MasterPage]
    refusal: Callable[[Json], tuple[str, Mapping[str, Json]]]
    id_field: str
    timestamp_field: str
    creation_field: str
    reached_header: str
    changed_since: Callable[[int], Mapping[str, str]]
    list_query: Mapping[str, str] = field(default_factory=dict)
    example: Mapping[str, Json] = field(default_factory=dict)
    requests_per_minute: int = 500
    timeout_seconds: float = 30
    changes_seconds: float = 5
    full_sync_seconds: float = 600

    @property
    def address(self) -> Setting:
        """The first of the credentials: where the master is, may well be known."""
        return self.credentials[0]

    @property
    def settings(self) -> tuple[Setting, ...]:
        return (self.uri, *self.credentials)

    @property
    def needs(self) -> tuple[tuple[Setting, ...], ...]:
        return tuple((setting,) for setting in self.credentials[1:])


@dataclass(frozen=True, slots=True)
class SftpDestination:
    """Stores files in a remote folder: under a temporary name, then by a rename.

    folder: it switches the destination on, the server being configured.
    """

    name: str
    server: SftpServer
    folder: Setting
    documents: tuple[str, ...] = ("",)
    in_order: bool = False
    answer_seconds: float = 0

    @property
    def address(self) -> Setting:
        return self.folder

    @property
    def settings(self) -> tuple[Setting, ...]:
        return (*self.server.settings, self.folder)

    @property
    def needs(self) -> tuple[tuple[Setting, ...], ...]:
        return self.server.needs
