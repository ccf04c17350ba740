"""If these fail, a service without a working GPU prints a traceback, or silently computes on the CPU."""

from dataclasses import replace
from pathlib import Path

import pytest

from service.settings import STARTER
from tests.programs import has_gpu
from tests.standins.build import RUNTIME, built
from tests.standins.emulated_gpu import EmulatedGPU, run_python


def refusal(environment: dict[str, str], bundle: Path, *flags: str) -> str:
    """Return the line with which the service refuses to start."""
    command = ("-m", "service", "--bundle", str(bundle), "--port", "0", "--provider", "cuda", *flags)
    done = run_python(*command, environment=environment)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr[-4000:]
    (line,) = (line for line in done.stderr.splitlines() if "ERROR" in line or line.startswith("bertheads-serve: "))
    return line


@pytest.mark.skipif(has_gpu(), reason="there is a driver here")
def test_no_driver(gpu: EmulatedGPU, small: Path) -> None:
    nowhere = gpu.environment | {"LD_LIBRARY_PATH": ""}
    assert "there is no NVIDIA driver (libcuda.so.1)" in refusal(nowhere, small)


def test_a_driver_without_a_device(gpu: EmulatedGPU, small: Path) -> None:
    without = EmulatedGPU(gpu.logs, settings={"DEVICES": 0})
    assert "the NVIDIA driver does not start (CUDA error 100)" in refusal(without.environment, small)


def test_a_driver_without_libraries(gpu: EmulatedGPU, small: Path, tmp_path: Path) -> None:
    for name in ("libcuda.so.1", RUNTIME):
        (tmp_path / name).symlink_to(built() / name)
    line = refusal(replace(gpu, libraries=tmp_path).environment, small)
    assert "expected CUDAExecutionProvider; install onnxruntime-gpu" in line


def test_int8(gpu: EmulatedGPU, small: Path) -> None:
    line = refusal(gpu.environment, small, "--precision", "int8")
    assert "int8 has no kernels on CUDA; use fp16 or fp32" in line


def test_a_bundle_for_cpus(gpu: EmulatedGPU) -> None:
    line = refusal(gpu.environment, STARTER)
    assert f"python -m training export {STARTER} --precision fp16 --out BUNDLE" in line


@pytest.mark.parametrize("capability", [70, 100])
def test_a_device_for_which_there_are_no_kernels(gpu: EmulatedGPU, small: Path, capability: int) -> None:
    line = refusal(EmulatedGPU(gpu.logs, capability).environment, small)
    assert f"{capability // 10}.{capability % 10}" in line


def test_a_device_that_computes_wrong_logits(gpu: EmulatedGPU, checked: Path) -> None:
    """The stand-ins do so: their logits are zeros."""
    line = refusal(gpu.environment, checked)
    assert "this GPU, its driver or its libraries compute something else" in line
