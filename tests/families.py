"""Directories as teams have them: six families, every class of transformers for our tasks, in several forms of files.

    write("roberta", "tag", directory)                  # as save_pretrained writes it today
    write("bert", "classify", directory, "vocabulary")  # as it was published in 2019

Weights are random. All classes of a family share one encoder, so that one bundle can hold them. The tokenizers were
trained by tests/train_tokenizers.py.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file
from tokenizers import AddedToken
from transformers import PreTrainedModel, PreTrainedTokenizerBase

MAX_LENGTH = 64
"""Tokens of a row."""
SIZES = {"vocab_size": 0, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
DISTIL_NAMES = {
    "hidden_size": "dim",
    "num_hidden_layers": "n_layers",
    "num_attention_heads": "n_heads",
    "intermediate_size": "hidden_dim",
}
SCALE = 0.3
"""Of random weights."""
SPREAD = 1.5
"""Standard deviation of logits over some texts."""
TEXTS = (
    "Paris is the capital of France.",
    "the cat sat on the mat",
    "3.14% of 2026!",
    "été",
    "He said: it's fine -- well",
    "A film about a school near the river, and its teachers.",
    "no",
    "Angela Merkel met John Smith in Berlin on Monday, 12 March.",
)

TOPICS = ["art", "law", "sea"]
TAGS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
CLASS, TOKENS = "ForSequenceClassification", "ForTokenClassification"
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "classify": (CLASS, {"labels": ["bad", "good"]}),
    "pair": (CLASS, {"labels": ["entailment", "neutral", "contradiction"]}),
    "score": (CLASS, {"labels": ["relevance"]}),
    "rating": (CLASS, {"labels": ["stars"], "problem_type": "regression"}),
    "topics": (CLASS, {"labels": TOPICS, "problem_type": "multi_label_classification"}),
    "tag": (TOKENS, {"labels": TAGS}),
    "qa": ("ForQuestionAnswering", {}),
    "fill-mask": ("ForMaskedLM", {}),
}
"""The end of a class of transformers, and what its config.json says."""
TASKS = {"score": "classify", "rating": "classify", "topics": "classify"}
"""Of the kinds that are not named after theirs."""

FORMS = ("safetensors", "bin", "sharded", "no-architectures", "tokenizer-file", "vocabulary", "slow", "trainer")


# ---- tokenizers ----------------------------------------------------------------------------------------------------

TRAINED = Path(__file__).parent / "fixtures" / "tokenizers.json"
MASK: Any = AddedToken("<mask>", lstrip=True, special=True)
"""As in the released tokenizers: it takes the blank before it."""


@cache
def trained() -> dict[str, Any]:
    """Return the vocabularies that tests/train_tokenizers.py wrote."""
    found: dict[str, Any] = json.loads(TRAINED.read_text("utf8"))
    return found


def of_word_pieces() -> PreTrainedTokenizerBase:
    vocabulary = {entry: number for number, entry in enumerate(trained()["word_pieces"])}
    return transformers.BertTokenizer(vocab=vocabulary, do_lower_case=True, model_max_length=MAX_LENGTH)


def of_byte_pairs() -> PreTrainedTokenizerBase:
    vocabulary = {entry: number for number, entry in enumerate(trained()["byte_pairs"]["vocab"])}
    merges: Any = [tuple(pair) for pair in trained()["byte_pairs"]["merges"]]
    return transformers.RobertaTokenizer(vocab=vocabulary, merges=merges, mask_token=MASK, model_max_length=MAX_LENGTH)


def unigrams(*first: str) -> list[tuple[str, float]]:
    """Return pieces and their scores, between those that begin a vocabulary and the mask."""
    pieces = [(piece, score) for piece, score in trained()["unigrams"]]
    return [*((token, 0.0) for token in first), *pieces, ("<mask>", 0.0)]


def of_unigrams() -> PreTrainedTokenizerBase:
    """Pieces in the order of XLM-RoBERTa's tokenizer.json."""
    vocabulary = unigrams("<s>", "<pad>", "</s>", "<unk>")
    return transformers.XLMRobertaTokenizer(vocab=vocabulary, mask_token=MASK, model_max_length=MAX_LENGTH)


