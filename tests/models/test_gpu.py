"""If these fail, a service on an unsuitable GPU ends with a stack trace of ONNX Runtime, or serves wrong answers."""

import ctypes
import subprocess
from pathlib import Path

import pytest

from models.errors import BundleError
from models.gpu import check_gpu

DRIVER = """
int cuInit(unsigned flags) { return STATUS; }
int cuDeviceGetCount(int *count) { *count = 2; return 0; }
int cuDeviceGet(int *device, int number) { *device = 7 + number; return 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    if (device != 7) return 101;
    *value = attribute == 75 ? SM / 10 : attribute == 76 ? SM % 10 : -1;
    return 0;
}
"""


def driver(monkeypatch: pytest.MonkeyPatch, place: Path, sm: int = 90, status: int = 0) -> None:
    """Stand in for a driver with two GPUs, of which the second one is broken."""
    source, library = place / "driver.c", place / "libcuda.so"
    source.write_text(DRIVER)
    subprocess.run(["cc", "-shared", "-fPIC", f"-DSM={sm}", f"-DSTATUS={status}", source, "-o", library], check=True)
    opened = ctypes.CDLL(str(library))
    monkeypatch.setattr(ctypes, "CDLL", lambda name: opened)


@pytest.mark.parametrize("sm", [75, 80, 86, 87, 89, 90, 120, 121])
def test_gpus_that_have_kernels(sm: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver(monkeypatch, tmp_path, sm)
    check_gpu(0)


@pytest.mark.parametrize(("sm", "shown"), [(60, "6.0"), (70, "7.0"), (100, "10.0"), (103, "10.3"), (110, "11.0")])
def test_gpus_that_have_none(sm: int, shown: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver(monkeypatch, tmp_path, sm)
    with pytest.raises(BundleError, match=rf"^GPU 0 has compute capability {shown}, expected one of 7\.5, .*cpu$"):
        check_gpu(0)


def test_a_gpu_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver(monkeypatch, tmp_path)
    with pytest.raises(BundleError, match="there is no GPU 2, expected a number below 2"):
        check_gpu(2)
    with pytest.raises(BundleError, match=r"cuDeviceGetAttribute .* failed \(CUDA error 101\)"):
        check_gpu(1)


def test_a_driver_that_does_not_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver(monkeypatch, tmp_path, status=100)
    with pytest.raises(BundleError, match=r"does not start \(CUDA error 100\)"):
        check_gpu(0)


def test_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", missing)
    with pytest.raises(BundleError, match=r"there is no NVIDIA driver .*--gpus all, or use --provider cpu"):
        check_gpu(0)
