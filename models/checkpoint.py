"""Reading and writing checkpoints: directories in Hugging Face's layout, with `config.json` and `model.safetensors`.

All families in models/architectures.py can be read. One head (or the two of pretraining) is written exactly like the
BertFor… class of transformers, so `from_pretrained` can read it. Several heads on one encoder, and classifiers with
another activation, are stored under `heads.NAME.` beside the encoder, which `BertModel.from_pretrained` can still read.
An encoder with a projection is written as ELECTRA. `heads.json` holds what does not fit into config.json.
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, get_args

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from models.architectures import (
    BERT,
    ELECTRA,
    EMBEDDINGS,
    NSP_LABELS,
    QUERY_KEY_VALUE,
    Activation,
    Family,
    Layout,
    architecture_in,
    family_of,
    layouts_of,
)
from models.config import EncoderConfig, read_json
from models.encoder import Encoder
from models.errors import CheckpointError
from models.heads import ACTIVATIONS, activation_of, build_head
from models.task import HeadSpec, ProblemType, TaskName, Trained
from models.tokenizer import Tokenizer
from models.weights import Weights, read_weights, tied


class Head(NamedTuple):
    """A head: its specification, its module, and its metrics."""

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
    """Heads with random weights that are not trained yet; set by the code that creates them, not stored."""


def read_checkpoint(directory: Path, task: TaskName | None = None) -> Checkpoint:
    """Read our own checkpoint or one of transformers; raise CheckpointError, which names the file and its fault.

    `task` is the head's task; it is needed if config.json names no class and the weights fit several classes.
    """
    values, origin = read_json(directory / "config.json"), str(directory / "config.json")
    family = family_of(values, origin)
    config = EncoderConfig.from_dict(family.encoder_values(values), origin)
    weights = read_weights(directory, family.prefix)
    tokenizer = Tokenizer.read(directory)
    if tokenizer.vocab_size > config.vocab_size:
        raise CheckpointError(
            f"the tokenizer of {directory} has {tokenizer.vocab_size} entries but the checkpoint has "
            f"{config.vocab_size}; pass the vocabulary it was trained with"
        )
    layouts = layouts_of(architecture_in(values) or family.infer(weights, task, origin), family, origin)
    for layout in layouts:
        if layout.task == "fill-mask":
            is_tied = values.get("tie_word_embeddings") is not False
            weights = tied(weights, family, layout.names["bias"], is_tied, directory)
    encoder = Encoder(config)
    ours = encoder_weights(weights, config.num_hidden_layers, family, directory)
    load(encoder, rows_read(ours, family, family.first_position(values)), directory)
    checkpoint = Checkpoint(config, encoder, tokenizer)
    checkpoint.heads = read_heads(directory, values, layouts, checkpoint, weights)
    return checkpoint


def write_checkpoint(checkpoint: Checkpoint, directory: Path) -> None:
    """Write a checkpoint to `directory` (created if needed), in the layout of the transformers class with these heads.

    If no class has exactly these heads, they are stored under `heads.NAME.`; see above.
    """
    directory.mkdir(parents=True, exist_ok=True)
    family = BERT if checkpoint.config.embedding_width == checkpoint.config.hidden_size else ELECTRA
    architecture = architecture_of(checkpoint.heads, family)
    layouts = family.architectures[architecture]
    weights = transformers_names(checkpoint.encoder, family)
    for number, (name, head) in enumerate(checkpoint.heads.items()):
        names = layouts[number].names if layouts else {"": f"heads.{name}."}
        weights |= rename(head_weights(head.module), names)
    path = directory / "model.safetensors"
    write_weights({name: tensor.contiguous() for name, tensor in weights.items()}, path)
    labels = next((head.spec.labels for head in checkpoint.heads.values() if head.spec.labels), []) if layouts else []
    named = {"architectures": [architecture], "model_type": next(iter(family.models))}
    config = named | checkpoint.config.to_dict() | label_entries(labels)
    for head in checkpoint.heads.values() if len(layouts) == 1 else ():
        config |= problem_entry(head.spec)
    write_json(directory / "config.json", config)
    shutil.copymode(directory / "config.json", path)  # save_file creates it with mode 0600
    write_json(directory / "heads.json", {name: head_entry(head) for name, head in checkpoint.heads.items()})
    checkpoint.tokenizer.write(directory, checkpoint.config.max_length)


def architecture_of(heads: dict[str, Head], family: Family) -> str:
    """Return the transformers class with exactly these heads in this order, otherwise that of the encoder alone."""
    for name, layouts in family.architectures.items():
        if len(layouts) == len(heads) and all(map(is_laid_out, heads.values(), layouts)):
            return name
    return next(name for name, layouts in family.architectures.items() if not layouts)


def is_laid_out(head: Head, layout: Layout) -> bool:
    """Whether a transformers class with this layout computes the same as the head."""
    is_nsp = head.spec.task == "pair" and head.spec.labels == NSP_LABELS
    same = activation_of(head.module) in (None, layout.activation)
    return layout.reads(head.spec.task) and (layout.head == "nsp") == is_nsp and same


# ---- weights -------------------------------------------------------------------------------------------------------


def write_weights(weights: Weights, path: Path) -> None:
    """Write a safetensors file; raise CheckpointError if it cannot be written."""
    try:
        save_file(weights, path, {"format": "pt"})
    except SafetensorError as error:
        raise CheckpointError(f"{path} cannot be written ({error}); free some space, or write elsewhere") from None


def encoder_weights(weights: Weights, layers: int, family: Family, directory: Path) -> Weights:
    """Return the encoder's weights under our names; query, key and value become one matrix."""
    ours: Weights = {}
    try:
        for name, theirs in EMBEDDINGS.items():
            start = f"{family.prefix}{theirs}"
            found = {key: value for key, value in weights.items() if key.startswith(start)}
            ours |= {f"embeddings.{name}{key.removeprefix(start)}": value for key, value in found.items()}
        for layer in range(layers):
            start = f"{family.prefix}{family.layers}{layer}."
            for part in ("weight", "bias"):
                of_layer = {name: weights[f"{start}{theirs}{part}"] for name, theirs in family.layer.items()}
                three = [of_layer.pop(name) for name in QUERY_KEY_VALUE]
                ours[f"layers.{layer}.query_key_value.{part}"] = torch.cat(three)
                ours |= {f"layers.{layer}.{name}{part}": tensor for name, tensor in of_layer.items()}
    except KeyError as error:
        raise CheckpointError(
            f"{directory} has no weight {error}, expected {layers} layers of {family.name}; pass a complete checkpoint"
        ) from None
    return ours


