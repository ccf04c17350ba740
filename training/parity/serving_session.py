"""Identifies what parity.json measured: the default session, its kernels, and the graphs."""

import hashlib
import platform
from pathlib import Path
from typing import Any

import onnxruntime

from models.bundle import Bundle
from models.onnx_runtime import find_kernels
from training.run.atomic_files import hash_of

SOURCES = Path(__file__).parents[2] / "kernels"
"""Sources of the kernels; an installed wheel has none."""
EXTENSIONS = ("avx2", "avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm")
"""Features of processors by which the kernels choose their code for products and attention."""


def session_figures() -> dict[str, Any]:
    """Return the provider, the hash of the sources of the kernels if there are kernels, and the processor."""
    return {
        "provider": "cpu",
        "kernels": find_kernels() is not None,
        "kernel_sources": kernel_sources() if find_kernels() else None,
        "onnxruntime": onnxruntime.__version__,
        "processor": processor(),
    }


def kernel_sources(directory: Path = SOURCES) -> str | None:
    """Return a hash of all source files of the kernels; None without them."""
    if not directory.is_dir():
        return None
    digest = hashlib.sha256()
    for path in sorted(directory.iterdir()):
        if path.suffix in (".c", ".h", ".sh"):
            digest.update(f"{path.name}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()


def graph_hashes(bundle: Bundle) -> dict[str, str]:
    """Return the hashes of all graphs and of their constants on disk."""
    files = [path for path in sorted(bundle.directory.rglob("*")) if path.suffix in (".onnx", ".bin")]
    return {path.relative_to(bundle.directory).as_posix(): hash_of(path) for path in files}


def processor() -> str:
    """Return the architecture and the relevant extensions of this processor."""
    try:
        words = Path("/proc/cpuinfo").read_text(encoding="utf8").split()
    except OSError:
        words = []
    return " ".join([platform.machine(), *(name for name in EXTENSIONS if name in set(words))])
