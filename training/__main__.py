"""The commands of training: `python -m training VERB`, also `bertheads-train VERB`.

corpus → pretrain → finetune → evaluate → export, or import for a finetuned directory of Hugging Face; vocab before all
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from models.errors import BertheadsError
from training import evaluate, export, importing
from training.corpus import Corpus
from training.corpus_builder import build_corpus
from training.finetune import FinetuneRecipe, finetune
from training.memory import keep_pages
from training.pairs import random_share
from training.pretrain import PretrainRecipe, pretrain
from training.recipe import read_recipe
from training.vocabulary import train_vocabulary

FILES_HELP = (
    'JSON lines with {"text"}, a document a line; .txt with a blank line between documents; both also as .xz .gz .zst; '
    '.parquet with a column "text"'
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a verb; exit with status 1 and one sentence where it cannot."""
    namespace = build_parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], None] = namespace.command
    try:
        command(namespace)
    except BertheadsError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(1)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; the same command goes on from the last checkpoint\n")
        sys.exit(130)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training", description="From raw text and labels to a bundle.")
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    add_corpus(verbs.add_parser("corpus", help="documents → sentences → tokenised corpus"))
    add_vocab(verbs.add_parser("vocab", help="a WordPiece vocabulary of your text"))
    add_recipe_verb(verbs.add_parser("pretrain", help="masked tokens and next sentences on a corpus"), pretrain_command)
    add_recipe_verb(verbs.add_parser("finetune", help="heads on an encoder"), finetune_command)
    others = (
        ("evaluate", evaluate.add_arguments, evaluate.evaluate_command, "measure a head"),
        ("export", export.add_arguments, export.export_command, "checkpoint → bundle"),
        ("import", importing.add_arguments, importing.import_command, "finetuned Hugging Face directory → bundle"),
    )
    for name, add_arguments, command, help_text in others:
        verb = verbs.add_parser(name, help=help_text)
        add_arguments(verb)
        verb.set_defaults(command=command)
    return parser


def add_corpus(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("files", nargs="+", type=Path, metavar="FILE", help=FILES_HELP)
    add("--tokenizer", type=Path, required=True, metavar="DIR", help="directory with tokenizer.json or vocab.txt")
    add("--out", type=Path, required=True, metavar="CORPUS", help="directory to write")
    add("--held-out", type=float, default=0.01, metavar="SHARE", help="of the documents, for evaluation; default 0.01")
    add("--limit", type=int, metavar="N", help="only the first N documents of each file")
    add("--language", default="en", metavar="CODE", help="whose rules end sentences, ISO 639-1; default en")
    add("--workers", type=int, default=os.cpu_count() or 1, metavar="N", help="processes; by default one a core")
    parser.set_defaults(command=corpus_command)


def add_vocab(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("files", nargs="+", type=Path, metavar="FILE", help=FILES_HELP)
    add("--out", type=Path, required=True, metavar="DIR", help="directory to write")
    add("--size", type=int, default=30_000, metavar="N", help="entries at most; default 30000")
    add("--cased", action="store_true", help="keep capitals and accents")
    parser.set_defaults(command=vocab_command)


def add_recipe_verb(parser: argparse.ArgumentParser, command: Callable[[argparse.Namespace], None]) -> None:
    parser.add_argument("recipe", type=Path, metavar="RECIPE.toml", help="such as those in training/recipes/")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the run; the same again resumes it")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a key of the recipe")
    parser.set_defaults(command=command)


def corpus_command(namespace: argparse.Namespace) -> None:
    counts = build_corpus(
        namespace.files,
        namespace.tokenizer,
        namespace.out,
        held_out=namespace.held_out,
        limit=namespace.limit,
        workers=namespace.workers,
        language=namespace.language,
    )
    for part, count in counts.items():
        unknown = count.unknown / max(1, count.tokens)
        single = count.single / max(1, count.documents)
        sys.stdout.write(
            f"{part}: {count.documents:,} documents, {count.sentences:,} sentences, {count.tokens:,} tokens, "
            f"{unknown:.2%} unknown, {single:.1%} of the documents have one sentence\n"
        )
    share = random_share(Corpus(namespace.out), max_length=128, documents=1000)
    sys.stdout.write(f"next sentences: {share:.1%} random, {1 - share:.1%} true\n")


def vocab_command(namespace: argparse.Namespace) -> None:
    tokenizer = train_vocabulary(namespace.files, namespace.out, namespace.size, not namespace.cased)
    sys.stdout.write(f"{namespace.out}: {tokenizer.vocab_size:,} entries\n")


def pretrain_command(namespace: argparse.Namespace) -> None:
    keep_pages()
    pretrain(read_recipe(PretrainRecipe, namespace.recipe, namespace.set), namespace.out)


def finetune_command(namespace: argparse.Namespace) -> None:
    keep_pages()
    finetune(read_recipe(FinetuneRecipe, namespace.recipe, namespace.set), namespace.out)


if __name__ == "__main__":
    main()
