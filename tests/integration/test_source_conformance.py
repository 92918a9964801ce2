"""What every source promises, whatever its type: all that its partner has arrives, whole and once.

A declared type without an entry in PARTNERS fails all of it.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import ClassVar, Protocol

import pytest

from models.connector import RestMaster, RestSource, SftpSource
from partners.crm import Crm
from partners.faults import Faults
from partners.intempus import Intempus
from partners.partner1 import Partner1, sample_order
from partners.sftp import PASSWORD, Sftp
from partners.sftp_session import Session
from services.runtime.status_file import JobPhase
from services.sources import dispatch, master_api
from services.transport.backoff import Backoff, Retries
from tests.integration.test_sftp import Stuck, an_order, connected
from tests.support import api_fault_points, connector_faults
from tests.support.connectors import (
    QUICK,
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


class StandIn(Protocol):
    """The partner system behind a source."""

    def start(self) -> object: ...
    def stop(self) -> None: ...
    @property
    def received(self) -> Sequence[object]: ...


class Partner(ABC):
    """A partner with things to fetch, which are told apart by numbers; the site is connected to it.

    flow, connector: whose they are. secret: the setting that holds what lets us in.
    cuts: the ways in which what it sends may be cut. faults, points: where a daemon may be killed meanwhile, by
    the name of the point, and how many things it takes to get there. remembered: those of the points behind which
    nothing is fetched a second time, each with how many files that makes.
    """

    flow: ClassVar[str]
    connector: ClassVar[str]
    secret: ClassVar[str]
    cuts: ClassVar[Sequence[str]]
    faults: ClassVar[str]
    points: ClassVar[dict[str, int]]
    remembered: ClassVar[dict[str, int]]

    def __init__(self, site: Site, request: pytest.FixtureRequest) -> None:
        self.site = site
        self.monkeypatch = fixture(request, "monkeypatch", pytest.MonkeyPatch)
        self.stand_in = self.connected(request)

    @property
    def name(self) -> str:
        return f"{self.flow}/{self.connector}"

    @property
    @abstractmethod
    def key(self) -> str:
        """What lets us in."""

    @abstractmethod
    def connected(self, request: pytest.FixtureRequest) -> StandIn:
        """The stand-in, to which the site is now connected, with short time-outs."""

    @abstractmethod
    def offer(self, *numbers: int) -> None:
        """Have these things."""

    @abstractmethod
    def offer_again(self, *numbers: int) -> None:
        """Offer what was fetched once more, as it was; no daemon is running."""

    @abstractmethod
    def here(self) -> list[int]:
        """The things that are in the flow's table, in order."""

    @abstractmethod
    def sent_on(self) -> list[tuple[str, int]]:
        """Each change of a thing that went out from here, in order."""

    def change(self, point: str) -> tuple[list[int], list[tuple[str, int]]]:
        """Bring the site to where it gets to the point; what is here, and what has gone out, in the end."""
        numbers = list(range(self.points[point]))
        self.offer(*numbers)
        return numbers, [("created", number) for number in numbers]

    @abstractmethod
    def slow(self, seconds: float) -> None:
        """Answer everything so late."""

    @abstractmethod
    def stick(self) -> None:
        """Take every request and answer none."""

    @abstractmethod
    def free(self) -> None:
        """End that."""

    @abstractmethod
    def cut(self, how: str, times: int | None) -> None:
        """Cut so many answers in the middle, or all of them."""

    def asked(self) -> int:
        """How often the partner was asked for what it has."""
        return len(self.stand_in.received)

    def polled(self, times: int = 4) -> None:
        """Wait until the partner was asked so often again."""
        before = self.asked()
        eventually(lambda: self.asked() >= before + times, what="further polls")

    def counts(self) -> dict[str, int]:
        """What became of all records that came."""
        (total,) = self.site.query(
            "select coalesce(sum(inserted), 0)::int as inserted, coalesce(sum(updated), 0)::int as updated,"
            " coalesce(sum(rejected), 0)::int as rejected from tidegate.inbound_file where flow = %s",
            self.flow,
        )
        return total