def rows_read(weights: Weights, family: Family, first: int) -> Weights:
    """Keep the positions from row `first` on, and the segments that the family uses, as a table of two rows."""
    position = weights.get("embeddings.position.weight")
    if position is None:
        return weights  # `load` reports the missing weight
    read = weights | {"embeddings.position.weight": position[first:]}
    if family.segments == "none":
        read["embeddings.segment.weight"] = torch.zeros(2, position.shape[1])
    elif family.segments == "first" and "embeddings.segment.weight" in read:
        read["embeddings.segment.weight"] = read["embeddings.segment.weight"][:1].repeat(2, 1)
    return read


def transformers_names(encoder: Encoder, family: Family) -> Weights:
    """Return the encoder's weights under a family's names, with its prefix."""
    theirs: Weights = {}
    for name, tensor in encoder.state_dict().items():
        if name.startswith("embeddings."):
            found, start = rename({name.removeprefix("embeddings."): tensor}, EMBEDDINGS), family.prefix
        else:
            _, layer, rest = name.split(".", 2)
            found, start = rename(separate(rest, tensor), family.layer), f"{family.prefix}{family.layers}{layer}."
        theirs |= {f"{start}{key}": value for key, value in found.items()}
    return theirs


def separate(name: str, tensor: Tensor) -> Weights:
    """Split the matrix of query, key and value; return any other weight of a layer unchanged."""
    if not name.startswith("query_key_value."):
        return {name: tensor}
    part = name.removeprefix("query_key_value.")
    return {f"{which}{part}": third.clone() for which, third in zip(QUERY_KEY_VALUE, tensor.chunk(3), strict=True)}


def rename(weights: Weights, names: dict[str, str]) -> Weights:
    """Replace the prefix of each key by the first match in `names`."""
    renamed = {}
    for key, tensor in weights.items():
        prefix = next(prefix for prefix in names if key.startswith(prefix))
        renamed[names[prefix] + key.removeprefix(prefix)] = tensor
    return renamed


def head_weights(module: nn.Module) -> Weights:
    """Return a head's own weights, without the tied decoder, which belongs to the encoder."""
    return {name: tensor for name, tensor in module.state_dict().items() if not name.startswith("decoder.")}


def load(module: nn.Module, weights: Weights, directory: Path) -> None:
    """Copy weights into a module; raise CheckpointError for a missing name or a wrong shape."""
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


def read_heads(
    directory: Path, values: dict[str, Any], layouts: Sequence[Layout], checkpoint: Checkpoint, weights: Weights
) -> dict[str, Head]:
    """Build the heads of a directory and load their weights, by heads.json if there is one, otherwise by `layouts`."""
    entries = read_json(directory / "heads.json") if (directory / "heads.json").exists() else None
    if entries is None:
        entries = {layout.head: entry_of(layout, values) for layout in layouts}
    heads = {}
    for number, (name, entry) in enumerate(entries.items()):
        names = layouts[number].names if layouts else {"": f"heads.{name}."}
        heads[name] = read_head(entry, names, checkpoint, weights, directory)
    return heads


