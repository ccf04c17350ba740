"""If these fail, rows that the kernels accept crash the process, because scratch memory does not fit on the stack."""

import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.kernels.libraries import ROOT, VNNI, compiled, compiler
from tests.kernels.test_kernels import (
    CONSTANT,
    ROW_FUNCTIONS,
    Arrays,
    assert_alike,
    attributes_of,
    model_of,
    numbers_of,
    product_of,
    rows_of,
    rows_to_attend,
    run,
    session_of,
)
from training.exporting import int8_operators
from training.exporting.graph_builder import Function

STACK = 256  # KiB: twice what musl gives a thread, and a little more than Python needs to start
CHECKED = 32  # queries of a long row

SIZES = [(1024, 64), (4096, 64), (8192, 64), (64, 8192), (65, 8065), (13, 40000), (1, 524288), (63, 8322)]
"""Tokens and channels of a head, up to the limits of the kernels."""

LENGTHS = [5, 350, 0, 64, 650, 1]
"""Tokens of several rows, in an order that makes a block grow and be reused."""

ROWS = 50  # more than a product takes at once
PRODUCTS = {
    f"{name}-{depth}-{width}": (name, depth, width)
    for name in ("rescale", "add_norm_quantize", "gelu_quantize")
    for depth, width in ((16383, 9), (9, 16384))
}
ROUNDING = 1e-5  # of sums of 16,384 floats


ATTENTION = int8_operators.packed_attention()


class Case(NamedTuple):
    """One call of an operator."""

    function: Function
    inputs: Arrays
    attributes: dict[str, Any] = {}

    def write(self, graph: Path) -> None:
        graph.write_bytes(model_of(self.function, self.inputs, self.attributes).SerializeToString())
        fed: dict[str, Any] = {key: array for key, array in self.inputs.items() if key not in CONSTANT}
        np.savez(graph.with_suffix(".in.npz"), **fed)

    def run(self, library: Path | None) -> list[NDArray[Any]]:
        return run(self.function, self.inputs, library, **self.attributes)


Cases = dict[str, Case]
Outputs = dict[str, list[NDArray[Any]]]


def attention_case(seed: int, lengths: list[int], heads: int, size: int) -> Case:
    inputs = rows_to_attend(np.random.default_rng(seed), lengths, heads * size)
    return Case(ATTENTION, inputs, {"heads": heads})


def row_case(name: str) -> Case:
    function = ROW_FUNCTIONS[name](16384)
    inputs = rows_of(function, np.random.default_rng(23), ROWS, 16384)
    return Case(function, inputs, attributes_of(function))


def product_case(name: str, depth: int, width: int) -> Case:
    function, inputs = product_of(name, False, np.random.default_rng(24), ROWS, depth, width)
    return Case(function, inputs, attributes_of(function))


@pytest.fixture(scope="module")
def cases() -> Cases:
    """All calls, with random inputs that all libraries share."""
    made = {f"{length}x{size}": attention_case(20, [length], 1, size) for length, size in SIZES}
    made |= {"rows": attention_case(21, LENGTHS, 3, 32), "empty": attention_case(22, [0, 0], 1, 1 << 30)}
    made |= {name: row_case(name) for name in ROW_FUNCTIONS}
    return made | ({name: product_case(*parts) for name, parts in PRODUCTS.items()} if VNNI else {})


@pytest.fixture(scope="module")
def expected(cases: Cases) -> Outputs:
    """Outputs of the ONNX functions of rows and products, computed by ONNX Runtime alone."""
    return {name: cases[name].run(None) for name in (*ROW_FUNCTIONS, *PRODUCTS) if name in cases}


@pytest.fixture(scope="module")
def outputs(library: Path, cases: Cases, tmp_path_factory: pytest.TempPathFactory) -> Outputs:
    """Outputs of a library for all calls, from one process with a small stack; a crash names the call."""
    directory = tmp_path_factory.mktemp("scratch")
    slow = {f"{length}x{size}" for length, size in SIZES if is_slow(library, length, size)}
    taken = [name for name in cases if name not in slow]
    for name in taken:
        cases[name].write(directory / f"{name}.onnx")
    command = 'ulimit -S -s "$0" && exec "$@" "$0"'
    script = ROOT / "tests/kernels/small_stack.py"
    arguments = [sys.executable, str(script), str(library), str(directory)]
    ran = subprocess.run(["sh", "-c", command, str(STACK), *arguments], stderr=subprocess.PIPE, text=True)
    assert ran.returncode == 0, f"it ended with {ran.returncode} after {ran.stderr[-500:]}"
    return {name: list(np.load(directory / f"{name}.out.npz").values()) for name in taken}


