"""If these fail, a student is not fitted to its teacher, or less well than possible."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.config import EncoderConfig
from models.encoder import Encoder
from training.errors import RecipeError
from training.pretraining.batches import Batch
from training.pretraining.pruning import Pruner, prune

CONFIG = EncoderConfig(
    vocab_size=80, hidden_size=32, num_hidden_layers=4, num_attention_heads=4, intermediate_size=64,
    max_position_embeddings=24, initializer_range=0.2,
)  # fmt: skip


def encoder(**changes: int) -> Encoder:
    torch.manual_seed(len(changes))
    return Encoder(replace(CONFIG, **changes)).eval()


def batch(padded_with: int = 0) -> Batch:
    """100 rows of 12 to 24 tokens of 40 words."""
    rng = np.random.default_rng(0)
    lengths = torch.from_numpy(rng.integers(12, 25, 100))
    mask = (torch.arange(24) < lengths[:, None]).long()
    ids = torch.from_numpy(rng.integers(0, 40, (100, 24)))
    ids = torch.where(mask.bool(), ids, padded_with)
    nothing = torch.zeros(0, dtype=torch.int64)
    return Batch(ids, torch.zeros_like(ids), mask, nothing, nothing, nothing)


def states(of: Encoder, text: Batch) -> Tensor:
    hidden: Tensor = of(text.input_ids, text.token_type_ids, text.attention_mask)
    return hidden[text.attention_mask.bool()]


@torch.no_grad()
def unexplained(student: Encoder, teacher: Encoder, directions: Tensor, text: Batch) -> float:
    wanted, found = states(teacher, text) @ directions, states(student.eval(), text)
    return float((wanted - found).square().sum() / (wanted - wanted.mean(0)).square().sum())


@torch.no_grad()
def directions_of(teacher: Encoder, count: int) -> Tensor:
    hidden = states(teacher, batch())
    directions: Tensor = torch.linalg.svd(hidden - hidden.mean(0), full_matrices=False).Vh[:count].T
    return directions


def test_a_student_of_its_teachers_size_is_its_teacher() -> None:
    teacher, student = encoder(), encoder(vocab_size=90)
    prune(teacher, student, torch.eye(32), batch())
    assert unexplained(student, teacher, torch.eye(32), batch()) < 0.001


def test_a_smaller_student_explains_most_of_its_teacher_and_one_as_drawn_nothing() -> None:
    teacher = encoder()
    directions = directions_of(teacher, 24)
    small = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 48}
    student, drawn = encoder(**small), encoder(**small)
    prune(teacher, student, directions, batch())
    assert unexplained(drawn, teacher, directions, batch()) > 1
    assert unexplained(student, teacher, directions, batch()) < 0.4


def test_padding_does_not_count() -> None:
    teacher, student, other = encoder(), encoder(num_hidden_layers=2), encoder(num_hidden_layers=2)
    prune(teacher, student, torch.eye(32), batch())
    prune(teacher, other, torch.eye(32), batch(padded_with=39))
    for one, another in zip(student.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one, another, atol=1e-4, rtol=1e-3)


def pruner(tokens: int, width: int) -> Pruner:
    """Of one row without padding."""
    return Pruner(torch.eye(width), torch.ones(1, tokens, dtype=torch.bool), torch.zeros(1, 1, 1, tokens))


@torch.no_grad()
def test_who_contributes_most_is_kept() -> None:
    """Against the variance of what each group of columns adds, and in the order of the columns."""
    torch.manual_seed(0)
    values = torch.randn(1, 300, 12) * torch.rand(12) + torch.randn(12) * 9  # the means of columns are no contribution
    reader = nn.Linear(12, 5)
    parts = [values[0, :, i : i + 3] @ reader.weight[:, i : i + 3].T for i in (0, 3, 6, 9)]
    best = sorted(sorted(range(4), key=lambda i: float(parts[i].var(0).sum()), reverse=True)[:2])
    assert pruner(300, 12).foremost(values, reader, 4, 2).tolist() == [3 * i + j for i in best for j in range(3)]


@torch.no_grad()
def test_what_follows_from_the_inputs_is_found() -> None:
    torch.manual_seed(0)
    linear, norm, fit = nn.Linear(12, 5), nn.LayerNorm(12), pruner(300, 12)
    values, weight, bias = torch.randn(1, 300, 12) + 2, torch.randn(5, 12), torch.randn(5)
    targets = values @ weight.T + bias
    fitted = fit.fit_product(linear, values, targets)
    torch.testing.assert_close(linear.weight, weight, atol=0.01, rtol=0.01)
    torch.testing.assert_close(fitted, targets, atol=0.05, rtol=0)

    gain, shift = torch.rand(12) + 0.5, torch.randn(12)
    wanted = nn.functional.layer_norm(values, (12,)) * gain + shift
    torch.testing.assert_close(fit.fit_norm(norm, values * 3 + 1, wanted), wanted, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(norm(values), wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_hidden_layers": 5}, "layers of the student: 5, expected no more than the 4 of its teacher"),
        ({"hidden_size": 40, "num_attention_heads": 5}, "^width of the student: 40, expected no more than the 32"),
        ({"intermediate_size": 65}, "feed-forward width of the student: 65"),
        ({"num_attention_heads": 2}, "expected heads of 8 as the teacher's; set attention_heads = 4"),
    ],
)
def test_a_student_that_is_no_part_of_its_teacher_is_refused(changes: dict[str, int], message: str) -> None:
    student = encoder(**changes)
    with pytest.raises(RecipeError, match=message):
        prune(encoder(), student, torch.eye(32)[:, : student.config.hidden_size], batch())


def test_a_teacher_whose_embeddings_are_narrower_is_refused() -> None:
    with pytest.raises(RecipeError, match="the embeddings of the teacher are 16 wide, expected the 32 of its hidden"):
        prune(encoder(embedding_size=16), encoder(), torch.eye(32), batch())
