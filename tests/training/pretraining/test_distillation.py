"""If these fail, a student is pulled away from its teacher, or the teacher learns too."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributions import Categorical, kl_divergence

from models.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from tests.training.corpora import small_corpus
from tests.training.interrupts import stopped_after_saving
from training.errors import RecipeError
from training.pretraining.batches import Batch, Rows, collate
from training.pretraining.distillation import Teacher, divergence, hidden_states, principal_components, read_teacher
from training.pretraining.initial_weights import start
from training.pretraining.losses import score
from training.pretraining.pretrain import pretrain
from training.pretraining.pretrain_recipe import PretrainRecipe
from training.run.distributed import Processes
from training.text.corpus import Corpus
from training.text.vocabulary import train_vocabulary


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_corpus(tmp_path_factory.mktemp("distillation"), documents=40, sentences=30)


def recipe(corpus: Path, **changes: Any) -> PretrainRecipe:
    small: dict[str, Any] = {
        "layers": 2, "width": 32, "attention_heads": 1, "batch_size": 8, "max_length": 48, "steps": 10, "rate": 2e-3,
        "dropout": 0.0, "threads": 1, "evaluate_every": 1000, "save_every": 4,
    }  # fmt: skip
    return PretrainRecipe(corpus=str(corpus), **(small | changes))


@pytest.fixture(scope="module")
def teacher(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("teacher")
    pretrain(recipe(corpus, width=64, layers=3, attention_heads=2, steps=100, rate=4e-3), out)
    return out


def batch_of(corpus: Path, chosen: PretrainRecipe) -> Batch:
    rows, _ = next(Rows(Corpus(corpus), start(chosen).tokenizer, chosen, 48).steps(8, (0, 0)))
    return collate(rows)


def reader_of(teacher: Path, corpus: Path, student: Checkpoint, distributions: bool = True) -> Teacher:
    return Teacher.read(teacher, student, 48, batch_of(corpus, recipe(corpus)), distributions)


def test_who_is_the_teacher_has_nothing_to_learn(corpus: Path, teacher: Path) -> None:
    checkpoint = read_checkpoint(teacher)
    reader = reader_of(teacher, corpus, checkpoint)
    batch = batch_of(corpus, recipe(corpus, seed=5))
    hidden = hidden_states(checkpoint.encoder.eval(), batch.unmasked())
    masked = hidden_states(checkpoint.encoder, batch)
    logits = checkpoint.heads["fill-mask"].module(masked.flatten(0, 1)[batch.positions])
    turned = hidden @ reader.components  # all of its own directions: a turn, nothing is lost
    distribution, state = reader.losses(batch, turned, logits.log_softmax(-1))
    assert distribution.item() == pytest.approx(0, abs=1e-3)
    assert state.item() == pytest.approx(0, abs=1e-5)
    assert torch.allclose(turned.norm(dim=-1), hidden.norm(dim=-1), rtol=1e-4)
    assert not any(parameter.requires_grad for parameter in reader.encoder.parameters())


def test_who_knows_the_mean_alone_explains_nothing(corpus: Path, teacher: Path) -> None:
    """Each row by its own tokens: padding does not count."""
    student = start(recipe(corpus))
    sample = batch_of(corpus, recipe(corpus))
    reader = Teacher.read(teacher, student, 48, sample)
    theirs = hidden_states(reader.encoder, sample.unmasked())
    mask = sample.attention_mask
    kept = theirs @ reader.components
    mean = kept[mask.bool()].mean(0)
    nothing = mean.expand_as(kept).clone()
    nothing[mask == 0] = 100.0
    variance = (kept[mask.bool()] - mean).square().sum(1).mean().item()
    expected = 0.0
    for row in range(len(mask)):
        length = int(mask[row].sum())
        expected += (kept[row, :length] - mean).square().sum().item() / length / variance
    assert reader.distance(nothing, theirs, mask).item() == pytest.approx(expected, rel=1e-4)
    assert expected / len(mask) == pytest.approx(1, abs=0.05)  # shares of the sample's own variance


def test_divergence_is_that_of_the_distributions() -> None:
    """Against torch.distributions; a vocabulary padded at its end has no more tokens."""
    torch.manual_seed(0)
    mine, theirs = torch.randn(5, 40), torch.randn(5, 48)
    expected = kl_divergence(Categorical(logits=theirs[:, :40]), Categorical(logits=mine)).sum()
    assert divergence(mine.log_softmax(-1), theirs).item() == pytest.approx(expected.item(), rel=1e-5)


def test_components_are_those_of_the_singular_values() -> None:
    torch.manual_seed(0)
    values = torch.randn(200, 8) * torch.arange(1, 9)
    found = principal_components(values, 3)
    expected = torch.linalg.svd(values).Vh[:3]
    assert (found.T @ expected.T).abs() == pytest.approx(torch.eye(3), abs=1e-4)
    assert principal_components(values, 12).shape == (8, 8)


@pytest.mark.slow
def test_a_student_comes_nearer_to_its_teacher_than_one_that_only_reads(
    corpus: Path, teacher: Path, tmp_path: Path
) -> None:
    chosen = recipe(corpus, steps=100, teacher=str(teacher), teacher_share=0.5)
    taught = pretrain(chosen, tmp_path / "taught")
    alone = pretrain(recipe(corpus, steps=100), tmp_path / "alone")
    rows = Rows(Corpus(corpus), taught.tokenizer, chosen, chosen.max_length)
    reader = read_teacher(chosen, taught, rows, Processes())
    batch = batch_of(corpus, recipe(corpus, seed=5))
    distances = [
        score(each.encoder.eval(), [head.module for head in each.heads.values()], batch, reader)
        for each in (taught, alone)
    ]
    assert distances[0].divergence < 0.9 * distances[1].divergence
    assert distances[0].state < 0.5 * len(batch.following) < distances[1].state
    lines = [json.loads(line) for line in (tmp_path / "taught" / "metrics.jsonl").read_text().splitlines()]
    assert lines[4]["divergence/teacher"] < lines[0]["divergence/teacher"]
    assert lines[4]["state/teacher"] < lines[0]["state/teacher"]


def test_a_teacher_reads_what_is_masked_for_its_student(corpus: Path, teacher: Path) -> None:
    """Whatever stands at the masked tokens: the state to come to is that of the text."""
    reader = reader_of(teacher, corpus, start(recipe(corpus)), distributions=False)
    batch = batch_of(corpus, recipe(corpus, seed=5))
    hidden = torch.randn(*batch.input_ids.shape, 32)
    other = batch.input_ids.flatten().index_fill(0, batch.positions, 7).view_as(batch.input_ids)
    assert not torch.equal(other, batch.input_ids)
    nothing, state = reader.losses(batch, hidden, torch.zeros(1))
    assert reader.losses(batch._replace(input_ids=other), hidden, torch.zeros(1)) == (nothing, state)
    text = batch._replace(input_ids=batch.unmasked().input_ids, positions=batch.positions[:0], labels=batch.labels[:0])
    assert reader.losses(text, hidden, torch.zeros(1)) == (nothing, state)
    assert nothing == 0  # no distributions, no head


def test_the_text_of_a_batch_is_what_was_masked(corpus: Path) -> None:
    chosen = recipe(corpus, mask_rate=0.4)
    tokenizer = start(chosen).tokenizer
    batch = batch_of(corpus, chosen)
    mostly_masks = batch.input_ids.flatten()[batch.positions]
    assert (mostly_masks == tokenizer.mask_id).float().mean() == pytest.approx(0.8, abs=0.15)
    text = batch.unmasked()
    assert not (text.input_ids == tokenizer.mask_id).any()
    assert torch.equal(text.input_ids.flatten()[batch.positions], batch.labels)
    others = torch.ones(batch.input_ids.numel(), dtype=torch.bool).index_fill(0, batch.positions, False)
    assert torch.equal(text.input_ids.flatten()[others], batch.input_ids.flatten()[others])
    assert torch.equal(batch.input_ids.flatten()[batch.positions], mostly_masks)  # which it does not change


def test_a_student_learns_from_states_alone_by_default(corpus: Path, teacher: Path, tmp_path: Path) -> None:
    """A teacher may then lack the head."""
    checkpoint = read_checkpoint(teacher)
    del checkpoint.heads["fill-mask"]
    write_checkpoint(checkpoint, tmp_path / "headless")
    taught = recipe(corpus, steps=2, teacher=str(tmp_path / "headless"))
    pretrain(taught, tmp_path / "run")
    figures = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0])
    assert "state/teacher" in figures and "divergence/teacher" not in figures
    with pytest.raises(RecipeError, match="headless has no fill-mask head; set teacher_share = 0, or pretrain one"):
        pretrain(replace(taught, teacher_share=0.5), tmp_path / "other")
    with pytest.raises(RecipeError, match=r"teacher_share is 1.5, expected a share from 0 to 1"):
        replace(taught, teacher_share=1.5)


def test_a_stopped_student_continues_with_its_teacher(corpus: Path, teacher: Path, tmp_path: Path) -> None:
    """Components are found again, and are the same."""
    whole = pretrain(recipe(corpus, teacher=str(teacher)), tmp_path / "whole")
    with stopped_after_saving():
        pretrain(recipe(corpus, teacher=str(teacher)), tmp_path / "stopped")
    resumed = pretrain(recipe(corpus, teacher=str(teacher)), tmp_path / "stopped")
    for mine, theirs in zip(resumed.encoder.parameters(), whole.encoder.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_what_cannot_teach_is_named(corpus: Path, teacher: Path, tmp_path: Path) -> None:
    other = train_vocabulary([corpus.parent / "documents.jsonl"], tmp_path / "vocabulary", 200, True)
    student = start(recipe(corpus))
    student.tokenizer = other
    with pytest.raises(RecipeError, match="and student have different vocabularies"):
        reader_of(teacher, corpus, student)
    with pytest.raises(RecipeError, match=r"has 512 positions, but max_length is 600"):
        Teacher.read(teacher, start(recipe(corpus)), 600, batch_of(corpus, recipe(corpus)))
    chosen = recipe(corpus, teacher=str(teacher), attention_heads=2)
    rows = Rows(Corpus(corpus), student.tokenizer, chosen, 48)
    with pytest.raises(RecipeError, match="heads of 32 as the teacher's; set attention_heads = 1"):
        read_teacher(chosen, start(chosen), rows, Processes())  # before any process prunes
    with pytest.raises(RecipeError, match="width of the student: 96, expected no more than the 64 of its teacher"):
        reader_of(teacher, corpus, start(recipe(corpus, width=96, attention_heads=3)))
