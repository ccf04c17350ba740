"""How many lanes one event loop can feed: python -m tests.benchmarks.cores.

One worker serves the texts of `short` with 1, 2, 4 and 8 lanes whose session sleeps as long as computing would take, so
that two cores show what a machine with many would: loop, lanes, queue and HTTP are real. Where twice the lanes do not
bring twice the requests, the event loop is full: CORES_PER_WORKER in service/settings.py follows from it.
"""

import argparse
import json
import multiprocessing
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from models.bundle import Bundle, read_bundle
from models.errors import BertheadsError
from models.row import Row
from models.session import Session
from service.listener import listen
from service.server import serve
from service.settings import STARTER, Settings
from tests.benchmarks.load import Address, Call, drive
from tests.benchmarks.workloads import TEXTS, Workloads, read_texts

LANES = (1, 2, 4, 8)
CONNECTIONS_PER_LANE = 16


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit status."""
    parser = argparse.ArgumentParser("python -m tests.benchmarks.cores", description=__doc__)
    parser.add_argument("--bundle", type=Path, default=STARTER, metavar="DIR")
    parser.add_argument("--lanes", type=int, nargs="+", default=LANES, metavar="N")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement; default: 3")
    parser.add_argument("--speed", type=float, default=0.0, help="tokens per second and lane; default: as measured")
    options = parser.parse_args(arguments)
    try:
        bundle = read_bundle(options.bundle.resolve())
        questions = Workloads(bundle, read_texts(TEXTS)).make("short")
        rows = [(question.head, question.row) for question in questions]
        speed = options.speed or measured_speed(bundle, rows)
        calls = [question.call for question in questions]
        rates = {lanes: rate(bundle, calls, lanes, speed, options.seconds) for lanes in options.lanes}
    except BertheadsError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    sys.stdout.write(json.dumps(summary(rates, speed), indent=2) + "\n")
    return 0


def measured_speed(bundle: Bundle, rows: Sequence[tuple[str, Row]]) -> float:
    """Return the tokens per second that one lane computes, in batches of eight rows."""
    session = Session(bundle)
    session.run(rows[:8])
    began, tokens = time.perf_counter(), 0
    while time.perf_counter() < began + 1.0:
        session.run(rows[:8])
        tokens += sum(len(row.input_ids) for _, row in rows[:8])
    return tokens / (time.perf_counter() - began)


def rate(bundle: Bundle, calls: Sequence[Call], lanes: int, speed: float, seconds: float) -> float:
    """Return the requests per second of one worker."""
    with sleeping_server(bundle, lanes, speed) as address:
        load = drive(address, calls, CONNECTIONS_PER_LANE * lanes, seconds)
    return len(load.latencies()) / load.seconds


@contextmanager
def sleeping_server(bundle: Bundle, lanes: int, speed: float) -> Iterator[Address]:
    """Serve in a process of its own until the block ends."""
    settings = Settings(
        bundles=(bundle.directory,), port=0, workers=1, lanes=lanes, log_level="error", max_queue_seconds=60
    )
    with listen(settings.host, settings.port) as listener:
        address = listener.getsockname()
        process = multiprocessing.get_context("spawn").Process(target=serve_asleep, args=(settings, listener, speed))
        process.start()
        try:
            while httpx.get(f"http://{address[0]}:{address[1]}/health/ready", timeout=60).status_code != 200:
                time.sleep(0.05)
            yield address
        finally:
            process.terminate()
            process.join(30)


def serve_asleep(settings: Settings, listener: socket.socket, speed: float) -> None:
    """Serve with sessions that sleep, and answer zeros."""

    def run(self: Session, items: Sequence[tuple[str, Row]]) -> list[Any]:
        time.sleep(sum(len(row.input_ids) for _, row in items) / speed)
        return [np.zeros((len(row.positions), widths[name]), np.float32) for name, row in items]

    manifest = read_bundle(settings.bundles[0]).manifest
    widths = {name: head.spec.width(manifest.encoder.vocab_size) for name, head in manifest.heads.items()}
    Session.run = Session.run_alone = run  # type: ignore[method-assign]
    Session.gain = lambda self, tokens: 1.0  # type: ignore[method-assign]
    sys.exit(serve(settings, listener))


def summary(rates: dict[int, float], speed: float) -> dict[str, Any]:
    """Return requests per second by lanes, and how many times those of the fewest lanes they are."""
    fewest = rates[min(rates)] / min(rates)
    return {
        "tokens_per_s_and_lane": speed,
        "requests_per_s": rates,
        "times_one_lane": {lanes: each / fewest for lanes, each in rates.items()},
    }


if __name__ == "__main__":
    sys.exit(main())
