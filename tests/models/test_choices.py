"""If these fail, a GPU fills a mask with other words than a CPU, or with those of another request."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnxruntime import OrtValue

from models.bundle import read_bundle
from models.choices import Asked, Chooser, check_best
from models.encoder_output import DeviceVectors
from models.errors import BundleError
from models.fill_mask import FillMask
from models.onnx_runtime import CPU
from models.row import Row
from models.session import Session
from models.task import HeadSpec, softmax
from models.tokenizer import Tokenizer
from tests.models import bundles
from tests.service.bundles import write_bundle

WIDTH = 90
asks = st.lists(
    st.tuples(st.integers(1, 4), st.integers(1, WIDTH), st.lists(st.integers(0, WIDTH - 1), max_size=5)),
    min_size=1,
    max_size=6,
)


@pytest.fixture(scope="module")
def chooser() -> Chooser:
    """The graph of the GPU on the CPU."""
    return Chooser(CPU)


@given(asks, st.floats(0.25, 4.0))
@settings(max_examples=60, deadline=None)
def test_tokens_and_probabilities(
    chooser: Chooser, asks: Sequence[tuple[int, int, list[int]]], temperature: float
) -> None:
    asked = [Asked(positions, (count, *targets)) for positions, count, targets in asks]
    logits = np.random.default_rng(0).normal(scale=5, size=(sum(each.positions for each in asked), WIDTH))
    logits = logits.astype(np.float32)
    found = chooser.choose(OrtValue.ortvalue_from_numpy(logits), temperature, asked)
    expected, start = softmax(logits, temperature), 0
    for each, mine in zip(asked, found, strict=True):
        tokens, scores = np.split(mine, 2)
        for row, (ids, probabilities) in enumerate(zip(tokens.astype(int), scores, strict=True), start):
            best = np.argsort(-logits[row])[: each.wanted[0]]
            assert ids.tolist() == list(each.targets or best)
            np.testing.assert_allclose(probabilities, expected[row, ids], rtol=1e-5, atol=1e-12)
        start += each.positions


@pytest.mark.parametrize("chosen", [{}, {"top_k": 40}, {"targets": ["the", "cat", "##ing"]}, {"targets": ["cat"]}])
@pytest.mark.parametrize("text", ["[MASK]", "The [MASK] sat on [MASK], didn't it? [MASK]"])
def test_an_answer_is_that_of_all_logits(
    chooser: Chooser, tokenizer: Tokenizer, text: str, chosen: dict[str, Any]
) -> None:
    task = FillMask(tokenizer, HeadSpec("fill-mask", [], temperature=1.7), 128)
    parameters = task.parse_parameters(chosen)
    encoded = task.encode(text, parameters)
    (row,) = encoded.rows
    shape = len(row.positions), tokenizer.vocab_size
    logits = np.random.default_rng(1).normal(scale=3, size=shape).astype(np.float32)
    (choices,) = chooser.choose(OrtValue.ortvalue_from_numpy(logits), 1.7, [Asked(len(logits), row.wanted)])
    assert choices.size == 2 * len(logits) * len(chosen.get("targets", range(parameters.top_k)))
    assert_alike(task.decode(encoded, choices, parameters), task.decode(encoded, logits, parameters))


def test_more_targets_than_tokens_ask_for_all_logits(tokenizer: Tokenizer) -> None:
    task = FillMask(tokenizer, HeadSpec("fill-mask", []), 128)
    targets = [tokenizer.token(number) for number in range(200, 212)]
    few, many = (task.parse_parameters({"targets": some}) for some in (targets[:3], targets))
    assert task.encode("[MASK]", few).rows[0].wanted == (5, 200, 201, 202)
    assert task.encode("[MASK]", many).rows[0].wanted == ()


def test_a_batch_of_a_gpu_holds_what_each_row_wants(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside rows of other heads; and whole logits, if one row of the batch needs them."""
    heads = {name: bundles.HEADS[name] for name in ("ner", "fill-mask")}
    bundle = read_bundle(write_bundle(tmp_path / "tiny", tokenizer, heads, precisions=["fp32"]))
    on_cpu, on_gpu = Session(bundle), Session(bundle)
    on_gpu._temperatures, on_gpu._chooser = {"fill-mask": 1.0}, Chooser(CPU)
    monkeypatch.setattr(on_gpu, "_encode", lambda encoder, inputs, several: DeviceVectors(encoder, inputs, CPU))
    ids = [tokenizer.cls_id, 200, 300, tokenizer.sep_id]
    row = Row(ids, [0] * 4, [1, 2])
    wanting = Row(ids, [0] * 4, [1, 2], (3,)), Row(ids, [0] * 4, [2], (1, 9))
    items = [("fill-mask", wanting[0]), ("ner", row), ("fill-mask", wanting[1])]
    (first, tags, second), (all_logits, same_tags, last) = on_gpu.run(items), on_cpu.run(items)
    assert all_logits.shape == (2, tokenizer.vocab_size), "a session on CPU gives all logits in any case"
    assert np.array_equal(tags, same_tags) and (first.shape, second.shape) == ((4, 3), (2, 1))
    assert first[:2].astype(int).tolist() == np.argsort(-all_logits)[:, :3].tolist()
    np.testing.assert_allclose(second[1], softmax(last, 1.0)[:, 9], rtol=1e-5)
    together = [*items, ("fill-mask", row)]
    for mine, theirs in zip(on_gpu.run(together), on_cpu.run(together), strict=True):
        assert np.array_equal(mine, theirs)


def test_a_device_that_chooses_something_else_is_refused(chooser: Chooser) -> None:
    logits = np.random.default_rng(2).normal(scale=5, size=(3, WIDTH)).astype(np.float32)
    (best,) = chooser.choose(OrtValue.ortvalue_from_numpy(logits), 1.3, [Asked(3, (1,))])
    check_best(best, logits, 1.3, "here")
    for wrong in (np.zeros_like(best), np.full_like(best, np.nan)):
        with pytest.raises(BundleError, match="here: probabilities of the best tokens are off by"):
            check_best(wrong, logits, 1.3, "here")


def assert_alike(mine: Any, theirs: Any) -> None:
    if isinstance(theirs, list):
        assert len(mine) == len(theirs)
        for one, other in zip(mine, theirs, strict=True):
            assert_alike(one, other)
    else:
        assert mine | {"score": 0} == theirs | {"score": 0}
        assert mine["score"] == pytest.approx(theirs["score"], rel=1e-5)