def of_french_unigrams() -> PreTrainedTokenizerBase:
    """Pieces in the order of CamemBERT's: what fairseq put first, then <s> and </s> of SentencePiece."""
    vocabulary = unigrams("<s>NOTUSED", "<pad>", "</s>NOTUSED", "<unk>", "<unk>NOTUSED", "<s>", "</s>")
    return transformers.CamembertTokenizer(vocab=vocabulary, model_max_length=MAX_LENGTH)


# ---- families ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Family:
    """A kind of encoder, and what its released checkpoints say."""

    prefix: str
    """Of its classes."""
    tokenizer: Callable[[], PreTrainedTokenizerBase]
    settings: dict[str, Any] = field(default_factory=dict)


def like_roberta(pad: int, first: int, last: int) -> dict[str, Any]:
    positions = MAX_LENGTH + 2  # rows begin at 2
    ids = {"pad_token_id": pad, "bos_token_id": first, "eos_token_id": last}
    return {"max_position_embeddings": positions, "type_vocab_size": 1, "layer_norm_eps": 1e-5} | ids


FAMILIES = {
    "bert": Family("Bert", of_word_pieces),
    "distilbert": Family("DistilBert", of_word_pieces),
    "electra": Family("Electra", of_word_pieces, {"embedding_size": 32}),
    "electra-small": Family("Electra", of_word_pieces, {"embedding_size": 16}),
    "roberta": Family("Roberta", of_byte_pairs, like_roberta(1, 0, 2)),
    "xlm-roberta": Family("XLMRoberta", of_unigrams, like_roberta(1, 0, 2)),
    "camembert": Family("Camembert", of_french_unigrams, like_roberta(1, 5, 6)),
}


@cache
def tokenizer_of(family: str) -> PreTrainedTokenizerBase:
    """Return the tokenizer of a family, as transformers has it."""
    return FAMILIES[family].tokenizer()


@cache
def encoder_of(family: str) -> dict[str, torch.Tensor]:
    """Return random weights that all classes of a family share."""
    return random_model(family, "Model", {}).state_dict()


@cache
def model_of(family: str, kind: str) -> PreTrainedModel:
    """Return a network with a random head, always the same one."""
    end, changes = KINDS[kind]
    model = random_model(family, end, changes)
    model.base_model.load_state_dict(encoder_of(family), strict=False)  # some classes have no pooler
    if kind != "fill-mask":  # whose last layer is the embedding
        _spread(model, tokenizer_of(family))
    return model


@torch.inference_mode()
def _spread(model: PreTrainedModel, tokenizer: Any) -> None:
    """Shift and scale the last layer, so that texts get different answers: random encoders give similar vectors."""
    found = []
    for text in TEXTS:
        output = model(**tokenizer(text, return_tensors="pt"))
        is_qa = "start_logits" in output
        logits = torch.stack([output.start_logits, output.end_logits], dim=-1) if is_qa else output.logits
        found.append(logits.reshape(-1, logits.shape[-1]))
    logits = torch.cat(found)
    linear = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
    layer = next(module for module in reversed(linear) if module.out_features == logits.shape[-1])
    scale = SPREAD / logits.std(dim=0)
    layer.weight *= scale[:, None]
    layer.bias.copy_((layer.bias - logits.mean(dim=0)) * scale)


def random_model(family: str, end: str, changes: dict[str, Any]) -> PreTrainedModel:
    """Return a network of a class of transformers, by the end of its name; `changes` of its configuration."""
    chosen = FAMILIES[family]
    changes, labels = dict(changes), changes.get("labels", [])
    changes.pop("labels", None)
    names = {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}
    sizes = SIZES | {"vocab_size": len(tokenizer_of(family)), "max_position_embeddings": MAX_LENGTH}
    if family == "distilbert":
        sizes = {DISTIL_NAMES.get(name, name): size for name, size in sizes.items()}
    given = sizes | {"initializer_range": SCALE} | chosen.settings | (names if labels else {}) | changes
    torch.manual_seed(len(labels))
    model: PreTrainedModel = getattr(transformers, chosen.prefix + end)(
        getattr(transformers, f"{chosen.prefix}Config")(**given)
    )
    for parameter in model.parameters():
        if parameter.ndim == 1:  # biases show too
            torch.nn.init.normal_(parameter, 1.0 if parameter.mean() == 1 else 0.0, std=SCALE)
    model.train(False)
    return model


# ---- directories ---------------------------------------------------------------------------------------------------


