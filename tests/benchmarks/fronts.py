"""What fronts and an engine process cost where the device takes no core: python -m tests.benchmarks.fronts.

Sessions answer noise after a sleep, as if a device computed. What is left is HTTP, JSON, tokenizing and decoding in the
fronts, frames and the queue in the engine process. Each figure is of several windows: their median, and the least,
which other work on the machine disturbs the least.

front_cpu_ms    CPU of all fronts per request; with `--fronts 1`, of one process that does it all
engine_cpu_ms   CPU of the engine process per request, over HTTP
row_cpu_ms      CPU of the engine process per row, if this program sends it rows without HTTP, `--rows` at a time
"""

import argparse
import asyncio
import json
import multiprocessing
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import numpy as np

from models.bundle import Bundle, read_bundle
from models.errors import BertheadsError
from models.row import Row
from models.session import Session
from service.admission import Limits
from service.front import Engines
from service.metrics import Metrics
from service.queue import Deadline
from service.settings import STARTER, Settings
from tests.benchmarks.contenders import cpu_seconds, end_group, family
from tests.benchmarks.load import BenchmarkError, drive
from tests.benchmarks.workloads import TEXTS, Question, Workloads, read_texts
from tests.programs import free_port

SERVE = "serve"
WORKLOADS = ("short", "qa")
MAX_SECONDS = 120.0
"""Limit for the start of the service, and for the answer to a row."""
BOARD = ".board"
BATCH_SECONDS = 0.005
"""Time of the device for any batch."""
NOISE = np.random.default_rng(0).normal(size=1 << 16).astype(np.float32)
FLAGS = ["--lanes", "2", "--batch-tokens", "16384", "--log-level", "error", "--max-queue-seconds", "60"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit status."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    if given[:1] == [SERVE]:
        from service.__main__ import main as run

        answer_noise()
        return run(given[1:])
    parser = argparse.ArgumentParser("python -m tests.benchmarks.fronts", description=__doc__)
    parser.add_argument("--bundle", type=Path, default=STARTER, metavar="DIR")
    parser.add_argument("--fronts", type=int, default=2, metavar="N")
    parser.add_argument("--workloads", nargs="+", default=WORKLOADS, metavar="NAME")
    parser.add_argument("--connections", type=int, default=64, metavar="N")
    parser.add_argument("--rows", type=int, default=256, metavar="N")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each window; default: 1")
    parser.add_argument("--windows", type=int, default=6, metavar="N")
    options = parser.parse_args(given)
    try:
        bundle = read_bundle(options.bundle.resolve())
        workloads = Workloads(bundle, read_texts(TEXTS))
        asked = {name: workloads.make(name) for name in options.workloads}
        found = measure(bundle, asked, options)
    except BertheadsError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    sys.stdout.write(json.dumps(found, indent=2) + "\n")
    return 0


def measure(bundle: Bundle, asked: dict[str, list[Question]], options: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of each workload, as [median, least]."""
    found: dict[str, Any] = {}
    with (
        ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as loader,
        served(bundle, options.fronts) as (supervisor, port),
    ):
        engine = engine_process(supervisor) if options.fronts > 1 else None
        for name, questions in asked.items():
            calls = [question.call for question in questions]

            def load(seconds: float, calls: Any = calls) -> int:
                work = loader.submit(drive, ("127.0.0.1", port), calls, options.connections, seconds)
                return len(work.result().answers)

            load(options.seconds)
            costs = [cost(supervisor, engine, load, options.seconds) for _ in range(options.windows)]
            found[name] = {"front_cpu_ms": of_windows([front for front, _ in costs])}
            if engine:
                rows = asyncio.run(rows_cost(bundle, questions, engine, options))
                found[name] |= {"engine_cpu_ms": of_windows([own for _, own in costs]), "row_cpu_ms": of_windows(rows)}
    return found


def cost(supervisor: int, engine: int | None, load: Any, seconds: float) -> tuple[float, float]:
    """Return the milliseconds of CPU per request of a load: of fronts, and of the engine process."""

    def spent() -> tuple[float, float]:
        own = cpu_seconds(engine) if engine else 0.0
        return cpu_seconds(supervisor) - own, own

    before, count, after = spent(), load(seconds), spent()
    return 1000 * (after[0] - before[0]) / count, 1000 * (after[1] - before[1]) / count


async def rows_cost(bundle: Bundle, questions: list[Question], engine: int, options: argparse.Namespace) -> list[float]:
    """Return the milliseconds of CPU of an engine process per row that it is sent, of each window."""
    socket = board_of(engine).with_suffix(".socket")
    engines = Engines([socket], Limits.of(Settings(max_queue_seconds=60.0)), options.fronts, Metrics())
    engines.start()
    handle = await asyncio.to_thread(engines.open, bundle)
    rows, count = cycle([(question.head, question.row) for question in questions]), 0

    async def send(end: float) -> None:
        nonlocal count
        while time.monotonic() < end:
            deadline = Deadline(time.monotonic() + MAX_SECONDS, MAX_SECONDS)
            await engines.submit(handle, [next(rows)], deadline).future
            count += 1

    found = []
    for _ in range(options.windows + 1):
        count, before, end = 0, cpu_seconds(engine), time.monotonic() + options.seconds
        await asyncio.gather(*(send(end) for _ in range(options.rows)))
        found.append(1000 * (cpu_seconds(engine) - before) / count)
    engines.stop(1)
    return found[1:]


def of_windows(values: list[float]) -> list[float]:
    """Return the median and the least."""
    return [round(median(values), 4), round(min(values), 4)]


@contextmanager
def served(bundle: Bundle, fronts: int) -> Iterator[tuple[int, int]]:
    """Serve a bundle with fronts, or in one process; yield the process and the port, once all are ready."""
    port = free_port()
    flags = ["--bundle", str(bundle.directory), "--port", str(port), "--workers", str(fronts), *FLAGS]
    command = [sys.executable, "-m", "tests.benchmarks.fronts", SERVE, *flags]
    with subprocess.Popen(command, start_new_session=True) as process:
        try:
            _wait(port, process, fronts)
            yield process.pid, port
        finally:
            end_group(process)


def _wait(port: int, process: "subprocess.Popen[bytes]", fronts: int) -> None:
    end = time.monotonic() + MAX_SECONDS
    while process.poll() is None and time.monotonic() < end:
        time.sleep(0.2)
        try:
            answer = httpx.get(f"http://127.0.0.1:{port}/health/ready", timeout=10, trust_env=False)
        except httpx.TransportError:
            continue
        if answer.status_code == 200 and answer.json()["workers"]["ready"] == fronts:
            return
    raise BenchmarkError(f"the service is not ready after {MAX_SECONDS:g} s, expected {fronts} workers; see its log")


def engine_process(supervisor: int) -> int:
    """Return the process below a supervisor that writes to a board; raise BenchmarkError if there is none."""
    found = [pid for pid in family(supervisor) if board_of(pid) != Path()]
    if not found:
        raise BenchmarkError(f"process {supervisor} has no engine process, expected one; start it with two fronts")
    return found[0]


def board_of(pid: int) -> Path:
    """Return the board that a process writes to; the empty path if there is none."""
    maps = [line.split() for line in Path(f"/proc/{pid}/maps").read_text().splitlines()]
    return next((Path(line[-1]) for line in maps if line[1] == "rw-s" and line[-1].endswith(BOARD)), Path())


def noise(rows: int, width: int) -> Any:
    """Return noise of a shape; zeros if there is not enough noise."""
    size = rows * width
    return NOISE[:size].reshape(rows, width) if size <= NOISE.size else np.zeros((rows, width), np.float32)


def answer_noise() -> None:
    """Let sessions answer noise after a sleep, and workers be fronts of an engine process."""
    widths: dict[int, dict[str, int]] = {}
    opened = Session.__init__

    def open_(self: Session, bundle: Bundle, **options: Any) -> None:
        opened(self, bundle, **options)
        vocabulary = bundle.manifest.encoder.vocab_size
        widths[id(self)] = {name: head.spec.width(vocabulary) for name, head in bundle.manifest.heads.items()}
        self.pads = False

    def run(self: Session, items: Sequence[tuple[str, Row]]) -> list[Any]:
        time.sleep(BATCH_SECONDS)
        mine = widths[id(self)]
        return [noise(len(row.positions), mine[name]) for name, row in items]

    Session.__init__ = open_  # type: ignore[method-assign]
    Session.run = Session.run_alone = run  # type: ignore[method-assign]
    Session.gain = lambda self, tokens: 1.0  # type: ignore[method-assign]
    Settings.has_fronts = property(lambda self: self.worker_count > 1)  # type: ignore[method-assign,assignment]


if __name__ == "__mp_main__":  # a process of the service, or the one that loads it
    answer_noise()

if __name__ == "__main__":
    sys.exit(main())
