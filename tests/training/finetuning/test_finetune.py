"""If these fail, a head does not learn, or heads disturb a resumed run or each other."""

import itertools
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.checkpoint import Checkpoint, Head, read_checkpoint, write_checkpoint
from models.heads import ClassificationHead
from tests.training.corpora import FIXTURES, small_corpus
from tests.training.interrupts import stopped_after_saving
from training.errors import DataError, RecipeError, TrainingError
from training.evaluation.evaluate import score as evaluate_head
from training.evaluation.predictors import CheckpointPredictor
from training.evaluation.report import read_report
from training.finetuning.finetune import finetune, inputs, prepare, read_files
from training.finetuning.finetune_recipe import FinetuneRecipe, HeadRecipe
from training.finetuning.task_mixture import build_sources, choose, epoch_batches
from training.pretraining.pretrain import pretrain
from training.pretraining.pretrain_recipe import PretrainRecipe
from training.run.run_directory import Run
from training.text.examples import TextExample, read_examples

TEXTS = [("the cat runs", "animal"), ("the dog eats", "animal"), ("the man sees", "person"), ("a woman runs", "person")]
TAGGED = [
    (["the", "cat", "sees", "london", "."], ["O", "O", "O", "B-LOC", "O"]),
    (["anna", "smith", "runs", "in", "new", "york"], ["B-PER", "I-PER", "O", "O", "B-LOC", "I-LOC"]),
]
CONTEXT = "the big dog eats in the red house . the small cat runs in the old city ."


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf8")
    return str(path)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    directory = tmp_path_factory.mktemp("data")
    questions = [("who eats?", "the big dog"), ("who runs?", "the small cat"), ("where is the cat?", "the old city")]
    rows = [
        {"id": str(i), "title": None, "context": CONTEXT, "question": question, "source": "test",
         "answers": {"text": [answer], "answer_start": [CONTEXT.index(answer)]}}
        for i, (question, answer) in enumerate(questions)
    ]  # fmt: skip
    pairs = [{"text_a": a, "text_b": b, "label": "same" if la == lb else "other"} for a, la in TEXTS for b, lb in TEXTS]
    return {
        "classify": write(directory / "classify.jsonl", [{"text": t, "label": label} for t, label in TEXTS]),
        "pair": write(directory / "pair.jsonl", pairs),
        "tag": write(directory / "tag.jsonl", [{"tokens": words, "tags": tags} for words, tags in TAGGED]),
        "qa": write(directory / "qa.jsonl", rows),
    }


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_corpus(tmp_path_factory.mktemp("corpus"), documents=20, sentences=20)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Path:
    out = tmp_path_factory.mktemp("base")
    pretrain(
        PretrainRecipe(
            corpus=str(corpus), tokenizer=str(FIXTURES), layers=2, width=64, attention_heads=2, max_length=48, steps=5,
            batch_size=8, threads=1, dropout=0.0,
        ),
        out,
    )  # fmt: skip
    return out


def recipe(base: Path, heads: dict[str, HeadRecipe], **changes: Any) -> FinetuneRecipe:
    settings: dict[str, Any] = {"steps": 60, "rate": 2e-3, "head_rate": 5e-3, "threads": 1}
    settings |= {"dropout": 0.0, "attention_dropout": 0.0}
    return FinetuneRecipe(base=str(base), heads=heads, **(settings | changes))


