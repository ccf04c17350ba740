"""If this breaks, a service without a working GPU says it by a traceback, or computes on the CPU in silence."""

from pathlib import Path

import pytest

from tests.standins.emulated_gpu import EmulatedGPU, run_python

NO_SENTENCE_YET = pytest.mark.xfail(reason="it is a traceback")
BLAMES_THE_BUNDLE = pytest.mark.xfail(reason="it says that the graph does not load, and to export again")


def refusal(environment: dict[str, str], bundle: Path, *flags: str) -> str:
    """Return the one line by which the service refuses to start."""
    command = ("-m", "service", "--bundle", str(bundle), "--port", "0", "--provider", "cuda", *flags)
    done = run_python(*command, environment=environment)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr[-4000:]
    (line,) = (line for line in done.stderr.splitlines() if "ERROR" in line or line.startswith("bertheads-serve: "))
    return line


@BLAMES_THE_BUNDLE
def test_no_driver(gpu: EmulatedGPU, small: Path) -> None:
    without = EmulatedGPU(gpu.logs, settings={"DEVICES": 0})
    assert "expected CUDAExecutionProvider; install onnxruntime-gpu" in refusal(without.environment, small)


@BLAMES_THE_BUNDLE
def test_no_libraries(gpu: EmulatedGPU, small: Path) -> None:
    nowhere = gpu.environment | {"LD_LIBRARY_PATH": ""}
    assert "expected CUDAExecutionProvider; install onnxruntime-gpu" in refusal(nowhere, small)


def test_int8(gpu: EmulatedGPU, small: Path) -> None:
    line = refusal(gpu.environment, small, "--precision", "int8")
    assert "int8 has no kernels on CUDA; use fp16 or fp32" in line


@NO_SENTENCE_YET
@pytest.mark.parametrize("capability", [70, 100])
def test_a_device_for_which_there_are_no_kernels(gpu: EmulatedGPU, small: Path, capability: int) -> None:
    line = refusal(EmulatedGPU(gpu.logs, capability).environment, small)
    assert f"{capability // 10}.{capability % 10}" in line
