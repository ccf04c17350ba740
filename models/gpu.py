"""Checks the GPU through its driver, because ONNX Runtime fails late on a GPU for which it has no kernels.

Source: CUDA driver API, `cuDeviceGetAttribute`; the architectures are those of the wheel's binaries (cuobjdump).
"""

import ctypes

from models.errors import BundleError

ARCHITECTURES = ("7.5", "8.x", "9.0", "12.x")
"""Compute capabilities for which onnxruntime-gpu 1.31 has kernels: T4; A100, A10, L4, L40S; H100, H200; RTX 50."""
MAJOR, MINOR = 75, 76
"""Device attributes: major and minor compute capability."""


def check_gpu(number: int) -> None:
    """Raise BundleError if there is no GPU with this number, or if ONNX Runtime has no kernels for it."""
    driver = _driver()
    count = _value(driver.cuDeviceGetCount)
    if number >= count:
        raise BundleError(f"there is no GPU {number}, expected a number below {count}; nvidia-smi lists what is there")
    device = _value(driver.cuDeviceGet, number)
    major, minor = (_value(driver.cuDeviceGetAttribute, attribute, device) for attribute in (MAJOR, MINOR))
    if not {f"{major}.{minor}", f"{major}.x"} & set(ARCHITECTURES):
        raise BundleError(
            f"GPU {number} has compute capability {major}.{minor}, expected one of {', '.join(ARCHITECTURES)}, for "
            "which onnxruntime-gpu has kernels; use another GPU, or --provider cpu"
        )


def _driver() -> ctypes.CDLL:
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        raise BundleError(
            "there is no NVIDIA driver (libcuda.so.1), expected one for CUDA 13; install it, start a container with "
            "--gpus all, or use --provider cpu"
        ) from None
    if status := driver.cuInit(0):
        raise BundleError(f"the NVIDIA driver does not start (CUDA error {status}); nvidia-smi says what it lacks")
    return driver


def _value(function: "ctypes._NamedFuncPointer", *arguments: int) -> int:
    """Call a driver function; return the value that it writes into its first argument."""
    found = ctypes.c_int()
    if status := function(ctypes.byref(found), *arguments):
        raise BundleError(f"{function.__name__} of the NVIDIA driver failed (CUDA error {status}); see nvidia-smi")
    return found.value
