"""If these fail, someone's finetuned Hugging Face model gives other answers once it is served here."""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoTokenizer,
    BertForMaskedLM,
    BertForNextSentencePrediction,
    BertForPreTraining,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
    PreTrainedModel,
    pipeline,
)

from models.bundle import Bundle, read_bundle
from models.checkpoint import read_checkpoint
from models.classification import PairInput
from models.errors import CheckpointError
from models.qa import QuestionInput
from models.row import Row
from models.session import Session
from models.tokenizer import Tokenizer
from tests.models import tiny
from tests.models.directories import answer
from training.exporting import hugging_face_import
from training.exporting.export import ExportOptions, export
from training.run.hugging_face import read_hugging_face

LABELS = ["bad", "so-so", "good"]
TAGS = ["O", "B-PER", "I-PER"]
WORDS = "Paris is the capital of France and the cat sat on the mat"
TEXT = "The cat sat on the mat, didn't it? Paris is the capital of France."


def save(kind: Any, tokenizer: Tokenizer, directory: Path, labels: list[str] | None = None, **changes: Any) -> Any:
    """Write a random model as a user has it after finetuning; return it."""
    configuration = tiny.config(tokenizer, labels or [])
    configuration.update(changes)
    model = tiny.random_model(kind, configuration)
    model.save_pretrained(directory)
    tiny.their_tokenizer(tokenizer, directory)
    return model


def bundle_of(directory: Path, **asked: Any) -> Bundle:
    checkpoint = read_hugging_face(directory, **asked)
    return export(checkpoint, directory.parent / "bundle", ExportOptions("imported", precisions=("fp32",)))


def assert_logits(bundle: Bundle, name: str, model: PreTrainedModel, rows: list[Row]) -> None:
    found = np.concatenate(Session(bundle).run([(name, row) for row in rows]))
    np.testing.assert_allclose(found, tiny.run(model, rows), rtol=0, atol=1e-4)


def rows_of(tokenizer: Tokenizer, positions: list[int]) -> list[Row]:
    first, second = tokenizer.encode(TEXT).ids, tokenizer.encode("A dog").ids
    return [tokenizer.single_row(first, positions), tokenizer.pair_row(second, first, positions)]


def assert_scores(found: list[Any], expected: Any, key: str) -> None:
    assert [one[key] for one in found] == [one[key] for one in expected]
    np.testing.assert_allclose([one["score"] for one in found], [one["score"] for one in expected], atol=1e-4)


def test_sequence_classification(tokenizer: Tokenizer, tmp_path: Path) -> None:
    model = save(BertForSequenceClassification, tokenizer, tmp_path / "hf", LABELS)
    bundle = bundle_of(tmp_path / "hf")
    assert bundle.manifest.heads["classify"].labels == LABELS
    assert_logits(bundle, "classify", model, rows_of(tokenizer, [0]))
    theirs = pipeline("text-classification", str(tmp_path / "hf"), top_k=None)
    assert_scores(answer(bundle, "classify", TEXT), theirs(TEXT)[0], "label")


def test_a_classifier_of_pairs(tokenizer: Tokenizer, tmp_path: Path) -> None:
    save(BertForSequenceClassification, tokenizer, tmp_path / "hf", LABELS)
    bundle = bundle_of(tmp_path / "hf", task="pair", head="nli")
    theirs = pipeline("text-classification", str(tmp_path / "hf"), top_k=None)
    expected = theirs({"text": TEXT, "text_pair": "A dog"})
    assert_scores(answer(bundle, "nli", PairInput(text=TEXT, text_pair="A dog")), expected, "label")


def test_a_classifier_of_several_labels_at_once(tokenizer: Tokenizer, tmp_path: Path) -> None:
    problem = "multi_label_classification"
    save(BertForSequenceClassification, tokenizer, tmp_path / "hf", LABELS, problem_type=problem)
    theirs = pipeline("text-classification", str(tmp_path / "hf"), top_k=None)
    assert_scores(answer(bundle_of(tmp_path / "hf"), "classify", TEXT), theirs(TEXT)[0], "label")


def test_masked_language_model(tokenizer: Tokenizer, tmp_path: Path) -> None:
    model = save(BertForMaskedLM, tokenizer, tmp_path / "hf")
    bundle = bundle_of(tmp_path / "hf")
    assert_logits(bundle, "fill-mask", model, rows_of(tokenizer, [1, 3]))
    text = "Paris is the [MASK] of France."
    theirs = pipeline("fill-mask", str(tmp_path / "hf"), top_k=7)
    assert_scores(answer(bundle, "fill-mask", text, top_k=7), theirs(text), "token")


