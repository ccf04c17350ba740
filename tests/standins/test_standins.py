"""If these fail, the stand-ins report a wrong busy time of the device, or lose calls."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.standins.build import built, main
from tests.standins.device_log import DeviceLog, Entry
from tests.standins.emulated_gpu import EmulatedGPU

CALLS = """
import ctypes, json, sys, time
cuda, blas = ctypes.CDLL("libcudart.so.13"), ctypes.CDLL("libcublas.so.13")
def new(create, *flags):
    made = ctypes.c_void_p()
    assert create(ctypes.byref(made), *flags) == 0
    return made
first, second, event = new(cuda.cudaStreamCreate), new(cuda.cudaStreamCreate), new(cuda.cudaEventCreate)
device, host = new(cuda.cudaMalloc, ctypes.c_size_t(1 << 20)), new(cuda.cudaMallocHost, ctypes.c_size_t(1 << 20))
handle = new(blas.cublasCreate_v2)
pageable = ctypes.create_string_buffer(1 << 20)
size = ctypes.c_size_t(1 << 20)
def copy(to, source, kind, stream):
    assert cuda.cudaMemcpyAsync(to, source, size, kind, stream) == 0
def multiply(stream, m=10, n=20, k=30):
    blas.cublasSetStream_v2(handle, stream)
    assert blas.cublasSgemm_v2(handle, 0, 0, m, n, k) == 0
def slept(call, *arguments):
    began = time.monotonic()
    assert call(*arguments) == 0
    return 1000 * (time.monotonic() - began)
found = None
"""


def run(gpu: EmulatedGPU, code: str) -> tuple[Any, DeviceLog]:
    """Run calls of CUDA; return what they found, and the log."""
    program = CALLS + code + "\nprint(json.dumps(found))"
    done = subprocess.run(
        [sys.executable, "-c", program], env=gpu.environment, capture_output=True, text=True, check=True
    )
    (log,) = gpu.read()
    return json.loads(done.stdout), log


@pytest.fixture
def gpu(tmp_path: Path) -> EmulatedGPU:
    """A kernel takes 20 ms, and 2^20 bytes take 10 ms."""
    return EmulatedGPU(tmp_path, settings={"KERNEL_US": 20_000, "GB_PER_S": 0.1048576})


def lasts(entry: Entry) -> float:
    return (entry.end - entry.start) / 1e6


def test_copies_are_real_and_counted(gpu: EmulatedGPU) -> None:
    code = """
pageable.value = b"the cat"
copy(device, pageable, 1, first); pageable.value = b""
copy(host, device, 2, first)
found = ctypes.string_at(host).decode()
"""
    found, log = run(gpu, code)
    assert found == "the cat"
    assert log.copies() == {("HtoD", 1 << 20): 1, ("DtoH", 1 << 20): 1}
    assert log.bytes_taken() == 1 << 20 and log.count("pin") == 1


def test_work_of_a_stream_follows_in_order_and_streams_run_side_by_side(gpu: EmulatedGPU) -> None:
    _, log = run(gpu, "for stream in (first, first, second): multiply(stream)")
    one, two, other = log.work
    assert two.start == one.end and other.start < one.end
    assert (one.what, one.name, one.amount, lasts(one)) == ("product", "10x20x30*1", 6000, 20)


def test_the_time_of_a_product_depends_on_its_size(tmp_path: Path) -> None:
    _, log = run(EmulatedGPU(tmp_path, settings={"TFLOPS": 2}), "multiply(first, 1000, 1000, 1000)")
    assert lasts(log.work[0]) == 1.0


def test_a_thread_that_synchronizes_sleeps_until_the_work_is_done(gpu: EmulatedGPU) -> None:
    code = """
multiply(first)
asked = slept(cuda.cudaMemcpyAsync, host, device, size, 2, first)
found = [asked < 20, slept(cuda.cudaStreamSynchronize, first), slept(cuda.cudaStreamSynchronize, first)]
multiply(second)
found += [slept(cuda.cudaMemcpyAsync, pageable, device, size, 2, second), slept(cuda.cudaDeviceSynchronize)]
"""
    (asked, waited, again, pageable, device), log = run(gpu, code)
    assert asked, "memory that is pinned is copied while the host goes on"
    assert waited > 5 > again
    assert pageable > 25 and device < 20, "what goes to other memory is there when the call returns"
    assert log.count("wait") == 4


def test_a_stream_waits_for_an_event_of_another_one(gpu: EmulatedGPU) -> None:
    code = """
multiply(first)
assert cuda.cudaEventRecord(event, first) == 0
multiply(first)
assert cuda.cudaStreamWaitEvent(second, event, 0) == 0
multiply(second)
found = slept(cuda.cudaEventSynchronize, event)
"""
    found, log = run(gpu, code)
    before, behind, other = log.work
    assert other.start == before.end == behind.start
    assert found > 5, "it waits for the first product"


def test_the_device_is_idle_when_no_stream_works(gpu: EmulatedGPU) -> None:
    _, log = run(gpu, "multiply(first); multiply(second); time.sleep(0.1); multiply(first)")
    overlap, gap = log.idle()
    assert overlap == 0 and gap > 60e6
    assert log.busy() < 62e6 < sum(entry.end - entry.start for entry in log.work) + 3e6


def test_a_function_without_a_stand_in_fails_and_is_logged(gpu: EmulatedGPU) -> None:
    found, log = run(gpu, "found = blas.cublasDgeam(), cuda.cudaGraphLaunch()")
    assert found == [801, 801]
    assert [entry.name for entry in log.entries if entry.what == "missing"] == ["cublasDgeam", "cudaGraphLaunch"]


def test_memory_is_limited_and_devices_are_counted(tmp_path: Path) -> None:
    code = """
count, free, total = ctypes.c_int(), ctypes.c_size_t(), ctypes.c_size_t()
cuda.cudaGetDeviceCount(ctypes.byref(count))
cuda.cudaMemGetInfo(ctypes.byref(free), ctypes.byref(total))
too_much = cuda.cudaMalloc(ctypes.byref(ctypes.c_void_p()), ctypes.c_size_t(1 << 30))
found = count.value, total.value - free.value, too_much, cuda.cudaSetDevice(1), cuda.cudaSetDevice(2)
"""
    found, _ = run(EmulatedGPU(tmp_path, settings={"GIB": 1, "DEVICES": 2}), code)
    assert found == [2, 1 << 20, 2, 0, 101]


def test_a_process_that_does_not_use_the_device_writes_no_log(gpu: EmulatedGPU) -> None:
    """For example, a front process, which only checks that there is a GPU."""
    program = "import ctypes; assert ctypes.CDLL('libcuda.so.1').cuInit(0) == 0"
    subprocess.run([sys.executable, "-c", program], env=gpu.environment, check=True)
    assert gpu.read() == []


def test_the_program_builds_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "new")]) == 0
    assert f"libcurand.so.10 are in {tmp_path / 'new'}" in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "new").iterdir()} == {path.name for path in built().glob("lib*")}
    assert main([]) == 2
