"""A proxy before the service that a test can let fail, or answer for it."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx

PASSED = ("content-type", "authorization", "x-bundle", "sec-fetch-site", "accept-encoding")
LEFT_OUT = ("content-length", "transfer-encoding", "connection", "date", "server", "content-encoding", "etag")


@dataclass(frozen=True)
class Canned:
    """An answer that does not come from the service."""

    status: int
    body: str
    headers: Mapping[str, str] = field(default_factory=lambda: {"Content-Type": "text/html"})


class Relay:
    """A proxy between a browser and the service."""

    def __init__(self, target: str) -> None:
        self.client = httpx.Client(base_url=target, timeout=60)
        self.url = ""
        self.down = False
        """Whether it closes every connection without an answer, as if the service had stopped."""
        self.canned: dict[str, list[Canned]] = {}
        """By path: answers to the next requests; the last one stays if `lasting` has the path."""
        self.lasting: dict[str, Canned] = {}
        self.asked: list[tuple[str, bytes, Mapping[str, str]]] = []
        """Each request: path, body, headers."""

    def answer(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> Canned | httpx.Response:
        self.asked.append((path, body, headers))
        if self.canned.get(path):
            return self.canned[path].pop(0)
        if path in self.lasting:
            return self.lasting[path]
        passed = {name: value for name, value in headers.items() if name.lower() in PASSED}
        return self.client.request(method, path, content=body, headers=passed)


@contextmanager
def relay(target: str) -> Iterator[Relay]:
    """Run a proxy before the service until the block ends."""
    front = Relay(target)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if front.down:
                self.close_connection = True
                return
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            answer = front.answer(self.command, self.path, body, dict(self.headers))
            content = answer.body.encode() if isinstance(answer, Canned) else answer.content
            self.send_response(answer.status if isinstance(answer, Canned) else answer.status_code)
            for name, value in answer.headers.items():
                if name.lower() not in LEFT_OUT:
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_GET

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    with front.client, ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        front.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield front
        server.shutdown()
        thread.join()