def test_a_new_head_on_a_frozen_encoder_changes_nothing_else(base: Path, files: dict[str, str], tmp_path: Path) -> None:
    heads = {"old": HeadRecipe("classify", [files["classify"]], [files["classify"]], batch_size=8, max_length=48)}
    before = finetune(recipe(base, heads), tmp_path / "first")
    more = {"new": HeadRecipe("tag", [files["tag"]], [files["tag"]], batch_size=8, max_length=48)}
    after = finetune(recipe(tmp_path / "first", more, freeze_encoder=True, steps=400, head_rate=3e-2), tmp_path / "out")
    assert list(after.heads) == ["old", "new"] and after.heads["new"].metrics["f1"] > 0.8
    old, kept = before.heads["old"], after.heads["old"]
    assert (kept.spec, kept.metrics) == (old.spec, old.metrics)
    for was, now in ((before.encoder, after.encoder), (old.module, kept.module)):
        torch.testing.assert_close(now.state_dict(), was.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("task", ["classify", "pair", "tag", "qa"])
def test_each_task_alone_learns_its_examples_by_heart(
    task: Any, base: Path, files: dict[str, str], tmp_path: Path
) -> None:
    head = HeadRecipe(task, [files[task]], [files[task]], batch_size=8, max_length=48)
    finetune(recipe(base, {"mine": head}, steps=120), tmp_path)
    metrics = read_checkpoint(tmp_path).heads["mine"].metrics
    assert metrics["f1" if task in ("tag", "qa") else "accuracy"] == 1.0


def test_several_heads_and_the_corpus_share_an_encoder(
    base: Path, files: dict[str, str], corpus: Path, tmp_path: Path, curves: None
) -> None:
    heads = {task: HeadRecipe(task, [file], [file], batch_size=8, max_length=48) for task, file in files.items()}  # type: ignore[arg-type]
    mixed = recipe(base, heads, steps=180, corpus=str(corpus), corpus_share=0.5, corpus_batch_size=4)
    checkpoint = finetune(mixed, tmp_path)
    assert list(checkpoint.heads) == ["classify", "pair", "tag", "qa", "fill-mask", "nsp"]
    for name in heads:
        metrics = checkpoint.heads[name].metrics
        assert metrics["f1" if name in ("tag", "qa") else "accuracy"] > 0.9, name
    assert checkpoint.heads["classify"].spec.temperature != 1.0
    assert (tmp_path / "metrics.png").stat().st_size > 10_000
    for name in heads:
        report = read_report(tmp_path / "reports" / name)
        assert report and report.scores.items() <= checkpoint.heads[name].metrics.items()
        assert (tmp_path / "reports" / name / "wrong.jsonl").exists()


def test_heads_of_the_base_keep_their_weights_with_a_corpus_too(
    base: Path, files: dict[str, str], corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    heads = {"mine": HeadRecipe("classify", [files["classify"]], batch_size=2, max_length=48)}
    before = finetune(recipe(base, heads, steps=2, corpus=str(corpus), corpus_batch_size=4), tmp_path)
    assert "heads.mine gets none of the 2 steps by its share, so it stays untrained" in capsys.readouterr().err
    again = recipe(tmp_path, heads | {"new": heads["mine"]}, corpus=str(corpus))
    examples = read_files(again, HeadRecipe("classify", []), [files["classify"]])
    after = prepare(again, {"mine": examples, "new": examples})
    assert list(after.heads) == ["mine", "new", "fill-mask", "nsp"] and after.fresh == {"new"}
    for name in before.heads:
        torch.testing.assert_close(
            after.heads[name].module.state_dict(), before.heads[name].module.state_dict(), rtol=0, atol=0
        )


def test_each_kind_of_step_has_its_dropout(
    base: Path, files: dict[str, str], corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[tuple[str, Any, Any]] = set()

    def watched(recipe: FinetuneRecipe, checkpoint: Checkpoint, *rest: Any) -> dict[str, Any]:
        def watch(name: str, source: Any) -> Any:
            encoder, head = checkpoint.encoder, checkpoint.heads["mine"].module
            seen.add((name, encoder.embeddings.dropout.p, encoder.layers[0].attention_dropout))
            assert isinstance(head, ClassificationHead) and head.dropout.p == encoder.embeddings.dropout.p
            return source()

        return {name: partial(watch, name, source) for name, source in build_sources(recipe, checkpoint, *rest).items()}

    monkeypatch.setattr("training.finetuning.finetune.build_sources", watched)
    heads = {"mine": HeadRecipe("classify", [files["classify"]], batch_size=2, max_length=48)}
    dropouts = {"dropout": 0.2, "attention_dropout": 0.0, "corpus_dropout": 0.1}
    finetune(recipe(base, heads, steps=8, corpus=str(corpus), corpus_batch_size=4, **dropouts), tmp_path)
    assert seen == {("mine", 0.2, 0.0), ("pretraining", 0.1, 0.1)}


def test_an_interrupted_run_ends_in_the_same_bytes(
    base: Path, files: dict[str, str], corpus: Path, tmp_path: Path
) -> None:
    heads = {task: HeadRecipe(task, [files[task]], batch_size=2, max_length=48) for task in ("classify", "tag")}
    chosen = recipe(base, heads, steps=12, save_every=4, dropout=0.1, corpus=str(corpus), corpus_batch_size=4)
    finetune(chosen, tmp_path / "whole")
    for _ in range(2):
        with stopped_after_saving():
            finetune(chosen, tmp_path / "parts")
    finetune(chosen, tmp_path / "parts")
    first, second = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "parts"))
    assert first == second


def test_early_stopping_keeps_the_best(base: Path, files: dict[str, str], tmp_path: Path) -> None:
    head = HeadRecipe("classify", [files["classify"]], [files["classify"]], batch_size=4, max_length=48)
    finetune(recipe(base, {"mine": head}, steps=2000, evaluate_every=40, patience=1), tmp_path)
    steps = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert max(steps) < 1000
    assert read_checkpoint(tmp_path).heads["mine"].metrics["accuracy"] == 1.0


@pytest.mark.parametrize("harm", [shutil.rmtree, lambda best: (best / "model.safetensors").write_bytes(b"")])
def test_a_best_checkpoint_that_is_lost_is_not_replaced_by_another(
    harm: Callable[[Path], object], base: Path, files: dict[str, str], tmp_path: Path
) -> None:
    head = HeadRecipe("classify", [files["classify"]], [files["classify"]], batch_size=4, max_length=48)
    chosen = recipe(base, {"mine": head}, steps=6, evaluate_every=2, save_every=3, patience=5)
    with stopped_after_saving():
        finetune(chosen, tmp_path)
    harm(tmp_path / "best")
    with pytest.raises(TrainingError, match="best: .*, expected the best checkpoint so far; restore it"):
        finetune(chosen, tmp_path)


def test_patience_weighs_the_end_of_a_run_too(
    base: Path, files: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Figures rise from one evaluation to the next: the weights of the last step are what must stay."""
    head = HeadRecipe("classify", [files["classify"]], [files["classify"]], batch_size=4, max_length=48)
    plain = finetune(recipe(base, {"mine": head}, steps=4, evaluate_every=2), tmp_path / "plain")
    rising = itertools.count()
    monkeypatch.setattr("training.finetuning.finetune.validate", lambda *_: {"mine": {"accuracy": next(rising) / 10}})
    patient = finetune(recipe(base, {"mine": head}, steps=4, evaluate_every=2, patience=1), tmp_path / "patient")
    torch.testing.assert_close(patient.encoder.state_dict(), plain.encoder.state_dict(), rtol=0, atol=0)


def test_a_head_of_the_base_keeps_its_order_of_labels(
    base: Path, files: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Labels that are found in the data are sorted; those of a head that exists stand as they stand."""
    labels = ["person", "animal", "thing"]
    named = HeadRecipe("classify", [files["classify"]], batch_size=4, max_length=48, labels=labels)
    before = finetune(recipe(base, {"mine": replace(named, defaults={"top_k": 1})}, steps=1), tmp_path)
    again = recipe(tmp_path, {"mine": replace(named, labels=[])})
    examples = {"mine": read_files(again, HeadRecipe("classify", []), [files["classify"]])}
    after = prepare(again, examples)
    assert after.heads["mine"].spec == replace(before.heads["mine"].spec, temperature=1.0) and not after.fresh
    assert capsys.readouterr().err.count("from new weights") == 0
    other = prepare(recipe(tmp_path, {"mine": replace(named, labels=["animal", "person"])}), examples)
    assert other.fresh == {"mine"}
    told = capsys.readouterr().err
    assert (
        "heads.mine is trained from new weights: the head of the base is for classify with person, animal, thing"
        in told
    )


def test_what_would_fail_at_the_end_fails_at_once(base: Path, files: dict[str, str], tmp_path: Path) -> None:
    strange = write(tmp_path / "strange.jsonl", [{"text": "the city", "label": "place"}])
    mine = HeadRecipe("classify", [files["classify"]], [strange], max_length=48)
    with pytest.raises(DataError, match="the data has the label 'place', expected one of head 'mine': animal, person"):
        finetune(recipe(base, {"mine": mine}), tmp_path / "label")
    with pytest.raises(RecipeError, match="heads.mine.max_length is 1024, expected 8 to 512"):
        finetune(recipe(base, {"mine": replace(mine, max_length=1024)}), tmp_path / "length")
    with pytest.raises(RecipeError, match=r"heads\.mine\.train names no file, expected at least one"):
        finetune(recipe(base, {"mine": HeadRecipe("qa", [], max_length=48)}), tmp_path / "nothing")
    single = write(tmp_path / "single.jsonl", [{"text": "the city", "label": "place"}] * 3)
    with pytest.raises(DataError, match=r"heads\.mine: .*single\.jsonl has only the label place, expected two"):
        finetune(recipe(base, {"mine": HeadRecipe("classify", [single], max_length=48)}), tmp_path / "single")
    with pytest.raises(TrainingError, match="holds a model that no run has written; name another --out"):
        write_checkpoint(read_checkpoint(base), tmp_path / "base")
        finetune(recipe(base, {"mine": mine}), tmp_path / "base")


def test_a_head_reads_folders_of_tables_with_its_columns(base: Path, tmp_path: Path) -> None:
    table = tmp_path / "folder" / "texts.csv"
    table.parent.mkdir()
    table.write_text("what,mood,label\n" + "".join(f"{text},{label},x\n" for text, label in TEXTS) + ",,\n,a,b\n")
    head = HeadRecipe("classify", ["folder"], columns={"text": "what", "label": "mood"}, skip_broken=1)
    mine = recipe(base, {"mine": head}, data=str(tmp_path))
    assert read_files(mine, head, head.train) == [TextExample(text, label) for text, label in TEXTS]
    assert table in inputs(mine)
    with pytest.raises(DataError, match=r"texts\.csv:7: \"text\" is ''"):
        read_files(mine, replace(head, skip_broken=0), head.train)


def test_training_text_that_is_cut_is_counted(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = [("the cat " * count, str(count)) for count in (2, 3, 20, 30)]
    data = write(tmp_path / "long.jsonl", [{"text": text, "label": label} for text, label in texts])
    finetune(recipe(base, {"mine": HeadRecipe("classify", [data], max_length=12)}, steps=1), tmp_path / "run")
    assert "heads.mine: 2 of 4 training examples are longer than max_length 12 and lose up to 50 tokens" in (
        capsys.readouterr().err
    )


def test_a_loss_that_is_not_finite_never_reaches_the_weights(base: Path, files: dict[str, str], tmp_path: Path) -> None:
    head = HeadRecipe("classify", [files["classify"]], batch_size=4, max_length=48)
    with pytest.raises(TrainingError, match="is (nan|inf) at step"):
        finetune(recipe(base, {"mine": head}, rate=1e30, head_rate=1e30, clip=1e30, save_every=1), tmp_path)
    for saved in Run(tmp_path, recipe(base, {"mine": head}, rate=1e30, head_rate=1e30, clip=1e30)).saved():
        assert all(tensor.isfinite().all() for tensor in read_checkpoint(saved).encoder.state_dict().values())


def test_consistency_wants_dropout(base: Path, files: dict[str, str]) -> None:
    head = HeadRecipe("classify", [files["classify"]], consistency=1.0)
    with pytest.raises(RecipeError, match="heads.mine.consistency is 1.0, but without dropout"):
        recipe(base, {"mine": head})


def test_an_epoch_holds_every_example_once_in_batches_of_like_length() -> None:
    lengths = np.random.default_rng(0).integers(5, 200, 5000)
    batches = epoch_batches(lengths, 16, np.random.default_rng(1))
    assert sorted(np.concatenate(batches).tolist()) == list(range(5000))
    padded = sum(int(lengths[batch].max()) * len(batch) for batch in batches)
    assert lengths.sum() / padded > 0.93


def test_steps_are_drawn_in_proportion(base: Path) -> None:
    heads = {"a": HeadRecipe("classify", [], share=3.0), "b": HeadRecipe("classify", [], share=1.0)}
    chosen = recipe(base, heads, corpus="c", corpus_share=1.0)
    drawn = [choose(chosen, step) for step in range(4000)]
    for name, share in (("a", 0.6), ("b", 0.2), ("pretraining", 0.2)):
        assert drawn.count(name) / 4000 == pytest.approx(share, abs=0.03)


def test_the_curve_of_a_loss_keeps_its_scale_when_the_head_is_calibrated(
    base: Path, files: dict[str, str], tmp_path: Path
) -> None:
    """The temperature of a faultless head on few examples is far from 1, and its loss would seem to rise at the end."""
    head = HeadRecipe("classify", [files["classify"]], [files["classify"]], batch_size=8, max_length=48)
    checkpoint = finetune(recipe(base, {"mine": head}, steps=40), tmp_path)
    mine = checkpoint.heads["mine"]
    checkpoint.heads["mine"] = Head(replace(mine.spec, temperature=1.0), mine.module)
    examples = read_examples(Path(files["classify"]), "classify")
    expected = evaluate_head(CheckpointPredictor.of(checkpoint), "mine", examples)["loss"]
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    *_, drawn = [line["validation/mine/loss"] for line in lines if "validation/mine/loss" in line]
    assert drawn == pytest.approx(expected, abs=1e-5) != pytest.approx(mine.metrics["loss"], abs=1e-3)
