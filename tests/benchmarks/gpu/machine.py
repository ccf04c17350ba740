"""The device: whether it works, what it is, and how much of its memory is taken."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import onnxruntime
from onnxruntime.datasets import get_example

from models.cgroup import usable_cores
from models.onnx_runtime import Device, Graph, Provider, open_graph


def check(provider: Provider) -> None:
    """Open a graph of one product; raise BundleError if the provider cannot."""
    open_graph(Graph.read(Path(get_example("mul_1.onnx"))), Device(provider))


def describe(provider: Provider) -> dict[str, Any]:
    """Return names and versions."""
    versions = {"onnxruntime": onnxruntime.__version__, "cores": usable_cores()}
    return {"provider": provider} | (_asked("name", "driver_version") if provider == "cuda" else {}) | versions


def memory(provider: Provider) -> dict[str, Any]:
    """Return MiB of the device that all processes take."""
    return _asked("memory.used", "memory.total") if provider == "cuda" else {}


def _asked(*names: str) -> dict[str, Any]:
    """Ask nvidia-smi about the first device; return nothing where there is no nvidia-smi."""
    if not shutil.which("nvidia-smi"):
        return {}
    query = ["nvidia-smi", f"--query-gpu={','.join(names)}", "--format=csv,noheader,nounits"]
    values = subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()[0].split(", ")
    return dict(zip(names, values, strict=True))
