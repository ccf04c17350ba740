"""What would break: a student that is pulled away from its teacher, or a teacher that learns too."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from models.checkpoint import read_checkpoint
from tests.training.corpora import small_corpus
from training.batches import Batch, Rows, collate
from training.corpus import Corpus
from training.distillation import Teacher, relation_error
from training.errors import RecipeError
from training.losses import score
from training.pretrain import PretrainRecipe, pretrain, start
from training.vocabulary import train_vocabulary


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_corpus(tmp_path_factory.mktemp("distillation"), documents=40, sentences=30)


def recipe(corpus: Path, **changes: Any) -> PretrainRecipe:
    small: dict[str, Any] = {
        "layers": 2, "width": 32, "attention_heads": 2, "batch_size": 8, "max_length": 48, "steps": 10, "rate": 2e-3,
        "dropout": 0.0, "threads": 1, "evaluate_every": 1000, "save_every": 4,
    }  # fmt: skip
    return PretrainRecipe(corpus=str(corpus), **(small | changes))


@pytest.fixture(scope="module")
def teacher(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("teacher")
    pretrain(recipe(corpus, width=64, layers=3, steps=200, rate=4e-3), out)
    return out


def batch_of(corpus: Path, chosen: PretrainRecipe) -> Batch:
    rows, _ = next(Rows(Corpus(corpus), start(chosen).tokenizer, chosen, 48).steps(8, (0, 0)))
    return collate(rows)


def test_who_is_the_teacher_has_nothing_to_learn(corpus: Path, teacher: Path) -> None:
    checkpoint = read_checkpoint(teacher)
    checkpoint.encoder.eval()
    reader = Teacher.read(teacher, checkpoint.tokenizer, 2.0, torch.device("cpu"))
    heads = [head.module for head in checkpoint.heads.values()]
    parts = score(checkpoint.encoder, heads, batch_of(corpus, recipe(corpus)), reader)
    assert parts.divergence.item() == pytest.approx(0, abs=1e-3)
    assert parts.relation.item() == pytest.approx(0, abs=1e-5)
    assert not any(parameter.requires_grad for parameter in reader.encoder.parameters())


def test_relations_are_those_of_the_tokens_alone() -> None:
    """Against the definition, one pair after the other; padding counts nowhere, and widths may differ."""
    torch.manual_seed(0)
    mine, theirs = torch.randn(2, 5, 8), torch.randn(2, 5, 16)
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    expected = 0.0
    for row, length in enumerate((3, 5)):
        for i in range(length):
            for j in range(length):
                cosine = [torch.cosine_similarity(h[row, i], h[row, j], dim=0).item() for h in (mine, theirs)]
                expected += (cosine[0] - cosine[1]) ** 2 / length**2
    assert relation_error(mine, theirs, mask).item() == pytest.approx(expected, rel=1e-5)


def test_a_student_comes_nearer_to_its_teacher_than_one_that_only_reads(
    corpus: Path, teacher: Path, tmp_path: Path
) -> None:
    taught = pretrain(recipe(corpus, steps=150, teacher=str(teacher)), tmp_path / "taught")
    alone = pretrain(recipe(corpus, steps=150), tmp_path / "alone")
    reader = Teacher.read(teacher, taught.tokenizer, 2.0, torch.device("cpu"))
    batch = batch_of(corpus, recipe(corpus, seed=5))
    distances = [
        score(each.encoder.eval(), [head.module for head in each.heads.values()], batch, reader)
        for each in (taught, alone)
    ]
    assert distances[0].divergence < 0.9 * distances[1].divergence
    assert distances[0].relation < 0.9 * distances[1].relation
    lines = [json.loads(line) for line in (tmp_path / "taught" / "metrics.jsonl").read_text().splitlines()]
    assert lines[6]["divergence/teacher"] < lines[0]["divergence/teacher"]


def test_what_cannot_teach_is_named(corpus: Path, teacher: Path, tmp_path: Path) -> None:
    other = train_vocabulary([corpus.parent / "documents.jsonl"], tmp_path / "vocabulary", 200, True)
    with pytest.raises(RecipeError, match="has another vocabulary than the student"):
        Teacher.read(teacher, other, 2.0, torch.device("cpu"))
