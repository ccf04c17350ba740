"""Turns a finetuned Hugging Face directory into a bundle.

    python -m training import HF_DIRECTORY --out BUNDLE [--head NAME] [--task TASK] [--precision …]

training/run/hugging_face.py says what is read and what is refused.
"""

import argparse
import re
from pathlib import Path
from typing import get_args

from models.checkpoint import Checkpoint
from models.task import TaskName
from training.exporting.export import add_bundle_arguments, export, options_of, report
from training.run.hugging_face import read_hugging_face

DEFAULT_NAME = "head"
"""Name of a head whose directory has no letter or digit in its name."""
MAX_NAME = 50
"""Maximum characters from a directory's name; the name of a head has at most 64."""


def import_command(arguments: argparse.Namespace) -> None:
    """Import as the command line says."""
    checkpoint = read_hugging_face(arguments.directory, arguments.head, arguments.task)
    if not arguments.head:
        name_after(checkpoint, arguments.directory)
    report(export(checkpoint, arguments.out, options_of(arguments)))


def name_after(checkpoint: Checkpoint, directory: Path) -> None:
    """Name the head of a checkpoint after its directory; several heads get it as a prefix."""
    name, several = head_name(directory), len(checkpoint.heads) > 1
    checkpoint.heads = {f"{name}-{key}" if several else name: head for key, head in checkpoint.heads.items()}


def head_name(directory: Path) -> str:
    """Return the name of a directory in the form of a head's name.

    checkpoint-500 gets the name of its Trainer's folder; a snapshot in the hub's cache, the name of its repository.
    """
    path = directory.resolve()
    if re.fullmatch(r"checkpoint-\d+", path.name):
        path = path.parent
    elif path.parent.name == "snapshots":
        path = path.parents[1]
    words = re.findall(r"[A-Za-z0-9._-]+", path.name.rpartition("--")[2])
    return "-".join(words).lstrip("._-")[:MAX_NAME] or DEFAULT_NAME


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `import_command` reads."""
    parser.add_argument("directory", type=Path, metavar="HF_DIRECTORY", help="directory with config.json and weights")
    parser.add_argument("--head", metavar="NAME", help="name of its head; default: the name of the directory")
    parser.add_argument(
        "--task",
        choices=get_args(TaskName),
        help="classify or pair for a sequence classifier (default: classify); any if config.json names no class",
    )
    add_bundle_arguments(parser)
