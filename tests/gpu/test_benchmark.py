"""If these fail, time on a rented GPU is spent fixing the benchmark."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from tests.programs import has_gpu
from tests.standins.emulated_gpu import PYTHON, ROOT, EmulatedGPU

OPTIONS = ("--networks", "tiny", "--lengths", "16", "--workers", "1", "--workloads", "mixed", "--seconds", "0.1")


def run(environment: dict[str, str], *options: str) -> "subprocess.CompletedProcess[str]":
    """Run the benchmark with this Python and with onnxruntime-gpu first on its path, as on a rented machine."""
    (site,) = PYTHON.parents[1].glob("lib/python*/site-packages")
    environment = environment | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(site)])}
    command = [sys.executable, "-m", "tests.benchmarks.gpu", *OPTIONS, *options]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)


def lines(done: "subprocess.CompletedProcess[str]") -> list[dict[str, Any]]:
    assert done.returncode == 0, done.stderr[-4000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def test_all_steps_on_an_emulated_gpu(gpu: EmulatedGPU) -> None:
    found = lines(run(EmulatedGPU(gpu.logs, settings={"PLAN_MS": 20}).environment))
    assert found[-1]["step"] == "end" and found[-1]["left_out"] == []
    packed, padded = (line for line in found if line["step"] == "new shapes")
    assert packed["network"] == "tiny" and padded["network"] == "tiny, padded"
    assert padded["first_ms"] > 20, "a plan for each shape"
    assert {line["step"] for line in found} == {
        "device",
        "correctness",
        "masks",
        "new shapes",
        "peak",
        "rows",
        "http",
        "memory",
        "end",
    }


def test_a_sentence_without_a_gpu(gpu: EmulatedGPU) -> None:
    done = run(EmulatedGPU(gpu.logs, settings={"DEVICES": 0}).environment)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "the NVIDIA driver does not start" in done.stderr


@pytest.mark.gpu
@pytest.mark.skipif(not has_gpu(), reason="there is no GPU here")
def test_logits_of_a_gpu() -> None:
    """The first lines of the program, on the device itself: near those of fp32, and nearly equal in any batch."""
    errors = [line for line in lines(run(dict(os.environ), "--minutes", "1")) if line["step"] == "correctness"]
    for line in errors:
        assert line["difference_to_fp32"] < 0.05 * line["largest_logit"]
        assert line["difference_in_a_batch"] < 0.05 * line["largest_logit"]
