"""If these fail, DistilBERT, ELECTRA, RoBERTa, XLM-RoBERTa or CamemBERT give other answers than in transformers."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from transformers import CONFIG_MAPPING

from models.architectures import FAMILIES, REFUSED, Family
from models.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from models.config import EncoderConfig
from models.errors import CheckpointError
from models.tokenizer import Tokenizer
from tests.models.architectures import CLASSES, CONFIGS, HEADS, batch, logits_of, save
from tests.models.directories import change, rewrite

ALL = [(family, end) for family in CONFIGS for end in CLASSES]


@pytest.fixture(autouse=True)
def any_tokenizer(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks are compared by ids, whichever tokenizer a family has."""
    monkeypatch.setattr(Tokenizer, "read", lambda path: tokenizer)


@torch.no_grad()
def ours(checkpoint: Checkpoint, inputs: dict[str, Tensor]) -> Tensor:
    (head,) = checkpoint.heads.values()
    vectors = checkpoint.encoder.eval()(**inputs)
    logits: Tensor = head.module.eval()(vectors[:, 0] if head.spec.task == "classify" else vectors)
    return logits


def assert_same(checkpoint: Checkpoint, model: transformers.PreTrainedModel) -> None:
    inputs = batch(model)
    found, expected = ours(checkpoint, inputs), logits_of(model, inputs)
    kept = inputs["attention_mask"].bool() if found.ndim == 3 else slice(None)
    torch.testing.assert_close(found[kept], expected[kept], atol=1e-5, rtol=1e-5)
    assert expected.std() > 0.5  # or else an error would not show


