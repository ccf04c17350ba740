"""Reads a finetuned Hugging Face directory; its heads answer exactly as transformers' pipelines do, or it is refused.

`architectures` in config.json names the heads; without it, the names of the weights do. The families of
models/architectures.py are read in their ForSequenceClassification, ForTokenClassification, ForQuestionAnswering and
ForMaskedLM. BERT is also read in ForPreTraining (fill-mask and nsp) and ForNextSentencePrediction.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from models.architectures import SEQUENCE_TASKS, architecture_in, family_of, layouts_of
from models.checkpoint import Checkpoint, Head, read_checkpoint
from models.config import read_json
from models.errors import CheckpointError
from models.task import TaskName
from models.tokenizer_files import SETTINGS, TokenizerFiles
from training.run.classifier_config import classifier_spec, is_cross_encoder
from training.run.model_directory import check_directory
from training.run.progress import tell

HEADS = "heads.json"
"""Only our own checkpoints have this file."""
MIN_LENGTH = 8  # tokens per row of a bundle

Values = dict[str, Any]


def read_any(directory: Path) -> Checkpoint:
    """Read one of our own checkpoints, or a finetuned directory of Hugging Face."""
    return read_checkpoint(directory) if (directory / HEADS).exists() else read_hugging_face(directory)


def read_hugging_face(directory: Path, head: str | None = None, task: TaskName | None = None) -> Checkpoint:
    """Read a finetuned directory; `head` renames its only head, `task` says what the head is for.

    A sequence classifier may read pairs: a CrossEncoder of sentence-transformers does, unless `task` says otherwise.
    If config.json names no class, the weights may fit several. Decisions are printed. Raise CheckpointError for an
    unsupported class, and for a model that would answer differently from transformers.
    """
    check_directory(directory)
    values = read_json(directory / "config.json")
    _check_architecture(directory, values)
    checkpoint = read_checkpoint(directory, task)
    if not checkpoint.heads:
        raise _no_head(directory, "the weights are of an encoder without a head")
    for note in checkpoint.tokenizer.notes:
        tell(note)
    if not (directory / HEADS).exists():
        _as_transformers(checkpoint, directory, values)
        if task is None and "classify" in checkpoint.heads and is_cross_encoder(values):
            tell(f"{directory} is a CrossEncoder, so its head reads pairs; --task classify overrides that")
            task = "pair"
    checkpoint.heads = {name: _as_asked(directory, found, task) for name, found in checkpoint.heads.items()}
    _check_segments(checkpoint, directory, values)
    if head:
        checkpoint.heads = {head: _only(checkpoint, directory)}
    return checkpoint


def _check_architecture(directory: Path, values: Values) -> None:
    """Refuse an unsupported class before its weights are read."""
    origin, named = str(directory / "config.json"), architecture_in(values)
    family = family_of(values, origin)
    if named and not layouts_of(named, family, origin) and not (directory / HEADS).exists():
        raise _no_head(directory, f"architecture is {named}, an encoder without a head")


def _no_head(directory: Path, found: str) -> CheckpointError:
    return CheckpointError(
        f"{directory / 'config.json'}: {found}, expected a class with a head; finetune one first, with "
        f"base = {str(directory)!r}"
    )


def _as_transformers(checkpoint: Checkpoint, directory: Path, values: Values) -> None:
    """Give heads the defaults of transformers' pipelines, and rows the maximum length of its tokenizer."""
    files = TokenizerFiles(directory)
    for name, head in checkpoint.heads.items():
        defaults = _defaults(name, files)
        spec = replace(head.spec, defaults=head.spec.defaults | defaults)
        checkpoint.heads[name] = head._replace(spec=classifier_spec(spec, values, directory / "config.json"))
    positions = checkpoint.config.max_position_embeddings
    length = min(files.max_length or positions, positions)
    if length < MIN_LENGTH:
        raise CheckpointError(
            f"{directory} has rows of {length} tokens by max_position_embeddings and model_max_length, expected "
            f"{MIN_LENGTH} or more; set them as in training"
        )
    if length < positions:
        _shorten(checkpoint, length, directory)


def _defaults(name: str, files: TokenizerFiles) -> Values:
    """Return the default parameters of a head, by the name of its layout."""
    if name == "tag":
        return {"pieces": "all"}  # transformers' pipeline reads every piece of a word
    left = name in ("classify", "nsp") and files.settings.get("truncation_side") == "left"
    return {"truncation": "left"} if left else {}


def _shorten(checkpoint: Checkpoint, length: int, directory: Path) -> None:
    """Drop the positions from `length` on, because no row of transformers is that long."""
    tell(
        f"{directory / SETTINGS} has model_max_length = {length}, so rows have at most {length} tokens; "
        f"the model has {checkpoint.config.max_position_embeddings} positions"
    )
    checkpoint.config = replace(checkpoint.config, max_position_embeddings=length)
    encoder = checkpoint.encoder
    encoder.config = checkpoint.config
    kept = encoder.embeddings.position.weight[:length]
    encoder.embeddings.position = nn.Embedding(*kept.shape)
    encoder.embeddings.position.load_state_dict({"weight": kept})


def _check_segments(checkpoint: Checkpoint, directory: Path, values: Values) -> None:
    pairs = [name for name, head in checkpoint.heads.items() if head.spec.task == "pair"]
    if pairs and family_of(values, str(directory)).segments == "all" and not TokenizerFiles(directory).has_segments:
        raise CheckpointError(
            f"{directory / SETTINGS}: model_input_names has no token_type_ids, expected them for the head {pairs[0]}, "
            "which reads pairs; add them if it was trained with them"
        )


def _as_asked(directory: Path, head: Head, task: TaskName | None) -> Head:
    spec = head.spec
    if task not in (None, spec.task) and not {task, spec.task} <= set(SEQUENCE_TASKS):
        raise CheckpointError(
            f"{directory} holds a {spec.task} head, expected a sequence classifier for --task; leave --task out"
        )
    return head._replace(spec=replace(spec, task=task or spec.task))


def _only(checkpoint: Checkpoint, directory: Path) -> Head:
    if len(checkpoint.heads) > 1:
        raise CheckpointError(
            f"{directory} has the heads {', '.join(checkpoint.heads)}, expected one to rename; leave --head out"
        )
    return next(iter(checkpoint.heads.values()))
