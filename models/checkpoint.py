"""Reading and writing checkpoints: directories in the layout of Hugging Face, `config.json` + `model.safetensors`.

One head (or the two of pretraining) is written exactly as the BertFor… class of transformers writes it, so that
`from_pretrained` reads ours and we read theirs. Several heads on one encoder stand under `heads.NAME.` beside the
encoder, which `BertModel.from_pretrained` still reads. `heads.json` holds what config.json has no place for.
"""

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, get_args

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn

from models.config import EncoderConfig, read_json
from models.encoder import Encoder
from models.errors import CheckpointError
from models.heads import build_head
from models.task import NSP_LABELS, HeadSpec, TaskName, Trained
from models.tokenizer import Tokenizer
from models.weights import Weights, read_weights, tied


class Head(NamedTuple):
    """A head: what it is, its weights, and what was measured with it."""

    spec: HeadSpec
    module: nn.Module
    metrics: dict[str, Any] = {}


@dataclass
class Checkpoint:
    """An encoder, the heads that read it, and the tokenizer of both."""

    config: EncoderConfig
    encoder: Encoder
    tokenizer: Tokenizer
    heads: dict[str, Head] = field(default_factory=dict)
    fresh: set[str] = field(default_factory=set)
    """Heads that were made with random weights; only known to those who made them."""


class Layout(NamedTuple):
    """How a class of transformers names one head: the head's task, and the name of each of its parts."""

    head: str
    task: TaskName
    names: dict[str, str]


POOLER = {"pooler.": "bert.pooler.dense."}
CLASSIFIER = {"classifier.": "classifier."}
NEXT_SENTENCE = Layout("nsp", "pair", POOLER | {"classifier.": "cls.seq_relationship."})
MASKED_TOKEN = Layout(
    "fill-mask",
    "fill-mask",
    {
        "transform.": "cls.predictions.transform.dense.",
        "norm.": "cls.predictions.transform.LayerNorm.",
        "bias": "cls.predictions.bias",
    },
)
ARCHITECTURES: dict[str, list[Layout]] = {
    "BertModel": [],
    "BertForPreTraining": [MASKED_TOKEN, NEXT_SENTENCE],
    "BertForMaskedLM": [MASKED_TOKEN],
    "BertForNextSentencePrediction": [NEXT_SENTENCE],
    "BertForSequenceClassification": [Layout("classify", "classify", POOLER | CLASSIFIER)],
    "BertForTokenClassification": [Layout("tag", "tag", CLASSIFIER)],
    "BertForQuestionAnswering": [Layout("qa", "qa", {"classifier.": "qa_outputs."})],
}

LAYER_NAMES = {
    "attention_output.": "attention.output.dense.",
    "attention_norm.": "attention.output.LayerNorm.",
    "intermediate.": "intermediate.dense.",
    "output_norm.": "output.LayerNorm.",
    "output.": "output.dense.",
}
EMBEDDING_NAMES = {
    "word.": "word_embeddings.",
    "position.": "position_embeddings.",
    "segment.": "token_type_embeddings.",
    "norm.": "LayerNorm.",
}


def read_checkpoint(directory: Path) -> Checkpoint:
    """Read ours or a directory of transformers; raise CheckpointError naming the file and what is wrong with it."""
    values = read_json(directory / "config.json")
    config = EncoderConfig.from_dict(values, str(directory / "config.json"))
    weights = read_weights(directory)
    tokenizer = Tokenizer.read(directory)
    if tokenizer.vocab_size > config.vocab_size:
        raise CheckpointError(
            f"the tokenizer of {directory} has {tokenizer.vocab_size} entries but the checkpoint has "
            f"{config.vocab_size}; pass the vocabulary it was trained with"
        )
    if MASKED_TOKEN in ARCHITECTURES.get(architecture_in(values), []):
        weights = tied(weights, values.get("tie_word_embeddings") is not False, directory)
    encoder = Encoder(config)
    load(encoder, encoder_weights(weights, config.num_hidden_layers, directory), directory)
    checkpoint = Checkpoint(config, encoder, tokenizer)
    checkpoint.heads = read_heads(directory, values, checkpoint, weights)
    return checkpoint


def write_checkpoint(checkpoint: Checkpoint, directory: Path) -> None:
    """Write `directory` (made if needed), in the layout of transformers where a class of it has these heads."""
    directory.mkdir(parents=True, exist_ok=True)
    architecture = architecture_of(checkpoint.heads)
    layouts = ARCHITECTURES.get(architecture, [])
    weights = transformers_names(checkpoint.encoder)
    for number, (name, head) in enumerate(checkpoint.heads.items()):
        names = layouts[number].names if layouts else {"": f"heads.{name}."}
        weights |= rename(head_weights(head.module), names)
    path = directory / "model.safetensors"
    write_weights({name: tensor.contiguous() for name, tensor in weights.items()}, path)
    labels = next((head.spec.labels for head in checkpoint.heads.values() if head.spec.labels), []) if layouts else []
    config = {"architectures": [architecture]} | checkpoint.config.to_dict() | label_entries(labels)
    write_json(directory / "config.json", config)
    shutil.copymode(directory / "config.json", path)  # the library's 0600 would keep others out
    write_json(directory / "heads.json", {name: head_entry(head) for name, head in checkpoint.heads.items()})
    checkpoint.tokenizer.write(directory, checkpoint.config.max_length)


