"""Compiles the stand-ins for CUDA: `python -m tests.standins.build DIRECTORY`.

On them the unmodified CUDA provider of ONNX Runtime loads on a machine without a GPU. Memory and copies are real.
Kernels and products compute nothing, but take the time that is set on a virtual device. Everything is logged.

    LD_LIBRARY_PATH=DIRECTORY STANDIN_LOG=LOGS STANDIN_CAPABILITY=80 .venv/gpu/bin/python -m service --provider cuda

- STANDIN_CAPABILITY: compute capability without its dot: 75 T4, 80 A100, 86 A40, 89 L4, 90 H100 and H200 (default), 120
  RTX 5090; 70 V100 and 100 B200, for which ONNX Runtime has no kernels.
- STANDIN_DEVICES: how many there are; default: 1. STANDIN_GIB: memory of each; default: 141.
- STANDIN_KERNEL_US: microseconds of each kernel. STANDIN_TFLOPS: rate of products. STANDIN_GB_PER_S: rate of copies.
  What is not set takes no time.
- STANDIN_LOG: an existing directory, in which each process writes a file (tests/standins/device_log.py reads it).
"""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.programs import made_once, program

SOURCES = Path(__file__).parent
RUNTIME = "libcudart.so.13"
LIBRARIES = {
    RUNTIME: ["settings", "clock", "log", "kernels", "memory", "runtime"],
    "libcublas.so.13": ["blas"],
    "libcublasLt.so.13": ["blas"],
    "libcuda.so.1": ["driver"],
    "libcudnn.so.9": ["dnn"],
    "libcurand.so.10": [],
}
"""The sources of each; the first is what the others link to."""
FLAGS = ["-std=gnu11", "-O1", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra", "-Werror", "-shared", "-pthread"]


def build(directory: Path) -> None:
    """Compile all libraries into a directory."""
    for name in LIBRARIES:
        _compile(name, directory)


def built() -> Path:
    """Return the directory of the libraries, which are compiled once for each state of their sources."""
    files = sorted([*SOURCES.glob("*.[ch]"), Path(__file__)])
    return made_once("standins", [file.read_bytes() for file in files], build)


def _compile(name: str, directory: Path) -> None:
    """Each symbol has its library's name as its version, which the CUDA provider asks for."""
    versions = directory / f"{name}.versions"
    versions.write_text(f"{name} {{ global: *; }};\n")
    command = [program("cc", "gcc", "clang", package="gcc"), *FLAGS, f"-Wl,-soname,{name}"]
    command += [f"-Wl,--version-script={versions}", "-o", str(directory / name), "-x", "c"]
    command += [str(SOURCES / f"{source}.c") for source in LIBRARIES[name]] or ["/dev/null"]
    command += [] if name == RUNTIME else ["-x", "none", str(directory / RUNTIME)]
    subprocess.run([*command, "-ldl"], check=True)
    versions.unlink()


def main(arguments: Sequence[str]) -> int:
    """Return the exit status."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m tests.standins.build DIRECTORY\n")
        return 2
    directory = Path(arguments[0])
    directory.mkdir(parents=True, exist_ok=True)
    build(directory)
    sys.stdout.write(f"{', '.join(LIBRARIES)} are in {directory}; put it into LD_LIBRARY_PATH\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
