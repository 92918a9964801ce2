"""What partners make of us: no token in the clear or elsewhere, and nothing they say gets out as it is."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from services.runtime.status_file import JobPhase
from tests.integration.test_destinations import an_order
from tests.support.connectors import QUICK, declare, in_phase, without_pauses
from tests.support.echo import Echo, echoing
from tests.support.processes import ROOT
from tests.support.sites import Site, free_port, running
from tests.support.waiting import eventually

SECRET = 'Tok/"en+=of\\ours'

CREDENTIALS: dict[str, dict[str, Any]] = {
    "ERP_API_URL": {"ERP_API_TOKEN": SECRET},
    "PARTNER1_API_URL": {"PARTNER1_API_TOKEN": SECRET},
    "INTEMPUS_API_URI": {"INTEMPUS_API_USER": "us@example.com", "INTEMPUS_API_KEY": SECRET},
}


@pytest.fixture
def echo() -> Iterator[Echo]:
    with echoing() as made:
        yield made


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    without_pauses(monkeypatch)


# in the clear


@pytest.mark.parametrize("address", CREDENTIALS)
def test_credentials_go_nowhere_in_the_clear(site: Site, address: str) -> None:
    given: dict[str, Any] = {address: "http://partner.example/api", **CREDENTIALS[address]}
    for command in ("check", "run"):
        refused = site.call(command, expect=2, **given)
        assert f"{address} http://partner.example/api would send" in refused.stderr
        assert "PLAIN_HTTP_HOSTS" in refused.stderr
        assert SECRET not in refused.stdout + refused.stderr
    site.call("check", PLAIN_HTTP_HOSTS="other, Partner.example", **given)
    site.call("check", **{**given, address: "https://partner.example/api"})
    site.call("check", **{**given, address: "http://[::1]:1/api"})


def test_what_needs_no_credentials_may_go_in_the_clear(site: Site) -> None:
    site.call("check", CRM_API_URL="http://crm.example")


@pytest.mark.parametrize("host", ["127.0.0.1.evil.example", "localhost.evil.example", "10.0.0.1", "[fe80::1]"])
def test_what_only_looks_like_this_machine_is_not(site: Site, host: str) -> None:
    given: dict[str, Any] = {"ERP_API_URL": f"http://{host}/", "ERP_API_TOKEN": SECRET}
    assert "unencrypted" in site.call("check", expect=2, **given).stderr


# elsewhere


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_takes_no_token_elsewhere(site: Site, echo: Echo, status: int) -> None:
    with echoing() as elsewhere:
        echo.status, echo.headers = status, {"Location": f"{elsewhere.url}/orders"}
        site.connect(PARTNER1_API_URL=echo.url, PARTNER1_API_TOKEN=SECRET, ERP_API_URL=echo.url, ERP_API_TOKEN=SECRET)
        with running(site):
            site.drop("o.json", an_order("1"), flow="orders")
            in_phase(site, "orders/partner1", JobPhase.STOPPED)
            in_phase(site, "orders/erp", JobPhase.STOPPED)
    assert elsewhere.asked == []


# back to us


def told(site: Site) -> str:
    """All that a person sees of it."""
    commands = (
        ["status"],
        ["status", "--json"],
        ["trace", "orders", "p", "1"],
        ["trace", "orders", "p", "1", "--json"],
    )
    said = [site.call(*command, expect=None) for command in commands]
    ledger = json.dumps(site.query("select last_error, delivered_as from tidegate.outbound_file"))
    return "".join(done.stdout + done.stderr for done in said) + ledger


def shows_secret(text: str) -> bool:
    return any(form in text for form in (SECRET, json.dumps(SECRET)[1:-1], SECRET[:8]))


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, "you sent AUTHORIZATION"),
        (400, "x" * 280 + "AUTHORIZATION"),
        (500, "you sent AUTHORIZATION"),
        (201, json.dumps({"you": ["sent", f"Bearer {SECRET}"]})),
        (201, json.dumps({f"Bearer {SECRET}": 1})),
        (201, "sent AUTHORIZATION"),
        (302, ""),
    ],
)
def test_a_secret_that_is_said_back_is_not_shown(site: Site, echo: Echo, status: int, body: str) -> None:
    echo.status, echo.body, echo.headers = status, body, {"Location": "/AUTHORIZATION"}
    site.connect(ERP_API_URL=echo.url, ERP_API_TOKEN=SECRET)
    done = "delivered_as is not null or last_error is not null"
    with running(site):
        site.drop("o.json", an_order("1"), flow="orders")
        eventually(lambda: site.query(f"select from tidegate.outbound_file where {done}"), what="an answer")
        seen = told(site)
        published = "".join(path.read_text() for path in (site.settings.data_dir / "run").glob("*.json"))
    assert f"Bearer {SECRET}" in echo.asked
    assert not shows_secret(seen)
    assert not shows_secret(published)


def test_a_secret_in_the_log_is_not_shown(site: Site, echo: Echo) -> None:
    echo.status, echo.body = 400, "you sent AUTHORIZATION"
    site.connect(ERP_API_URL=echo.url, ERP_API_TOKEN=SECRET, PARTNER1_API_URL=echo.url, PARTNER1_API_TOKEN=SECRET)
    daemon = site.start(impatient=True, LOG_LEVEL="DEBUG")
    site.drop("o.json", an_order("1"), flow="orders")
    eventually(lambda: "turns down" in site.log(), timeout=40, what="the refusal")
    assert site.stop(daemon) == 0
    assert "you sent Bearer [secret]" in site.log()
    assert not shows_secret(site.log() + daemon.log.read_text())


def test_a_secret_is_not_shown_to_who_asks_the_api(site: Site, echo: Echo) -> None:
    port = free_port()
    echo.status, echo.body = 400, json.dumps({"you": f"sent ApiKey us@example.com:{SECRET}"})
    site.settings = site.settings.model_copy(update={"api_port": port, "api_token": SecretStr("correct horse")})
    site.connect(INTEMPUS_API_URI=f"{echo.url}/v1", INTEMPUS_API_USER="us@example.com", INTEMPUS_API_KEY=SECRET)
    with running(site):
        in_phase(site, "api", JobPhase.RUNNING)
        refused = httpx.post(
            f"http://127.0.0.1:{port}/case", json={"name": "x"}, headers={"Authorization": "Bearer correct horse"}
        )
    assert refused.status_code == 400
    assert "[secret]" in refused.json()["detail"]
    assert not shows_secret(refused.text)


# nothing as it is


@pytest.mark.parametrize("body", ["[" * 100_000, '{"a":' * 100_000, "[" * 600 + "]" * 600])
def test_an_answer_that_is_too_deep_is_a_sentence(
    site: Site, echo: Echo, body: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    declare(monkeypatch, "orders", "partner1", tries=1)
    declare(monkeypatch, "customers", "crm", tries=1)
    echo.body = body
    site.connect(
        PARTNER1_API_URL=echo.url, PARTNER1_API_TOKEN=SECRET, CRM_API_URL=echo.url, POLLING_INTERVAL_SECONDS=QUICK,
        ERP_API_URL=echo.url, ERP_API_TOKEN=SECRET,
    )  # fmt: skip
    with running(site):
        site.drop("o.json", an_order("1"), flow="orders")
        for name in ("orders/partner1", "customers/crm"):
            failing = in_phase(site, name, JobPhase.FAILING)
            assert "something else than was agreed" in failing.detail
            assert "traceback" not in failing.hint
        eventually(
            lambda: site.query("select from tidegate.outbound_file where status = 'delivered'"), what="the delivery"
        )
    assert site.call("trace", "orders", "p", "1", "--json").stdout


def test_what_a_partner_says_is_shown_escaped(site: Site, echo: Echo) -> None:
    echo.status, echo.body = 201, json.dumps({"number": "\x1b[31mred\u202egnp.exe\nforged"})
    site.connect(ERP_API_URL=echo.url, ERP_API_TOKEN=SECRET)
    with running(site):
        site.drop("o.json", an_order("1"), flow="orders")
        eventually(lambda: site.query("select from tidegate.outbound_file where status = 'delivered'"))
    shown = site.call("trace", "orders", "p", "1").stdout
    assert all(line.isprintable() for line in shown.split("\n"))


def test_what_a_file_says_is_shown_escaped(site: Site) -> None:
    bad = "\x1b]0;owned\x07\u202e\u2066"
    order = json.loads((ROOT / "sample_files" / "work_orders" / "work_order_10.json").read_text())
    site.drop(f"w{bad}.json", order | {"summary": f"a{bad}"}, flow="work_orders")
    site.drop(f"x{bad}\nforged.json", f'{{"{bad}"', flow="work_orders")
    with running(site):
        site.settled(2)
    for command in (["trace", "work_orders", "10"], ["files"], ["status"], ["retry", "2"], ["emit"], ["check"]):
        done = site.call(*command, expect=None)
        assert all(line.isprintable() for line in (done.stdout + done.stderr).split("\n")), command
        assert "forged.json" not in done.stdout.split("\n")