def entry_of(layout: Layout, values: dict[str, Any]) -> dict[str, Any]:
    """Return the entry of heads.json for a head of transformers."""
    return {"task": layout.task, "labels": labels_of(layout, values), "activation": layout.activation}


def read_head(
    entry: dict[str, Any], names: dict[str, str], checkpoint: Checkpoint, weights: Weights, directory: Path
) -> Head:
    spec = spec_of(entry, directory)
    embedding, activation = checkpoint.encoder.embeddings.word, read_activation(entry, directory)
    module = build_head(spec.task, len(spec.labels), checkpoint.config, embedding, activation)
    back = {theirs: ours for ours, theirs in names.items()}
    mine = {name: tensor for name, tensor in weights.items() if name.startswith(tuple(back))}
    load(module, rename(mine, back), directory)
    return Head(spec, module, entry.get("metrics", {}))


def read_activation(entry: dict[str, Any], directory: Path) -> Activation:
    """Return the activation in an entry of heads.json (default: tanh); raise CheckpointError for an unknown one."""
    for activation in ACTIVATIONS:
        if entry.get("activation", "tanh") == activation:
            return activation
    raise CheckpointError(
        f"{directory}/heads.json has activation {entry['activation']!r}, expected one of {', '.join(ACTIVATIONS)}; "
        "correct it"
    )


def spec_of(entry: Any, directory: Path) -> HeadSpec:
    """Return the specification in an entry of heads.json; raise CheckpointError if it is incomplete or wrong."""
    tasks = get_args(TaskName)
    if not isinstance(entry, dict) or entry.get("task") not in tasks or not isinstance(entry.get("labels"), list):
        raise CheckpointError(
            f"{directory}/heads.json has {str(entry)[:80]}, expected labels, and a task of {', '.join(tasks)}; fix it"
        )
    check_labels(entry["labels"], directory)
    temperature = entry.get("temperature", 1.0)
    if not isinstance(temperature, float | int) or not 1e-6 < temperature < 1e6:
        raise CheckpointError(f"{directory}/heads.json has temperature {temperature!r}, expected one near 1; fix it")
    trained = trained_of(entry.get("trained", {}), directory)
    problem = problem_of(entry, directory)
    return HeadSpec(entry["task"], entry["labels"], entry.get("defaults", {}), temperature, trained, problem)


def problem_of(entry: dict[str, Any], directory: Path) -> ProblemType:
    """Return the problem_type in an entry of heads.json; raise CheckpointError for an unknown one."""
    found = entry.get("problem_type", "single_label_classification")
    known: tuple[ProblemType, ...] = get_args(ProblemType)
    if found not in known:
        raise CheckpointError(
            f"{directory}/heads.json has problem_type {found!r}, expected one of {', '.join(known)}; correct it"
        )
    return known[known.index(found)]


def trained_of(entry: Any, directory: Path) -> Trained:
    """Return what an entry of heads.json says about the training rows; raise CheckpointError if it is invalid."""
    try:
        return Trained.model_validate(entry)
    except ValidationError:
        raise CheckpointError(
            f"{directory}/heads.json has trained {str(entry)[:80]}, expected max_length and sentences; fix it"
        ) from None


def check_labels(labels: list[Any], directory: Path) -> None:
    """Raise CheckpointError for labels that are not distinct, non-blank texts."""
    for label in labels:
        if not isinstance(label, str) or not label.strip() or labels.count(label) > 1:
            raise CheckpointError(
                f"{directory} has {label!r} among the labels {labels[:8]}, expected each to be a text of its own; "
                "rename it in config.json or heads.json"
            )


def labels_of(layout: Layout, values: dict[str, Any]) -> list[str]:
    """Return the labels of a head of transformers, in the order of its logits."""
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
    spec, activation = head.spec, activation_of(head.module)
    return {
        "task": spec.task,
        "labels": spec.labels,
        "defaults": spec.defaults,
        "temperature": spec.temperature,
        "trained": spec.trained.model_dump(),
        "problem_type": spec.problem_type,
        "metrics": head.metrics,
        **({"activation": activation} if activation else {}),
    }


def problem_entry(spec: HeadSpec) -> dict[str, Any]:
    """Return the problem_type for config.json; it is left out for single_label_classification, the default."""
    return {} if spec.problem_type == "single_label_classification" else {"problem_type": spec.problem_type}


def label_entries(labels: list[str]) -> dict[str, Any]:
    if not labels:
        return {}
    return {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}


def write_json(path: Path, values: object) -> None:
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf8")