def write(family: str, kind: str, directory: Path, form: str = "safetensors") -> Path:
    """Write a directory and return it; of a Trainer's folder, return its newest checkpoint."""
    place = directory / "checkpoint-1000" if form == "trainer" else directory
    model_of(family, kind).save_pretrained(place, max_shard_size="40KB" if form == "sharded" else "1GB")
    tokenizer_of(family).save_pretrained(place)
    changes: dict[str, Callable[[str, Path], None]] = {
        "bin": _as_pickle,
        "no-architectures": _without_architectures,
        "tokenizer-file": _tokenizer_file_only,
        "vocabulary": _vocabulary_only,
        "slow": _slow,
        "trainer": _trained,
    }
    if form in changes:
        changes[form](family, place)
    return place


def _as_pickle(family: str, directory: Path) -> None:
    torch.save(load_file(directory / "model.safetensors"), directory / "pytorch_model.bin")
    (directory / "model.safetensors").unlink()


def _without_architectures(family: str, directory: Path) -> None:
    values = json.loads((directory / "config.json").read_text())
    del values["architectures"]
    (directory / "config.json").write_text(json.dumps(values))


def _tokenizer_file_only(family: str, directory: Path) -> None:
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        (directory / name).unlink(missing_ok=True)


def _vocabulary_only(family: str, directory: Path) -> None:
    """Leave what was published in 2019: the entries, and no settings."""
    _tokenizer_file_only(family, directory)
    _write_vocabulary(directory)


def _slow(family: str, directory: Path) -> None:
    """Write what tokenizers in Python, which transformers had up to version 4, saved."""
    specials: dict[str, Any] = dict(tokenizer_of(family).special_tokens_map)
    if specials["mask_token"] == "<mask>":
        flags = {"lstrip": True, "normalized": False, "rstrip": False, "single_word": False}
        specials["mask_token"] = {"__type": "AddedToken", "content": "<mask>", **flags}
    prefix = "Electra" if family.startswith("electra") else FAMILIES[family].prefix
    settings = specials | {"tokenizer_class": f"{prefix}Tokenizer", "model_max_length": MAX_LENGTH}
    if "do_lower_case" in json.loads((directory / "tokenizer_config.json").read_text()):
        settings |= {"do_lower_case": True, "do_basic_tokenize": True, "never_split": None, "strip_accents": None}
    else:
        settings |= {"add_prefix_space": False, "errors": "replace"}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    (directory / "special_tokens_map.json").write_text(json.dumps(specials))
    _write_vocabulary(directory)


def _write_vocabulary(directory: Path) -> None:
    """Write vocab.txt, or vocab.json and merges.txt, in place of tokenizer.json."""
    model = json.loads((directory / "tokenizer.json").read_text())["model"]
    (directory / "tokenizer.json").unlink()
    if model["type"] == "WordPiece":
        entries = sorted(model["vocab"], key=model["vocab"].__getitem__)
        (directory / "vocab.txt").write_text("".join(f"{entry}\n" for entry in entries), "utf8")
        return
    assert model["type"] == "BPE", "Unigram is published as a SentencePiece model, never as plain text"
    (directory / "vocab.json").write_text(json.dumps(model["vocab"], ensure_ascii=False), "utf8")
    merges = "".join(f"{' '.join(pair)}\n" for pair in model["merges"])
    (directory / "merges.txt").write_text(f"#version: 0.2\n{merges}", "utf8")


def _trained(family: str, place: Path) -> None:
    """Add what a Trainer leaves: an older checkpoint, and its own state."""
    shutil.copytree(place, place.parent / "checkpoint-500")
    torch.save({"step": 1000}, place / "optimizer.pt")
    torch.save({"learning_rate": 1e-5}, place / "training_args.bin")
    (place / "trainer_state.json").write_text(json.dumps({"global_step": 1000}))


# ---- cases ---------------------------------------------------------------------------------------------------------

Case = tuple[str, str, str]
"""A family, a kind and a form."""
FORM_FAMILIES = {"vocabulary": ("bert", "distilbert", "electra", "roberta"), "slow": ("bert", "roberta")}
CASES: list[Case] = [(family, kind, "safetensors") for family in FAMILIES for kind in KINDS]
CASES += [
    (family, "classify", form) for form in FORMS[1:] for family in FORM_FAMILIES.get(form, ("bert", "xlm-roberta"))
]
