"""How long a lonely short request takes beside huge ones: python -m tests.benchmarks.fairness.

A client sends one /classify after another, with pauses, while others keep the service busy: nobody, four connections
of /fill-mask with 256 texts each, or one /tag of 100,000 characters after another.
"""

import argparse
import json
import random
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from itertools import cycle
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from models.bundle import read_bundle
from models.errors import BertheadsError
from service.settings import STARTER
from tests.benchmarks.contenders import our_service, started
from tests.benchmarks.load import Address, Answer, BenchmarkError, Call, Connection, Request, request
from tests.benchmarks.workloads import TEXTS, Workloads, read_texts

TEXTS_A_LIST = 256
CHARACTERS = 100_000
PAUSE = 0.03  # seconds between two lonely requests, in the mean
SETTLING = 1.0  # seconds until the others keep the service busy


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit status."""
    parser = argparse.ArgumentParser("python -m tests.benchmarks.fairness", description=__doc__)
    parser.add_argument("--bundle", type=Path, default=STARTER, metavar="DIR")
    parser.add_argument("--seconds", type=float, default=8.0, help="of each of the three measurements; default: 8")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args(arguments)
    try:
        lines = measure(options.bundle.resolve(), options.seconds)
    except BertheadsError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    if options.json:
        sys.stdout.write(json.dumps(lines, indent=2) + "\n")
    else:
        show(lines)
    return 0


def measure(bundle: Path, seconds: float) -> list[dict[str, Any]]:
    """Return a line for each load: latencies of the lonely requests, and how many requests of others were answered."""
    workloads = Workloads(read_bundle(bundle), read_texts(TEXTS))
    lonely = workloads.make("short")[0]
    lines = []
    with (
        ProcessPoolExecutor(2, get_context("spawn")) as clients,
        started(our_service(bundle), lonely, clients, bundle) as server,
    ):
        for name, calls, connections in loads(workloads):
            busy = clients.submit(keep_busy, server.address, calls, connections, seconds + SETTLING)
            time.sleep(SETTLING)
            latencies = clients.submit(ask_alone, server.address, lonely.call, seconds).result()
            answered, refused = busy.result()
            p50, p95, p99 = (float(np.percentile(latencies, percent)) * 1000 for percent in (50, 95, 99))
            line = {"beside": name, "requests": len(latencies), "p50": p50, "p95": p95, "p99": p99}
            lines.append(line | {"answered": answered, "refused": refused})
    return lines


def loads(workloads: Workloads) -> list[tuple[str, list[Call], int]]:
    """Return name, calls and connections of those that keep the service busy."""
    draw = random.Random(0)
    masked = [question.inputs for question in workloads.every_task().get("fill-mask", [])]
    if not masked:
        raise BenchmarkError(f"{workloads.bundle.directory} has no fill-mask head, expected one; pass another --bundle")
    lists = [[" ".join(draw.sample(text.split(), len(text.split()))) for text in masked * 6] for _ in range(4)]
    text = " ".join(draw.choices(workloads.texts, k=CHARACTERS // 20))[:CHARACTERS]
    return [
        ("nobody", [], 0),
        (f"4 × /fill-mask × {TEXTS_A_LIST}", [_call("/fill-mask", each[:TEXTS_A_LIST]) for each in lists], 4),
        (f"/tag of {CHARACTERS:,} characters", [_call("/tag", text)], 1),
    ]


def _call(path: str, inputs: object) -> Call:
    return path, json.dumps({"inputs": inputs}).encode()


def keep_busy(address: Address, calls: Sequence[Call], connections: int, seconds: float) -> tuple[int, int]:
    """Ask on several connections without a pause; return how many requests were answered, and refused with 429."""
    end = time.perf_counter() + seconds

    def ask(number: int) -> list[int]:
        connection, statuses = Connection(address), list[int]()
        with connection.socket:
            for call in cycle(calls[number::connections]):
                if time.perf_counter() >= end:
                    break
                statuses.append(_ask(connection, request(0, call)).status)
                if statuses[-1] == 429:
                    time.sleep(PAUSE)
        return statuses

    with ThreadPoolExecutor(max(1, connections)) as threads:
        statuses = [status for each in threads.map(ask, range(connections)) for status in each]
    return statuses.count(200), statuses.count(429)


def _ask(connection: Connection, asked: Request) -> Answer:
    connection.send(asked)
    while (answer := connection.receive()) is None:
        pass
    if answer.status not in (200, 429):
        raise BenchmarkError(f"the service answered {answer.status}: {answer.body[:300]!r}, expected 200 or 429")
    return answer


def ask_alone(address: Address, call: Call, seconds: float) -> list[float]:
    """Ask on one connection, with random pauses, and return the seconds that each answer took."""
    connection, asked = Connection(address), request(0, call)
    draw, latencies, end = random.Random(1), list[float](), time.perf_counter() + seconds
    with connection.socket:
        while time.perf_counter() < end:
            time.sleep(draw.expovariate(1 / PAUSE))
            answer = _ask(connection, asked)
            if answer.status == 429:
                raise BenchmarkError(f"a lonely request was refused: {answer.body[:300]!r}, expected an answer")
            latencies.append(answer.seconds)
    return latencies


def show(lines: Sequence[dict[str, Any]]) -> None:
    table = Table("a lonely /classify beside", "requests", "p50 ms", "p95 ms", "p99 ms", "others answered", "refused")
    for line in lines:
        cells = [f"{line[name]:.1f}" for name in ("p50", "p95", "p99")]
        table.add_row(line["beside"], str(line["requests"]), *cells, str(line["answered"]), str(line["refused"]))
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
