"""What an engine process and its fronts cost without the network: python -m tests.benchmarks.fronts.

Sessions answer noise after a sleep, as if a device computed: what is left is HTTP, JSON, tokenising and decoding in the
fronts, frames and the queue in the engine process. `--fronts 1` measures one process that does it all.
"""

import argparse
import json
import multiprocessing
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from models.bundle import read_bundle
from models.errors import BertheadsError
from models.row import Row
from models.session import Session
from service.settings import STARTER, Settings
from tests.benchmarks.contenders import cpu_seconds, end_group, family
from tests.benchmarks.load import BenchmarkError, drive
from tests.benchmarks.workloads import TEXTS, Question, Workloads, read_texts
from tests.programs import free_port

SERVE = "serve"
WORKLOADS = ("short", "qa")
CONNECTIONS = 64
MAX_SECONDS = 120.0
"""That the service may take to start."""
BOARD = ".board"
NOISE = np.random.default_rng(0).normal(size=1 << 16).astype(np.float32)
BATCH_SECONDS = 0.005
"""That the device takes for any batch, without a core."""


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
    parser.add_argument("--connections", type=int, default=CONNECTIONS, metavar="N")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement; default: 3")
    options = parser.parse_args(given)
    try:
        workloads = Workloads(read_bundle(options.bundle.resolve()), read_texts(TEXTS))
        asked = {name: workloads.make(name) for name in options.workloads}
        found = measure(options.bundle.resolve(), asked, options.fronts, options.connections, options.seconds)
    except BertheadsError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    sys.stdout.write(json.dumps(found, indent=2) + "\n")
    return 0


def measure(
    bundle: Path, asked: dict[str, list[Question]], fronts: int, connections: int, seconds: float
) -> dict[str, Any]:
    """Return by workload the rate [1/s], and milliseconds of CPU per request in the engine process and in fronts."""
    port = free_port()
    flags = ["--bundle", str(bundle), "--port", str(port), "--workers", str(fronts), "--lanes", "2"]
    flags += ["--batch-tokens", "16384", "--log-level", "error", "--max-queue-seconds", "60"]
    command = [sys.executable, "-m", "tests.benchmarks.fronts", SERVE, *flags]
    with subprocess.Popen(command, start_new_session=True) as process:
        try:
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as loader:
                wait(port, process, fronts)
                engine = engine_process(process.pid) if fronts > 1 else None
                found = {}
                for name, questions in asked.items():
                    calls = [question.call for question in questions]
                    work = (("127.0.0.1", port), calls, connections)
                    loader.submit(drive, *work, min(1.0, seconds)).result()
                    before = spent(process.pid, engine)
                    load = loader.submit(drive, *work, seconds).result()
                    cost = [
                        1000 * (b - a) / len(load.answers)
                        for a, b in zip(before, spent(process.pid, engine), strict=True)
                    ]
                    rate = len(load.answers) / load.seconds
                    found[name] = {
                        "rate": round(rate, 1),
                        "engine_cpu_ms": round(cost[0], 4),
                        "front_cpu_ms": round(cost[1], 4),
                    }
                return found
        finally:
            end_group(process)


def wait(port: int, process: "subprocess.Popen[bytes]", fronts: int) -> None:
    """Wait until all fronts are ready."""
    end = time.monotonic() + MAX_SECONDS
    while process.poll() is None and time.monotonic() < end:
        time.sleep(0.2)
        try:
            answer = httpx.get(f"http://127.0.0.1:{port}/health/ready", timeout=10, trust_env=False)
        except httpx.TransportError:
            continue
        if answer.status_code == 200 and answer.json()["workers"]["ready"] == fronts:
            return
    raise BenchmarkError(
        f"the service is not ready after {MAX_SECONDS:g} s, expected {fronts} workers that are; see above"
    )


def engine_process(supervisor: int) -> int:
    """Return the process that writes to a board."""
    for pid in family(supervisor):
        maps = Path(f"/proc/{pid}/maps").read_text().splitlines()
        if any(line.endswith(BOARD) and " rw-s " in line for line in maps):
            return pid
    raise BenchmarkError("there is no engine process, expected one; run with --fronts 2 or more")


def spent(supervisor: int, engine: int | None) -> tuple[float, float]:
    """Return the CPU seconds of the engine process, and of all others."""
    mine = cpu_seconds(engine) if engine else 0.0
    return mine, cpu_seconds(supervisor) - mine


def answer_noise() -> None:
    """Let sessions answer noise after a sleep, and workers be fronts of an engine process."""
    widths: dict[int, dict[str, int]] = {}
    opened = Session.__init__

    def open_(self: Session, bundle: Any, **options: Any) -> None:
        opened(self, bundle, **options)
        manifest = bundle.manifest
        widths[id(self)] = {name: head.spec.width(manifest.encoder.vocab_size) for name, head in manifest.heads.items()}
        self.pads = False

    def run(self: Session, items: Sequence[tuple[str, Row]]) -> list[Any]:
        time.sleep(BATCH_SECONDS)
        mine = widths[id(self)]
        found = [(len(row.positions), mine[name]) for name, row in items]
        return [NOISE[: rows * width].reshape(rows, width) if rows * width <= NOISE.size else np.zeros((rows, width), np.float32) for rows, width in found]

    Session.__init__ = open_  # type: ignore[method-assign]
    Session.run = Session.run_alone = run  # type: ignore[method-assign]
    Session.gain = lambda self, tokens: 1.0  # type: ignore[method-assign]
    Settings.has_fronts = property(lambda self: self.worker_count > 1)  # type: ignore[method-assign,assignment]


if __name__ == "__mp_main__":  # a process of the service, or the one that loads it
    answer_noise()

if __name__ == "__main__":
    sys.exit(main())
