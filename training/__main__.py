"""The commands of training: `python -m training VERB`, also `bertheads-train VERB`.

head       begin here: labelled data → a bundle that can be served
import     a finetuned directory of Hugging Face → a bundle; verify compares its answers with those of transformers
evaluate   what a head is worth on other data; label has it label text
score      files of any size → answers in Parquet or JSON lines; also bertheads-score

The parts of `head` one by one: finetune → export; parity measures a bundle again. An encoder of your own text comes
before them: vocab → corpus → pretrain.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path

from models.cgroup import usable_cores
from models.command_line import Parser
from training.errors import DataError
from training.pretraining.next_sentence import random_share
from training.run.allocator import keep_pages
from training.run.exit_status import run_command
from training.run.recipe import read_recipe
from training.text.alphabet import removals
from training.text.corpus import Corpus
from training.text.corpus_builder import build_corpus
from training.text.data_files import add_data_options
from training.text.documents import Reading
from training.text.file_formats import TEXT_KNOWN
from training.text.vocabulary import train_vocabulary

FILES_HELP = (
    f"records with a text, or .txt with a blank line between documents ({TEXT_KNOWN}); folders of them; "
    "- for standard input"
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a verb; exit with status 1 and one sentence where it cannot."""
    words = sys.argv[1:] if arguments is None else arguments
    run_command(lambda: build_parser(words[0] if words else ""), words)


def build_parser(verb: str | None = None) -> argparse.ArgumentParser:
    """The parser of all verbs; or of one, and of the others only the names, since their imports take seconds."""
    parser = Parser(prog="python -m training", description="From raw text and labels to a bundle.")
    parser.add_version()
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    for name, (add_arguments, help_text) in VERBS.items():
        of_verb = verbs.add_parser(name, help=help_text)
        if verb in (None, name):
            add_arguments(of_verb)
    return parser