class HttpPartner(Partner):
    """What partners that speak HTTP have in common."""

    cuts = ("cut", "garble")

    @property
    @abstractmethod
    def switches(self) -> Faults: ...

    def slow(self, seconds: float) -> None:
        self.switches.latency_seconds = seconds

    def stick(self) -> None:
        self.switches.lose_rate, self.switches.hang_seconds = 1, 30

    def free(self) -> None:
        self.switches.lose_rate = 0

    def cut(self, how: str, times: int | None) -> None:
        setattr(self.switches, f"{how}_rate", 1)
        self.switches.times = times


class ByPages(HttpPartner):
    """Partner 1: orders, page by page."""

    flow, connector, secret = "orders", "partner1", "PARTNER1_API_TOKEN"
    faults = connector_faults.__name__
    points: ClassVar = {f"polling: {point}": 5 for point in connector_faults.POLLING}
    remembered: ClassVar = {"polling: a page is remembered": 3, "polling: the poll is remembered": 3}  # pages

    def connected(self, request: pytest.FixtureRequest) -> StandIn:
        self.partner1 = fixture(request, "partner1", Partner1)
        self.site.connect(PARTNER1_API_URL=self.partner1.url, POLLING_INTERVAL_SECONDS=QUICK)
        quick = {"timeout_seconds": TIMEOUT_SECONDS, "tries": 2, "pause_seconds": 0.01}
        declare(self.monkeypatch, self.flow, self.connector, query={"page": "1", "per_page": "2"}, **quick)
        return self.partner1

    @property
    def key(self) -> str:
        return self.partner1.token

    @property
    def switches(self) -> Faults:
        return self.partner1.faults

    def offer(self, *numbers: int) -> None:
        at = datetime.now(UTC) + timedelta(hours=1)  # so each poll is told of all of them again
        for number in numbers:
            self.partner1.place(sample_order(number, at))

    def offer_again(self, *_numbers: int) -> None:
        self.site.execute("delete from tidegate.cursor where source = 'partner1'")

    def here(self) -> list[int]:
        return sorted(_order_number(row["order_number"]) for row in self.site.rows("orders"))

    def sent_on(self) -> list[tuple[str, int]]:
        return _orders_sent(self.site)


class Master(HttpPartner):
    """Intempus: cases, of which it is the master."""

    flow, connector, secret = "cases", "intempus", "INTEMPUS_API_KEY"
    faults = api_fault_points.__name__
    points: ClassVar = dict.fromkeys(api_fault_points.SYNC, 2)
    remembered: ClassVar = {"the cursor is moved": 2}  # pages

    def connected(self, request: pytest.FixtureRequest) -> StandIn:
        self.intempus = fixture(request, "intempus", Intempus)
        self.site.connect(INTEMPUS_API_URI=self.intempus.uri, INTEMPUS_API_USER=self.intempus.user)
        self.monkeypatch.setattr(master_api, "MASTER_REQUESTS", Retries(2, Backoff(0.01, 0.01), patience_seconds=10))
        quick = {"timeout_seconds": TIMEOUT_SECONDS, "changes_seconds": 0.05}
        paged = {"limit": "2", "pagination_type": "cursor"}
        declare(self.monkeypatch, self.flow, self.connector, list_query=paged, **quick)
        return self.intempus

    @property
    def key(self) -> str:
        return self.intempus.key

    @property
    def switches(self) -> Faults:
        return self.intempus.faults

    def offer(self, *numbers: int) -> None:
        for number in numbers:
            self.intempus.create(name=str(number))

    def offer_again(self, *_numbers: int) -> None:
        self.site.execute("delete from tidegate.cursor where source = 'intempus'")

    def here(self) -> list[int]:
        return sorted(int(row["name"]) for row in self.site.rows("cases") if row["deleted_at"] is None)

    def sent_on(self) -> list[tuple[str, int]]:
        files = (self.site.settings.output_dir / "cases").glob("*.json")
        cases = [one for path in files for one in json.loads(path.read_text())["cases"]]
        return sorted((one["change"], int(one["name"])) for one in cases)

    def change(self, point: str) -> tuple[list[int], list[tuple[str, int]]]:
        here, sent = super().change(point)
        if "tombstone" not in point:
            return here, sent
        with running(self.site):
            eventually(lambda: self.here() == here and self.sent_on() == sent, what="what is to be deleted")
        (gone,) = (case["id"] for case in self.intempus.cases.values() if case["name"] == "1")
        self.intempus.delete(gone)
        self.site.execute(
            """update tidegate.cursor set state = '{"synced_at": "2026-01-01T00:00:00+00:00"}' """
            "where source = 'cases/intempus full sync'"
        )
        return [0], [*sent, ("deleted", 1)]


