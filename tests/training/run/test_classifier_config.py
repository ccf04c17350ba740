"""If these fail, an imported classifier gives probabilities where its makers gave numbers, or the reverse."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForSequenceClassification, BertForSequenceClassification, pipeline

from models.checkpoint import read_checkpoint, write_checkpoint
from models.errors import CheckpointError
from models.tokenizer import Tokenizer
from tests.models.directories import LABELS, answer, change, save
from training.exporting.export import ExportOptions, export
from training.run.hugging_face import read_hugging_face

TEXT = "The cat sat on the mat, didn't it?"
PAIR = {"text": "the cat", "text_pair": "a dog"}
IDENTITY, SIGMOID = "torch.nn.modules.linear.Identity", "torch.nn.modules.activation.Sigmoid"
PROBLEMS = [None, "single_label_classification", "multi_label_classification", "regression"]
REFUSED = ("single_label_classification", 1)
"""By transformers, which expects no problem_type there."""


def classifier(tokenizer: Tokenizer, directory: Path, labels: list[str], **config: Any) -> Path:
    numbered = {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}
    return save(BertForSequenceClassification, tokenizer, directory, **numbered, **config)


@pytest.mark.parametrize(
    ("labels", "problem"),
    [(labels, problem) for labels in (LABELS, ["toxic"]) for problem in PROBLEMS if (problem, len(labels)) != REFUSED],
)
def test_answers_are_those_of_the_pipeline(
    tokenizer: Tokenizer, tmp_path: Path, labels: list[str], problem: str | None
) -> None:
    directory = classifier(tokenizer, tmp_path / "hf", labels, problem_type=problem, function_to_apply="none")
    bundle = export(read_hugging_face(directory), tmp_path / "bundle", ExportOptions("it", precisions=("fp32",)))
    theirs: Any = pipeline("text-classification", str(directory), top_k=None)
    for function in (None, "softmax", "sigmoid", "none"):
        found = answer(bundle, "classify", TEXT, **({"function_to_apply": function} if function else {}))
        [expected] = theirs([TEXT], **({"function_to_apply": function} if function else {}))
        assert [one["label"] for one in found] == [one["label"] for one in expected]
        assert [one["score"] for one in found] == pytest.approx([one["score"] for one in expected], abs=1e-5)


@pytest.mark.parametrize("problem", PROBLEMS[2:])
def test_transformers_reads_the_problem_of_our_checkpoints(tokenizer: Tokenizer, tmp_path: Path, problem: str) -> None:
    labels = ["score"] if problem == "regression" else LABELS
    write_checkpoint(
        read_hugging_face(classifier(tokenizer, tmp_path / "hf", labels, problem_type=problem)), tmp_path / "ours"
    )
    assert AutoModelForSequenceClassification.from_pretrained(tmp_path / "ours").config.problem_type == problem
    assert read_checkpoint(tmp_path / "ours").heads["classify"].spec.problem_type == problem


def test_a_problem_that_nobody_knows(tokenizer: Tokenizer, tmp_path: Path) -> None:
    directory = classifier(tokenizer, tmp_path / "hf", LABELS)
    change(directory / "config.json", problem_type="ordinal")
    with pytest.raises(
        CheckpointError, match="problem_type 'ordinal', expected one of single_label_classification, mul"
    ):
        read_hugging_face(directory)
    write_checkpoint(read_hugging_face(classifier(tokenizer, tmp_path / "b", LABELS)), tmp_path / "ours")
    entry = json.loads((tmp_path / "ours/heads.json").read_text())["classify"]
    change(tmp_path / "ours/heads.json", classify=entry | {"problem_type": "ordinal"})
    with pytest.raises(CheckpointError, match="heads.json has problem_type 'ordinal', expected one of"):
        read_checkpoint(tmp_path / "ours")


@pytest.mark.parametrize(
    ("written", "function"),
    [
        ({"sentence_transformers": {"activation_fn": IDENTITY, "version": "5.0.0"}}, "none"),
        ({"sentence_transformers": {"activation_fn": SIGMOID}}, "sigmoid"),
        ({"sbert_ce_default_activation_function": IDENTITY}, "none"),
        ({"sbert_ce_default_activation_function": "torch.nn.modules.activation.Tanh"}, "sigmoid"),
    ],
)
def test_a_cross_encoder_reads_pairs_and_keeps_its_activation(
    tokenizer: Tokenizer, tmp_path: Path, written: dict[str, Any], function: str, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = classifier(tokenizer, tmp_path / "hf", ["relevant"])
    theirs: Any = pipeline("text-classification", str(directory))
    expected = theirs(PAIR, function_to_apply=function)["score"]
    change(directory / "config.json", **written)
    checkpoint = read_hugging_face(directory)
    spec = checkpoint.heads["classify"].spec
    assert (spec.task, spec.function) == ("pair", function)
    told = capsys.readouterr().err
    assert "is a CrossEncoder, so its head reads pairs" in told
    assert ("has the activation torch.nn.modules.activation.Tanh; scores follow" in told) == ("Tanh" in str(written))
    bundle = export(checkpoint, tmp_path / "bundle", ExportOptions("it", precisions=("fp32",)))
    task_input = type("Pair", (), PAIR)
    assert answer(bundle, "classify", task_input)[0]["score"] == pytest.approx(expected, abs=1e-5)
    assert read_hugging_face(directory, task="classify").heads["classify"].spec.task == "classify"


def test_a_cross_encoder_of_several_labels_answers_as_the_pipeline(
    tokenizer: Tokenizer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = classifier(tokenizer, tmp_path / "hf", LABELS)
    change(directory / "config.json", sbert_ce_default_activation_function=IDENTITY)
    assert read_hugging_face(directory).heads["classify"].spec.function == "softmax"
    assert f"has the activation {IDENTITY}; scores follow transformers' pipeline" in capsys.readouterr().err