def add_corpus(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("files", nargs="+", type=Path, metavar="FILE", help=FILES_HELP)
    add("--tokenizer", type=Path, required=True, metavar="DIR", help="directory with tokenizer.json or vocab.txt")
    add("--out", type=Path, required=True, metavar="CORPUS", help="directory to write")
    add("--held-out", type=float, default=0.01, metavar="SHARE", help="of the documents, for evaluation; default 0.01")
    add("--limit", type=int, metavar="N", help="only the first N documents of each file")
    add_reading(parser)
    add("--language", default="en", metavar="CODE", help="whose rules end sentences, ISO 639-1; default en")
    add("--no-nsp", action="store_true", help="take documents of one sentence, for pretraining with nsp = false")
    add("--workers", type=int, default=usable_cores(), metavar="N", help="processes; by default one per core")
    parser.set_defaults(command=corpus_command)


def add_vocab(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("files", nargs="+", type=Path, metavar="FILE", help=FILES_HELP)
    add("--out", type=Path, required=True, metavar="DIR", help="directory to write")
    add_reading(parser)
    add("--size", type=int, default=30_000, metavar="N", help="entries at most; default 30000")
    add("--lowercase", action="store_true", help="make capitals small; by default they stay")
    add(
        "--strip-accents",
        action="store_true",
        help="remove the marks of letters (é → e, です → てす, ї → і); by default they stay",
    )
    add("--cased", action="store_true", help="keep capitals and accents, which is the default")
    parser.set_defaults(command=vocab_command)


def add_reading(parser: argparse.ArgumentParser) -> None:
    add_data_options(parser)
    parser.add_argument("--one-per-line", action="store_true", help="of .txt: each line is a document")


def add_pretrain(parser: argparse.ArgumentParser) -> None:
    add_recipe(parser)
    parser.set_defaults(command=pretrain_command)


def add_finetune(parser: argparse.ArgumentParser) -> None:
    add_recipe(parser)
    parser.set_defaults(command=finetune_command)


def add_recipe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", type=Path, metavar="RECIPE.toml", help="such as those in training/recipes/")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the run; the same again resumes it")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a key of the recipe")


def of_module(name: str, command: str) -> Callable[[argparse.ArgumentParser], None]:
    """What adds the arguments of a verb whose module is imported once it is asked for, since torch takes seconds."""

    def add(parser: argparse.ArgumentParser) -> None:
        module = import_module(f"training.{name}")
        module.add_arguments(parser)
        parser.set_defaults(command=getattr(module, command))

    return add


VERBS: dict[str, tuple[Callable[[argparse.ArgumentParser], None], str]] = {
    "head": (of_module("head.command", "head_command"), "begin here: labelled data → a bundle that can be served"),
    "import": (
        of_module("exporting.hugging_face_import", "import_command"),
        "finetuned Hugging Face directory → bundle",
    ),
    "verify": (of_module("exporting.verify", "verify_command"), "compare a bundle with transformers"),
    "evaluate": (of_module("evaluation.evaluate_command", "evaluate_command"), "measure a head"),
    "label": (of_module("evaluation.labelling", "label_command"), "text → training data, by heads that exist"),
    "score": (of_module("scoring.command", "score_command"), "files of any size → answers, by a bundle"),
    "finetune": (add_finetune, "heads on an encoder, by a recipe"),
    "export": (of_module("exporting.export", "export_command"), "checkpoint → bundle"),
    "parity": (of_module("exporting.remeasure", "parity_command"), "measure a bundle against PyTorch again"),
    "card": (of_module("exporting.card_command", "card_command"), "write the model card of a bundle again"),
    "vocab": (add_vocab, "a WordPiece vocabulary of your text"),
    "corpus": (add_corpus, "documents → sentences → tokenised corpus"),
    "pretrain": (add_pretrain, "masked tokens and next sentences on a corpus"),
}
"""In the order in which newcomers need them."""


def corpus_command(namespace: argparse.Namespace) -> None:
    counts = build_corpus(
        namespace.files,
        namespace.tokenizer,
        namespace.out,
        held_out=namespace.held_out,
        limit=namespace.limit,
        workers=namespace.workers,
        language=namespace.language,
        nsp=not namespace.no_nsp,
        reading=reading_of(namespace),
    )
    for part, count in counts.items():
        single = count.single / max(1, count.documents)
        sys.stdout.write(
            f"{part}: {count.documents:,} documents, {count.sentences:,} sentences, {count.tokens:,} tokens, "
            f"{count.unknown_share:.2%} of the tokens and {count.unknown_character_share:.2%} of the characters "
            f"unknown, {single:.1%} of the documents have one sentence\n"
        )
        if count.duplicates:
            share = count.duplicates / count.documents
            sys.stdout.write(f"{part}: {count.duplicates:,} documents ({share:.1%}) repeat an earlier one, and stay\n")
    if repeated := counts["validation"].repeated:
        sys.stdout.write(f"validation: {repeated:,} more were removed, because the training part has them too\n")
    if namespace.no_nsp:
        return
    share = random_share(Corpus(namespace.out), max_length=128, documents=1000)
    sys.stdout.write(f"next sentences: {share:.1%} random, {1 - share:.1%} true\n")


def reading_of(namespace: argparse.Namespace) -> Reading:
    return Reading(namespace.columns, namespace.one_per_line, skip_broken=namespace.skip_broken)


def vocab_command(namespace: argparse.Namespace) -> None:
    lowercase, strip_accents = namespace.lowercase, namespace.strip_accents
    if namespace.cased and (lowercase or strip_accents):
        raise DataError("--cased keeps capitals and accents, expected no --lowercase or --strip-accents; leave it out")
    characters = Counter[str]()
    files, out, size = namespace.files, namespace.out, namespace.size
    tokenizer = train_vocabulary(files, out, size, lowercase, strip_accents, characters, reading_of(namespace))
    sys.stdout.write(f"{out}: {tokenizer.vocab_size:,} entries\n")
    for sentence in removals(characters, tokenizer, lowercase, strip_accents):
        sys.stdout.write(f"{sentence}\n")


def pretrain_command(namespace: argparse.Namespace) -> None:
    from training.pretraining.pretrain import pretrain
    from training.pretraining.pretrain_recipe import PretrainRecipe

    keep_pages()
    pretrain(read_recipe(PretrainRecipe, namespace.recipe, namespace.set), namespace.out)


def finetune_command(namespace: argparse.Namespace) -> None:
    from training.finetuning.finetune import finetune
    from training.finetuning.finetune_recipe import FinetuneRecipe

    keep_pages()
    finetune(read_recipe(FinetuneRecipe, namespace.recipe, namespace.set), namespace.out)


if __name__ == "__main__":
    main()
