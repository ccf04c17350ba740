"""If these fail, a bf16 step computes in fp32, or moves weights, gradients or losses to bf16."""

import pytest
import torch

from models.encoder import Encoder
from tests.training.corpora import FIXTURES, small_corpus
from training.pretraining.batches import Batch, Rows, collate
from training.pretraining.initial_weights import start
from training.pretraining.losses import score
from training.pretraining.pretrain_recipe import PretrainRecipe
from training.run.precision import arithmetic
from training.text.corpus import Corpus


@pytest.fixture(scope="module")
def batch_and_recipe(tmp_path_factory: pytest.TempPathFactory) -> tuple[Batch, PretrainRecipe]:
    corpus = small_corpus(tmp_path_factory.mktemp("precision"), documents=10, sentences=20)
    chosen = PretrainRecipe(
        corpus=str(corpus), tokenizer=str(FIXTURES), layers=2, width=64, attention_heads=2, batch_size=8, dropout=0.0
    )
    tokenizer = start(chosen).tokenizer
    rows, _ = next(Rows(Corpus(corpus), tokenizer, chosen, 128).steps(8, (0, 0)))
    return collate(rows), chosen


def test_bf16_is_near_fp32_and_keeps_weights_gradients_and_losses_in_fp32(
    batch_and_recipe: tuple[Batch, PretrainRecipe],
) -> None:
    batch, chosen = batch_and_recipe
    found = {}
    for precision in ("fp32", "bf16"):
        torch.manual_seed(0)
        checkpoint = start(chosen)
        with arithmetic(precision):
            parts = score(checkpoint.encoder, [head.module for head in checkpoint.heads.values()], batch)
        loss = parts.masked / len(batch.labels) + parts.following / len(batch.following)
        torch.autograd.backward(loss)
        assert loss.dtype == torch.float32
        assert {p.grad.dtype for p in checkpoint.encoder.parameters() if p.grad is not None} == {torch.float32}
        found[precision] = loss.item(), gradient(checkpoint.encoder), products(checkpoint.encoder, batch, precision)
    assert found["bf16"][0] == pytest.approx(found["fp32"][0], rel=1e-2)
    assert torch.nn.functional.cosine_similarity(found["fp32"][1], found["bf16"][1], dim=0) > 0.99
    assert found["fp32"][2] == torch.float32 and found["bf16"][2] == torch.bfloat16


def gradient(encoder: Encoder) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in encoder.parameters() if p.grad is not None])


def products(encoder: Encoder, batch: Batch, precision: str) -> torch.dtype:
    """The number format in which the matrix products of a layer come out."""
    found: list[torch.dtype] = []
    hook = encoder.layers[0].intermediate.register_forward_hook(lambda *values: found.append(values[2].dtype))  # type: ignore[union-attr]
    with arithmetic(precision), torch.no_grad():  # type: ignore[arg-type]
        encoder(batch.input_ids, batch.token_type_ids, batch.attention_mask)
    hook.remove()
    return found[0]


def test_attention_in_training_equals_the_fused_kernel(batch_and_recipe: tuple[Batch, PretrainRecipe]) -> None:
    batch, chosen = batch_and_recipe
    encoder = start(chosen).encoder
    inputs = batch.input_ids, batch.token_type_ids, batch.attention_mask
    fused = encoder(*inputs)
    with arithmetic("fp32"):
        found = encoder(*inputs)
    torch.testing.assert_close(found, fused, atol=1e-5, rtol=1e-5)
