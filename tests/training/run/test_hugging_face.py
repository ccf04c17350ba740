"""If these fail, a Hugging Face directory gives other answers here than in transformers' pipelines."""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertTokenizer,
    pipeline,
)

from models.bundle import Bundle, read_bundle
from models.checkpoint import read_checkpoint, write_checkpoint
from models.errors import CheckpointError
from models.heads import activation_of
from models.tokenizer import Tokenizer
from tests.models import architectures
from tests.models.directories import answer, change, entries, only_vocabulary, save
from training.exporting import export as exporting
from training.exporting import hugging_face_import
from training.run.hugging_face import read_hugging_face

TEXT = "The cat sat on the mat, didn't it? Paris is the capital of France."


def exported(directory: Path, out: Path, command: str = "export") -> Bundle:
    """Run a command on a directory."""
    module, run = (
        (exporting, exporting.export_command)
        if command == "export"
        else (hugging_face_import, hugging_face_import.import_command)
    )
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    run(parser.parse_args([str(directory), "--out", str(out), "--precision", "fp32", "--name", "made"]))
    return read_bundle(out)


def named(command: str, directory: str, layout: str) -> str:
    """Return the name of the only head: import names it after its directory."""
    return directory if command == "import" else layout


def assert_answers(found: list[Any], expected: Any, key: str) -> None:
    assert [one[key] for one in found] == [one[key] for one in expected]
    np.testing.assert_allclose([one["score"] for one in found], [one["score"] for one in expected], atol=1e-4)


@pytest.mark.parametrize("command", ["export", "import"])
def test_both_commands_answer_as_the_pipelines(command: str, tokenizer: Tokenizer, tmp_path: Path) -> None:
    problem = "multi_label_classification"
    save(BertForSequenceClassification, tokenizer, tmp_path / "moods", problem_type=problem)
    found = answer(exported(tmp_path / "moods", tmp_path / "a", command), named(command, "moods", "classify"), TEXT)
    assert_answers(found, pipeline("text-classification", str(tmp_path / "moods"), top_k=None)(TEXT)[0], "label")
    save(BertForTokenClassification, tokenizer, tmp_path / "names")
    text = "Paris is the capital of France and the cat sat on the mat"
    found = answer(exported(tmp_path / "names", tmp_path / "b", command), named(command, "names", "tag"), text)
    theirs = pipeline("token-classification", str(tmp_path / "names"), aggregation_strategy="simple")(text)
    assert_answers(found, theirs, "entity_group")
    assert [(one["start"], one["end"]) for one in found] == [(one["start"], one["end"]) for one in theirs]


def test_the_problem_of_a_classifier_is_none_of_a_tagger(tokenizer: Tokenizer, tmp_path: Path) -> None:
    save(BertForTokenClassification, tokenizer, tmp_path, problem_type="multi_label_classification")
    assert read_hugging_face(tmp_path).heads["tag"].spec.problem_type == "single_label_classification"


@pytest.mark.parametrize("side", ["right", "left"])
def test_long_texts_are_cut_where_transformers_cuts(
    side: str, tokenizer: Tokenizer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(BertForSequenceClassification, tokenizer, tmp_path / "hf")
    change(tmp_path / "hf/tokenizer_config.json", model_max_length=24, truncation_side=side)
    bundle = exported(tmp_path / "hf", tmp_path / "out")
    assert bundle.manifest.encoder.max_length == 24
    assert "model_max_length = 24, so rows have at most 24 tokens" in capsys.readouterr().err
    theirs = pipeline("text-classification", str(tmp_path / "hf"), top_k=None, truncation=True)
    long = "a dog runs " + TEXT * 3 + " the cat is good"
    assert_answers(answer(bundle, "classify", long), theirs(long)[0], "label")


@pytest.mark.parametrize(("positions", "length"), [(4, 512), (128, 4)])
def test_a_length_that_holds_no_text(positions: int, length: int, tokenizer: Tokenizer, tmp_path: Path) -> None:
    save(BertForSequenceClassification, tokenizer, tmp_path, max_position_embeddings=positions)
    change(tmp_path / "tokenizer_config.json", model_max_length=length)
    with pytest.raises(CheckpointError, match="has rows of 4 tokens by .* and model_max_length, expected 8 or more"):
        read_hugging_face(tmp_path)


def test_labels_that_no_file_names(tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = save(BertForSequenceClassification, tokenizer, tmp_path) / "config.json"
    values = {key: value for key, value in json.loads(path.read_text()).items() if key not in ("id2label", "label2id")}
    path.write_text(json.dumps(values | {"num_labels": 3}))
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert read_hugging_face(tmp_path).heads["classify"].spec.labels == list(theirs.config.id2label.values())
    path.write_text(json.dumps(values | {"num_labels": "3"}))
    with pytest.raises(CheckpointError, match="num_labels is '3', expected a whole number from 1 on"):
        read_hugging_face(tmp_path)


def test_a_tokenizer_of_no_class_goes_by_its_file(tokenizer: Tokenizer, tmp_path: Path) -> None:
    save(BertForSequenceClassification, tokenizer, tmp_path)
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "do_lower_case": False}))
    found, theirs = read_hugging_face(tmp_path).tokenizer, AutoTokenizer.from_pretrained(tmp_path)
    assert [found.cls_id, *found.ids(TEXT), found.sep_id] == theirs(TEXT)["input_ids"]
    with pytest.raises(CheckpointError, match="model_input_names has no token_type_ids, expected them for the head"):
        read_hugging_face(tmp_path, task="pair")
    change(path, model_input_names=["input_ids", "token_type_ids", "attention_mask"])
    read_hugging_face(tmp_path, task="pair")
    change(tmp_path / "tokenizer.json", post_processor=None)
    with pytest.raises(CheckpointError, match="post_processor makes rows of None"):
        read_hugging_face(tmp_path)