@pytest.mark.parametrize("kind", [BertForPreTraining, BertForNextSentencePrediction])
def test_next_sentence(tokenizer: Tokenizer, tmp_path: Path, kind: type[PreTrainedModel]) -> None:
    model = save(kind, tokenizer, tmp_path / "hf")
    bundle = bundle_of(tmp_path / "hf")
    names = ["fill-mask", "nsp"] if kind is BertForPreTraining else ["nsp"]
    assert list(bundle.manifest.heads) == names
    for row in rows_of(tokenizer, [0]):
        with torch.inference_mode():
            output = model(torch.tensor([row.input_ids]), token_type_ids=torch.tensor([row.token_type_ids]))
        expected = output.seq_relationship_logits if kind is BertForPreTraining else output.logits
        np.testing.assert_allclose(Session(bundle).run([("nsp", row)])[0], expected.numpy(), rtol=0, atol=1e-4)
    answered = answer(bundle, "nsp", PairInput(text="A dog", text_pair=TEXT))
    assert {one["label"] for one in answered} == {"isNext", "notNext"}


def test_question_answering(tokenizer: Tokenizer, tmp_path: Path) -> None:
    model = save(BertForQuestionAnswering, tokenizer, tmp_path / "hf", ["LABEL_0", "LABEL_1"])
    bundle = bundle_of(tmp_path / "hf")
    assert_logits(bundle, "qa", model, [tokenizer.pair_row([7, 8], list(range(9, 30)), list(range(26)))])
    found = answer(bundle, "qa", QuestionInput(question="Where?", context=TEXT))
    assert found["answer"] == TEXT[found["start"] : found["end"]]


def test_token_classification(tokenizer: Tokenizer, tmp_path: Path) -> None:
    model = save(BertForTokenClassification, tokenizer, tmp_path / "hf", TAGS)
    bundle = bundle_of(tmp_path / "hf", head="ner")
    assert bundle.manifest.heads["ner"].labels == TAGS
    assert_logits(bundle, "ner", model, rows_of(tokenizer, [1, 2, 5]))
    for strategy in ("none", "simple", "first", "average", "max"):
        theirs = pipeline("token-classification", str(tmp_path / "hf"), aggregation_strategy=strategy)(WORDS)
        found = answer(bundle, "ner", WORDS, aggregation_strategy=strategy)
        assert_scores(found, theirs, "entity" if strategy == "none" else "entity_group")
        assert [(one["start"], one["end"]) for one in found] == [(one["start"], one["end"]) for one in theirs]


def test_a_cased_model(tmp_path: Path, tokenizer: Tokenizer) -> None:
    vocabulary = [tokenizer.token(i) for i in range(tokenizer.vocab_size)] + ["Paris", "paris2"]
    (tmp_path / "words").mkdir()
    (tmp_path / "words/vocab.txt").write_text("".join(f"{token}\n" for token in vocabulary))
    (tmp_path / "words/tokenizer_config.json").write_text('{"do_lower_case": false}')
    cased = Tokenizer.read(tmp_path / "words")
    model = save(BertForMaskedLM, cased, tmp_path / "hf")
    bundle = bundle_of(tmp_path / "hf")
    assert not bundle.manifest.encoder.lowercase
    assert cased.token_id("Paris") in bundle.tokenizer.encode("Paris").ids
    assert_logits(bundle, "fill-mask", model, [bundle.tokenizer.single_row(bundle.tokenizer.encode("Paris").ids, [1])])


def test_only_a_vocabulary(tokenizer: Tokenizer, tmp_path: Path) -> None:
    save(BertForSequenceClassification, tokenizer, tmp_path / "hf", LABELS)
    (tmp_path / "hf/tokenizer.json").unlink()
    assert bundle_of(tmp_path / "hf").tokenizer.vocab_size == tokenizer.vocab_size


def test_shards(tokenizer: Tokenizer, tmp_path: Path) -> None:
    model = save(BertForTokenClassification, tokenizer, tmp_path / "hf", TAGS)
    (tmp_path / "hf/model.safetensors").unlink()
    model.save_pretrained(tmp_path / "hf", max_shard_size="50KB")
    assert len(list((tmp_path / "hf").glob("*.safetensors"))) > 1
    assert_logits(bundle_of(tmp_path / "hf"), "tag", model, rows_of(tokenizer, [1]))