def is_slow(library: Path, length: int, size: int) -> bool:
    """Whether emulated AMX would take more than a few seconds."""
    return library.parent.name.startswith("amx") and length * length * size > 1 << 27


def attended(inputs: Arrays, queries: NDArray[np.intp]) -> NDArray[np.float64]:
    """Attention of some queries of one row with one head, in float64 (Vaswani et al., 2017)."""
    query, key, value = (inputs[name].astype(np.float64) for name in ("query", "key", "value"))
    scores = query[queries] @ key.T / np.sqrt(query.shape[1])
    weights = np.exp(scores - scores.max(1, keepdims=True))
    mixed: NDArray[np.float64] = weights / weights.sum(1, keepdims=True) @ value
    return mixed


def bound(library: Path, length: int) -> float:
    """Return the tolerance of the error's norm, relative to the result's; by VNNI, a row's weights share 20 bits."""
    return {"amx": 0.01, "vnni": 0.002 + 8e-6 * length, "float": 1e-4}[numbers_of(library, length)]


def test_attention_of_the_longest_rows_and_widest_heads(library: Path, cases: Cases, outputs: Outputs) -> None:
    for length, size in SIZES:
        name = f"{length}x{size}"
        if name not in outputs:
            continue
        queries = np.unique(np.linspace(0, length - 1, CHECKED).astype(np.intp))
        (found,) = outputs[name]
        assert found.shape == (length, size)
        exact = attended(cases[name].inputs, queries)
        assert np.linalg.norm(found[queries] - exact) <= bound(library, length) * np.linalg.norm(exact), name


def test_several_long_rows_and_heads_share_the_threads(library: Path, cases: Cases, outputs: Outputs) -> None:
    """A block is reused for rows of different lengths."""
    np.testing.assert_array_equal(outputs["rows"][0], cases["rows"].run(library)[0])


def test_rows_without_tokens_need_no_memory(outputs: Outputs) -> None:
    assert outputs["empty"][0].shape == (0, 1 << 30)


@pytest.mark.parametrize("name", ROW_FUNCTIONS)
def test_row_operators_on_the_widest_rows(name: str, cases: Cases, outputs: Outputs, expected: Outputs) -> None:
    assert_alike(cases[name].function, outputs[name], expected[name], ROUNDING)


@pytest.mark.skipif(not VNNI, reason="needs AVX-512 VNNI, which every processor with AMX has")
@pytest.mark.parametrize("name", PRODUCTS)
def test_products_of_the_widest_weights(name: str, cases: Cases, outputs: Outputs, expected: Outputs) -> None:
    """Some depths are no multiple of four, and some products need a buffer beside the outputs."""
    assert_alike(cases[name].function, outputs[name], expected[name], ROUNDING)


@pytest.fixture(scope="module")
def poor() -> Path:
    """A library that cannot allocate more than 1 MiB at once."""
    return compiled("poor", "-include tests/kernels/little_memory.h")


@pytest.mark.parametrize(("length", "size"), [(4096, 64), (13, 40000)])
def test_attention_without_memory_is_an_error(poor: Path, length: int, size: int) -> None:
    """The session still computes the next row."""
    generator = np.random.default_rng(25)
    long, short = rows_to_attend(generator, [length], size), rows_to_attend(generator, [2], 8)
    session = session_of(model_of(ATTENTION, long, {"heads": 1}), poor, threads=2)
    with pytest.raises(Exception, match="out of memory for the scratch block"):
        session.run(None, long)
    exact = attended(short, np.arange(2))
    np.testing.assert_allclose(session.run(None, short)[0], exact, rtol=0, atol=3e-5)


@pytest.mark.skipif(not VNNI, reason="needs AVX-512 VNNI")
def test_a_product_without_memory_is_an_error(poor: Path) -> None:
    function, inputs = product_of("gelu_quantize", False, np.random.default_rng(26), ROWS, 8, 16384)
    with pytest.raises(Exception, match="out of memory for the scratch block"):
        run(function, inputs, poor)


def test_each_thread_keeps_one_block_and_frees_it(tmp_path: Path) -> None:
    program, source = tmp_path / "scratch", ROOT / "tests/kernels/scratch_program.c"
    flags = ["-Wall", "-Wextra", "-Werror", "-pthread", f"-I{ROOT / 'kernels'}"]
    subprocess.run([compiler(), *flags, str(source), "-o", str(program)], check=True)
    ran = subprocess.run([program], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout
