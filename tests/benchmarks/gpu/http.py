"""Requests per second of the service on a GPU, by the number of its front processes."""

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

from models.bundle import Bundle
from models.cgroup import usable_cores
from models.onnx_runtime import Provider
from tests.benchmarks.contenders import our_service, started
from tests.benchmarks.load import Load, drive
from tests.benchmarks.workloads import TEXTS, Workloads, read_texts

WORKLOADS = ("mixed", "qa")
CONNECTIONS: dict[Provider, int] = {"cpu": 32, "cuda": 384}
"""On a GPU, some batches of 16,384 tokens."""
MAX_LOADERS = 4
PATIENT = ("--max-queue-seconds", "60", "--max-queued-tokens", "1000000")
"""The closed loop bounds what waits."""
WANTED = ("rate", "p50", "p99", "cpu_ms", "rows_a_batch", "padding", "memory_mb")


def over_http(bundle: Bundle, provider: Provider, workers: int, workload: str, seconds: float) -> dict[str, Any]:
    """Return what the closed loop gives."""
    questions = Workloads(bundle, read_texts(TEXTS)).make(workload)
    calls = [question.call for question in questions]
    service = our_service(bundle.directory, "--provider", provider, "--workers", str(workers), *PATIENT)
    loaders = max(1, min(MAX_LOADERS, usable_cores() // 4))
    share = CONNECTIONS[provider] // loaders
    with (
        ProcessPoolExecutor(loaders, get_context("spawn")) as pool,
        started(service, questions[0], pool, bundle.directory) as server,
    ):

        def load(seconds: float) -> Load:
            driven = [pool.submit(drive, server.address, calls, share, seconds) for _ in range(loaders)]
            return together([each.result() for each in driven])

        load(1.0)
        found = server.measure(lambda: load(seconds))
    return {"connections": loaders * share} | {name: found[name] for name in WANTED if name in found}


def together(loads: list[Load]) -> Load:
    """Return loads that ran at once as one."""
    answers = [answer for load in loads for answer in load.answers]
    return Load(max(load.seconds for load in loads), answers, sum(load.cpu_seconds for load in loads))
