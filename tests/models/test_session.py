"""If these fail, an answer depends on the other requests in its batch, or comes from another head."""

import platform
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto

from models.batch import pad
from models.bundle import Bundle, read_bundle, seal
from models.encoder_output import DeviceVectors, HostVectors
from models.errors import BundleError
from models.onnx_runtime import CPU, Precision, find_kernels, prepare
from models.row import Row
from models.session import Session
from models.task import Logits
from models.tokenizer import Tokenizer
from tests.models import bundles
from tests.programs import has_gpu
from training.exporting.graph_builder import Graph

PRECISIONS: list[Precision] = ["fp32", "fp16", "int8"]


@pytest.fixture(scope="module")
def bundle(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return bundles.make(tokenizer, tmp_path_factory.mktemp("bundle") / "tiny", ("int8", "fp16", "fp32"))


@pytest.fixture(scope="module")
def sessions(bundle: Bundle) -> dict[Precision, Session]:
    return {precision: Session(bundle, precision=precision) for precision in PRECISIONS}


def alone(session: Session, items: list[tuple[str, Row]]) -> list[Logits]:
    return [session.run([item])[0] for item in items]


def assert_equal(found: list[Logits], expected: list[Logits]) -> None:
    for mine, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize("precision", PRECISIONS)
@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 1 << 32), lengths=st.lists(st.integers(3, 64), min_size=1, max_size=9))
def test_rows_answer_as_if_alone(
    precision: Precision, bundle: Bundle, sessions: dict[Precision, Session], seed: int, lengths: list[int]
) -> None:
    generator = np.random.default_rng(seed)
    items = [
        (str(generator.choice(list(bundles.HEADS))), bundles.random_row(bundle, generator, length))
        for length in lengths
    ]
    assert_equal(sessions[precision].run(items), alone(sessions[precision], items))


def test_int8_is_the_same_bits_in_any_batch(bundle: Bundle, sessions: dict[Precision, Session]) -> None:
    """Rounding to integers makes a step of the last bit of a float, were there one."""
    generator = np.random.default_rng(3)
    items = [("ner", bundles.random_row(bundle, generator, length)) for length in (3, 64, 17, 8, 33, 5)]
    for together, single in zip(sessions["int8"].run(items), alone(sessions["int8"], items), strict=True):
        np.testing.assert_array_equal(together, single)


def test_a_single_position_is_the_same_bits_as_among_others(bundle: Bundle, sessions: dict[Precision, Session]) -> None:
    """A product of one row is another kernel on CPU: of fp16, one row in three hundred came out otherwise."""
    generator = np.random.default_rng(5)
    lengths = generator.integers(3, 64, 600).tolist()
    items = [("nli", replace(bundles.random_row(bundle, generator, length), positions=[0])) for length in lengths]
    for precision, session in sessions.items():
        for together, single in zip(session.run(items), alone(session, items), strict=True):
            np.testing.assert_array_equal(together, single, precision)


def test_fp32_is_torch(tokenizer: Tokenizer, bundle: Bundle, sessions: dict[Precision, Session]) -> None:
    checkpoint = bundles.checkpoint(tokenizer)
    generator = np.random.default_rng(1)
    items = [(name, bundles.random_row(bundle, generator, length)) for length in (3, 20, 64) for name in bundles.HEADS]
    for (name, row), found in zip(items, sessions["fp32"].run(items), strict=True):
        with torch.inference_mode():
            vectors = checkpoint.encoder.eval()(torch.tensor([row.input_ids]), torch.tensor([row.token_type_ids]))[0]
            expected = checkpoint.heads[name].module.eval()(vectors[row.positions])
        np.testing.assert_allclose(found, expected[:, : found.shape[1]].numpy(), rtol=0, atol=1e-4)


def test_order_and_shapes(bundle: Bundle, sessions: dict[Precision, Session]) -> None:
    row = Row([2, 7, 3], [0, 0, 0], [0])
    items = [("nli", row), ("ner", Row([2, 8, 9, 3], [0] * 4, [1, 2])), ("nli", row), ("fill-mask", row)]
    shapes = [logits.shape for logits in sessions["fp32"].run(items)]
    assert shapes == [(1, 3), (2, 3), (1, 3), (1, bundle.tokenizer.vocab_size)]
    assert sessions["fp32"].run([]) == []


