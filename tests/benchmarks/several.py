"""What three heads of one text cost beside one: python -m tests.benchmarks.several.

One connection asks in turn: one head on its own route, three heads by POST /heads, and three heads by three requests.
"""

import json
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np

from models.bundle import read_bundle
from models.errors import BertheadsError
from service.settings import STARTER
from tests.benchmarks.contenders import our_service, started
from tests.benchmarks.load import Address, BenchmarkError, Call, Connection, request
from tests.benchmarks.workloads import TEXTS, Workloads, read_texts

ROUTES = {"sentiment": "/classify/sentiment", "ner": "/tag/ner", "pos": "/tag/pos"}


def main(rounds: int = 300) -> int:
    """Print p50 in milliseconds and ratios; return the exit status."""
    bundle = read_bundle(STARTER)
    texts = read_texts(TEXTS)
    lonely = Workloads(bundle, texts).make("short")[0]
    try:
        with (
            ProcessPoolExecutor(1, get_context("spawn")) as clients,
            started(our_service(STARTER), lonely, clients, STARTER) as server,
        ):
            one, pass_of_three, three = measure(server.address, texts, rounds)
    except BertheadsError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    figures = {"the first head": one, "POST /heads, three heads": pass_of_three, "three requests": three}
    for name, seconds in figures.items():
        ratios = f"{seconds / one:.2f} × the first head, {seconds / three * 3:.2f} × the mean of the three"
        sys.stdout.write(f"{name}: p50 {seconds * 1000:.2f} ms, {ratios}\n")
    return 0


def measure(address: Address, texts: Sequence[str], rounds: int) -> list[float]:
    """Return the median seconds of each of the three ways, which take turns."""
    connection, seconds = Connection(address), list[list[float]]()
    with connection.socket:
        for number in range(rounds):
            text = texts[number % len(texts)]
            alone = [_call(route, {"inputs": text}) for route in ROUTES.values()]
            together = _call("/heads", {"inputs": text, "heads": list(ROUTES)})
            seconds.append([_ask(connection, calls) for calls in (alone[:1], [together], alone)])
    return [float(median) for median in np.median(seconds, axis=0)]


def _call(path: str, body: object) -> Call:
    return path, json.dumps(body).encode()


def _ask(connection: Connection, calls: Sequence[Call]) -> float:
    total = 0.0
    for call in calls:
        connection.send(request(0, call))
        while (answer := connection.receive()) is None:
            pass
        if answer.status != 200:
            raise BenchmarkError(f"the service answered {answer.status}: {answer.body[:300]!r}, expected 200")
        total += answer.seconds
    return total


if __name__ == "__main__":
    sys.exit(main())
