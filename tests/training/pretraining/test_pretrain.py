"""If these fail, losses or gradients differ from transformers', accumulation is wrong, or a resumed run diverges."""

import json
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from models.checkpoint import read_checkpoint, write_checkpoint
from service.settings import STARTER
from tests.training.corpora import FIXTURES, small_corpus, write_documents
from tests.training.interrupts import stopped_after_saving
from training.errors import DataError, RecipeError, TrainingError
from training.evaluation.predictors import CheckpointPredictor
from training.pretraining.batches import Rows, collate
from training.pretraining.initial_weights import start
from training.pretraining.losses import score
from training.pretraining.next_sentence import longest_row
from training.pretraining.pretrain import Best, pretrain, stream
from training.pretraining.pretrain_recipe import Phase, PretrainRecipe
from training.run.distributed import Processes
from training.run.optimizer import build_optimizer, schedule, set_rates
from training.run.run_directory import Run
from training.run.start_from import read_base
from training.text.corpus import Corpus
from training.text.corpus_builder import build_corpus

SMALL: dict[str, Any] = {
    "tokenizer": str(FIXTURES),
    "layers": 2,
    "width": 32,
    "attention_heads": 2,
    "batch_size": 8,
    "max_length": 48,
    "steps": 12,
    "rate": 2e-3,
    "save_every": 4,
    "evaluate_every": 60,
    "evaluate_pairs": 16,
    "threads": 1,
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_corpus(tmp_path_factory.mktemp("pretrain"), documents=40, sentences=30)


def recipe(corpus: Path, **changes: Any) -> PretrainRecipe:
    return PretrainRecipe(corpus=str(corpus), **(SMALL | changes))


def test_loss_and_gradients_equal_transformers(corpus: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    chosen = recipe(corpus, dropout=0.0)
    checkpoint = start(chosen)
    rows, _ = next(Rows(Corpus(corpus), checkpoint.tokenizer, chosen, 48).steps(8, (0, 0)))
    batch = collate(rows)
    parts = score(checkpoint.encoder, [head.module for head in checkpoint.heads.values()], batch)
    ours = parts.masked / len(batch.labels) + parts.following / len(rows)
    torch.autograd.backward(ours)

    write_checkpoint(checkpoint, tmp_path)
    model: Any = transformers.BertForPreTraining.from_pretrained(tmp_path)
    labels = torch.full_like(batch.input_ids, -100)
    labels.view(-1)[batch.positions] = batch.labels
    output = model(
        input_ids=batch.input_ids,
        token_type_ids=batch.token_type_ids,
        attention_mask=batch.attention_mask,
        labels=labels,
        next_sentence_label=batch.following,
    )
    output.loss.backward()
    torch.testing.assert_close(ours, output.loss, atol=1e-5, rtol=1e-5)
    layer = checkpoint.encoder.layers[0]
    attention = model.bert.encoder.layer[0].attention.self
    theirs = torch.cat([part.weight.grad for part in (attention.query, attention.key, attention.value)])
    assert isinstance(layer.query_key_value, torch.nn.Linear)
    torch.testing.assert_close(layer.query_key_value.weight.grad, theirs, atol=1e-5, rtol=1e-4)
    word = checkpoint.encoder.embeddings.word.weight.grad
    torch.testing.assert_close(word, model.bert.embeddings.word_embeddings.weight.grad, atol=1e-5, rtol=1e-4)


def test_a_fresh_head_starts_at_the_frequencies_of_the_corpus(corpus: Path) -> None:
    checkpoint = start(recipe(corpus))
    head: Any = checkpoint.heads["fill-mask"].module
    tokens = Corpus(corpus).tokens
    shares = np.bincount(tokens, minlength=checkpoint.config.vocab_size) / len(tokens)
    found = head.bias.softmax(0).detach().numpy()
    assert np.abs(found - shares).max() < 0.01
    assert (found > 0).all()


def test_frozen_embeddings_stay_and_the_rest_learns(corpus: Path, tmp_path: Path) -> None:
    base = pretrain(recipe(corpus, steps=2), tmp_path / "base")
    frozen = {"base": str(tmp_path / "base"), "freeze_embeddings": True, "head_rate": 1e-2}
    learned = pretrain(recipe(corpus, steps=4, save_every=2, **frozen), tmp_path / "out")
    before, after = base.encoder.state_dict(), learned.encoder.state_dict()
    assert [name for name in before if torch.equal(before[name], after[name])] == ["embeddings.word.weight"]
    with pytest.raises(RecipeError, match="freeze_embeddings is true, but random embeddings must learn"):
        recipe(corpus, freeze_embeddings=True)


def test_accumulation_divides_by_the_masks_of_the_whole_step(corpus: Path, tmp_path: Path) -> None:
    whole = pretrain(recipe(corpus, dropout=0.0, steps=3), tmp_path / "whole")
    parts = pretrain(recipe(corpus, dropout=0.0, steps=3, accumulate=4), tmp_path / "parts")
    for one, other in zip(whole.encoder.parameters(), parts.encoder.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_an_interrupted_run_ends_in_the_same_bytes(corpus: Path, tmp_path: Path) -> None:
    pretrain(recipe(corpus), tmp_path / "whole")
    with stopped_after_saving(at=8):
        pretrain(recipe(corpus), tmp_path / "parts")
    (tmp_path / "parts" / "checkpoints" / "step-00000012.partial").mkdir()  # a write that was cut off
    pretrain(recipe(corpus), tmp_path / "parts")
    names = ("whole", "parts")
    first, second = ((tmp_path / name / "model.safetensors").read_bytes() for name in names)
    assert first == second
    logs = [(tmp_path / name / "metrics.jsonl").read_text().count("\n") for name in names]
    assert logs[0] == logs[1]


def test_it_learns_and_is_read_by_transformers(corpus: Path, tmp_path: Path, curves: None) -> None:
    pretrain(recipe(corpus, steps=180, dropout=0.0, rate=6e-3), tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    values = [line for line in lines if "loss/fill-mask" in line]
    shares = np.bincount(Corpus(corpus).tokens) / len(Corpus(corpus).tokens)
    unigram = -(shares[shares > 0] * np.log(shares[shares > 0])).sum()
    assert values[-1]["loss/fill-mask"] < unigram - 0.15
    assert values[-1]["accuracy/fill-mask"] > 1.5 * values[0]["accuracy/fill-mask"]
    transformers.BertForPreTraining.from_pretrained(tmp_path)
    transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert (tmp_path / "metrics.png").stat().st_size > 10_000
    assert list(read_checkpoint(tmp_path).heads) == ["fill-mask", "nsp"]


def test_another_recipe_in_the_same_place_is_refused(corpus: Path, tmp_path: Path) -> None:
    Run(tmp_path, recipe(corpus)).log(20, {"loss": 7.0})
    with pytest.raises(TrainingError, match="was started with rate = 0.002, now it is 0.1"):
        Run(tmp_path, recipe(corpus, rate=0.1))


def test_settings_without_effect_are_reported(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pretrain(recipe(corpus, phases=[Phase(steps=1, max_length=48, batch_size=2)]), tmp_path)
    told = capsys.readouterr().err.splitlines()[0]
    assert told == "steps, batch_size, max_length: ignored, because phases, base or teacher of the recipe set it"
    assert recipe(corpus, base="b").unread == ["tokenizer"]


def test_what_moves_no_weight_may_change(corpus: Path, tmp_path: Path) -> None:
    """A run that was stopped for its plateau goes on with a later one."""
    with pytest.raises(TrainingError, match="raise plateau_after and resume"):
        pretrain(recipe(corpus, rate=1e-9, steps=45, plateau_after=40), tmp_path)
    pretrain(recipe(corpus, rate=1e-9, steps=45, plateau_after=60, save_every=10), tmp_path)


def test_held_out_documents_of_one_sentence_are_passed_over(tmp_path: Path) -> None:
    source = write_documents(tmp_path / "documents.jsonl", 16, 9)
    lines = source.read_text().splitlines()
    lines[3::4] = [json.dumps({"text": "A single sentence."})] * 4
    source.write_text("\n".join(lines))
    build_corpus([source], FIXTURES, tmp_path / "corpus", held_out=0.25, limit=None, workers=1)
    pretrain(recipe(tmp_path / "corpus", steps=4, evaluate_every=2), tmp_path / "run")
    assert "validation" not in (tmp_path / "run" / "metrics.jsonl").read_text()


def test_another_vocabulary_than_the_corpus_is_named(corpus: Path) -> None:
    with pytest.raises(DataError, match="was tokenized by vocabulary"):
        start(recipe(corpus, tokenizer=str(STARTER)))


def test_a_loss_that_is_not_finite_stops_the_run(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="grad_norm is (nan|inf) at step"):
        pretrain(recipe(corpus, rate=1e9, clip=1e9, steps=40), tmp_path)


def test_rows_do_not_depend_on_where_the_stream_began(corpus: Path) -> None:
    chosen = recipe(corpus)
    tokenizer = start(chosen).tokenizer
    whole = [rows for rows, _ in islice(Rows(Corpus(corpus), tokenizer, chosen, 48).steps(8, (0, 0)), 4)]
    later, position = next(Rows(Corpus(corpus), tokenizer, chosen, 48).steps(8, (0, 16)))
    assert position == (0, 24)
    for one, other in zip(whole[2], later, strict=True):
        assert np.array_equal(one.masked.ids, other.masked.ids)


def test_phases_follow_each_other_and_resume_in_the_same_bytes(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    phases = [Phase(steps=5, max_length=24, batch_size=8), Phase(steps=4, max_length=64, batch_size=4)]
    chosen = recipe(corpus, phases=phases, save_every=1)
    seen: list[tuple[int, int]] = []

    def collate_and_look(rows: Any, length: int = 0) -> Any:
        seen.append((len(rows), max(len(row.masked.ids) for row in rows)))
        return collate(rows, length)

    for module in ("pretrain", "validation"):
        monkeypatch.setattr(f"training.pretraining.{module}.collate", collate_and_look)
    whole = pretrain(chosen, tmp_path / "whole")
    in_training = [each for each in seen if each[0] in (4, 8)]
    assert [size for size, _ in in_training[:9]] == [8] * 5 + [4] * 4
    assert max(length for _, length in in_training[:5]) == 24 and in_training[5][1] > 24
    assert seen[-1][0] == 16 and seen[-1][1] > 24  # held-out rows are as long as those of the phase
    for stop in (4, 5, 7):
        interrupt(monkeypatch, stop)
        with pytest.raises(KeyboardInterrupt):
            pretrain(chosen, tmp_path / "parts")
        monkeypatch.undo()
    parts = pretrain(chosen, tmp_path / "parts")
    for one, other in zip(whole.encoder.parameters(), parts.encoder.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_phase_of_an_earlier_length_reads_other_rows(corpus: Path) -> None:
    phases = [Phase(steps=2, max_length=24, batch_size=8)] * 2 + [Phase(steps=2, max_length=32, batch_size=8)]
    chosen = recipe(corpus, phases=phases)
    checkpoint = start(chosen)
    rows_of = [Rows(Corpus(corpus), checkpoint.tokenizer, chosen, phase.max_length) for phase in chosen.parts]
    steps = list(stream(rows_of, chosen, {"step": 0}, Processes()))
    assert [state["epoch"] for _, _, state in steps] == [0, 0, 1024, 1024, 0, 0]
    rows = [[row.masked.ids.tolist() for row in each] for each, _, _ in steps]
    assert not [ids for ids in rows[0] + rows[1] if ids in rows[2] + rows[3]]
    resumed = list(stream(rows_of, chosen, {"step": 3} | steps[2][2], Processes()))
    assert [state for _, _, state in resumed] == [state for _, _, state in steps[3:]]


def interrupt(monkeypatch: pytest.MonkeyPatch, stop: int) -> None:
    save = Run.save

    def save_and_die(self: Run, step: int, *rest: Any) -> None:
        save(self, step, *rest)
        if step == stop:
            raise KeyboardInterrupt

    monkeypatch.setattr(Run, "save", save_and_die)


def test_a_later_phase_that_cannot_fill_its_batches_is_named_before_the_first_one_runs(
    corpus: Path, tmp_path: Path
) -> None:
    phases = [Phase(steps=5, max_length=24, batch_size=8), Phase(steps=4, max_length=64, batch_size=5000)]
    with pytest.raises(RecipeError, match=r"batch_size is 5000, but .* gives \d+ rows per epoch"):
        pretrain(recipe(corpus, phases=phases), tmp_path / "run")
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_the_share_of_the_corpus_is_counted_over_a_resume(corpus: Path) -> None:
    """Two phases of the same and another length: each counts its rows by its own epochs."""
    phases = [Phase(steps=3, max_length=24, batch_size=8), Phase(steps=2, max_length=48, batch_size=4)]
    chosen = recipe(corpus, phases=phases)
    rows_of = [Rows(Corpus(corpus), start(chosen).tokenizer, chosen, phase.max_length) for phase in chosen.parts]
    states = [state for _, _, state in stream(rows_of, chosen, {"step": 0}, Processes())]
    expected = 24 / rows_of[0].count(0) + 8 / rows_of[1].count(0)
    assert states[-1]["seen"] == pytest.approx(expected)
    resumed = [state for _, _, state in stream(rows_of, chosen, {"step": 2} | states[1], Processes())]
    assert resumed == states[2:]


def test_the_best_figure_so_far_outlives_a_resume(corpus: Path, tmp_path: Path) -> None:
    best = Best().after(500, {}).after(1000, {"fill-mask": {"accuracy": 0.25}})
    assert best == best.after(1500, {"fill-mask": {"accuracy": 0.2}}) == (0.25, 1000)
    with stopped_after_saving(at=8):
        pretrain(recipe(corpus, evaluate_every=3), tmp_path)
    state = json.loads((tmp_path / "checkpoints" / "step-00000008" / "run.json").read_text())
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    measured = {
        line["step"]: line["validation/fill-mask/accuracy"] for line in lines if "validation/fill-mask/accuracy" in line
    }
    assert state["best"] == pytest.approx(
        [max(measured.values()), max(measured, key=lambda step: measured[step])], abs=1e-6
    )


def test_without_next_sentences_the_head_is_a_masked_lm(corpus: Path, tmp_path: Path) -> None:
    checkpoint = pretrain(recipe(corpus, nsp=False, whole_words=True, steps=4), tmp_path)
    assert list(checkpoint.heads) == ["fill-mask"]
    transformers.BertForMaskedLM.from_pretrained(tmp_path)
    figures = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert any("validation/fill-mask/accuracy" in line for line in figures)
    assert not any("nsp" in key for line in figures for key in line)


def test_a_loss_that_stays_at_the_frequencies_of_tokens_stops_the_run(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"at step 40, no better than the frequencies of tokens \(3\.\d\d\)"):
        pretrain(recipe(corpus, rate=1e-9, steps=60, plateau_after=40), tmp_path)


def test_what_it_logs_is_what_tensorboard_reads(corpus: Path, tmp_path: Path) -> None:
    pretrain(recipe(corpus, steps=40), tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert 0 < lines[0]["peak_share"] < 1.2 and 0 < lines[0]["data_share"] < 1
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    rates = [line["lr"] for line in lines if "lr" in line]
    assert [event.value for event in events.Scalars("lr")] == pytest.approx(rates, rel=1e-3)


def test_the_schedule_rises_then_falls() -> None:
    values = [schedule(step, 100, 10) for step in (0, 9, 10, 55, 99)]
    assert values == pytest.approx([1 / 11, 10 / 11, 1.0, 0.5, 1 / 90])
    assert schedule(100, 100, 10, 0.25) == pytest.approx(0.25)


def test_fresh_parameters_have_a_rate_of_their_own(corpus: Path) -> None:
    checkpoint = start(recipe(corpus))
    assert checkpoint.fresh == {"fill-mask", "nsp"}
    checkpoint.fresh = {"nsp"}
    optimizer = build_optimizer(checkpoint, 1.0, 0.0)
    set_rates(optimizer, 1e-4, 1e-3)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    for module in (checkpoint.encoder, checkpoint.heads["fill-mask"].module):
        assert {rates[id(p)] for p in module.parameters()} == {1e-4}
    assert {rates[id(p)] for p in checkpoint.heads["nsp"].module.parameters()} == {1e-3}


def test_biases_and_layer_norms_do_not_decay_and_nothing_is_missing_or_twice(corpus: Path) -> None:
    checkpoint = start(recipe(corpus))
    modules = torch.nn.ModuleList([checkpoint.encoder, *(head.module for head in checkpoint.heads.values())])
    groups = build_optimizer(checkpoint, 1e-3, 0.01).param_groups
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    assert sum(len(group["params"]) for group in groups) == len(decay) == len(list(modules.parameters()))
    for name, parameter in modules.named_parameters():
        assert decay[id(parameter)] == (0.0 if "norm" in name or name.endswith("bias") else 0.01), name


# ---- rows that no training had ---------------------------------------------------------------------------------------


def test_an_encoder_takes_rows_as_long_as_those_of_its_training(corpus: Path, tmp_path: Path) -> None:
    """And keeps that beside its weights: for a bundle, for evaluation, and for the run that goes on from it."""
    phases = [Phase(1, 24, 8), Phase(1, 40, 8), Phase(1, 32, 8)]
    trained = pretrain(recipe(corpus, phases=phases), tmp_path / "first")
    assert (trained.config.max_length, trained.encoder.config.max_length) == (40, 40)
    assert trained.config.max_position_embeddings == 512
    found = read_base(tmp_path / "first")
    assert found.config.max_length == 40 and CheckpointPredictor.of(found).max_length == 40
    for length, expected in ((24, 40), (64, 64)):
        longer = start(recipe(corpus, base=str(tmp_path / "first"), max_length=length))
        assert (longer.config.max_length, longer.encoder.config.max_length) == (expected, expected)


def test_what_a_base_of_others_takes_stays(corpus: Path, tmp_path: Path) -> None:
    """Nobody noted what it was trained on: its positions say it."""
    write_checkpoint(start(recipe(corpus)), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["trained_length"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert start(recipe(corpus, base=str(tmp_path))).config.max_length == 512


@pytest.mark.parametrize("nsp", [True, False])
@pytest.mark.parametrize("sentences", [1, 3, 40])
def test_documents_that_fill_no_row_do_not_count_as_long_ones(
    sentences: int, nsp: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By all rows of many epochs: none is longer than is said, and where documents are long, some are as long."""
    source = write_documents(tmp_path / "documents.jsonl", 12, sentences)
    if nsp and sentences == 1:
        source = write_documents(tmp_path / "documents.jsonl", 12, 2)
    arguments: dict[str, Any] = {"held_out": 0.0, "limit": None, "workers": 1, "nsp": nsp}
    build_corpus([source], FIXTURES, tmp_path / "corpus", **arguments)
    corpus = Corpus(tmp_path / "corpus")
    chosen = recipe(tmp_path / "corpus", nsp=nsp, max_length=128)
    rows = Rows(corpus, start(chosen).tokenizer, chosen, 128)
    longest = max(len(rows.row(epoch, i).masked.ids) for epoch in range(60) for i in range(rows.count(epoch)))
    said = longest_row(corpus, 128, nsp)
    assert longest <= said <= 128 and start(chosen).config.max_length == said
    pretrain(replace(chosen, steps=1), tmp_path / "run")
    told = f"max_length is 128, but no row of {tmp_path}/corpus has more than {said} tokens"
    assert (told in capsys.readouterr().err) == (said < 128)
    assert longest == said if sentences == 40 or not nsp else said < 128