@pytest.mark.parametrize(("family", "end"), ALL)
def test_every_class_computes_what_transformers_computes(
    family: str, end: str, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    model = save(family, end, tokenizer, tmp_path)
    checkpoint = read_checkpoint(tmp_path)
    assert [(name, head.spec.task) for name, head in checkpoint.heads.items()] == [(HEADS[end], HEADS[end])]
    assert_same(checkpoint, model)
    write_checkpoint(checkpoint, tmp_path / "ours")
    assert_same(read_checkpoint(tmp_path / "ours"), model)


@torch.no_grad()
@pytest.mark.parametrize(
    ("family", "end", "written"),
    [
        ("Roberta", "ForSequenceClassification", "BertForSequenceClassification"),
        ("DistilBert", "ForTokenClassification", "BertForTokenClassification"),
        ("DistilBert", "ForSequenceClassification", "BertModel"),
        ("Electra", "ForSequenceClassification", "BertModel"),
        *(("small Electra", end, f"Electra{end}") for end in CLASSES),
    ],
)
def test_what_is_written_is_read_by_transformers(
    family: str, end: str, written: str, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    model = save(family, end, tokenizer, tmp_path)
    checkpoint = read_checkpoint(tmp_path)
    write_checkpoint(checkpoint, tmp_path / "ours")
    assert json.loads((tmp_path / "ours/config.json").read_text())["architectures"] == [written]
    theirs, info = getattr(transformers, written).from_pretrained(tmp_path / "ours", output_loading_info=True)
    inputs = batch(model)
    if written.endswith("Model"):
        assert {key.split(".")[0] for key in info["unexpected_keys"]} == {"heads"}
        vectors = checkpoint.encoder.eval()(**inputs)
        torch.testing.assert_close(theirs.eval()(**inputs).last_hidden_state, vectors, atol=1e-5, rtol=1e-5)
    else:
        assert not info["missing_keys"] and not info["unexpected_keys"]
        torch.testing.assert_close(logits_of(theirs.eval(), inputs), ours(checkpoint, inputs), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("DistilBert", {"sinusoidal_pos_embds": True}),
        ("DistilBert", {"pad_token_id": 3}),
        ("Roberta", {"type_vocab_size": 2}),
        ("Roberta", {"pad_token_id": 4}),
        ("Electra", {"layer_norm_eps": 1e-3}),
    ],
)
def test_settings_that_only_a_family_has(
    family: str, changes: dict[str, Any], tokenizer: Tokenizer, tmp_path: Path
) -> None:
    model = save(family, "ForMaskedLM", tokenizer, tmp_path, **changes)
    assert_same(read_checkpoint(tmp_path), model)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_values_that_no_file_says_are_those_of_the_family(family: Family) -> None:
    """ELECTRA's own sizes, DistilBERT's six layers and its small eps, RoBERTa's padding."""
    theirs = getattr(transformers, f"{family.first}Config")()
    vocabulary = {"vocab_size": theirs.vocab_size}
    found = EncoderConfig.from_dict(family.encoder_values(vocabulary))
    sizes = ("hidden_size", "num_hidden_layers", "num_attention_heads", "pad_token_id", "initializer_range")
    assert all(getattr(found, name) == getattr(theirs, name) for name in sizes)
    assert found.max_position_embeddings == theirs.max_position_embeddings - family.first_position({})
    assert found.embedding_width == getattr(theirs, "embedding_size", theirs.hidden_size)
    assert found.layer_norm_eps == getattr(theirs, "layer_norm_eps", 1e-12)
    assert found.intermediate_size == getattr(theirs, family.config.get("intermediate_size", "intermediate_size"))


def prefixed(model: Any, old: str, new: str) -> Any:
    return lambda weights: {
        new + name.removeprefix(old) if name.startswith(old) else name: tensor for name, tensor in weights.items()
    }


@pytest.mark.parametrize("family", ["DistilBert", "small Electra", "Roberta"])
@pytest.mark.parametrize("end", CLASSES)
def test_names_with_and_without_their_prefix(family: str, end: str, tokenizer: Tokenizer, tmp_path: Path) -> None:
    model = save(family, end, tokenizer, tmp_path)
    start = f"{model.base_model_prefix}."
    rewrite(tmp_path, prefixed(model, start, ""))
    assert_same(read_checkpoint(tmp_path), model)
    rewrite(tmp_path, prefixed(model, "", start))
    assert_same(read_checkpoint(tmp_path), model)


def test_a_pooler_that_roberta_does_not_read(tokenizer: Tokenizer, tmp_path: Path) -> None:
    model = save("Roberta", "ForSequenceClassification", tokenizer, tmp_path)
    rewrite(tmp_path, lambda weights: weights | {"roberta.pooler.dense.weight": torch.ones(32, 32)})
    assert_same(read_checkpoint(tmp_path), model)


@pytest.mark.parametrize(
    ("family", "decoder"),
    [("DistilBert", "vocab_projector"), ("small Electra", "generator_lm_head"), ("Camembert", "lm_head.decoder")],
)
def test_a_decoder_of_its_own_is_refused(family: str, decoder: str, tokenizer: Tokenizer, tmp_path: Path) -> None:
    model = save(family, "ForMaskedLM", tokenizer, tmp_path)
    word = model.get_input_embeddings().state_dict()["weight"]
    rewrite(tmp_path, lambda weights: weights | {f"{decoder}.weight": word})
    assert_same(read_checkpoint(tmp_path), model)
    rewrite(tmp_path, lambda weights: weights | {f"{decoder}.weight": word + 1})
    with pytest.raises(CheckpointError, match="has a decoder that is not its word embedding"):
        read_checkpoint(tmp_path)


# ---- classes by the names of weights -------------------------------------------------------------------------------


def nameless(family: str, end: str, tokenizer: Tokenizer, directory: Path) -> transformers.PreTrainedModel:
    model = save(family, end, tokenizer, directory)
    change(directory / "config.json", architectures=None)
    return model


@pytest.mark.parametrize(("family", "end"), [one for one in ALL if one != ("Bert", "ForSequenceClassification")])
def test_a_class_is_inferred(family: str, end: str, tokenizer: Tokenizer, tmp_path: Path) -> None:
    model = nameless(family, end, tokenizer, tmp_path)
    assert_same(read_checkpoint(tmp_path), model)


def test_both_heads_of_pretraining_are_inferred(tokenizer: Tokenizer, tmp_path: Path) -> None:
    nameless("Bert", "ForPreTraining", tokenizer, tmp_path)
    assert list(read_checkpoint(tmp_path).heads) == ["fill-mask", "nsp"]


def test_a_class_that_must_be_said(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Older versions saved a pooler with taggers too."""
    model = nameless("Bert", "ForSequenceClassification", tokenizer, tmp_path)
    expected = "has no architectures, and its weights fit BertForSequenceClassification and BertForTokenClassification"
    with pytest.raises(CheckpointError, match=f"{expected}; choose with --task of import"):
        read_checkpoint(tmp_path)
    assert_same(read_checkpoint(tmp_path, "classify"), model)
    assert read_checkpoint(tmp_path, "tag").heads["tag"].spec.task == "tag"
    assert not read_checkpoint(tmp_path, "qa").heads


def test_an_encoder_alone_is_inferred(tokenizer: Tokenizer, tmp_path: Path) -> None:
    nameless("Bert", "Model", tokenizer, tmp_path)
    assert not read_checkpoint(tmp_path).heads


# ---- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model_type", "reason"),
    [
        ("albert", "since its layers share one set of weights"),
        ("mpnet", "since its attention adds a learned bias"),
        ("deberta-v2", r"since its attention adds terms .* \(disentangled attention\)"),
        ("modernbert", "since it has rotary positions"),
        ("xlnet", "since it has relative positions"),
        ("t5", "since it generates text with an encoder and a decoder"),
        ("gpt2", "since it is a decoder"),
    ],
)
def test_other_families_are_refused_with_the_reason(model_type: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    with pytest.raises(
        CheckpointError, match=f"model_type '{model_type}' is not supported, {reason}.*pass one of bert, "
    ):
        read_checkpoint(tmp_path)


def test_every_reason_is_of_a_family_that_transformers_has() -> None:
    assert {*REFUSED, *(name for family in FAMILIES for name in family.models)} <= set(CONFIG_MAPPING)


@pytest.mark.parametrize(
    ("family", "changes", "words"),
    [
        ("Roberta", {"max_position_embeddings": "66"}, "max_position_embeddings is '66', expected a whole number"),
        ("Roberta", {"max_position_embeddings": 2}, "max_position_embeddings is 0, expected a whole number from 1 on"),
        ("small Electra", {"embedding_size": "16"}, "embedding_size is '16', expected a whole number from 1 on"),
        ("small Electra", {"embedding_size": 32}, r"expected \(420, 32\) by its config.json"),
        ("DistilBert", {"activation": "relu"}, "hidden_act is 'relu', expected 'gelu'"),
        ("DistilBert", {"n_layers": 3}, "expected 3 layers of DistilBERT"),
        (
            "Electra",
            {"architectures": ["ElectraForPreTraining"]},
            "architecture is ElectraForPreTraining, expected one",
        ),
        ("Roberta", {"is_decoder": True}, "is_decoder is True, expected none"),
        ("nothing", {"model_type": "strange"}, "model_type is 'strange', expected one of bert, roberta"),
    ],
)
def test_a_configuration_that_does_not_fit(
    family: str, changes: dict[str, Any], words: str, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    save("Bert" if family == "nothing" else family, "ForMaskedLM", tokenizer, tmp_path)
    change(tmp_path / "config.json", **changes)
    with pytest.raises(CheckpointError, match=words):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize("activation", ["swish", 3, None])
def test_an_activation_that_no_head_has(activation: object, tokenizer: Tokenizer, tmp_path: Path) -> None:
    save("Bert", "ForSequenceClassification", tokenizer, tmp_path)
    entry = {"task": "classify", "labels": ["a", "b", "c"], "activation": activation}
    (tmp_path / "heads.json").write_text(json.dumps({"mine": entry}))
    with pytest.raises(CheckpointError, match="heads.json has activation .*, expected one of tanh, gelu, relu"):
        read_checkpoint(tmp_path)
