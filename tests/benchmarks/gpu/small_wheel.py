"""A wheel of onnxruntime-gpu with the machine code of one compute capability, to carry to a machine without internet.

    python -m tests.benchmarks.gpu.small_wheel WHEEL OUT [--capability 90]

The code for other GPUs becomes zeros, which compress to nothing, and what Python does not read is left out. So 256 MB
become 102 MB for an H200. For measurements only: pip's list of the files' hashes is no longer right.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from struct import Struct
from zipfile import ZIP_DEFLATED, ZipFile

from tests.benchmarks.load import BenchmarkError

LIBRARY = "libonnxruntime_providers_cuda.so"
UNREAD = (
    "capi/libonnxruntime.so",
    "libonnxruntime_providers_tensorrt.so",
    "onnxruntime/tools/",
    "onnxruntime/transformers/",
)
MAGIC = (0xBA55ED50).to_bytes(4, "little")
CONTAINER = Struct("<IHHQ")
"""Of images: magic, version, bytes of this header, bytes of the images."""
IMAGE = Struct("<HHIQ12xI")
"""Machine code: kind, version, bytes of this header, bytes of the code, compute capability."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.gpu.small_wheel", description=__doc__)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--capability", type=int, default=90, help="without its dot; default: 90")
    options = parser.parse_args(arguments)
    try:
        write(options.wheel, options.out, options.capability)
    except BenchmarkError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    sys.stdout.write(f"{options.out}: {options.out.stat().st_size / 1e6:.0f} MB\n")
    return 0


def write(wheel: Path, out: Path, capability: int) -> None:
    with ZipFile(wheel) as whole, ZipFile(out, "w", ZIP_DEFLATED) as small:
        for name in whole.namelist():
            if not any(part in name for part in UNREAD):
                contents = whole.read(name)
                small.writestr(name, only(contents, capability) if name.endswith(LIBRARY) else contents)


def only(library: bytes, capability: int) -> bytes:
    """Return a library in which the code for other compute capabilities is zeros."""
    kept, left = set[int](), bytearray(library)
    for start, size, made_for in images(library):
        kept.add(made_for)
        if made_for != capability:
            left[start : start + size] = bytes(size)
    if capability not in kept:
        raise BenchmarkError(f"the wheel has code for {sorted(kept)}, expected {capability}; choose one of these")
    return bytes(left)


def images(library: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield start, bytes and compute capability of all machine code."""
    at = library.find(MAGIC)
    while at >= 0:
        _, version, header, size = CONTAINER.unpack_from(library, at)
        end = at + header + size
        if version != 1 or header != CONTAINER.size or end > len(library):  # these bytes mean something else
            end = at + 1
        image = at + header
        while image < end:
            _, _, header, size, made_for = IMAGE.unpack_from(library, image)
            yield image + header, size, made_for
            image += header + size
        at = library.find(MAGIC, end)


if __name__ == "__main__":
    sys.exit(main())