def test_markers_of_a_finetuned_head_are_tokens_in_text(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Entity markers are special tokens that users write; BERT's own five are not."""
    text = "[E1] the cat [/E1] sat on [E2] the mat [CLS]"
    save(BertForSequenceClassification, tokenizer, tmp_path / "model", LABELS)
    theirs = AutoTokenizer.from_pretrained(tmp_path / "model")
    theirs.add_special_tokens({"additional_special_tokens": ["[E1]", "[/E1]", "[E2]"]})
    model = BertForSequenceClassification.from_pretrained(tmp_path / "model")
    model.resize_token_embeddings(len(theirs))
    model.save_pretrained(tmp_path / "model")
    theirs.save_pretrained(tmp_path / "model")
    bundle = bundle_of(tmp_path / "model")
    ids = bundle.tokenizer.encode(text).ids
    expected = theirs(text.removesuffix(" [CLS]"), add_special_tokens=False)["input_ids"]
    assert ids[: len(expected)] == expected and bundle.tokenizer.cls_id not in ids
    assert_logits(bundle, "classify", model, [bundle.tokenizer.single_row(ids, [0])])


# ---- what is refused -----------------------------------------------------------------------------------------------


def test_an_encoder_alone(tokenizer: Tokenizer, tmp_path: Path) -> None:
    save(BertModel, tokenizer, tmp_path / "hf")
    with pytest.raises(CheckpointError, match="architecture is BertModel, an encoder without a head, expected a class"):
        read_hugging_face(tmp_path / "hf")


def test_no_weights(tokenizer: Tokenizer, tmp_path: Path) -> None:
    save(BertForMaskedLM, tokenizer, tmp_path / "hf")
    (tmp_path / "hf/model.safetensors").rename(tmp_path / "hf/training_args.bin")
    with pytest.raises(CheckpointError, match="model.safetensors does not exist, nor pytorch_model.bin; pass a direct"):
        read_hugging_face(tmp_path / "hf")


def test_a_decoder_of_its_own(tokenizer: Tokenizer, tmp_path: Path) -> None:
    model = save(BertForMaskedLM, tokenizer, tmp_path / "model", tie_word_embeddings=False)
    assert not torch.equal(model.cls.predictions.decoder.weight, model.bert.embeddings.word_embeddings.weight)
    with pytest.raises(CheckpointError, match="has a decoder that is not its word embedding"):
        read_hugging_face(tmp_path / "model")


def change(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"is_decoder": True}, "is_decoder is True, expected none; pass an encoder"),
        ({"add_cross_attention": True}, "add_cross_attention is True, expected none"),
        ({"quantization_config": {"load_in_8bit": True}}, "quantization_config is .*, expected none; pass the weights"),
        ({"layer_norm_eps": "1e-12"}, "layer_norm_eps is '1e-12', expected a small number"),
        ({"type_vocab_size": 1}, "type_vocab_size is 1, expected a whole number from 2 on"),
        ({"hidden_size": "32"}, "hidden_size is '32', expected a whole number from 1 on"),
        ({"num_attention_heads": 0}, "num_attention_heads is 0, expected a whole number from 1 on"),
        ({"id2label": {"0": "a", "2": "b", "3": "c"}}, "id2label of .*, expected the numbers from 0 on, no gap"),
        ({"id2label": {"x": "a", "1": "b", "2": "c"}}, "id2label of .*, expected the numbers from 0 on, no gap"),
        ({"id2label": ["a", "b", "c"]}, "id2label of .*, expected the numbers from 0 on, no gap"),
        ({"id2label": {"0": "a", "1": "a", "2": "c"}}, "has 'a' among the labels .*, expected each to be a text"),
        ({"id2label": {"0": 0, "1": 1, "2": 2}}, "has 0 among the labels"),
        ({"id2label": {"0": "", "1": "b", "2": "c"}}, "has '' among the labels"),
    ],
)
def test_a_configuration_that_would_give_other_answers(
    changes: dict[str, object], words: str, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    save(BertForSequenceClassification, tokenizer, tmp_path / "model", LABELS)
    change(tmp_path / "model" / "config.json", **changes)
    with pytest.raises(CheckpointError, match=words):
        read_hugging_face(tmp_path / "model")


@pytest.mark.parametrize(("key", "value"), [("do_lower_case", False), ("tokenize_chinese_chars", False)])
def test_settings_that_contradict_the_tokenizer(key: str, value: bool, tokenizer: Tokenizer, tmp_path: Path) -> None:
    save(BertForSequenceClassification, tokenizer, tmp_path / "model", LABELS)
    (tmp_path / "model" / "tokenizer_config.json").touch()
    (tmp_path / "model" / "tokenizer_config.json").write_text(json.dumps({key: value}))
    with pytest.raises(CheckpointError, match=f"has {key} = True, but tokenizer_config.json beside it {value}"):
        read_hugging_face(tmp_path / "model")


def test_added_tokens_beside_a_vocabulary(tokenizer: Tokenizer, tmp_path: Path) -> None:
    save(BertForSequenceClassification, tokenizer, tmp_path / "model", LABELS)
    (tmp_path / "model" / "tokenizer.json").unlink()
    tokens = "".join(f"{tokenizer.token(i)}\n" for i in range(tokenizer.vocab_size))
    (tmp_path / "model" / "vocab.txt").write_text(tokens)
    (tmp_path / "model" / "added_tokens.json").write_text('{"covid19": 417}')
    with pytest.raises(CheckpointError, match=r"has added_tokens\.json but no tokenizer\.json"):
        read_hugging_face(tmp_path / "model")


def test_weights_that_were_lost(tokenizer: Tokenizer, tmp_path: Path) -> None:
    model = save(BertForSequenceClassification, tokenizer, tmp_path / "model", LABELS)
    model.classifier.weight.data[0, 0] = float("nan")
    model.save_pretrained(tmp_path / "model")
    with pytest.raises(CheckpointError, match=r"the weight classifier\.weight holds nan or infinity"):
        read_hugging_face(tmp_path / "model")


def test_an_index_without_shards(tokenizer: Tokenizer, tmp_path: Path) -> None:
    save(BertForSequenceClassification, tokenizer, tmp_path / "model", LABELS)
    (tmp_path / "model" / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"index\.json has no weight_map of names"):
        read_hugging_face(tmp_path / "model")


@pytest.mark.parametrize("entry", [{"task": "classify"}, 3, {"task": "foo", "labels": ["a", "b"]}])
def test_an_entry_that_says_too_little(entry: object, tokenizer: Tokenizer, tmp_path: Path) -> None:
    save(BertForSequenceClassification, tokenizer, tmp_path / "model", LABELS)
    (tmp_path / "model" / "heads.json").write_text(json.dumps({"mine": entry}))
    with pytest.raises(CheckpointError, match=r"heads\.json has .*, expected labels, and a task of classify, pair"):
        read_checkpoint(tmp_path / "model")


@pytest.mark.parametrize("temperature", [0, "1", 1e-320, None])
def test_a_temperature_that_divides_by_nothing(temperature: object, tokenizer: Tokenizer, tmp_path: Path) -> None:
    save(BertForSequenceClassification, tokenizer, tmp_path / "model", LABELS)
    entry = {"task": "classify", "labels": LABELS, "temperature": temperature}
    (tmp_path / "model" / "heads.json").write_text(json.dumps({"mine": entry}))
    with pytest.raises(CheckpointError, match=r"heads\.json has temperature .*, expected one near 1"):
        read_checkpoint(tmp_path / "model")


def test_what_was_asked_does_not_fit(tokenizer: Tokenizer, tmp_path: Path) -> None:
    save(BertForPreTraining, tokenizer, tmp_path / "hf")
    with pytest.raises(CheckpointError, match="has the heads fill-mask, nsp, expected one to rename"):
        read_hugging_face(tmp_path / "hf", head="x")
    with pytest.raises(CheckpointError, match="holds a fill-mask head, expected a sequence classifier for --task"):
        read_hugging_face(tmp_path / "hf", task="pair")


def test_no_directory(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config.json does not exist"):
        read_hugging_face(tmp_path / "nothing")


def test_the_command(tokenizer: Tokenizer, tmp_path: Path) -> None:
    save(BertForSequenceClassification, tokenizer, tmp_path / "hf", LABELS)
    parser = argparse.ArgumentParser()
    hugging_face_import.add_arguments(parser)
    words = [str(tmp_path / "hf"), "--out", str(tmp_path / "made"), "--precision", "fp32", "--head", "mood"]
    hugging_face_import.import_command(
        parser.parse_args([*words, "--task", "pair", "--name", "moods", "--version", "3"])
    )
    manifest = read_bundle(tmp_path / "made").manifest
    assert (manifest.name, manifest.version, manifest.heads["mood"].task) == ("moods", "3", "pair")
