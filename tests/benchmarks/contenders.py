"""What is measured: services in processes of their own under the same load, and ONNX Runtime without a service."""

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import cycle
from pathlib import Path
from typing import NamedTuple

import httpx
import numpy as np

from models.row import Row
from models.session import Session
from service.cores import usable_cores
from tests.benchmarks.load import BenchmarkError, Load, drive

ROOT = Path(__file__).parents[2]
PATIENCE = 120.0  # seconds for a service to load
URL = re.compile(r"http://(127\.0\.0\.1):(\d+)")
COUNTER = re.compile(r"^bertheads_(\w+) (\S+)$", re.MULTILINE)

Figures = dict[str, float]


class Server(NamedTuple):
    """A service in a process of its own, and the process that loads it."""

    pid: int
    address: tuple[str, int]
    path: str
    bodies: Sequence[bytes]
    loader: Executor

    def run(self, connections: int, seconds: float) -> Figures:
        """Return what `summed` does, what the load cost, and what the service says of its batches."""
        try:
            before, cpu = self._counters(), cpu_seconds(self.pid)
            load = self.loader.submit(drive, self.address, self.path, self.bodies, connections, seconds).result()
            cpu, after = cpu_seconds(self.pid) - cpu, self._counters()
        except (OSError, httpx.TransportError) as error:
            raise BenchmarkError(f"{self.path} stopped answering ({error}); start it alone to see why") from None
        figures = summed(load, cpu) | {"load_cpu_ms": 1000 * load.cpu_seconds / len(load.latencies)}
        return figures | batches({name: value - before[name] for name, value in after.items()})

    def _counters(self) -> Figures:
        """Return the counters without labels of our service, none of a service without /metrics."""
        text = httpx.get("http://{}:{}/metrics".format(*self.address), trust_env=False).text
        return {name: float(value) for name, value in COUNTER.findall(text)}


@contextmanager
def started(command: Sequence[str], path: str, bodies: Sequence[bytes], loader: Executor) -> Iterator[Server]:
    """Run `python -m command` with its defaults until the block ends; raise BenchmarkError if it does not answer."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("BERTHEADS_")}
    command = [sys.executable, "-m", *command]
    with (
        tempfile.NamedTemporaryFile() as log,
        subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log) as process,
    ):
        try:
            address = _address(process, Path(log.name), path, bodies[0])
            yield Server(process.pid, address, path, bodies, loader)
        finally:
            process.terminate()


def _address(process: "subprocess.Popen[bytes]", log: Path, path: str, body: bytes) -> tuple[str, int]:
    """Return where a service listens, which its log says, once it answers a request."""
    end = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < end:
        time.sleep(0.05)
        if found := URL.search(log.read_text()):
            with suppress(httpx.TransportError):
                headers = {"Content-Type": "application/json"}
                if httpx.post(found[0] + path, content=body, headers=headers, trust_env=False).is_success:
                    return found[1], int(found[2])
    last = (log.read_text().splitlines() or ["nothing"])[-1]
    raise BenchmarkError(f"process {process.pid} does not answer POST {path}, expected status 200; it wrote {last!r}")


class Raw(NamedTuple):
    """ONNX Runtime in a loop: rows tokenised beforehand, no HTTP, no padding, one thread a core."""

    session: Session
    items: Sequence[tuple[str, Row]]

    def run(self, connections: int, seconds: float) -> Figures:
        """Return what `summed` does, with as many rows under way as a service has with so many connections."""
        lanes = min(connections, usable_cores())
        rows = -(-connections // lanes)
        items = cycle(self.items)
        start, cpu = time.perf_counter(), time.process_time()

        def lane(_: int) -> list[float]:
            latencies: list[float] = []
            while (began := time.perf_counter()) < start + seconds:
                self.session.run([next(items)] * rows)  # one row repeated: nothing is padded
                latencies += [time.perf_counter() - began] * rows
            return latencies

        with ThreadPoolExecutor(lanes) as pool:
            latencies = [latency for of_lane in pool.map(lane, range(lanes)) for latency in of_lane]
        return summed(Load(time.perf_counter() - start, latencies, 0.0), time.process_time() - cpu)


def summed(load: Load, cpu: float) -> Figures:
    """Return requests, rate [1/s], p50, p95, p99 [ms], and cpu_ms a request, of `cpu` seconds in all."""
    requests = len(load.latencies)
    p50, p95, p99 = np.percentile(np.array(load.latencies) * 1000, [50, 95, 99]).tolist()
    rate = requests / load.seconds
    return {"requests": requests, "rate": rate, "p50": p50, "p95": p95, "p99": p99, "cpu_ms": 1000 * cpu / requests}


def batches(grown: Figures) -> Figures:
    """Return what our service counted: rows, rows a batch, and the share of padding in the tokens it ran."""
    if not grown:
        return {}
    rows, padding = grown["batch_rows_sum"], grown["padding_tokens_total"]
    share = padding / (padding + grown["batch_tokens_sum"])
    return {"rows": rows, "rows_a_batch": rows / grown["batches_total"], "padding": share}


def cpu_seconds(pid: int) -> float:
    """User and system time of a process with all its threads (proc(5), fields 14 and 15)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
