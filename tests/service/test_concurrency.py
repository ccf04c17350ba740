"""If this breaks, an answer depends on other requests, or requests get lost under load."""

import asyncio
import random
from pathlib import Path
from typing import Any

import httpx

from tests.service.serving import serving
from tests.service.test_routes import HEADS, same

WORDS = "the cat dog sat on mat and slept in a house by sea while clara played for berlin".split()


def requests(count: int) -> list[tuple[str, dict[str, Any]]]:
    chance = random.Random(7)

    def text(longest: int = 90) -> str:
        return " ".join(chance.choices(WORDS, k=chance.randint(1, longest)))

    def one(task: str) -> Any:
        if task == "pair":
            return {"text": text(), "text_pair": text()}
        if task == "qa":
            return {"question": text(8), "context": text(200)}
        return text(30) + " [MASK]" if task == "fill-mask" else text()

    made = []
    for _ in range(count):
        task, head = chance.choice(HEADS)
        inputs = [one(task) for _ in range(chance.randint(1, 4))] if chance.random() < 0.3 else one(task)
        made.append((f"/{task}/{head}", {"inputs": inputs}))
    return made


async def all_at_once(url: str, wanted: list[tuple[str, dict[str, Any]]]) -> list[httpx.Response]:
    limits = httpx.Limits(max_connections=len(wanted))
    async with httpx.AsyncClient(base_url=url, limits=limits, timeout=120) as client:
        return await asyncio.gather(*(client.post(path, json=body) for path, body in wanted))


def test_two_hundred_mixed_requests_at_once_get_the_answers_they_get_alone(bundle: Path) -> None:
    wanted = requests(200)  # more tokens than the server of the other tests lets wait
    with serving(bundle, lanes=2) as served:
        batches = served.sample("batches_total")
        crowded = asyncio.run(all_at_once(served.url, wanted))
        rows_a_batch = served.sample("batch_rows_sum") / served.sample("batch_rows_count")
        assert rows_a_batch > 1 and served.sample("batches_total") > batches
        for (path, body), response in zip(wanted, crowded, strict=True):
            assert response.status_code == 200, response.text
            assert same(response.json(), served.client.post(path, json=body).json()), path
        assert served.sample("queue_rows") == served.sample("queue_tokens") == 0
