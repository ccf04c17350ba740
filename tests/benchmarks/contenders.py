"""What is measured: services in processes of their own, under the same load, and ONNX Runtime without a service."""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import chain, cycle, islice
from pathlib import Path
from typing import Protocol

import httpx
import numpy as np
from prometheus_client.parser import text_string_to_metric_families

from models.bundle import Bundle
from models.errors import BertheadsError
from models.row import Row
from models.session import Session
from service.cores import usable_cores
from tests.benchmarks.load import Load, Order

ROOT = Path(__file__).parents[2]
PATIENCE = 120.0  # seconds for a service to load
URL = re.compile(r"http://(127\.0\.0\.1):(\d+)")

Figures = dict[str, float]


class BenchmarkError(BertheadsError):
    """Raised when there is nothing to measure, or what is measured does not answer."""


class Contender(Protocol):
    """What can be kept busy with `connections` requests at a time."""

    def run(self, connections: int, seconds: float) -> Figures:
        """Return requests, rate [1/s], p50, p95, p99 [ms], cpu_ms of the contender a request, and what else it knows."""


@dataclass(frozen=True)
class Server:
    """A service in a process of its own."""

    pid: int
    host: str
    port: int
    path: str
    bodies: list[str]

    def run(self, connections: int, seconds: float) -> Figures:
        order = Order(self.host, self.port, self.path, self.bodies, connections, seconds)
        before, cpu = self._counters(), cpu_seconds(self.pid)
        load = drive_apart(order)
        cpu, after = cpu_seconds(self.pid) - cpu, self._counters()
        grown = {name: value - before[name] for name, value in after.items()}
        own = {"load_cpu_ms": 1000 * load.cpu_seconds / len(load.latencies)}
        return figures(load, cpu) | own | (batch_figures(grown) if grown else {})

    def _counters(self) -> Figures:
        """Our own service's counters, each added up over its labels; empty for a service without /metrics."""
        response = httpx.get(f"http://{self.host}:{self.port}/metrics", trust_env=False)
        counters: Figures = {}
        for family in text_string_to_metric_families(response.text if response.is_success else ""):
            for sample in family.samples:
                counters[sample.name] = counters.get(sample.name, 0.0) + sample.value
        return counters


class Raw:
    """ONNX Runtime in a loop: rows tokenised beforehand, no HTTP, no padding, one thread a core."""

    def __init__(self, bundle: Bundle, head: str, rows: Sequence[Row]) -> None:
        self.session = Session(bundle)
        self._items = [(head, row) for row in rows]

    def run(self, connections: int, seconds: float) -> Figures:
        """Share `connections` rows among the cores: as many are under way as in a service with that load."""
        lanes = min(connections, usable_cores())
        size = -(-connections // lanes)
        start, cpu = time.perf_counter(), time.process_time()
        with ThreadPoolExecutor(lanes) as pool:
            jobs = [pool.submit(self._lane, range(lane, sys.maxsize, lanes), size, seconds) for lane in range(lanes)]
            latencies = list(chain.from_iterable(job.result() for job in jobs))
        cpu = time.process_time() - cpu
        return figures(Load(time.perf_counter() - start, latencies, 0.0), cpu)

    def _lane(self, turns: range, size: int, seconds: float) -> list[float]:
        """Run batches of one row each, `size` times repeated, so that nothing is padded; every row waits for its batch."""
        latencies: list[float] = []
        end = time.perf_counter() + seconds
        for item in islice(cycle(self._items), turns.start, None, turns.step):
            start = time.perf_counter()
            if start >= end:
                break
            self.session.run([item] * size)
            latencies += [time.perf_counter() - start] * size
        return latencies


@contextmanager
def started(module: str, *arguments: str, path: str, bodies: list[str]) -> Iterator[Server]:
    """Run `python -m module` with its defaults until the block ends; raise BenchmarkError if it does not answer."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("BERTHEADS_")}
    command = [sys.executable, "-m", module, *arguments]
    with (
        tempfile.NamedTemporaryFile() as log,
        subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log) as process,
    ):
        try:
            host, port = _address(process, module, Path(log.name), path, bodies[0])
            yield Server(process.pid, host, port, path, bodies)
        finally:
            process.terminate()


def _address(process: "subprocess.Popen[bytes]", name: str, log: Path, path: str, body: str) -> tuple[str, int]:
    """Return where a service listens, by its log, once it answers."""
    end = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < end:
        found = URL.search(log.read_text())
        if found and _answers(found[0] + path, body):
            return found[1], int(found[2])
        time.sleep(0.05)
    last = (log.read_text().splitlines() or ["it wrote nothing"])[-1]
    raise BenchmarkError(f"python -m {name} does not answer; the last line of its log: {last}")


def _answers(url: str, body: str) -> bool:
    try:
        response = httpx.post(url, content=body, headers={"Content-Type": "application/json"}, trust_env=False)
    except httpx.TransportError:
        return False
    if response.status_code not in (200, 503):
        raise BenchmarkError(f"{url} answered {response.status_code} {response.text[:200]}, expected 200")
    return response.status_code == 200


def drive_apart(order: Order) -> Load:
    """Drive a load from another process; raise BenchmarkError with its sentence if that fails."""
    command = [sys.executable, "-m", "tests.benchmarks.load"]
    done = subprocess.run(command, cwd=ROOT, input=json.dumps(asdict(order)), capture_output=True, text=True)
    if done.returncode:
        raise BenchmarkError(f"{order.connections} connections to {order.path}: {done.stderr.strip().splitlines()[-1]}")
    return Load(**json.loads(done.stdout))


def figures(load: Load, cpu: float) -> Figures:
    """Sum a load up; `cpu` is the processor time of the contender in seconds."""
    requests = len(load.latencies)
    p50, p95, p99 = np.percentile(np.array(load.latencies) * 1000, [50, 95, 99]).tolist()
    rate = requests / load.seconds
    return {"requests": requests, "rate": rate, "p50": p50, "p95": p95, "p99": p99, "cpu_ms": 1000 * cpu / requests}


def batch_figures(grown: Figures) -> Figures:
    """Sum up what our service counted meanwhile; `padding` is a share of the tokens that were run."""
    padding, tokens = grown["bertheads_padding_tokens_total"], grown["bertheads_batch_tokens_sum"]
    return {
        "counted": grown["bertheads_inputs_total"],
        "rows_a_batch": grown["bertheads_batch_rows_sum"] / grown["bertheads_batch_rows_count"],
        "padding": padding / (padding + tokens),
    }


def cpu_seconds(pid: int) -> float:
    """User and system time of a process with all its threads (proc(5), fields 14 and 15)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
