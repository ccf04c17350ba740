"""If these fail, a row that the kernels accept ends the process, for its scratch memory does not fit the stack."""

import subprocess
import sys
from pathlib import Path
from typing import Any

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
"""Tokens and places of a head: up to as many as the kernels accept."""

ROWS = 50  # more than a product takes at once
ROUNDING = 1e-5  # of sums of 16,384 floats


def run_on_little_stack(library: Path, directory: Path) -> None:
    """Run every graph of a directory; a crash says which it was."""
    command = 'ulimit -S -s "$0" && exec "$@" "$0"'
    script = ROOT / "tests/kernels/small_stack.py"
    arguments = [sys.executable, str(script), str(library), str(directory)]
    ran = subprocess.run(["sh", "-c", command, str(STACK), *arguments], stderr=subprocess.PIPE, text=True)
    assert ran.returncode == 0, f"it ended with {ran.returncode} after {ran.stderr[-500:]}"


def write(directory: Path, name: str, function: Function, inputs: Arrays, **attributes: Any) -> None:
    path = directory / f"{name}.onnx"
    path.write_bytes(model_of(function, inputs, attributes).SerializeToString())
    fed: dict[str, Any] = {key: array for key, array in inputs.items() if key not in CONSTANT}
    np.savez(path.with_suffix(".in.npz"), **fed)


def written(directory: Path, name: str) -> list[NDArray[Any]]:
    return list(np.load(directory / f"{name}.out.npz").values())


def attended(inputs: Arrays, queries: NDArray[np.intp]) -> NDArray[np.float64]:
    """Attention of some queries of one row with one head, in float64 (Vaswani et al., 2017)."""
    query, key, value = (inputs[name].astype(np.float64) for name in ("query", "key", "value"))
    scores = query[queries] @ key.T / np.sqrt(query.shape[1])
    weights = np.exp(scores - scores.max(1, keepdims=True))
    mixed: NDArray[np.float64] = weights / weights.sum(1, keepdims=True) @ value
    return mixed


def bound(library: Path, length: int) -> float:
    """Of the error's norm, relative to that of the result: by VNNI, all weights of a row share some 20 bits."""
    return {"tiles": 0.01, "vnni": 0.002 + 8e-6 * length, "float": 1e-4}[numbers_of(library, length)]


def is_slow(library: Path, length: int, size: int) -> bool:
    """Whether tiles that are emulated would take more than some seconds."""
    return library.parent.name.startswith("tiles") and length * length * size > 1 << 27


def test_attention_of_the_longest_rows_and_widest_heads(library: Path, tmp_path: Path) -> None:
    generator = np.random.default_rng(20)
    cases = {f"{length}x{size}": (length, size) for length, size in SIZES if not is_slow(library, length, size)}
    rows = {name: rows_to_attend(generator, [length], size) for name, (length, size) in cases.items()}
    for name, inputs in rows.items():
        write(tmp_path, name, int8_operators.packed_attention(), inputs, heads=1)
    run_on_little_stack(library, tmp_path)
    for name, (length, size) in cases.items():
        queries = np.unique(np.linspace(0, length - 1, CHECKED).astype(np.intp))
        (found,) = written(tmp_path, name)
        assert found.shape == (length, size)
        exact = attended(rows[name], queries)
        assert np.linalg.norm(found[queries] - exact) <= bound(library, length) * np.linalg.norm(exact), name


def test_several_long_rows_and_heads_share_the_threads(library: Path, tmp_path: Path) -> None:
    """A block serves rows of other lengths after another."""
    lengths = [5, 700, 0, 64, 1300, 1]
    inputs = rows_to_attend(np.random.default_rng(21), lengths, 3 * 32)
    write(tmp_path, "rows", int8_operators.packed_attention(), inputs, heads=3)
    run_on_little_stack(library, tmp_path)
    (found,) = written(tmp_path, "rows")
    np.testing.assert_array_equal(found, run(int8_operators.packed_attention(), inputs, library, heads=3)[0])


def test_rows_without_tokens_take_no_memory(library: Path, tmp_path: Path) -> None:
    inputs = rows_to_attend(np.random.default_rng(22), [0, 0], 1 << 30)
    write(tmp_path, "empty", int8_operators.packed_attention(), inputs, heads=1)
    run_on_little_stack(library, tmp_path)
    assert written(tmp_path, "empty")[0].shape == (0, 1 << 30)


@pytest.mark.parametrize("name", ROW_FUNCTIONS)
def test_the_widest_rows(library: Path, tmp_path: Path, name: str) -> None:
    function = ROW_FUNCTIONS[name](16384)
    inputs = rows_of(function, np.random.default_rng(23), ROWS, 16384)
    write(tmp_path, name, function, inputs, **attributes_of(function))
    run_on_little_stack(library, tmp_path)
    expected = run(function, inputs, None, **attributes_of(function))
    assert_alike(function, written(tmp_path, name), expected, ROUNDING)


@pytest.mark.skipif(not VNNI, reason="needs AVX-512 VNNI, which whoever has AMX has")
def test_the_widest_products(library: Path, tmp_path: Path) -> None:
    """Of rows that are not as deep as whole words, and of those that are kept beside the outputs."""
    cases = {
        f"{name}-{depth}-{width}": product_of(name, False, np.random.default_rng(24), ROWS, depth, width)
        for name in ("rescale", "add_norm_quantize", "gelu_quantize")
        for depth, width in ((16383, 9), (9, 16384))
    }
    for name, (function, inputs) in cases.items():
        write(tmp_path, name, function, inputs, **attributes_of(function))
    run_on_little_stack(library, tmp_path)
    for name, (function, inputs) in cases.items():
        expected = run(function, inputs, None, **attributes_of(function))
        assert_alike(function, written(tmp_path, name), expected, ROUNDING)


@pytest.fixture(scope="module")
def poor() -> Path:
    """A library that gets no block above 1 MiB."""
    return compiled("poor", f"-include {ROOT / 'tests/kernels/little_memory.h'}")


@pytest.mark.parametrize(("length", "size"), [(4096, 64), (13, 40000)])
def test_attention_without_memory_is_an_error(poor: Path, length: int, size: int) -> None:
    """And the session takes the next row."""
    generator = np.random.default_rng(25)
    long, short = rows_to_attend(generator, [length], size), rows_to_attend(generator, [2], 8)
    session = session_of(model_of(int8_operators.packed_attention(), long, {"heads": 1}), poor, threads=2)
    with pytest.raises(Exception, match="no memory for the scratch block"):
        session.run(None, long)
    exact = attended(short, np.arange(2))
    np.testing.assert_allclose(session.run(None, short)[0], exact, rtol=0, atol=3e-5)


@pytest.mark.skipif(not VNNI, reason="needs AVX-512 VNNI")
def test_a_product_without_memory_is_an_error(poor: Path) -> None:
    function, inputs = product_of("gelu_quantize", False, np.random.default_rng(26), ROWS, 8, 16384)
    with pytest.raises(Exception, match="no memory for the scratch block"):
        run(function, inputs, poor)


def test_each_thread_keeps_one_block_and_frees_it(tmp_path: Path) -> None:
    program, source = tmp_path / "scratch", ROOT / "tests/kernels/scratch_program.c"
    flags = ["-Wall", "-Wextra", "-Werror", "-pthread", f"-I{ROOT / 'kernels'}"]
    subprocess.run([compiler(), *flags, str(source), "-o", str(program)], check=True)
    ran = subprocess.run([program], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout
