"""The contenders: services in processes of their own under the same load, and ONNX Runtime without a service."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from models.cgroup import usable_cores
from models.session import Session
from service.metrics import MAX_AGE_SECONDS
from tests.benchmarks.load import Address, BenchmarkError, Call, Load, drive
from tests.benchmarks.workloads import Question, variants
from tests.programs import free_port

ROOT = Path(__file__).parents[2]
PEERS = ROOT / ".venv/peers"
"""Environments of services that cannot share ours; `make peers` installs them."""
PATIENCE = 180.0  # seconds for a service to load
COUNTER = re.compile(r"^bertheads_(\w+) (\S+)$", re.MULTILINE)
QUIET = {"HF_HUB_OFFLINE": "1", "INFINITY_ANONYMOUS_USAGE_STATS": "0", "BENTOML_DO_NOT_TRACK": "True"}
QUIET |= {"DO_NOT_TRACK": "1", "TOKENIZERS_PARALLELISM": "false"}

OURS = "bertheads"

Figures = dict[str, float]


@dataclass(frozen=True)
class Service:
    """How a service is started, and how it is asked to classify a text."""

    name: str
    command: Callable[[int], list[str]]
    """By the port."""
    path: str = ""
    """Of its classifier, where the name of our head is not in it."""
    body: Callable[[str], Any] = lambda text: {"inputs": text}
    environment: str | None = None
    """Name of its directory in PEERS; ours by default."""

    @property
    def python(self) -> Path:
        return Path(sys.executable) if self.environment is None else PEERS / self.environment / "bin/python"

    @property
    def missing(self) -> bool:
        return not self.python.exists()

    def call(self, question: Question) -> Call:
        """How this service is asked a question of `short` or `mixed`; ours is asked any."""
        return (self.path, json.dumps(self.body(question.inputs)).encode()) if self.path else question.call


def our_service(bundle: Path, *options: str) -> Service:
    return Service(OURS, lambda port: ["-m", "service", "--bundle", str(bundle), "--port", str(port), *options])


def services(bundle: Path, checkpoint: Path) -> list[Service]:
    """Ours first; `checkpoint` holds the classify head of the bundle alone, in the layout of transformers."""
    infinity = ["-c", "from infinity_emb.cli import cli; cli()", "v2", "--model-id", str(checkpoint)]
    infinity += ["--engine", "torch", "--device", "cpu", "--no-bettertransformer", "--no-compile"]
    infinity += ["--served-model-name", "m", "--host", "127.0.0.1", "--port"]
    litserve = ["-m", "tests.benchmarks.litserve_service", str(bundle)]
    bento = ["-m", "bentoml", "serve", "tests.benchmarks.bentoml_service:Service", "--host", "127.0.0.1", "--port"]

    def asked(text: str) -> Any:  # infinity
        return {"model": "m", "input": [text]}

    return [
        our_service(bundle),
        Service("naive", lambda port: ["-m", "tests.benchmarks.naive", str(checkpoint), str(port)], "/classify"),
        Service(
            "infinity",
            lambda port: [*infinity, str(port)],
            "/classify",
            asked,
            "infinity",
        ),
        Service(
            "infinity-int8",
            lambda port: ["-m", "tests.benchmarks.infinity_service", str(checkpoint), str(port)],
            "/classify",
            asked,
            "infinity",
        ),
        Service("litserve", lambda port: [*litserve, str(port)], "/predict", environment="servers"),
        Service(
            "litserve-onnx",
            lambda port: [*litserve, str(port), "onnxruntime-alone"],
            "/predict",
            environment="servers",
        ),
        Service("bentoml", lambda port: [*bento, str(port)], "/classify", lambda text: {"texts": [text]}, "servers"),
    ]


@dataclass(frozen=True)
class Server:
    """A running service, and the process that loads it."""

    service: Service
    pid: int
    address: Address
    loader: Executor

    def run(self, calls: Sequence[Call], connections: int, seconds: float) -> Figures:
        """Return what `summed` does of a closed loop, its memory, and what it says of its batches."""
        return self.measure(lambda: self.loader.submit(drive, self.address, calls, connections, seconds).result())

    def measure(self, load: Callable[[], Load]) -> Figures:
        """Return the same of any load."""
        try:
            before, cpu, began = self._counters(), cpu_seconds(self.pid), time.monotonic()
            done = load()
            cpu = cpu_seconds(self.pid) - cpu
            time.sleep(
                max(0.0, began + MAX_AGE_SECONDS - time.monotonic())
            )  # otherwise the page may be older than the load
            after = self._counters()
        except (OSError, httpx.TransportError) as error:
            raise BenchmarkError(f"{self.service.name} stopped answering ({error}); start it alone") from None
        figures = summed(done, cpu) | {"load_cpu_ms": 1000 * done.cpu_seconds / len(done.answers)}
        figures["memory_mb"] = memory_bytes(self.pid) / 2**20
        return figures | batches({name: value - before[name] for name, value in after.items()})

    def label(self, question: Question) -> str:
        """The best label for a text, whatever the shape of the answer."""
        path, body = self.service.call(question)
        answer = httpx.post("http://{}:{}".format(*self.address) + path, content=body, headers=JSON, trust_env=False)
        return str(max(choices(answer.json()), key=lambda choice: float(choice["score"]))["label"])

    def _counters(self) -> Figures:
        """Return the counters without labels of our service, none of another."""
        if self.service.name != OURS:
            return {}
        text = httpx.get("http://{}:{}/metrics".format(*self.address), trust_env=False).text
        return {name: float(value) for name, value in COUNTER.findall(text)}


JSON = {"Content-Type": "application/json"}


def choices(answer: Any) -> Iterator[dict[str, Any]]:
    """Yield every {label, score} in an answer."""
    if isinstance(answer, dict) and "label" in answer:
        yield answer
    elif isinstance(answer, dict | list):
        for part in answer.values() if isinstance(answer, dict) else answer:
            yield from choices(part)


@contextmanager
def started(
    service: Service, question: Question, loader: Executor, bundle: Path, cores: Set[int] = frozenset()
) -> Iterator[Server]:
    """Run a service with its defaults until the block ends; raise BenchmarkError if it does not answer.

    `cores`: those that it may use; all if empty.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("BERTHEADS_")}
    ours = [] if service.environment else os.environ.get("PYTHONPATH", "").split(os.pathsep)
    environment |= QUIET | {"BUNDLE": str(bundle), "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, ours)])}
    port = free_port()
    with (
        tempfile.NamedTemporaryFile() as log,
        subprocess.Popen(
            [str(service.python), *service.command(port)],
            cwd=ROOT,
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=partial(use_cores, cores),
        ) as process,
    ):
        try:
            server = Server(service, process.pid, ("127.0.0.1", port), loader)
            _wait(server, process, question, Path(log.name))
            yield server
        finally:
            end_group(process)


def use_cores(cores: Set[int]) -> None:
    """Keep this process on some cores; on all if there are none of them."""
    if cores:
        os.sched_setaffinity(0, cores)


@contextmanager
def our_server(
    bundle: Path, question: Question, *, cores: Set[int] = frozenset(), loader_cores: Set[int] = frozenset()
) -> Iterator[Server]:
    """Run our service alone, and the process that loads it, each on all cores or on some."""
    with (
        ProcessPoolExecutor(1, get_context("spawn"), use_cores, (loader_cores,)) as loader,
        started(our_service(bundle), question, loader, bundle, cores) as server,
    ):
        yield server


@contextmanager
def paused(servers: Iterable[Server]) -> Iterator[None]:
    """Pause servers while the block runs: some poll when they have nothing to do."""
    pids = [pid for server in servers for pid in family(server.pid)]

    def send(number: signal.Signals) -> None:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    try:
        send(signal.SIGSTOP)
        yield
    finally:
        send(signal.SIGCONT)


def end_group(process: "subprocess.Popen[bytes]") -> None:
    """End a process and its workers; kill them if SIGTERM does not end them."""
    process.terminate()
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGCONT)  # a paused one would not notice
    with suppress(subprocess.TimeoutExpired):
        process.wait(10)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, 9)


def _wait(server: Server, process: "subprocess.Popen[bytes]", question: Question, log: Path) -> None:
    path, body = server.service.call(question)
    end = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < end:
        time.sleep(0.05)
        with suppress(httpx.TransportError):
            url = "http://{}:{}".format(*server.address) + path
            if httpx.post(url, content=body, headers=JSON, trust_env=False).is_success:
                return
    last = (log.read_text().splitlines() or ["nothing"])[-1]
    raise BenchmarkError(f"{server.service.name} does not answer POST {path}, expected status 200; it wrote {last!r}")


class Raw:
    """ONNX Runtime in a loop: rows tokenized beforehand, no HTTP, no padding, one thread per core."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def run(self, questions: Sequence[Question], connections: int, seconds: float) -> Figures:
        """Return what `summed` does, with as many rows in flight as a service with this many connections."""
        lanes = min(connections, usable_cores())
        rows = min(8, -(-connections // lanes))  # twice as many take 1 % less a row
        items = cycle([(question.head, question.rows) for question in questions])
        start, cpu = time.perf_counter(), time.process_time()

        def lane(_: int) -> list[float]:
            latencies: list[float] = []
            while (began := time.perf_counter()) < start + seconds:
                head, asked = next(items)
                self.session.run([(head, each) for row in asked for each in variants(row, rows)])
                latencies += [time.perf_counter() - began] * rows
            return latencies

        with ThreadPoolExecutor(lanes) as pool:
            latencies = [latency for of_lane in pool.map(lane, range(lanes)) for latency in of_lane]
        return figures(latencies, time.perf_counter() - start, time.process_time() - cpu)


def summed(load: Load, cpu: float) -> Figures:
    """Return the figures of what was answered with 200, and how many were not."""
    return figures(load.latencies(), load.seconds, cpu)


def figures(latencies: Sequence[float], seconds: float, cpu: float) -> Figures:
    """Return requests, rate [1/s], p50, p95, p99 [ms], and cpu_ms per request, of `cpu` seconds in all."""
    requests = len(latencies)
    p50, p95, p99 = np.percentile(np.array(latencies) * 1000, [50, 95, 99]).tolist()
    return {
        "requests": requests,
        "rate": requests / seconds,
        "p50": p50,
        "p95": p95,
        "p99": p99,
        "cpu_ms": 1000 * cpu / requests,
    }


def batches(grown: Figures) -> Figures:
    """Return what our service counted: rows, rows per batch, and the share of padding in the tokens it ran."""
    if not grown:
        return {}
    rows, padding, tokens = grown["batch_rows_sum"], grown["padding_tokens_total"], grown["batch_tokens_sum"]
    return {
        "rows": rows,
        "tokens": tokens,
        "rows_a_batch": rows / grown["batches_total"],
        "padding": padding / (padding + tokens),
    }


def family(pid: int) -> list[int]:
    """A process and its descendants."""
    parents: dict[int, list[int]] = {}
    for directory in Path("/proc").iterdir():
        if directory.name.isdecimal():
            with suppress(OSError):
                parents.setdefault(int(stat(int(directory.name))[1]), []).append(int(directory.name))
    found = [pid]
    for one in found:
        found += parents.get(one, [])
    return found


def stat(pid: int) -> list[str]:
    """The fields of proc(5) from the third, the state, on."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def cpu_seconds(pid: int) -> float:
    """User and system time of a process and its descendants (proc(5), fields 14 and 15)."""
    ticks = 0
    for one in family(pid):
        with suppress(OSError):
            ticks += sum(int(field) for field in stat(one)[11:13])
    return ticks / os.sysconf("SC_CLK_TCK")


def memory_bytes(pid: int) -> int:
    """Proportional set size of a process and its descendants: what they share counts once."""
    kilobytes = 0
    for one in family(pid):
        with suppress(OSError):
            text = Path(f"/proc/{one}/smaps_rollup").read_text()
            kilobytes += int(re.search(r"^Pss:\s+(\d+)", text, re.MULTILINE)[1])  # type: ignore[index]
    return kilobytes * 1024
