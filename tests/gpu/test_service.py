"""If these fail, the service does not start on a GPU, or a route does not answer."""

import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx

from tests.service.processes import process, ready
from tests.service.serving import until
from tests.standins.emulated_gpu import PYTHON, EmulatedGPU

KEY = "secret"
TEXT = "the cat sat on the mat"
QUESTION = {"question": "who sat?", "context": TEXT}
ASKED: dict[str, Any] = {
    "/classify": TEXT,
    "/pair/nli": {"text": TEXT, "text_pair": "the cat"},
    "/pair/nsp": {"text": TEXT, "text_pair": "the cat"},
    "/fill-mask": "the [MASK] sat",
    "/tag": TEXT,
    "/qa": QUESTION,
}


@contextmanager
def served(gpu: EmulatedGPU, bundle: Path, *flags: str) -> Iterator[httpx.Client]:
    """Run the service on an emulated GPU until it is ready."""
    command = ("--bundle", str(bundle), "--provider", "cuda", *flags)
    with (
        process(*command, python=PYTHON, environment=gpu.environment | {"BERTHEADS_API_KEY": KEY}) as (running, url),
        httpx.Client(base_url=url, timeout=60, headers={"Authorization": f"Bearer {KEY}"}) as client,
    ):
        until(lambda: ended(running) or ready(url))
        yield client


def ended(running: "subprocess.Popen[str]") -> bool:
    assert running.poll() is None, running.communicate()[1]
    return False


def answer(client: httpx.Client, path: str, **body: object) -> Any:
    response = client.post(path, json=body)
    assert response.status_code == 200, response.text
    return response.json()


def test_all_routes_answer(gpu: EmulatedGPU, small: Path) -> None:
    with served(gpu, small) as client:
        found = {path: answer(client, path, inputs=inputs) for path, inputs in ASKED.items()}
        several = answer(client, "/classify", inputs=[TEXT, "a dog", "an owl"])
        zero = answer(client, "/zero-shot", inputs=TEXT, parameters={"candidate_labels": ["cats", "dogs"]})
        together = answer(client, "/heads", inputs=TEXT, heads=["sentiment", "ner"])
    labels = {"/classify": 1, "/pair/nli": 1, "/pair/nsp": 1, "/fill-mask": 5}
    assert {path: len(found[path]) for path in labels} == labels
    assert set(found["/qa"]) >= {"answer", "score", "start", "end"} and isinstance(found["/tag"], list)
    assert len(several) == 3 and len(zero) == 2 and set(together) == {"sentiment", "ner"}
    (log,) = gpu.read()
    assert log.work and not log.count("missing")


def test_a_reload(gpu: EmulatedGPU, small: Path) -> None:
    with served(gpu, small, "--model-control", "explicit") as client:
        before = answer(client, "/classify", inputs=TEXT)
        assert client.post("/v2/repository/models/tiny/load").status_code == 200
        assert answer(client, "/classify", inputs=TEXT) == before
    (log,) = gpu.read()
    given_back = [entry for entry in log.entries if entry.what == "give back"]
    assert given_back, "the former sessions free their memory"


def test_no_request_pays_for_the_first_run_of_a_lane(gpu: EmulatedGPU, small: Path) -> None:
    """ONNX Runtime makes a stream, and a handle of cuBLAS, for each graph that a thread runs."""
    with served(gpu, small) as client, ThreadPoolExecutor(16) as pool:
        (before,) = gpu.read()
        list(pool.map(lambda path: answer(client, path, inputs=ASKED[path]), [*ASKED] * 8))
    (log,) = gpu.read()
    graphs, threads = len(ASKED) + 2, 3
    assert log.count("stream") == before.count("stream") == graphs * threads, "of what loads, and of two lanes"
    assert len(log.work) > len(before.work)


def test_two_batches_are_in_flight(gpu: EmulatedGPU, base: Path) -> None:
    """The device is so slow that requests wait; then it has its next batch before it needs it."""
    slow = EmulatedGPU(gpu.logs, settings={"KERNEL_US": 400})
    questions = [QUESTION | {"context": f"{TEXT} {number}"} for number in range(96)]
    patient = ("--batch-tokens", "128", "--max-queue-seconds", "60")
    with served(slow, base, *patient) as client, ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(lambda question: client.post("/qa", json={"inputs": question}), questions))
    (log,) = slow.read()
    batches = sum(entry.name == "DtoH" for entry in log.entries)
    late = sum(wait > 0 for wait in log.idle())
    assert {each.status_code for each in answers} == {200} and batches > 10
    assert late < batches, "one lane would have the device wait for each encoder and each head"


def test_fronts_share_an_engine_of_each_device(gpu: EmulatedGPU, small: Path) -> None:
    two = replace(gpu, settings={"DEVICES": 2, "KERNEL_US": 200})
    with (
        served(two, small, "--workers", "2", "--device", "0,1") as client,
        ThreadPoolExecutor(16) as pool,
    ):
        list(pool.map(lambda number: answer(client, "/classify", inputs=f"{TEXT} {number}"), range(64)))
    logs = gpu.read()
    assert len(logs) == 2, "a front asks nothing of a device"
    assert sorted({entry.device for entry in log.work}.pop() for log in logs) == [0, 1]
    warm_up = min(sum(entry.name == "DtoH" for entry in log.entries) for log in logs)
    assert warm_up > 2 * len(ASKED), "both answered"


def test_a_burst_is_answered(gpu: EmulatedGPU, small: Path) -> None:
    """A GPU computes a thousand times as many tokens in the time of a small batch, so small batches predict little."""
    with served(gpu, small) as client, ThreadPoolExecutor(32) as pool:
        for _ in range(2):
            sent = [pool.submit(client.post, "/classify", json={"inputs": f"{TEXT} {n}"}) for n in range(64)]
            assert {each.result().status_code for each in sent} == {200}
