"""If these fail, our encoder and heads differ from transformers' BERT, or cannot read its files."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from models.architectures import NSP_LABELS
from models.checkpoint import Checkpoint, Head, read_checkpoint, write_checkpoint
from models.config import EncoderConfig
from models.encoder import Encoder
from models.errors import CheckpointError
from models.heads import build_head
from models.task import HeadSpec
from models.tokenizer import Tokenizer
from tests.models import bundles

CONFIG = EncoderConfig(
    vocab_size=417,
    hidden_size=48,
    num_hidden_layers=3,
    num_attention_heads=4,
    intermediate_size=96,
    max_position_embeddings=64,
    initializer_range=0.2,  # so that logits are large enough for an error to show
)
SPECS: dict[str, list[tuple[str, HeadSpec]]] = {
    "BertForSequenceClassification": [("classify", HeadSpec("classify", ["a", "b", "c"]))],
    "BertForMaskedLM": [("fill-mask", HeadSpec("fill-mask", []))],
    "BertForPreTraining": [("fill-mask", HeadSpec("fill-mask", [])), ("nsp", HeadSpec("pair", NSP_LABELS))],
    "BertForNextSentencePrediction": [("nsp", HeadSpec("pair", NSP_LABELS))],
    "BertForTokenClassification": [("tag", HeadSpec("tag", ["O", "B-X", "I-X"]))],
    "BertForQuestionAnswering": [("qa", HeadSpec("qa", []))],
}


def fresh(tokenizer: Tokenizer, specs: list[tuple[str, HeadSpec]]) -> Checkpoint:
    encoder = Encoder(CONFIG)
    checkpoint = Checkpoint(CONFIG, encoder, tokenizer)
    for name, spec in specs:
        module = build_head(spec.task, len(spec.labels), CONFIG, encoder.embeddings.word)
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter, std=0.2)  # biases too: a swapped one must not hide behind a zero
        checkpoint.heads[name] = Head(spec, module)
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return checkpoint


def batch() -> dict[str, torch.Tensor]:
    ids = torch.randint(5, CONFIG.vocab_size, (3, 20))
    mask = torch.ones_like(ids)
    mask[0, 11:] = 0
    mask[2, 4:] = 0
    segments = (torch.arange(20) > 7).long().expand(3, 20)
    return {"input_ids": ids, "token_type_ids": segments, "attention_mask": mask}


def ours(checkpoint: Checkpoint, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    checkpoint.encoder.eval()
    vectors = checkpoint.encoder(**inputs)
    return {name: head.module.eval()(vectors) for name, head in checkpoint.heads.items()}


def theirs(model: Any, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    outputs = model.eval()(**inputs)
    names = {"prediction_logits": "fill-mask", "seq_relationship_logits": "nsp"}
    if hasattr(outputs, "start_logits"):
        return {"qa": torch.stack([outputs.start_logits, outputs.end_logits], -1)}
    return {names.get(key, "only"): value for key, value in outputs.items()}


@pytest.mark.parametrize("architecture", SPECS)
@torch.no_grad()
def test_ours_is_read_by_transformers_and_computes_the_same(
    architecture: str, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    checkpoint = fresh(tokenizer, SPECS[architecture])
    write_checkpoint(checkpoint, tmp_path)
    model, info = getattr(transformers, architecture).from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    inputs = batch()
    expected, found = theirs(model, inputs), ours(checkpoint, inputs)
    for name, logits in found.items():
        reference = expected.get(name, next(iter(expected.values())))
        if logits.dim() == 3 and reference.dim() == 2:  # a head that transformers gives [CLS] only
            logits = logits[:, 0]
        kept = inputs["attention_mask"].bool() if logits.dim() == 3 else slice(None)
        torch.testing.assert_close(logits[kept], reference[kept], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("architecture", SPECS)
@torch.no_grad()
def test_theirs_is_read_by_ours_and_computes_the_same(architecture: str, tokenizer: Tokenizer, tmp_path: Path) -> None:
    torch.manual_seed(1)
    settings: dict[str, Any] = {key: value for key, value in CONFIG.to_dict().items() if key != "model_type"}
    settings["num_labels"] = 2 if architecture == "BertForQuestionAnswering" else 3
    model = getattr(transformers, architecture)(transformers.BertConfig(**settings))
    model.save_pretrained(tmp_path)
    tokenizer.write(tmp_path)
    checkpoint = read_checkpoint(tmp_path)
    inputs = batch()
    expected = theirs(model, inputs)
    for name, logits in ours(checkpoint, inputs).items():
        reference = expected.get(name, next(iter(expected.values())))
        logits = logits[:, 0] if reference.dim() == 2 else logits
        kept = inputs["attention_mask"].bool() if logits.dim() == 3 else slice(None)
        torch.testing.assert_close(logits[kept], reference[kept], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_others_may_read_the_weights_as_they_may_the_rest(tokenizer: Tokenizer, tmp_path: Path) -> None:
    write_checkpoint(bundles.checkpoint(tokenizer), tmp_path)
    assert len({path.stat().st_mode for path in tmp_path.iterdir()}) == 1


def test_several_heads_survive_the_round_trip(tokenizer: Tokenizer, tmp_path: Path) -> None:
    specs = [
        ("sentiment", HeadSpec("classify", ["no", "yes"], {"top_k": 1}, 1.5)),
        ("ner", HeadSpec("tag", ["O", "B-X", "I-X"])),
        ("fill-mask", HeadSpec("fill-mask", [])),
    ]
    checkpoint = fresh(tokenizer, specs)
    write_checkpoint(checkpoint, tmp_path)
    back = read_checkpoint(tmp_path)
    assert {name: head.spec for name, head in back.heads.items()} == dict(specs)
    inputs = batch()
    for name, logits in ours(checkpoint, inputs).items():
        torch.testing.assert_close(ours(back, inputs)[name], logits, atol=0, rtol=0)
    transformers.BertModel.from_pretrained(tmp_path)


def test_the_decoder_is_tied_after_reading(tokenizer: Tokenizer, tmp_path: Path) -> None:
    write_checkpoint(fresh(tokenizer, SPECS["BertForMaskedLM"]), tmp_path)
    checkpoint = read_checkpoint(tmp_path)
    decoder = checkpoint.heads["fill-mask"].module.get_submodule("decoder")
    assert decoder.weight is checkpoint.encoder.embeddings.word.weight


@torch.no_grad()
def test_a_padded_row_equals_the_row_alone_and_padding_alone_is_finite(tokenizer: Tokenizer) -> None:
    encoder = Encoder(CONFIG).eval()
    inputs = batch()
    vectors = encoder(**inputs)
    alone = encoder(inputs["input_ids"][:1, :11], inputs["token_type_ids"][:1, :11])
    torch.testing.assert_close(vectors[:1, :11], alone, atol=1e-5, rtol=1e-5)
    empty = torch.zeros_like(inputs["attention_mask"])
    assert encoder(inputs["input_ids"], inputs["token_type_ids"], empty).isfinite().all()


@torch.no_grad()
def test_gathered_positions_are_those_vectors() -> None:
    encoder = Encoder(CONFIG).eval()
    inputs = batch()
    flat = torch.tensor([0, 25, 47])
    torch.testing.assert_close(encoder(**inputs, positions=flat), encoder(**inputs).flatten(0, 1)[flat])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"hidden_act": "relu"}, "hidden_act is 'relu', expected 'gelu'"),
        ({"model_type": "roberta"}, "architecture is BertForMaskedLM, expected one of RobertaModel, "),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type"),
        ({"hidden_size": 50}, "do not divide"),
        ({"trained_length": 65}, "trained_length is 65, expected a whole number from 1 to 64 as there are positions"),
        ({"architectures": ["BertForMultipleChoice"]}, "architecture is BertForMultipleChoice"),
        ({"intermediate_size": 100}, "expected (100, 48)"),
        ({"num_hidden_layers": 4}, "expected 4 layers"),
        ({"vocab_size": 300}, "the tokenizer of"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused(
    change: dict[str, Any], words: str, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    import json

    write_checkpoint(fresh(tokenizer, SPECS["BertForMaskedLM"]), tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(CheckpointError) as error:
        read_checkpoint(tmp_path)
    assert words in str(error.value)


def test_damaged_weights_are_refused(tokenizer: Tokenizer, tmp_path: Path) -> None:
    write_checkpoint(fresh(tokenizer, SPECS["BertForMaskedLM"]), tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="damaged"):
        read_checkpoint(tmp_path)
    weights.unlink()
    with pytest.raises(CheckpointError, match="does not exist"):
        read_checkpoint(tmp_path)
