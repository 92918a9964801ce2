"""Connections to the API: idle ones keep nobody out, and never take what the loader needs."""

import contextlib
import http.client
import resource
import select
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import httpx
import pytest

from services.api import connections
from tests.integration.test_api import BEARER, TOKEN, answers, api, report, served
from tests.support.sites import Site, free_port
from tests.support.waiting import eventually

__all__ = ["api"]

HALF = (
    b"POST /inbound/vehicle_status HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    b"Authorization: Bearer " + TOKEN.encode() + b"\r\nContent-Length: 9\r\n\r\n["
)
"""A request with the token, and some of its body."""

HEAD = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n"


def connect(client: httpx.Client) -> socket.socket:
    return socket.create_connection((client.base_url.host, client.base_url.port or 0), timeout=20)


@contextmanager
def idle(client: httpx.Client, count: int, said: bytes = b"") -> Iterator[list[socket.socket]]:
    """So many connections that ask for nothing."""
    with ExitStack() as stack:
        made = [stack.enter_context(connect(client)) for _ in range(count)]
        for one in made if said else ():
            with contextlib.suppress(OSError):
                one.sendall(said)
        yield made


def is_closed(connection: socket.socket) -> bool:
    """Whether the other side has closed it; nothing else comes."""
    connection.settimeout(0)
    try:
        return connection.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    before = soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < 4096:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize("said", [b"", HEAD])
def test_idle_connections_keep_no_honest_request_out(api: httpx.Client, said: bytes) -> None:
    with idle(api, 250, said):
        for _ in range(3):
            with httpx.Client(base_url=api.base_url, timeout=5) as honest:
                assert honest.get("/healthz").status_code == 200


@pytest.mark.usefixtures("many_descriptors")
def test_more_connections_than_descriptors_and_a_file_still_loads(site: Site) -> None:
    port = free_port()
    daemon = site.start(API_TOKEN=TOKEN, API_PORT=str(port))
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=BEARER, timeout=20) as client:
        eventually(lambda: answers(client), timeout=40, what="the daemon answers")
        resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (1024, 1024))
        with idle(client, 1100):
            site.drop("a.json", [report("a")], flow="vehicle_status")
            assert [line["status"] for line in site.settled(1)] == ["loaded"]
            with httpx.Client(base_url=client.base_url, timeout=5) as honest:
                assert honest.get("/healthz").status_code == 200
    assert site.stop(daemon) == 0
    assert "Too many open files" not in site.log() + daemon.log.read_text()


@pytest.mark.parametrize("said", [b"", HEAD, HEAD + b"\r\n", HEAD + b"\r\n" + HEAD])
def test_who_asks_for_nothing_is_let_go(site: Site, said: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.3)
    with served(site.settings) as client, connect(client) as slow:
        slow.sendall(said)
        if said.endswith(b"\r\n\r\n") or said.count(HEAD) > 1:
            assert slow.recv(65536).startswith(b"HTTP/1.1 200 ")
        eventually(lambda: is_closed(slow), timeout=5, what="the end of a slow head")


def test_one_byte_after_another_is_no_head(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.3)

    def gone(slow: socket.socket) -> bool:
        try:
            slow.send(b"x")
        except ConnectionError:
            return True
        return False

    with served(site.settings) as client, connect(client) as slow:
        slow.sendall(HEAD + b"X-Slow: ")
        eventually(lambda: gone(slow), timeout=5, what="the end of a trickle")


def test_one_peer_never_holds_all(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """With bodies that it does not send, its connections are not idle: it gets no more of them."""
    monkeypatch.setattr(connections, "MOST", 8)
    with served(site.settings) as client, idle(client, 4, HALF) as busy:
        eventually(lambda: len(site.waiting()) == 4, what="four bodies are on their way")
        with connect(client) as further:
            eventually(lambda: is_closed(further), what="the fifth is closed")
        assert not any(map(is_closed, busy))
        busy[0].settimeout(20)
        busy[0].sendall(b"       ]")
        assert busy[0].recv(65536).startswith(b"HTTP/1.1 202 ")
        eventually(lambda: answers(client), what="there is room again")


SLOW_SIGN_IN = (
    b"POST /sign-in HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/x-www-form-urlencoded\r\n"
    b"Content-Length: 4000\r\n\r\ntoken=x"
)


@contextmanager
def coming_again(client: httpx.Client, count: int, said: bytes) -> Iterator[None]:
    """So many who say this and read nothing, and are there again as soon as they are shown out."""
    over = threading.Event()
    said_once = threading.Barrier(count + 1)

    def press() -> None:
        is_first = True
        while not over.is_set():
            with contextlib.suppress(OSError), connect(client) as one:
                one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                one.settimeout(0.1)
                with contextlib.suppress(TimeoutError):
                    one.sendall(said)
                if is_first:
                    is_first = False
                    said_once.wait(20)
                while not over.is_set() and not (select.select([one], [], [], 0.1)[0] and is_closed(one)):
                    pass

    with ThreadPoolExecutor(count) as pool:
        pressing = [pool.submit(press) for _ in range(count)]
        try:
            said_once.wait(20)
            yield
        finally:
            over.set()
    for one in pressing:
        one.result()


@pytest.mark.parametrize("said", [SLOW_SIGN_IN, (b"GET /sign-in HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n") * 2000])
def test_who_shows_no_token_keeps_nobody_out_who_does(site: Site, said: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the same address, which behind a proxy is everybody's; neither with a body nor by not reading."""
    monkeypatch.setattr(connections, "MOST", 8)
    with served(site.settings) as client, idle(client, 1, HALF) as [at_work]:
        eventually(lambda: len(site.waiting()) == 1, what="a body is on its way")
        with coming_again(client, 8, said):
            for _ in range(5):
                with httpx.Client(base_url=client.base_url, headers=BEARER, timeout=5) as honest:
                    assert honest.get("/openapi.json").status_code == 200
            assert not is_closed(at_work)
            at_work.settimeout(20)
            at_work.sendall(b"       ]")
            assert at_work.recv(65536).startswith(b"HTTP/1.1 202 ")


def test_a_client_with_the_token_keeps_its_connection(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also between two requests: who has shown none makes room first."""
    monkeypatch.setattr(connections, "MOST", 8)
    with served(site.settings) as client:
        kept = http.client.HTTPConnection(client.base_url.host, client.base_url.port, timeout=20)
        with contextlib.closing(kept):
            for _ in range(2):
                kept.request("GET", "/openapi.json", headers=BEARER)
                own = kept.sock
                assert b"Tidegate" in kept.getresponse().read()
                with idle(client, 12, SLOW_SIGN_IN) as others:
                    eventually(lambda: sum(map(is_closed, others)) == 9, what="those who came first are shown out")
                assert kept.sock is own


def test_without_the_token_a_request_is_through_in_time(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.3)
    with served(site.settings) as client, connect(client) as slow, idle(client, 1, HALF) as [known]:
        slow.sendall(SLOW_SIGN_IN)
        eventually(lambda: is_closed(slow), timeout=5, what="the end of a slow body")
        assert not is_closed(known)


def test_an_answer_that_nobody_reads_is_given_up(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "UNREAD_SECONDS", 1)
    with served(site.settings) as client, connect(client) as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.settimeout(0)
        ask = (HEAD + b"\r\n") * 1000

        def cut() -> bool:
            try:
                deaf.send(ask)
            except BlockingIOError:
                return False
            except ConnectionError:
                return True
            return False

        eventually(cut, timeout=20, what="the end")
