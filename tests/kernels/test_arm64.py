"""If these fail, int8 answers on arm64 differ from those on amd64. qemu emulates the other processor."""

import subprocess
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.kernels.libraries import ROOT, compiled
from tests.kernels.test_kernels import (
    ROW_FUNCTIONS,
    Arrays,
    assert_alike,
    attention,
    attributes_of,
    rows_of,
    rows_to_attend,
    run,
)
from tests.programs import made_once, program

CC = "aarch64-linux-gnu-gcc"
LIBRARIES = "/usr/aarch64-linux-gnu"  # where Debian's cross compiler has libc
TYPES = {"integers": np.uint8}


@pytest.fixture(scope="module")
def library() -> Path:
    return compiled("arm64", "-fvisibility=default", program(CC, package="gcc-aarch64-linux-gnu"))


@pytest.fixture(scope="module")
def command(library: Path) -> list[str]:
    """Return the command that runs vectors_program.c on an emulated processor."""
    emulator = program("qemu-aarch64", "qemu-aarch64-static", package="qemu-user")
    source = ROOT / "tests/kernels/vectors_program.c"

    def build(directory: Path) -> None:
        flags = ["-Wall", "-Wextra", "-Werror", "-O1", f"-I{ROOT / 'kernels'}", f"-Wl,-rpath,{library.parent}"]
        command = [CC, *flags, str(source), str(library), "-o", str(directory / "program")]
        subprocess.run(command, check=True)

    built = made_once("arm64-program", (source.read_bytes(), str(library)), build)
    return [emulator, "-L", LIBRARIES, str(built / "program")]


def computed(command: list[str], arguments: list[object], inputs: list[NDArray[np.float32]]) -> bytes:
    given = b"".join(np.ascontiguousarray(each).tobytes() for each in inputs)
    ran = subprocess.run([*command, *map(str, arguments)], input=given, capture_output=True, check=True)
    return ran.stdout


@pytest.mark.parametrize("kind", range(len(ROW_FUNCTIONS)))
@pytest.mark.parametrize(("rows", "width"), [(1, 1), (3, 7), (40, 384), (2, 1536)])
def test_row_operators_equal_their_onnx_functions(command: list[str], kind: int, rows: int, width: int) -> None:
    name = list(ROW_FUNCTIONS)[kind]
    if name == "add_norm_quantize" and width == 1:  # there a norm divides rounding by rounding
        return
    function = ROW_FUNCTIONS[name](width)
    inputs = rows_of(function, np.random.default_rng(width), rows, width)
    expected = run(function, inputs, None, **attributes_of(function))
    output = computed(command, ["rows", kind, rows, width], [inputs[each] for each in function.inputs])
    found = []
    for each, like in zip(function.outputs, expected, strict=True):
        found.append(np.frombuffer(output[: like.nbytes], TYPES.get(each, np.float32)).reshape(like.shape))
        output = output[like.nbytes :]
    assert not output
    assert_alike(function, found, expected)


@pytest.mark.parametrize(("heads", "size"), [(12, 32), (2, 64), (3, 5)])
def test_attention_equals_the_formula_of_the_paper(command: list[str], heads: int, size: int) -> None:
    lengths = [1, 5, 63, 64, 130]
    inputs: Arrays = rows_to_attend(np.random.default_rng(size), lengths, heads * size)
    given = [inputs[name] for name in ("query", "key", "value")]
    found = np.frombuffer(computed(command, ["attend", heads, size, *lengths], given), np.float32)
    exact = []
    for length, end in zip(lengths, np.cumsum(lengths), strict=True):
        query, key, value = (each[end - length : end] for each in given)
        exact.append(attention(query, key, value, heads))
    np.testing.assert_allclose(found.reshape(-1, heads * size), np.concatenate(exact), rtol=0, atol=3e-5)


def test_the_library_is_for_the_processor_of_its_compiler(library: Path) -> None:
    machine = int.from_bytes(library.read_bytes()[18:20], "little")  # e_machine of ELF
    assert machine == 183  # EM_AARCH64
