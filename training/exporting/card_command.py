"""Write the model card of a bundle again: nothing is measured, and no other file but bundle.json changes.

    python -m training card BUNDLE [--card FILE]

Use it for a changed text, or after an update of this program.
"""

import argparse
import json
import shlex
import shutil
import sys
from pathlib import Path

from models.bundle import Bundle, read_bundle, seal, staged
from models.manifest import CARD, PARITY
from training.errors import ExportError
from training.exporting.model_card import model_card, said_in


def rewrite_card(directory: Path, card: Path | None = None) -> Bundle:
    """Write README.md from the bundle's figures, and from `card`; by default its text stays.

    Raise ExportError for a `card` that does not exist, and BundleError for a damaged bundle.
    """
    if card and not card.is_file():
        raise ExportError(f"{card} does not exist, expected the text of a model card; correct --card")
    manifest = read_bundle(directory).manifest
    figures = json.loads((directory / PARITY).read_text(encoding="utf8"))
    text = said_in(card or directory / CARD)
    with staged(directory, replace=True) as staging:
        shutil.copytree(directory, staging, dirs_exist_ok=True)
        (staging / CARD).write_text(model_card(manifest, figures, staging, text), encoding="utf8")
        seal(staging, manifest)
    return read_bundle(directory)


# ---- command line ----------------------------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `card_command` reads."""
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="directory with bundle.json")
    parser.add_argument("--card", type=Path, metavar="FILE", help="text above the figures; default: that of README.md")


def card_command(arguments: argparse.Namespace) -> None:
    """Write the card as the command line says."""
    bundle = rewrite_card(arguments.bundle, arguments.card)
    again = shlex.join(["python", "-m", "training", "parity", str(bundle.directory)])
    place = bundle.directory / CARD
    sys.stdout.write(f"{place}: written from the figures of {PARITY}; to measure them again: {again}\n")