def test_equal_rows_are_computed_once_whatever_heads_read_them(
    bundle: Bundle, sessions: dict[Precision, Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = np.random.default_rng(8)
    one, other = (bundles.random_row(bundle, generator, length) for length in (40, 40))
    segments = replace(one, token_type_ids=[1 - one.token_type_ids[0], *one.token_type_ids[1:]])
    rows = [one, other, one, segments, replace(one, positions=[0]), replace(other, positions=[0, 5, 39])]
    items = [(name, row) for row in rows for name in bundles.HEADS]
    for precision, session in sessions.items():
        expected = alone(session, items)
        for kind in (HostVectors, partial(DeviceVectors, device=CPU)):
            ran = list[dict[str, NDArray[np.int64]]]()

            def vectors(encoder: Any, inputs: Any, several: bool, least: int, kind: Any = kind, ran: Any = ran) -> Any:
                ran.append(inputs)
                return kind(encoder, inputs, several) if kind is HostVectors else kind(encoder, inputs, least=least)

            monkeypatch.setattr("models.session.HostVectors", vectors)
            found = session.run(items)
            monkeypatch.undo()
            assert [inputs["input_ids"].size for inputs in ran] == [3 * 40]
            for mine, theirs in zip(found, expected, strict=True):
                np.testing.assert_array_equal(mine, theirs, precision)


def test_a_position_that_several_heads_read_is_computed_once(
    bundle: Bundle, sessions: dict[Precision, Session]
) -> None:
    row = bundles.random_row(bundle, np.random.default_rng(9), 20)
    seen = list[list[int]]()

    def run(names: object, inputs: dict[str, NDArray[np.int64]]) -> object:
        seen.append(inputs["positions"].tolist())
        return sessions["int8"]._encoder.run(names, inputs)

    positions = {"ner": [1, 4], "qa": [0, 1, 4, 5], "nli": [0]}
    items = [(name, replace(row, positions=columns)) for name, columns in positions.items()]
    found = sessions["int8"]._run(items, SimpleNamespace(run=run))
    assert seen == [[0, 1, 4, 5]]
    for mine, theirs in zip(found, alone(sessions["int8"], items), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_threads_do_not_meet(bundle: Bundle, sessions: dict[Precision, Session]) -> None:
    generator = np.random.default_rng(2)
    batches = [
        [("qa", bundles.random_row(bundle, generator, int(length))) for length in generator.integers(3, 64, 4)]
        for _ in range(24)
    ]
    expected = [sessions["int8"].run(batch) for batch in batches]
    barrier = threading.Barrier(4)

    def run(worker: int) -> list[list[Logits]]:
        barrier.wait()
        return [sessions["int8"].run(batch) for batch in batches[worker::4]]

    with ThreadPoolExecutor(4) as pool:
        for worker, found in enumerate(pool.map(run, range(4))):
            for mine, theirs in zip(found, expected[worker::4], strict=True):
                assert_equal(mine, theirs)


def test_a_run_alone_is_the_same_bits(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.session.WIDE_TOKENS", 64)
    session = Session(bundle, wide_threads=3)
    wide, runs = session._wide, list[object]()
    assert wide

    def run(names: object, inputs: object) -> object:
        runs.append(inputs)
        return wide.run(names, inputs)

    monkeypatch.setattr(session, "_wide", SimpleNamespace(run=run))
    generator = np.random.default_rng(6)
    lengths = [(64,), (3,), (17,), (64, 60, 33), (5, 9)]
    for batch in [[bundles.random_row(bundle, generator, length) for length in group] for group in lengths]:
        items = [(name, row) for row in batch for name in bundles.HEADS]
        for mine, theirs in zip(session.run_alone(items), session.run(items), strict=True):
            np.testing.assert_array_equal(mine, theirs)
    assert len(runs) == len(lengths)


def take(session: Session, monkeypatch: pytest.MonkeyPatch, wide: float, narrow: Callable[[int], float]) -> None:
    """Let a run take so many seconds by the clock: `narrow` of the tokens of its first row."""
    now = 100.0
    run, wide_encoder = session._run, session._wide

    def timed(items: list[tuple[str, Row]], encoder: object) -> list[Logits]:
        nonlocal now
        now += wide if encoder is wide_encoder else narrow(len(items[0][1].input_ids))
        return run(items, encoder)

    monkeypatch.setattr(session, "_run", timed)
    monkeypatch.setattr("models.session.time", SimpleNamespace(monotonic=lambda: now))


@pytest.mark.parametrize(("narrow_seconds", "gain"), [(0.11, 1.0), (0.19, 1.0), (0.21, 1.05), (0.3, 1.5)])
def test_more_threads_must_gain(
    narrow_seconds: float, gain: float, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a wide encoder that takes 0.2 s for the longest row, where a gain of 1.04 by two threads more is enough."""
    monkeypatch.setattr("models.session.WIDE_TOKENS", 64)
    monkeypatch.setattr("models.session.MIN_GAIN", 0.02)
    session = Session(bundle, wide_threads=3)
    wide = session._wide
    take(session, monkeypatch, 0.2, lambda tokens: narrow_seconds)
    assert session.gain(64) == 1, "it is not known before it was measured"
    session.warm_up()
    assert session.gain(64) == pytest.approx(gain)
    assert session.gain(63) == 1
    assert (session._wide is wide) is (gain > 1)


def test_what_more_threads_gain_is_measured_by_length(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here 1 for 16 tokens, 2 for 32, and 4 for all 64, of which the wide encoder takes a tenth of a second each."""
    monkeypatch.setattr("models.session.WIDE_TOKENS", 16)
    session = Session(bundle, wide_threads=2)
    take(session, monkeypatch, 0.1, lambda tokens: tokens / 160)
    session.warm_up()
    found = [session.gain(tokens) for tokens in (15, 16, 31, 32, 63, 64, 500)]
    assert found == pytest.approx([1, 1, 1, 2, 2, 4, 4])


def test_only_who_has_the_cores_alone_waits_awake(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """And not for ever: ONNX Runtime's own limit is a million turns."""
    monkeypatch.setattr("models.session.WIDE_TOKENS", 64)
    session = Session(bundle, threads=2, wide_threads=3)
    assert session._wide
    key = "session.intra_op.{}".format
    for encoder, spins in (session._encoder, "0"), (session._wide, "1"):
        options = encoder.get_session_options()
        assert options.get_session_config_entry(key("allow_spinning")) == spins
        assert 0 < int(options.get_session_config_entry(key("spin_duration_us"))) <= 1000


def test_who_has_no_wide_encoder(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.session.WIDE_TOKENS", 65)
    assert Session(bundle, wide_threads=2)._wide is None, "it takes no row that is long enough"
    monkeypatch.setattr("models.session.WIDE_TOKENS", 64)
    assert Session(bundle, threads=2, wide_threads=2)._wide is None
    assert Session(bundle, precision="fp32", wide_threads=2)._wide is None
    assert Session(bundle, precision="fp32", wide_threads=2, wide="on")._wide
    assert Session(bundle, wide_threads=2, wide="off")._wide is None


def test_vectors_that_stay_on_their_device_are_read_alike(
    bundle: Bundle, sessions: dict[Precision, Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU, here on the device that ONNX Runtime calls cpu."""
    generator = np.random.default_rng(4)
    items = [(name, bundles.random_row(bundle, generator, length)) for length in (3, 40, 64) for name in bundles.HEADS]
    for precision, session in sessions.items():
        expected = session.run(items)
        on_device = lambda encoder, inputs, several, least: DeviceVectors(encoder, inputs, CPU, least)  # noqa: E731
        monkeypatch.setattr("models.session.HostVectors", on_device)
        for mine, theirs in zip(session.run(items), expected, strict=True):
            np.testing.assert_array_equal(mine, theirs, precision)
        monkeypatch.undo()


def test_int8_computes_no_padding_where_its_kernels_are(
    bundle: Bundle, sessions: dict[Precision, Session], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert {precision: session.pads for precision, session in sessions.items()} == {
        "fp32": True,
        "fp16": True,
        "int8": not find_kernels(),
    }
    older = shutil.copytree(bundle.directory, tmp_path / "older")
    graph = onnx.load(older / "encoder.int8.onnx")
    kept = {each.key: each.value for each in graph.metadata_props if each.key != "packed"}
    onnx.helper.set_model_props(graph, kept)
    onnx.save(graph, older / "encoder.int8.onnx")
    seal(older, bundle.manifest)
    assert Session(read_bundle(older)).pads, "it does not say that it packs"
    monkeypatch.setattr("models.session.find_kernels", lambda: None)
    assert Session(bundle).pads, "ONNX's own attention pads"


def test_pad() -> None:
    batch = pad([Row([2, 7, 3], [0, 0, 1], [0]).key, Row([2], [0], [0]).key], 9).inputs
    assert batch["input_ids"].tolist() == [[2, 7, 3], [2, 9, 9]]
    assert batch["token_type_ids"].tolist() == [[0, 0, 1], [0, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]


def test_the_best_precision_there_is(bundle: Bundle) -> None:
    assert Session(bundle).precision == "int8"
    assert Session(bundle).provider == "cpu"


def test_a_precision_that_is_not_there(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> None:
    only = bundles.make(tokenizer, tmp_path_factory.mktemp("only") / "fp32", ("fp32",))
    assert Session(only).precision == "fp32"
    with pytest.raises(BundleError, match=r"encoder in fp32, expected int8 for cpu; make .*--precision int8"):
        Session(only, precision="int8")


@pytest.mark.skipif(has_gpu(), reason="there is a GPU here")
def test_cuda_that_is_not_there(bundle: Bundle) -> None:
    with pytest.raises(BundleError, match="expected CUDAExecutionProvider; install onnxruntime-gpu"):
        Session(bundle, provider="cuda")
    with pytest.raises(BundleError, match="int8 has no kernels on CUDA"):
        Session(bundle, provider="cuda", precision="int8")


def test_rows_that_cannot_run(bundle: Bundle, sessions: dict[Precision, Session]) -> None:
    long = Row([2] * 65, [0] * 65, [0])
    with pytest.raises(BundleError, match="a row has 65 tokens, expected at most 64"):
        sessions["fp32"].run([("nli", long)])
    with pytest.raises(BundleError, match="no head 'x' in this bundle; it has sentiment, nli"):
        sessions["fp32"].run([("x", Row([2], [0], [0]))])


def test_warm_up_runs_every_head(sessions: dict[Precision, Session]) -> None:
    for session in sessions.values():
        session.warm_up()


DENORMAL = """
import sys
import numpy as np
from pathlib import Path
from models.onnx_runtime import Graph, flush_denormals, open_graph
flush_denormals()
graph = open_graph(Graph.read(Path(sys.argv[1])), threads=int(sys.argv[2]))
(product,) = graph.run(None, {"x": np.full(1 << 20, 1e-38, np.float32)})
print(np.count_nonzero(product.view(np.uint32)))  # by its bits, for a comparison takes them for zero too
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="ONNX Runtime may not know how elsewhere")
@pytest.mark.parametrize("threads", [1, 2])
def test_denormal_numbers_are_zero_on_all_threads_of_a_run(threads: int, tmp_path: Path) -> None:
    graph = Graph()
    graph.add("Mul", "x", graph.constant("tenth", np.float32(0.1)), out="y")
    shape: list[int | str] = ["n"]
    model = graph.model("tenth", [("x", TensorProto.FLOAT, shape)], [("y", TensorProto.FLOAT, shape)], {})
    onnx.save(model, tmp_path / "tenth.onnx")
    command = [sys.executable, "-c", DENORMAL, str(tmp_path / "tenth.onnx"), str(threads)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    assert result.stdout == "0\n"


@pytest.mark.parametrize("version", ["1.24.4", "1.25.1"])
def test_a_runtime_that_ignores_what_it_is_told_is_refused(
    version: str, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onnxruntime.__version__", version)
    prepare.cache_clear()
    with pytest.raises(BundleError, match=rf"ONNX Runtime is {re.escape(version)}, .* expected 1\.26 or newer"):
        Session(bundle)
