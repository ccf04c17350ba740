"""A finetuned directory of Hugging Face becomes a bundle.

    python -m training import HF_DIRECTORY --out BUNDLE [--head NAME] [--task classify|pair] [--precision …]

Which heads there are follows from `architectures` in config.json: BertForSequenceClassification, BertForMaskedLM,
BertForPreTraining (fill-mask and nsp), BertForNextSentencePrediction, BertForQuestionAnswering and
BertForTokenClassification. Weights are read from safetensors only: a .bin file is a pickle, which may run code.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Literal

from models.checkpoint import ARCHITECTURES, Checkpoint, Head, read_checkpoint
from models.config import read_json
from models.errors import CheckpointError
from training.export import add_bundle_arguments, export, options_of, report

SEQUENCE_TASKS: tuple[Literal["classify", "pair"], ...] = ("classify", "pair")


def read_hugging_face(
    directory: Path, head: str | None = None, task: Literal["classify", "pair"] | None = None
) -> Checkpoint:
    """Read a finetuned directory; `head` renames its only head, `task` says that its classifier reads pairs.

    Raise CheckpointError for what is not one of the supported classes, or lacks safetensors.
    """
    values = read_json(directory / "config.json")
    _check_architecture(directory, values.get("architectures") or [])
    _check_weights(directory)
    checkpoint = read_checkpoint(directory)
    for name, found in list(checkpoint.heads.items()):
        checkpoint.heads[name] = _as_asked(directory, found, task, str(values.get("problem_type")))
    if head:
        checkpoint.heads = {head: _only(checkpoint, directory)}
    return checkpoint


def import_command(arguments: argparse.Namespace) -> None:
    """Import as the command line says."""
    checkpoint = read_hugging_face(arguments.directory, arguments.head, arguments.task)
    report(export(checkpoint, arguments.out, options_of(arguments)))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `import_command` reads."""
    parser.add_argument("directory", type=Path, metavar="HF_DIRECTORY", help="with config.json and model.safetensors")
    parser.add_argument("--head", metavar="NAME", help="name of its head; by default that of its task")
    parser.add_argument("--task", choices=SEQUENCE_TASKS, help="what a sequence classifier reads; default classify")
    add_bundle_arguments(parser)


def _check_architecture(directory: Path, found: list[str]) -> None:
    supported = [name for name, layouts in ARCHITECTURES.items() if layouts]
    if not found or found[0] not in supported:
        raise CheckpointError(
            f"{directory / 'config.json'}: architectures is {found}, expected one of {', '.join(supported)}; "
            "finetune a head first, or convert the checkpoint to one of these"
        )


def _check_weights(directory: Path) -> None:
    names = [path.name for path in directory.iterdir()]
    if any(name.startswith("model") and name.endswith(".safetensors") for name in names):
        return
    if any(name.endswith(".bin") for name in names):
        raise CheckpointError(
            f"{directory} has its weights as a pickle (.bin), which may run code, expected model.safetensors; load it "
            "where you trust it, and save it with transformers' save_pretrained"
        )
    raise CheckpointError(f"{directory} has no model.safetensors; pass a directory written by save_pretrained")


def _as_asked(directory: Path, head: Head, task: Literal["classify", "pair"] | None, problem: str) -> Head:
    spec = head.spec
    if spec.task in SEQUENCE_TASKS and len(spec.labels) < 2:
        raise CheckpointError(
            f"{directory / 'config.json'} has {len(spec.labels)} label, which is a regression, expected at least two; "
            "finetune it as a classifier"
        )
    if problem == "regression":
        raise CheckpointError(
            f"{directory / 'config.json'} has problem_type regression, expected a classification; finetune a classifier"
        )
    if problem == "multi_label_classification":
        spec = replace(spec, defaults=spec.defaults | {"function_to_apply": "sigmoid"})
    if spec.task == "tag" and not (directory / "heads.json").exists():
        # transformers' pipeline reads every piece; heads trained here learn from the first of each word alone
        spec = replace(spec, defaults=spec.defaults | {"pieces": "all"})
    if task and spec.task not in SEQUENCE_TASKS:
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