def architecture_of(heads: dict[str, Head]) -> str:
    """The class of transformers that has exactly these heads in this order, else BertModel (the encoder alone)."""
    tasks = [head.spec.task for head in heads.values()]
    following = [head.spec.labels == NSP_LABELS for head in heads.values()]
    if tasks == ["fill-mask", "pair"] and following[1]:
        return "BertForPreTraining"
    if len(tasks) != 1:
        return "BertModel"
    if following[0]:
        return "BertForNextSentencePrediction"
    return {
        "classify": "BertForSequenceClassification",
        "pair": "BertForSequenceClassification",
        "fill-mask": "BertForMaskedLM",
        "tag": "BertForTokenClassification",
        "qa": "BertForQuestionAnswering",
    }[tasks[0]]


# ---- weights -------------------------------------------------------------------------------------------------------


def write_weights(weights: Weights, path: Path) -> None:
    """Write a file of safetensors; raise CheckpointError where there is no room, or no leave to."""
    try:
        save_file(weights, path, {"format": "pt"})
    except SafetensorError as error:
        raise CheckpointError(f"{path} cannot be written ({error}); free some space, or write elsewhere") from None


def encoder_weights(weights: Weights, layers: int, directory: Path) -> Weights:
    """Take the encoder's weights under our names; query, key and value become one matrix."""
    ours: Weights = {}
    try:
        for name, theirs in EMBEDDING_NAMES.items():
            found = {key: value for key, value in weights.items() if key.startswith(f"bert.embeddings.{theirs}")}
            ours |= {f"embeddings.{name}{key.rsplit('.', 1)[1]}": value for key, value in found.items()}
        for layer in range(layers):
            theirs = f"bert.encoder.layer.{layer}."
            for part in ("weight", "bias"):
                three = [weights[f"{theirs}attention.self.{which}.{part}"] for which in ("query", "key", "value")]
                ours[f"layers.{layer}.query_key_value.{part}"] = torch.cat(three)
                ours |= {f"layers.{layer}.{a}{part}": weights[f"{theirs}{b}{part}"] for a, b in LAYER_NAMES.items()}
    except KeyError as error:
        raise CheckpointError(
            f"{directory} has no weight {error}, expected {layers} layers of BERT; pass a BERT checkpoint"
        ) from None
    return ours


def transformers_names(encoder: Encoder) -> Weights:
    """The encoder's weights as transformers names them, with the prefix of its BertFor… classes."""
    theirs: Weights = {}
    for name, tensor in encoder.state_dict().items():
        if name.startswith("embeddings."):
            theirs |= {f"bert.embeddings.{k}": v for k, v in rename({name[11:]: tensor}, EMBEDDING_NAMES).items()}
            continue
        _, layer, rest = name.split(".", 2)
        base = f"bert.encoder.layer.{layer}."
        if rest.startswith("query_key_value."):
            three = zip(("query", "key", "value"), tensor.chunk(3), strict=True)
            theirs |= {f"{base}attention.self.{which}.{rest[16:]}": part.clone() for which, part in three}
        else:
            theirs |= {f"{base}{k}": v for k, v in rename({rest: tensor}, LAYER_NAMES).items()}
    return theirs


def rename(weights: Weights, names: dict[str, str]) -> Weights:
    """Replace the first prefix of `names` that fits each key."""
    renamed = {}
    for key, tensor in weights.items():
        prefix = next(prefix for prefix in names if key.startswith(prefix))
        renamed[names[prefix] + key.removeprefix(prefix)] = tensor
    return renamed


def head_weights(module: nn.Module) -> Weights:
    """A head's own weights: the tied decoder is the encoder's."""
    return {name: tensor for name, tensor in module.state_dict().items() if not name.startswith("decoder.")}


def load(module: nn.Module, weights: Weights, directory: Path) -> None:
    """Copy weights into a module; raise CheckpointError for a name or shape that does not fit."""
    expected = head_weights(module)
    for name, tensor in expected.items():
        if name not in weights:
            raise CheckpointError(f"{directory} lacks the weight {name}; pass a complete checkpoint")
        if weights[name].shape != tensor.shape:
            raise CheckpointError(
                f"{directory}: {name} has shape {tuple(weights[name].shape)}, expected {tuple(tensor.shape)} by its "
                "config.json; pass the configuration it was trained with"
            )
    module.load_state_dict(weights, strict=False)