class Files(Partner):
    """Partner 2: a folder of files."""

    flow, connector, secret = "orders", "partner2", "PARTNER2_SFTP_PASS"
    cuts = ("cut",)
    faults = connector_faults.__name__
    points: ClassVar = {f"fetching: {point}": 5 for point in connector_faults.FETCHING}
    remembered: ClassVar = {"fetching: files are remembered": 5, "fetching: one of the files is archived": 5}

    def connected(self, request: pytest.FixtureRequest) -> StandIn:
        self.sftp = fixture(request, "sftp_server", Sftp)
        connected(self.site, self.sftp)
        self.stuck = Stuck()
        return self.sftp

    @property
    def key(self) -> str:
        return PASSWORD

    def offer(self, *numbers: int) -> None:
        for number in numbers:
            self.sftp.upload(f"{number}.json", an_order(number))

    def offer_again(self, *numbers: int) -> None:
        self.offer(*numbers)

    def here(self) -> list[int]:
        return sorted(_order_number(row["order_number"]) for row in self.site.rows("orders"))

    def sent_on(self) -> list[tuple[str, int]]:
        return _orders_sent(self.site)

    def asked(self) -> int:
        return [done.operation for done in self.sftp.received].count("login")

    def slow(self, seconds: float) -> None:
        self.sftp.faults.latency_seconds = seconds

    def stick(self) -> None:
        self.monkeypatch.setattr(Session, "_disturb", self.stuck.waits)

    def free(self) -> None:
        self.stuck.is_free = True

    def cut(self, how: str, times: int | None) -> None:
        self.sftp.faults.cut_after_bytes, self.sftp.faults.times = 100, times


PARTNERS: dict[type, type[Partner]] = {RestSource: ByPages, RestMaster: Master, SftpSource: Files}


def _order_number(text: str) -> int:
    return int(text.removeprefix("P1-"))


def _orders_sent(site: Site) -> list[tuple[str, int]]:
    """Each time that an order went out; it has the same name every time."""
    files = site.query("select name from tidegate.outbound_file where flow = 'orders' and status = 'written'")
    numbers = sorted(_order_number(Path(file["name"]).stem) for file in files)
    return [("created", number) for number in numbers]


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


def visible(site: Site) -> list[Path]:
    """What a reader of the input folder sees."""
    return [path for path in site.waiting() if not path.name.startswith(".")]


def test_every_type_that_can_be_declared_is_held_to_its_promises() -> None:
    assert PARTNERS.keys() == dispatch.MAKERS.keys()
    assert all(partner.cuts and partner.points for partner in PARTNERS.values())
    assert all(partner.remembered.keys() <= partner.points.keys() for partner in PARTNERS.values())


def test_a_partner_that_cannot_be_reached_is_waited_for_and_told_once(
    partner: Partner, crm: Crm, logged: list[str]
) -> None:
    site = partner.site
    site.connect(CRM_API_URL=crm.url, POLLING_INTERVAL_SECONDS=QUICK)
    partner.offer(1)
    partner.stand_in.stop()
    with running(site):
        failing = in_phase(site, partner.name, JobPhase.FAILING, failures=4)
        assert "127.0.0.1" in failing.detail
        assert in_phase(site, partner.name, JobPhase.FAILING, failures=5).since == failing.since
        crm.create("Ada", "ada@example.com")
        eventually(lambda: site.rows("customers"), what="another partner's customer")
        assert partner.here() == []
        partner.stand_in.start()
        eventually(lambda: partner.here() == [1], what="what the partner had")
        in_phase(site, partner.name, JobPhase.RUNNING)
    assert len([line for line in logged if line.startswith(f"WARNING {partner.name} waits, trying again: ")]) == 1
    assert len([line for line in logged if line.startswith(f"INFO {partner.name} works again after ")]) == 1


def test_a_slow_partner_is_waited_for(partner: Partner, logged: list[str]) -> None:
    partner.slow(SLOW_SECONDS)
    partner.offer(1)
    with running(partner.site):
        eventually(lambda: partner.here() == [1], what="what the partner had")
        found = state(partner.site, partner.name)
    assert found is not None
    assert (found.failures, [line for line in logged if line.startswith("WARNING")]) == (0, [])


