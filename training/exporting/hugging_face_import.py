"""A finetuned directory of Hugging Face becomes a bundle.

    python -m training import HF_DIRECTORY --out BUNDLE [--head NAME] [--task TASK] [--precision …]

What is read, and what is refused, is in training/run/hugging_face.py.
"""

import argparse
from pathlib import Path
from typing import get_args

from models.task import TaskName
from training.exporting.export import add_bundle_arguments, export, options_of, report
from training.run.hugging_face import read_hugging_face


def import_command(arguments: argparse.Namespace) -> None:
    """Import as the command line says."""
    checkpoint = read_hugging_face(arguments.directory, arguments.head, arguments.task)
    report(export(checkpoint, arguments.out, options_of(arguments)))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `import_command` reads."""
    parser.add_argument("directory", type=Path, metavar="HF_DIRECTORY", help="with config.json and weights")
    parser.add_argument("--head", metavar="NAME", help="name of its head; by default that of its task")
    parser.add_argument(
        "--task",
        choices=get_args(TaskName),
        help="classify or pair for a sequence classifier, default classify; any where config.json names no class",
    )
    add_bundle_arguments(parser)