# ---- heads ---------------------------------------------------------------------------------------------------------


def read_heads(directory: Path, values: dict[str, Any], checkpoint: Checkpoint, weights: Weights) -> dict[str, Head]:
    """Build and fill the heads of a directory, by heads.json (ours) or by `architectures` (transformers)."""
    entries = read_json(directory / "heads.json") if (directory / "heads.json").exists() else None
    architecture = architecture_in(values)
    if architecture not in ARCHITECTURES:
        raise CheckpointError(
            f"{directory}/config.json: architecture is {architecture}, expected one of {', '.join(ARCHITECTURES)}; "
            "convert the checkpoint first"
        )
    layouts = ARCHITECTURES[architecture]
    if entries is None:
        entries = {layout.head: {"task": layout.task, "labels": labels_of(layout, values)} for layout in layouts}
    heads = {}
    for number, (name, entry) in enumerate(entries.items()):
        names = layouts[number].names if layouts else {"": f"heads.{name}."}
        heads[name] = read_head(entry, names, checkpoint, weights, directory)
    return heads


def architecture_in(values: dict[str, Any]) -> str:
    """The class that a config.json names, BertModel if none."""
    found = values.get("architectures") or ["BertModel"]
    return str(found[0] if isinstance(found, list) else found)


def read_head(
    entry: dict[str, Any], names: dict[str, str], checkpoint: Checkpoint, weights: Weights, directory: Path
) -> Head:
    spec = spec_of(entry, directory)
    module = build_head(spec.task, len(spec.labels), checkpoint.config, checkpoint.encoder.embeddings.word)
    back = {theirs: ours for ours, theirs in names.items()}
    mine = {name: tensor for name, tensor in weights.items() if name.startswith(tuple(back))}
    load(module, rename(mine, back), directory)
    return Head(spec, module, entry.get("metrics", {}))


def spec_of(entry: Any, directory: Path) -> HeadSpec:
    """What an entry of heads.json says; raise CheckpointError for one that says too little."""
    tasks = get_args(TaskName)
    if not isinstance(entry, dict) or entry.get("task") not in tasks or not isinstance(entry.get("labels"), list):
        raise CheckpointError(
            f"{directory}/heads.json has {str(entry)[:80]}, expected labels, and a task of {', '.join(tasks)}; mend it"
        )
    check_labels(entry["labels"], directory)
    temperature = entry.get("temperature", 1.0)
    if not isinstance(temperature, float | int) or not 1e-6 < temperature < 1e6:
        raise CheckpointError(f"{directory}/heads.json has temperature {temperature!r}, expected one about 1; mend it")
    trained = trained_of(entry.get("trained", {}), directory)
    return HeadSpec(entry["task"], entry["labels"], entry.get("defaults", {}), temperature, trained)


def trained_of(entry: Any, directory: Path) -> Trained:
    """What an entry of heads.json says of the rows that the head learned from."""
    try:
        return Trained.model_validate(entry)
    except ValidationError:
        raise CheckpointError(
            f"{directory}/heads.json has trained {str(entry)[:80]}, expected max_length and sentences; mend it"
        ) from None


def check_labels(labels: list[Any], directory: Path) -> None:
    """Raise CheckpointError for labels that no answer can be told apart by."""
    for label in labels:
        if not isinstance(label, str) or not label.strip() or labels.count(label) > 1:
            raise CheckpointError(
                f"{directory} has {label!r} among the labels {labels[:8]}, expected each to be a text of its own; "
                "rename it in config.json or heads.json"
            )


def labels_of(layout: Layout, values: dict[str, Any]) -> list[str]:
    """Labels of a head of transformers, in the order of its logits."""
    if layout.task in ("fill-mask", "qa"):
        return []
    if layout.head == "nsp":
        return NSP_LABELS
    count = values.get("num_labels", 2)
    if not isinstance(count, int) or count < 1:
        raise CheckpointError(f"config.json: num_labels is {count!r}, expected a whole number from 1 on; correct it")
    id2label = values.get("id2label") or {str(i): f"LABEL_{i}" for i in range(count)}
    numbers = [str(number) for number in range(len(id2label))]
    if not isinstance(id2label, dict) or set(map(str, id2label)) != set(numbers):
        raise CheckpointError(
            f"config.json has an id2label of {list(id2label)[:8]}, expected the numbers from 0 on, no gap; correct it"
        )
    return [id2label[number] for number in numbers]


def head_entry(head: Head) -> dict[str, Any]:
    spec = head.spec
    return {
        "task": spec.task,
        "labels": spec.labels,
        "defaults": spec.defaults,
        "temperature": spec.temperature,
        "trained": spec.trained.model_dump(),
        "metrics": head.metrics,
    }


def label_entries(labels: list[str]) -> dict[str, Any]:
    if not labels:
        return {}
    return {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}


def write_json(path: Path, values: object) -> None:
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf8")
