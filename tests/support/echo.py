"""A partner that says what a test wants, and shows what it was sent."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Echo:
    """status, body: what it answers; AUTHORIZATION in the body becomes what the request has there."""

    url: str
    status: int = 200
    body: str = "AUTHORIZATION"
    headers: dict[str, str] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)


@contextmanager
def echoing() -> Iterator[Echo]:
    """It answers at 127.0.0.1 while the context is open."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", "0")))
            echo.asked.append(self.headers.get("Authorization", ""))
            content = echo.body.replace("AUTHORIZATION", self.headers.get("Authorization", "")).encode()
            self.send_response(echo.status)
            for name, value in {"Content-Length": str(len(content)), **echo.headers}.items():
                self.send_header(name, value.replace("AUTHORIZATION", self.headers.get("Authorization", "")))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = do_DELETE = answer  # http.server looks for these names

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        echo = Echo(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield echo
        finally:
            server.shutdown()
            thread.join()
