"""What every destination promises, whatever its type: its partner gets each file, whole, in order and once.

A declared type without an entry in PARTNERS fails all of it.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar, Protocol

import pytest

from models.connector import RestDestination, SftpDestination
from partners.erp import Erp
from partners.inventory import Inventory
from partners.sftp import PASSWORD, Sftp
from partners.sftp_session import Session
from services.destinations import dispatch
from services.destinations.delivery import DELIVERED
from services.runtime.status_file import JobPhase
from tests.integration.test_destinations import a_customer, let_time_pass, posts, sent
from tests.integration.test_sftp import Stuck, connected
from tests.support import connector_faults
from tests.support.connectors import (
    SLOW_SECONDS,
    TIMEOUT_SECONDS,
    WRONG,
    choices,
    declare,
    entry_of,
    fixture,
    in_phase,
    name_of,
    state,
    with_short_timeouts,
    without_pauses,
)
from tests.support.sites import Site, running
from tests.support.waiting import eventually

NUMBERS = [1, 2, 3, 4]


class StandIn(Protocol):
    """The partner system behind a destination."""

    def start(self) -> object: ...
    def stop(self) -> None: ...


class Partner(ABC):
    """A partner that gets files, which are told apart by numbers; the site is connected to it.

    connector: the destination, of the flow `orders`. document: whose files go there. secret: the setting that
    holds what lets us in. cuts: the ways in which a handing over may be cut. points: where a daemon may be killed.
    """

    connector: ClassVar[str]
    document: ClassVar[str]
    secret: ClassVar[str]
    cuts: ClassVar[Sequence[str]]
    points: ClassVar[Sequence[str]]

    def __init__(self, site: Site, request: pytest.FixtureRequest) -> None:
        self.site = site
        self.monkeypatch = fixture(request, "monkeypatch", pytest.MonkeyPatch)
        self.stand_in = self.connected(request)

    @property
    def name(self) -> str:
        return f"orders/{self.connector}"

    @property
    def folder(self) -> Path:
        return self.site.settings.output_dir / "orders"

    @property
    @abstractmethod
    def key(self) -> str:
        """What lets us in."""

    @abstractmethod
    def connected(self, request: pytest.FixtureRequest) -> StandIn:
        """The stand-in, to which the site is now connected, with short time-outs."""

    @abstractmethod
    def file(self, number: int) -> tuple[str, str]:
        """Name and content of the file of this number."""

    @abstractmethod
    def got(self) -> list[int]:
        """What the partner was given, as often and in the order in which it was."""

    @abstractmethod
    def has(self) -> dict[int, str]:
        """What the partner has now, by number; half a file too, where one can see it."""

    @abstractmethod
    def slow(self, seconds: float) -> None:
        """Answer everything so late."""

    @abstractmethod
    def stick(self) -> None:
        """Take everything and answer nothing."""

    @abstractmethod
    def free(self) -> None:
        """End that."""

    @abstractmethod
    def cut(self, how: str, times: int | None) -> None:
        """Cut so many requests in the middle, or all of them."""

    def hand_over(self) -> None:
        """Have the files in the output folder, as the writer leaves them."""
        for number in NUMBERS:
            name, content = self.file(number)
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
            self.site.query(
                "insert into tidegate.outbound_file"
                " (flow, document, name, sha256, bytes, records, status, attempts, node)"
                " values ('orders', %s, %s, sha256(%s), %s, 1, 'written', 1, 'test') returning id",
                self.document,
                name,
                content.encode(),
                len(content),
            )

    def whole(self) -> dict[int, str]:
        """What the partner should have in the end."""
        return {number: self.file(number)[1] for number in NUMBERS}

    def states(self) -> list[tuple[str, str | None]]:
        """How the ledger knows the files, each with what is wrong with it."""
        files = [file for file in sent(self.site) if file["flow"] == "orders"]
        return [(file["status"], file["last_error"]) for file in files]

    def places(self) -> list[Path]:
        """Where delivered files lie."""
        return [self.folder / DELIVERED / self.file(number)[0] for number in NUMBERS]

    def delivered(self) -> None:
        """Wait until the ledger and the folders say that the partner has all files."""
        all_of_them = [("delivered", None)] * len(NUMBERS)
        eventually(lambda: self.states() == all_of_them, timeout=20, what=f"all delivered; now {self.states()}")
        eventually(lambda: all(place.exists() for place in self.places()), what="the filed files")
        assert not any((self.folder / self.file(number)[0]).exists() for number in NUMBERS)


class OneByOne(Partner):
    """The ERP: a request for each order."""

    connector, document, secret = "erp", "", "ERP_API_TOKEN"
    cuts = ("cut",)
    points: ClassVar = [f"delivery: {point}" for point in connector_faults.DELIVERY]

    def connected(self, request: pytest.FixtureRequest) -> StandIn:
        self.erp = fixture(request, "erp", Erp)
        self.site.connect(ERP_API_URL=self.erp.url)
        declare(self.monkeypatch, "orders", self.connector, timeout_seconds=TIMEOUT_SECONDS)
        return self.erp

    @property
    def key(self) -> str:
        return self.erp.token

    def file(self, number: int) -> tuple[str, str]:
        line: dict[str, object] = {
            "line_number": 1,
            "sku": "A",
            "gtin": None,
            "description": None,
            "quantity": "2",
            "unit": "EA",
        }
        head: dict[str, object] = {
            "external_order_no": str(number),
            "customer": "p",
            "status": "open",
            "currency": "EUR",
        }
        head |= {"ordered_at": "2026-01-31T08:00:00.000Z", "ship_to": None, "requested_delivery": None, "total": None}
        return f"p/{number}.json", json.dumps(
            {**head, "buyer": {"id": "b"}, "lines": [{**line, "unit_price": None}]}, sort_keys=True
        )

    def got(self) -> list[int]:
        taken = [post for post in posts(self.erp) if post.status != 401]
        return [int(json.loads(post.body)["external_order_no"]) for post in taken]

    def has(self) -> dict[int, str]:
        own = ("id", "number")
        orders = [
            {name: value for name, value in order.items() if name not in own} for order in self.erp.orders.values()
        ]
        return {int(order["external_order_no"]): json.dumps(order, sort_keys=True) for order in orders}

    def slow(self, seconds: float) -> None:
        self.erp.faults.latency_seconds = seconds

    def stick(self) -> None:
        self.erp.faults.lose_rate, self.erp.faults.hang_seconds = 1, 30

    def free(self) -> None:
        self.erp.faults.lose_rate = 0

    def cut(self, how: str, times: int | None) -> None:
        setattr(self.erp.faults, f"{how}_rate", 1)
        self.erp.faults.times = times


class IntoAFolder(Partner):
    """Partner 2: a folder for answers."""

    connector, document, secret = "partner2-answers", "ordrsp", "PARTNER2_SFTP_PASS"
    cuts = ("cut",)
    points: ClassVar = [
        "delivery: before it is looked at",
        *(f"storing: {point}" for point in connector_faults.STORING),
        *(f"answers: {point}" for point in connector_faults.ANSWERS),
        "delivery: moved, not noted",
        "delivery: noted",
    ]

    def connected(self, request: pytest.FixtureRequest) -> StandIn:
        self.sftp = fixture(request, "sftp_server", Sftp)
        connected(self.site, self.sftp, PARTNER2_SFTP_ANSWERS="answers")
        self.stuck = Stuck()
        return self.sftp

    @property
    def key(self) -> str:
        return PASSWORD

    def file(self, number: int) -> tuple[str, str]:
        return f"ordrsp/p/{number}.edi", f"answer {number} " * 20

    def got(self) -> list[int]:
        named = [done.to for done in self.sftp.received if done.operation == "rename"]
        return [_number(name) for name in named]

    def has(self) -> dict[int, str]:
        files = [path for path in (self.sftp.folder / "answers").iterdir() if not path.name.startswith(".")]
        assert len({_number(path.name) for path in files}) == len(files)
        return {_number(path.name): path.read_text() for path in files}

    def slow(self, seconds: float) -> None:
        self.stuck.seconds = seconds
        self.monkeypatch.setattr(Session, "_disturb", self.stuck.waits)

    def stick(self) -> None:
        self.slow(30)

    def free(self) -> None:
        self.stuck.is_free = True

    def cut(self, how: str, times: int | None) -> None:
        self.sftp.faults.cut_after_bytes, self.sftp.faults.times = 100, times


PARTNERS: dict[type, type[Partner]] = {RestDestination: OneByOne, SftpDestination: IntoAFolder}


def _number(remote: str) -> int:
    """Of `/answers/ordrsp-p-3.17.edi`, 3."""
    return int(Path(remote).name.split(".")[0].rpartition("-")[2])


def partner_of(kind: type, site: Site, request: pytest.FixtureRequest) -> Partner:
    partner = entry_of(kind, PARTNERS)(site, request)
    site.connect(**{partner.secret: partner.key})
    return partner


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    without_pauses(monkeypatch)
    with_short_timeouts(monkeypatch)


@pytest.fixture(params=dispatch.MAKERS, ids=name_of)
def partner(request: pytest.FixtureRequest, site: Site) -> Iterator[Partner]:
    """A partner of each type that can be declared, to which the site is connected."""
    made = partner_of(request.param, site, request)
    yield made
    made.free()


@pytest.fixture
def choice(request: pytest.FixtureRequest, site: Site) -> tuple[Partner, str]:
    """A partner, and one of its ways or points."""
    kind, one = request.param
    return partner_of(kind, site, request), one


def tried(site: Site) -> int:
    """How often the file was sent that was sent most often."""
    (found,) = site.query("select max(attempts) - 1 as times from tidegate.outbound_file where flow = 'orders'")
    times: int = found["times"]
    return times


def packages(inventory: Inventory) -> int:
    return len(inventory.package_requests)


def test_every_type_that_can_be_declared_is_held_to_its_promises() -> None:
    assert PARTNERS.keys() == dispatch.MAKERS.keys()
    assert all(partner.cuts and partner.points for partner in PARTNERS.values())


def test_a_partner_that_cannot_be_reached_is_waited_for_and_told_once(
    partner: Partner, inventory: Inventory, logged: list[str]
) -> None:
    site = partner.site
    site.connect(INVENTORY_API_URL=inventory.url)
    partner.hand_over()
    partner.stand_in.stop()
    with running(site):
        failing = in_phase(site, partner.name, JobPhase.FAILING, failures=4)
        assert "127.0.0.1" in failing.detail
        assert in_phase(site, partner.name, JobPhase.FAILING, failures=5).since == failing.since
        site.drop("c.json", a_customer(), flow="customers")
        eventually(lambda: packages(inventory) == 1, what="another partner's file")
        waiting = site.query("select status, attempts from tidegate.outbound_file where flow = 'orders' order by id")
        assert {file["status"] for file in waiting} == {"written"}
        assert [file["attempts"] for file in waiting[1:]] == [1] * (len(NUMBERS) - 1), "they wait behind the first"
        partner.stand_in.start()
        partner.delivered()
    assert (partner.got(), partner.has()) == (NUMBERS, partner.whole())
    assert len([line for line in logged if line.startswith(f"WARNING {partner.name} waits, trying again: ")]) == 1
    assert len([line for line in logged if line.startswith(f"INFO {partner.name} works again after ")]) == 1


def test_a_slow_partner_is_waited_for(partner: Partner, logged: list[str]) -> None:
    partner.slow(SLOW_SECONDS)
    partner.hand_over()
    with running(partner.site):
        partner.delivered()
        found = state(partner.site, partner.name)
    assert found is not None
    assert (found.failures, [line for line in logged if line.startswith("WARNING")]) == (0, [])
    assert (partner.got(), partner.has()) == (NUMBERS, partner.whole())


def test_a_partner_that_does_not_answer_in_time_is_tried_again_and_gets_each_file_once(
    partner: Partner, logged: list[str]
) -> None:
    partner.stick()
    partner.hand_over()
    with running(partner.site):
        eventually(lambda: tried(partner.site) > 2, what="further tries")
        status, error = partner.states()[0]
        assert status == "written"
        assert "answer" in str(error)
        partner.free()
        partner.delivered()
    assert (partner.got(), partner.has()) == (NUMBERS, partner.whole())
    (told,) = (line for line in logged if line.startswith("WARNING"))
    assert "is sent again: " in told


def test_refused_credentials_stop_the_destination_and_nothing_else(partner: Partner, inventory: Inventory) -> None:
    site = partner.site
    site.connect(INVENTORY_API_URL=inventory.url, **{partner.secret: WRONG})
    partner.hand_over()
    with running(site):
        stopped = in_phase(site, partner.name, JobPhase.STOPPED)
        assert stopped.failures == 1, "it is not tried again, or the partner might lock us out"
        assert "bad credentials" in stopped.detail
        assert partner.secret in stopped.hint
        site.drop("c.json", a_customer(), flow="customers")
        eventually(lambda: packages(inventory) == 1, what="another partner's file")
        shown = site.call("status").stdout
        assert f"{partner.name} stopped since" in shown
        assert WRONG not in shown + site.call("status", "--json").stdout + site.log()
        assert state(site, partner.name) == stopped
    waiting = site.query("select status, sent_at from tidegate.outbound_file where flow = 'orders'")
    assert waiting == [{"status": "written", "sent_at": None}] * len(NUMBERS)
    assert (partner.got(), partner.has()) == ([], {})
    site.connect(**{partner.secret: partner.key})
    with running(site):
        partner.delivered()
    assert (partner.got(), partner.has()) == (NUMBERS, partner.whole())


@pytest.mark.parametrize("choice", choices(dispatch.MAKERS, PARTNERS, "cuts"), indirect=True, ids=name_of)
def test_what_is_cut_in_the_middle_is_not_delivered_and_comes_whole_once(choice: tuple[Partner, str]) -> None:
    partner, how = choice
    partner.hand_over()
    partner.cut(how, None)
    with running(partner.site):
        eventually(lambda: partner.states()[0][1], what="an error")
        assert {status for status, _ in partner.states()} == {"written"}
        assert partner.has().items() <= partner.whole().items()
        partner.cut(how, 2)
        partner.delivered()
    assert (partner.got(), partner.has()) == (NUMBERS, partner.whole())


@pytest.mark.parametrize("choice", choices(dispatch.MAKERS, PARTNERS, "points"), indirect=True, ids=name_of)
def test_kill_9_loses_nothing_and_doubles_nothing(choice: tuple[Partner, str]) -> None:
    partner, point = choice
    partner.hand_over()
    partner.site.run_to_kill(connector_faults.__name__, point)
    let_time_pass(partner.site)
    with running(partner.site):
        partner.delivered()
    assert (partner.got(), partner.has()) == (NUMBERS, partner.whole())


def test_what_the_partner_has_already_is_not_handed_over_again(partner: Partner) -> None:
    partner.hand_over()
    with running(partner.site):
        partner.delivered()
    # As if only the ledger and the folder had gone back to before the answers, in a restored backup.
    partner.site.execute(
        "update tidegate.outbound_file set status = 'written', delivered_at = null, delivered_as = null,"
        " filed_as = null"
    )
    for place in partner.places():
        place.rename(partner.folder / place.relative_to(partner.folder / DELIVERED))
    with running(partner.site):
        partner.delivered()
    assert (partner.got(), partner.has()) == (NUMBERS, partner.whole())
