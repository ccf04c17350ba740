"""A running service as a predictor: the whole path is measured, HTTP included."""

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import quote

import httpx
from pydantic import BaseModel

from models.predictor import Prediction
from models.task import HeadSpec
from models.tokenizer import Tokenizer
from training.errors import EvaluationError

CONNECTIONS = 4
PER_REQUEST = 8  # inputs per request
PATIENCE = 60.0  # seconds that a busy or starting service may take to accept a request


def refuse_password(url: str) -> None:
    """Raise EvaluationError for a text that is not a URL, or a URL with a password, which command lines would show."""
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise EvaluationError(f"{url} is not a URL ({error}), expected http://HOST:PORT; correct it") from None
    if parsed.userinfo:
        raise EvaluationError(
            f"the URL of {parsed.host} holds a password, which other users of this machine can read; remove it, and "
            "set BERTHEADS_API_KEY, or write it into ~/.netrc"
        )


class UrlPredictor:
    """The heads of a service at `url`; `key` is its API key, `tokenizer` belongs to the served bundle (for masking)."""

    def __init__(self, url: str, key: str | None = None, tokenizer: Tokenizer | None = None) -> None:
        self.tokenizer = tokenizer
        self._url = url.rstrip("/")
        refuse_password(url)
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}

    def head(self, name: str) -> HeadSpec:
        with self._client() as client:
            described = self._ask(client, "GET", f"/heads/{quote(name, safe='')}")
        try:
            defaults = described.get("parameters", {})
            known = {name: described[name] for name in ("task", "labels")}
            problem = described.get("problem_type", "single_label_classification")  # older services do not say it
            return HeadSpec(**known, defaults=defaults, problem_type=problem)
        except (KeyError, TypeError):
            raise EvaluationError(f"{self._url} does not describe its heads; pass the URL of this service") from None

    def predict(self, head: str, inputs: Sequence[Any], parameters: Mapping[str, Any]) -> Iterator[Prediction]:
        route = f"/{self.head(head).task}/{head}"
        plain = [one.model_dump() if isinstance(one, BaseModel) else one for one in inputs]
        starts = range(0, len(plain), PER_REQUEST)
        bodies = [{"inputs": plain[start : start + PER_REQUEST], "parameters": parameters} for start in starts]
        with self._client() as client:
            pool = ThreadPoolExecutor(CONNECTIONS)
            try:
                answered = [pool.submit(self._ask, client, "POST", route, body) for body in bodies]
                for start, future in zip(starts, answered, strict=True):
                    for offset, answer in enumerate(future.result()):
                        yield Prediction(start + offset, answer, None)
            finally:
                pool.shutdown(cancel_futures=True)

    def _client(self) -> httpx.Client:
        return httpx.Client(base_url=self._url, headers=self._headers, timeout=120.0)

    def _ask(self, client: httpx.Client, method: str, route: str, body: object = None) -> Any:
        """Return the JSON answer; wait if the service is busy."""
        give_up = time.monotonic() + PATIENCE
        while True:
            response = self._send(client, method, route, body)
            wait = seconds(response.headers.get("Retry-After", "1"))
            if response.status_code not in (429, 503) or time.monotonic() + wait > give_up:
                return self._read(response)
            time.sleep(wait)

    def _send(self, client: httpx.Client, method: str, route: str, body: object) -> httpx.Response:
        try:
            return client.request(method, route, json=body)
        except httpx.TransportError as error:
            found = f"{type(error).__name__}: {error}"
            raise EvaluationError(
                f"{self._url} does not answer ({found}), expected a running service; start it with "
                "python -m service, or correct the URL"
            ) from None

    def _read(self, response: httpx.Response) -> Any:
        where = f"{response.request.method} {response.request.url}"
        try:
            answer = response.json()
        except ValueError:
            found = f"status {response.status_code} and {response.text[:80]!r}"
            raise EvaluationError(f"{where} gave {found}, expected JSON; pass the URL of this service") from None
        if response.is_success:
            return answer
        detail = answer.get("detail", answer) if isinstance(answer, dict) else answer
        raise EvaluationError(f"{where} gave status {response.status_code}: {detail}")


def seconds(retry_after: str) -> float:
    """Return the seconds of a header Retry-After; 1 for a date, because clocks may differ."""
    return float(retry_after) if retry_after.isdecimal() else 1.0
