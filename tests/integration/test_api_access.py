"""Who gets an answer from the API: with the token, under our own names, and in no page of anybody else's."""

import base64
import hashlib
import re
import stat
from pathlib import Path

import httpx
import pytest

from models.errors import StopDaemon
from services.files import secret_file
from services.files.directory import Entry
from services.files.secret_file import made_once
from tests.integration.test_api import TOKEN, answers, api, problem, report, served
from tests.support.sites import Site, free_port
from tests.support.waiting import eventually

__all__ = ["api"]

ANONYMOUS = {"Authorization": ""}
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


def test_a_daemon_without_api_token_makes_one_and_asks_for_it(site: Site) -> None:
    port = free_port()
    path = site.settings.data_dir / "api-token"
    daemon = site.start(API_PORT=str(port))
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20) as client:
        eventually(lambda: answers(client), timeout=40, what="the daemon answers")
        assert client.get("/case").status_code == 401
        token = path.read_text().strip()
        assert client.get("/case", headers={"Authorization": f"Bearer {token}"}).status_code == 200
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert str(path) in daemon.log.read_text()
    assert site.stop(daemon) == 0
    assert token not in daemon.log.read_text() + site.log()
    assert made_once(path) == token


@pytest.mark.parametrize("path", ["/", "/case", "/inbound/1", "/docs", "/openapi.json", "/metrics", "/static/x", "/no"])
def test_nothing_is_shown_without_the_token(api: httpx.Client, path: str) -> None:
    for method in ("GET", "HEAD", "POST", "OPTIONS"):
        refused = api.request(method, path, headers=ANONYMOUS)
        assert refused.status_code == 401
        assert refused.headers["www-authenticate"] == "Bearer"


def test_health_is_open_and_gives_no_reasons(site: Site) -> None:
    with served(site.settings) as api:
        assert api.get("/healthz", headers=ANONYMOUS).json() == {"status": "alive"}
        closed = problem(api.get("/readyz", headers=ANONYMOUS), 503)
        assert "starting" not in closed["detail"]
        assert "starting" in problem(api.get("/readyz"), 503)["detail"]


def test_a_daemon_at_work_is_ready(site: Site) -> None:
    port = free_port()
    site.start(API_PORT=str(port))
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20) as client:
        eventually(lambda: answers(client), timeout=40, what="the daemon answers")
        eventually(lambda: client.get("/readyz").status_code == 200, what="the daemon is ready")


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:9001", "localhost.evil.example", "127.0.0.1.evil.example", "", "[", "10.0.0.1"],
)
@pytest.mark.parametrize("path", ["/docs", "/healthz", "/inbound/1"])
def test_a_name_that_is_not_ours_is_refused(api: httpx.Client, host: str, path: str) -> None:
    refused = problem(api.get(path, headers={"Host": host}), 421)
    assert "API_ALLOWED_HOSTS" in refused["hint"]


def test_our_own_names(site: Site) -> None:
    with served(site.settings, hosts=["Tidegate.example", "fd00::1"]) as api:
        for host in ("localhost", "LOCALHOST:9001", "127.0.0.1", "[::1]:80", "tidegate.example:1", "[fd00::1]"):
            assert api.get("/healthz", headers={"Host": host}).status_code == 200, host


def test_every_answer_says_what_browsers_may_do_with_it(api: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.ledger.receipts.look", lambda *_: 1 / 0)
    got = [
        api.get("/healthz"),
        api.get("/docs"),
        api.get("/static/swagger-ui.css"),
        api.get("/sign-in"),
        api.get("/docs", headers=ANONYMOUS),
        api.get("/healthz", headers={"Host": "evil.example"}),
        api.get("/inbound/1"),
    ]
    assert [answer.status_code for answer in got] == [200, 200, 200, 200, 401, 421, 500]
    for answer in got:
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        policy = answer.headers["content-security-policy"]
        assert "frame-ancestors 'none'" in policy
        assert policy.startswith("default-src 'none'")
        assert "http" not in policy


def test_the_page_may_run_its_own_scripts(api: httpx.Client) -> None:
    page = api.get("/docs")
    (script,) = re.findall(r"<script>(.*?)</script>", page.text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (scripts,) = re.findall(r"script-src ([^;]+)", page.headers["content-security-policy"])
    assert scripts == f"'self' 'sha256-{digest}'"


def test_a_person_signs_in_with_a_browser(site: Site, api: httpx.Client) -> None:
    with httpx.Client(base_url=api.base_url, headers={"Accept": "text/html"}, timeout=20) as browser:
        asked = browser.get("/docs")
        assert (asked.status_code, asked.headers["location"]) == (303, "/sign-in")
        assert 'type="password"' in browser.get("/sign-in").text
        refused = browser.post("/sign-in", content="token=wrong", headers=FORM)
        assert (refused.status_code, refused.headers.get("set-cookie")) == (401, None)
        let_in = browser.post("/sign-in", content=f"token={TOKEN.replace(' ', '+')}", headers=FORM)
        assert (let_in.status_code, let_in.headers["location"]) == (303, "/docs")
        cookie = let_in.headers["set-cookie"]
        assert {"HttpOnly", "SameSite=strict"} <= {part.strip() for part in cookie.split(";")}
        assert TOKEN not in cookie
        assert browser.get("/docs").status_code == 200
        # What other pages make a browser ask has the cookie as well.
        problem(browser.post("/inbound/vehicle_status", json=[report("a")]), 401)
    assert site.waiting() == []


def test_the_form_takes_no_more_than_a_token(api: httpx.Client) -> None:
    problem(api.post("/sign-in", content=b"token=" + b"x" * 10_000, headers=FORM | ANONYMOUS), 413)


# the token's file


def test_a_token_is_made_once(tmp_path: Path) -> None:
    path = tmp_path / "new" / "api-token"
    token = made_once(path)
    assert len(token) >= 43
    assert made_once(path) == token
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [one.name for one in path.parent.iterdir()] == ["api-token"]


def test_who_comes_second_takes_the_token_of_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "api-token"
    make, made = secret_file._make, []

    def meanwhile(entry: Entry) -> None:
        monkeypatch.setattr(secret_file, "_make", make)
        made.append(made_once(path))
        make(entry)

    monkeypatch.setattr(secret_file, "_make", meanwhile)
    assert [made_once(path)] == made
    assert [one.name for one in tmp_path.iterdir()] == ["api-token"]


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o602])
def test_a_token_that_others_may_know_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "api-token"
    made_once(path)
    path.chmod(mode)
    with pytest.raises(StopDaemon, match="others may know"):
        made_once(path)


def test_a_link_in_its_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("x" * 43)
    (tmp_path / "elsewhere").chmod(0o600)
    (tmp_path / "api-token").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StopDaemon, match="cannot be had"):
        made_once(tmp_path / "api-token")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    with pytest.raises(StopDaemon):
        made_once(tmp_path / "dangling")
    assert not (tmp_path / "nowhere").exists()


def test_an_empty_file_is_no_token(tmp_path: Path) -> None:
    (tmp_path / "api-token").touch(0o600)
    with pytest.raises(StopDaemon, match="no secret"):
        made_once(tmp_path / "api-token")