def test_repeated_lines_leave_the_ids_of_all_others(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """The last of them counts; so in transformers, and through all that is made of the directory here."""
    known = entries(tokenizer)
    tokens = [*known[:30], "cat", *known[30:], "mat ", "dog", "the"]
    save(BertForMaskedLM, tokenizer, tmp_path / "hf", vocab_size=len(tokens))
    only_vocabulary(tmp_path / "hf", tokens)
    theirs = BertTokenizer.from_pretrained(tmp_path / "hf")
    bundle = exported(tmp_path / "hf", tmp_path / "bundle")
    bundle.tokenizer.write(tmp_path / "written")
    again = Tokenizer.read(
        only_vocabulary(tmp_path / "written", (tmp_path / "written/vocab.txt").read_text().split("\n")[:-1])
    )
    text = "the cat sat on the mat and the dog"
    for found in (read_checkpoint(tmp_path / "hf").tokenizer, bundle.tokenizer, again):
        assert found.vocab_size == len(tokens)
        assert [found.cls_id, *found.ids(text), found.sep_id] == theirs(text)["input_ids"]
        assert [found.token_id(token) for token in set(known)] == theirs.convert_tokens_to_ids(list(set(known)))
    answers = pipeline("fill-mask", str(tmp_path / "hf"), top_k=9)("the [MASK] sat on the mat")
    assert_answers(answer(bundle, "fill-mask", "the [MASK] sat on the mat", top_k=9), answers, "token")


def test_an_adapter_that_was_not_merged(tokenizer: Tokenizer, tmp_path: Path) -> None:
    change(save(BertForSequenceClassification, tokenizer, tmp_path) / "adapter_config.json", peft_type="LORA")
    with pytest.raises(CheckpointError, match="has adapter_config.json, expected whole weights; merge"):
        read_hugging_face(tmp_path)


def test_what_was_decided_is_said(tokenizer: Tokenizer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tokens = [*entries(tokenizer), "Paris"]
    only_vocabulary(save(BertForMaskedLM, tokenizer, tmp_path / "hf", vocab_size=len(tokens)), tokens)
    assert not exported(tmp_path / "hf", tmp_path / "bundle").manifest.encoder.lowercase
    assert "vocab.txt is taken to be cased, since 1 of " in capsys.readouterr().err


# ---- other families, with BERT's tokenizer -------------------------------------------------------------------------


@pytest.fixture
def any_tokenizer(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tokenizer, "read", lambda path: tokenizer)


@pytest.mark.usefixtures("any_tokenizer")
@pytest.mark.parametrize("family", ["Roberta", "DistilBert"])
def test_pairs_need_no_segments_where_the_family_reads_none(family: str, tokenizer: Tokenizer, tmp_path: Path) -> None:
    architectures.save(family, "ForSequenceClassification", tokenizer, tmp_path)
    change(tmp_path / "tokenizer_config.json", model_input_names=["input_ids", "attention_mask"])
    assert read_hugging_face(tmp_path, task="pair").heads["classify"].spec.task == "pair"


@pytest.mark.usefixtures("any_tokenizer")
def test_positions_of_narrow_embeddings_are_shortened(tokenizer: Tokenizer, tmp_path: Path) -> None:
    model = architectures.save("small Electra", "ForMaskedLM", tokenizer, tmp_path)
    change(tmp_path / "tokenizer_config.json", model_max_length=24)
    found = read_hugging_face(tmp_path).encoder.embeddings.position.weight
    torch.testing.assert_close(found, model.state_dict()["electra.embeddings.position_embeddings.weight"][:24])


@pytest.mark.usefixtures("any_tokenizer")
def test_a_head_that_was_asked_for_by_its_own_task(tokenizer: Tokenizer, tmp_path: Path) -> None:
    architectures.save("Roberta", "ForTokenClassification", tokenizer, tmp_path)
    assert list(read_hugging_face(tmp_path, task="tag").heads) == ["tag"]
    with pytest.raises(CheckpointError, match="holds a tag head, expected a sequence classifier for --task"):
        read_hugging_face(tmp_path, task="qa")


@pytest.mark.usefixtures("any_tokenizer")
def test_a_class_that_no_file_names_is_said_on_the_command_line(tokenizer: Tokenizer, tmp_path: Path) -> None:
    save(BertForSequenceClassification, tokenizer, tmp_path)
    change(tmp_path / "config.json", architectures=None)
    with pytest.raises(CheckpointError, match="choose with --task of import"):
        read_hugging_face(tmp_path)
    assert list(read_hugging_face(tmp_path, task="pair").heads) == ["classify"]
    with pytest.raises(
        CheckpointError, match="the weights are of an encoder without a head, expected a class with a head"
    ):
        read_hugging_face(tmp_path, task="qa")


@pytest.mark.usefixtures("any_tokenizer")
def test_a_classifier_that_was_written_here_is_imported_again(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Its ReLU has no place in a class of BERT, so config.json names the encoder alone."""
    architectures.save("DistilBert", "ForSequenceClassification", tokenizer, tmp_path / "theirs")
    write_checkpoint(read_hugging_face(tmp_path / "theirs"), tmp_path / "ours")
    head = read_hugging_face(tmp_path / "ours", task="pair").heads["classify"]
    assert head.spec.task == "pair" and activation_of(head.module) == "relu"