def test_a_partner_that_does_not_answer_in_time_is_asked_again(partner: Partner) -> None:
    partner.stick()
    partner.offer(1)
    with running(partner.site):
        assert "answer" in in_phase(partner.site, partner.name, JobPhase.FAILING).detail
        assert f"{partner.name} failing since" in partner.site.call("status").stdout
        partner.free()
        eventually(lambda: partner.here() == [1], what="what the partner had")
    assert partner.counts() == {"inserted": 1, "updated": 0, "rejected": 0}


def test_refused_credentials_stop_the_source_and_nothing_else(partner: Partner, crm: Crm) -> None:
    site = partner.site
    site.connect(CRM_API_URL=crm.url, POLLING_INTERVAL_SECONDS=QUICK, **{partner.secret: WRONG})
    partner.offer(1)
    with running(site):
        stopped = in_phase(site, partner.name, JobPhase.STOPPED)
        assert stopped.failures == 1, "it is not tried again, or the partner might lock us out"
        assert "bad credentials" in stopped.detail
        assert partner.secret in stopped.hint
        crm.create("Ada", "ada@example.com")
        eventually(lambda: site.rows("customers"), what="another partner's customer")
        shown = site.call("status").stdout
        assert f"{partner.name} stopped since" in shown
        assert WRONG not in shown + site.call("status", "--json").stdout + site.log()
        assert partner.here() == []
        assert state(site, partner.name) == stopped
    assert len(partner.stand_in.received) <= 1, "one request of HTTP; a login that is refused is not written down"
    site.connect(**{partner.secret: partner.key})
    with running(site):
        eventually(lambda: partner.here() == [1], what="what the partner had")


@pytest.mark.parametrize("choice", choices(dispatch.MAKERS, PARTNERS, "cuts"), indirect=True, ids=name_of)
def test_what_is_cut_in_the_middle_leaves_no_half_and_comes_whole_once(choice: tuple[Partner, str]) -> None:
    partner, how = choice
    site = partner.site
    partner.offer(*range(6))
    partner.cut(how, None)
    with running(site):
        in_phase(site, partner.name, JobPhase.FAILING, failures=2)
        assert visible(site) == []
        assert site.ledger() == []
        partner.cut(how, 2)
        eventually(lambda: partner.here() == list(range(6)), what="all that the partner had")
        site.settled(1)
    assert {line["status"] for line in site.ledger()} == {"loaded"}
    assert partner.counts() == {"inserted": 6, "updated": 0, "rejected": 0}


@pytest.mark.parametrize("choice", choices(dispatch.MAKERS, PARTNERS, "points"), indirect=True, ids=name_of)
def test_kill_9_loses_nothing_and_doubles_nothing(choice: tuple[Partner, str]) -> None:
    partner, point = choice
    here, sent_on = partner.change(point)
    partner.site.run_to_kill(partner.faults, point)
    with running(partner.site):
        eventually(lambda: partner.here() == here, timeout=30, what="all that the partner had")
        eventually(lambda: len(partner.sent_on()) >= len(sent_on), timeout=30, what="all that goes out")
        partner.polled()
        eventually(lambda: partner.site.waiting() == [], what="an input folder with nothing in it")
    assert partner.here() == here
    assert partner.sent_on() == sent_on
    if point in partner.remembered:
        assert len(partner.site.ledger()) == partner.remembered[point]
    deleted = [change for change, _ in sent_on].count("deleted")
    assert partner.counts() == {"inserted": partner.points[point], "updated": deleted, "rejected": 0}


def test_what_did_not_change_is_fetched_once(partner: Partner) -> None:
    partner.offer(1)
    with running(partner.site):
        partner.site.settled(1)
        partner.polled()
    with running(partner.site):
        partner.polled()
    assert [line["status"] for line in partner.site.ledger()] == ["loaded"]


def test_what_is_offered_again_is_here_and_goes_out_once(partner: Partner) -> None:
    partner.offer(1)
    with running(partner.site):
        eventually(lambda: partner.sent_on() == [("created", 1)], what="the first time")
    partner.offer_again(1)
    with running(partner.site):
        partner.site.settled(2)
        partner.offer(2)
        eventually(lambda: len(partner.sent_on()) == 2, what="what came behind")
    assert partner.here() == [1, 2]
    assert partner.sent_on() == [("created", 1), ("created", 2)]
    assert partner.counts() == {"inserted": 2, "updated": 0, "rejected": 0}
