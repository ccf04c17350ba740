"""A real server in a thread of the tests' process, so that they can look into it."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from service.lifecycle import Service
from service.listener import listen
from service.server import create_server
from service.settings import Settings

PATIENCE = 180.0


@dataclass(frozen=True)
class Served:
    """A running server."""

    url: str
    service: Service
    client: httpx.Client

    def post(self, path: str, inputs: object, **parameters: object) -> httpx.Response:
        return self.client.post(path, json={"inputs": inputs, "parameters": parameters})

    def answer(self, path: str, inputs: object, **parameters: object) -> Any:
        response = self.post(path, inputs, **parameters)
        assert response.status_code == 200, response.text
        return response.json()

    def sample(self, name: str, **labels: str) -> float:
        return self.service.metrics.registry.get_sample_value(f"bertheads_{name}", labels) or 0.0


@contextmanager
def serving(*bundles: Path, wait: bool = True, **settings: Any) -> Iterator[Served]:
    """Serve bundles on a free port until the block ends; `wait` until they are loaded."""
    chosen = Settings(bundles=bundles, port=0, **({"drain_timeout": 5, "workers": 1} | settings))
    with listen(chosen.host, chosen.port) as listener:
        server = create_server(chosen)
        service = server.service
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        key = f"Bearer {chosen.api_key.get_secret_value()}".encode() if chosen.api_key else b""
        headers = {b"Authorization": key} if key else {}
        try:
            with httpx.Client(base_url=url, timeout=PATIENCE, headers=headers) as client:
                until(lambda: not wait or not service.obstacles())
                yield Served(url, service, client)
        finally:
            server.should_exit = True
            thread.join(PATIENCE)


def until(condition: Any) -> None:
    """Wait until a condition is true, which other threads or processes bring about."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.01)
